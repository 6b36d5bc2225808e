"""A probe: a short training on the domain, to see what it gains there and loses elsewhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ontogeny.folders import write_text
from ontogeny.run_folder import TRAINING_STATES
from ontogeny.training import Training
from ontogeny_plugins.diagnosis.sampling import Sample, data_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from transformers import PreTrainedTokenizerBase

    from ontogeny.adapter import Bundle
    from ontogeny.configuration import StageConfig
    from ontogeny.stage import StageContext

MEASURED = "probe.json"


@dataclass(frozen=True)
class Probe:
    """Bits per byte before and after some steps with a share of general text in the mixture."""

    share: float
    steps: int
    domain_before: float
    domain_after: float
    general_before: float
    general_after: float

    @property
    def gain(self) -> float:
        """Relative fall of the domain's bits per byte."""
        return 1 - self.domain_after / self.domain_before

    @property
    def forgetting(self) -> float:
        """Relative rise of the general text's bits per byte."""
        return self.general_after / self.general_before - 1

    @property
    def beyond_general(self) -> float:
        """Gain on the domain beyond what the same steps gain on general text."""
        return self.gain - max(0.0, -self.forgetting)


class Prober:
    """Trains and measures the probes of a stage, each in a folder of its own."""

    def __init__(
        self,
        context: StageContext,
        tokenizer: PreTrainedTokenizerBase,
        domain: Sample,
        general: Sample,
        *,
        steps: int,
        without: Collection[str],  # adapters that a probe does not need
        measure: Callable[[Bundle, Sample], float],  # bits per byte
    ) -> None:
        self.context = context
        self.tokenizer = tokenizer
        self.samples = (domain, general)
        self.steps = steps
        self.without = without
        self.measure = measure

    def run(self, share: float, before: tuple[float, float]) -> Probe | None:
        """Return the probe with this share of general text; None when time is up before its end.

        `before` is bits per byte of domain and general text. A probe that was measured is read
        back, one that was cut off goes on.
        """
        context = self._context(share)
        file = context.folder / MEASURED
        if file.exists():
            return Probe(**json.loads(file.read_text()))
        trained = Training(context, self.tokenizer, compares=False).run()
        if not trained.complete:
            return None
        trained.bundle.model.eval()
        domain, general = (self.measure(trained.bundle, sample) for sample in self.samples)
        probe = Probe(share, trained.steps, before[0], domain, before[1], general)
        write_text(file, json.dumps(asdict(probe)) + "\n")
        shutil.rmtree(context.folder / TRAINING_STATES, ignore_errors=True)
        return probe

    def _context(self, share: float) -> StageContext:
        """Return a context in which only the mixture, the length and the folder are others."""
        folder = self.context.folder / f"probe-{share:g}"
        folder.mkdir(exist_ok=True)
        return replace(
            self.context,
            config=self._config(share),
            folder=folder,
            announce=self._announce(share),
            overrides=[],
        )

    def _config(self, share: float) -> StageConfig:
        config = self.context.config
        samples = [each for each in self.samples if share or each is self.samples[0]]
        weights = {self.samples[0].name: 1 - share, self.samples[1].name: share}
        adapters = {name: each for name, each in config.adapter.items() if name not in self.without}
        # Other ranks would wait for the fit of a stage that may have none.
        alone = replace(config.trainer, devices=1, num_nodes=1, strategy="auto")
        return replace(
            config,
            data=data_of(samples, config.data, weights),
            adapter=adapters,
            evaluator={},
            trainer=replace(alone, max_steps=self.steps),
            resume="never" if config.resume == "never" else "auto",
        )

    def _announce(self, share: float) -> Callable[[str], None]:
        """Say what a training says of its data and steps: probes are short, and several."""

        def announce(line: str) -> None:
            if not line.startswith(("preflight: ", "compile: ")):
                self.context.announce(f"probe with {share:.0%} general text: {line}")

        return announce
