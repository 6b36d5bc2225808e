"""Stage `diagnosis`: the path advisor, which measures before it recommends."""

from dataclasses import dataclass, field
from pathlib import Path

from ontogeny import Component, ConfigError, Section, hookimpl
from ontogeny.component import NO_CHECKPOINT
from ontogeny.options import require_positive

SHARES = (
    *("min_learnable", "min_learnable_same_words", "own_words", "min_probe_gain", "min_saving"),
    *("max_forgetting", "replay"),
)


@dataclass
class Diagnosis:
    """Path advisor: whether a domain calls for continued pre-training, and for new tokens."""

    probe: bool = False  # train the adapters on the domain for a few steps and judge by the gain
    probe_steps: int = 60  # optimiser steps of each probe
    # shares of general text in the mixtures that are probed; the smallest decides the path
    probe_shares: list[float] = field(default_factory=lambda: [0.0, 0.25])
    documents: int = 200  # at most so many held-out texts of each source are scored
    sample_bytes: int = 1_000_000  # of each text, in which words and trigrams are counted
    resamples: int = 1000  # bootstrap resamples of texts, for the 95 % intervals
    # specialised from here, where the domain has words of its own: share of its bits that its text
    # teaches, beyond general text
    min_learnable: float = 0.05
    min_learnable_same_words: float = 0.15  # specialised from here, where it has not
    # it has, where it shares less than this part of the words that general text shares with itself
    own_words: float = 0.85
    min_probe_gain: float = 0.05  # specialised from here, by a probe: gain beyond general text
    min_saving: float = 0.10  # expand from here: computation that new tokens save, their cost paid
    max_forgetting: float = 0.02  # rise of general bits per byte up to which a replay share will do
    replay: float = 0.1  # share of general text in the advised mixture, where no probe has chosen

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("probe_steps", "documents", "sample_bytes", "resamples"):
            require_positive(f"stage.{name}", getattr(self, name))
        for name in SHARES:
            _require_share(f"stage.{name}", getattr(self, name))
        if not self.probe_shares:
            msg = "stage.probe_shares is empty; expected shares of general text, as [0.0,0.25]"
            raise ConfigError(msg)
        for share in self.probe_shares:
            _require_share("stage.probe_shares", share)


def _require_share(key: str, value: float) -> None:
    if not 0 <= value < 1:
        msg = f"{key} is {value}; expected a share from 0 to below 1"
        raise ConfigError(msg)


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `diagnosis`."""
    implementation = "ontogeny_plugins.diagnosis.stage:DiagnosisStage"
    return [Component("diagnosis", Diagnosis, implementation, gives=NO_CHECKPOINT)]


@hookimpl
def ontogeny_report_sections(folder: Path) -> list[Section]:
    """Show the advice on the page of the run."""
    from ontogeny_plugins.diagnosis.section import sections  # noqa: PLC0415  only for pages

    return sections(folder)
