"""`ontogeny show-mask`: rows as a model is given them, with what it is trained to write."""
# T tokens

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import numpy as np
from rich.console import Console
from rich.text import Text

from ontogeny.api import compose
from ontogeny.data.pipeline import SourceReader, sources_of
from ontogeny.data.preparation import Chunk, prepare_chunk
from ontogeny.errors import ConfigError
from ontogeny.interruption import Interruption
from ontogeny.objective import IGNORED
from ontogeny.plugins import registry
from ontogeny.stage import StageContext
from ontogeny.store import Store, home
from ontogeny.training import Training
from ontogeny.training_stage import TrainingStage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ontogeny.configuration import StageConfig
    from ontogeny.objective import Example

    Announce = Callable[[str], None]

USAGE = "usage: ontogeny show-mask [rows=3] stage=... model.source=... data.path=..."
ROWS = 3
TRAINED, GIVEN = "bold green", "dim"
OPEN, CLOSE = "«", "»"  # around what is trained, where there are no colours

Segment = tuple[str, bool]  # a text, and whether it is trained


@dataclass(frozen=True)
class Masked:
    """A row, or why it cannot be trained on."""

    where: str
    segments: Sequence[Segment]
    note: str


def show_mask(arguments: Sequence[str]) -> None:
    """Print the first rows of each source; green, or in «», is what is trained."""
    console = Console(highlight=False, soft_wrap=True)
    for row in masked_rows(arguments, lambda line: console.print(line, markup=False)):
        console.print(Text(f"{row.where}  {row.note}", style="bold"))
        console.print(_text(row.segments, coloured=console.is_terminal))


def masked_rows(arguments: Sequence[str], announce: Announce) -> Iterator[Masked]:
    """Yield the first rows of each source with what is trained; nothing is trained.

    `arguments` are overrides, and `rows=N`. Raises ConfigError where there is nothing to show.
    """
    counts = [item for item in arguments if item.startswith("rows=")]
    count = _count(counts[-1].removeprefix("rows=")) if counts else ROWS
    stages = compose([item for item in arguments if item not in counts]).stages
    if len(stages) != 1:
        msg = f"show-mask looks at a single stage, not at {', '.join(stages)}; {USAGE}"
        raise ConfigError(msg)
    ((name, config),) = stages.items()
    with TemporaryDirectory(prefix="ontogeny-") as folder:
        training = _training(name, config, Path(folder), announce)
        for source, options in sources_of(config.data).items():
            reader = SourceReader(source, options.path, config.data, training.objective.columns)
            for record in islice(reader.training_records(), count):
                chunk = Chunk(held_out=False, records=[record])
                prepared = prepare_chunk(
                    training.objective, training.tokenizer, chunk, on_error=config.data.on_error
                )
                for where, reason in prepared.bad:
                    yield Masked(where, [], f"left out: {reason}")
                for example in prepared.examples:
                    yield _masked(record.where, example, training)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        msg = f"rows is {text!r}; expected a whole number of 1 or more"
        raise ConfigError(msg)
    return int(text)


def _training(name: str, config: StageConfig, folder: Path, announce: Announce) -> Training:
    """Return a training run that has looked at the data and done nothing else."""
    stage = registry().build(config.stage)
    if not isinstance(stage, TrainingStage) or config.objective is None:
        msg = f"stage {name} trains nothing, so that there is no mask to show; {USAGE}"
        raise ConfigError(msg)
    context = StageContext(
        name=name,
        config=config,
        registry=registry(),
        store=Store(home()),
        folder=folder,
        key="",
        lineage={},
        interruption=Interruption(),
        announce=announce,
    )
    training = Training(context, stage.tokenizer(context), compares=stage.compares)
    training.look_at_the_data()
    return training


def _masked(where: str, example: Example, training: Training) -> Masked:
    """Return an example as the training would see it, cut to the length of a row."""
    length, tokenizer = training.config.data.max_length, training.tokenizer
    if "decoder_labels" in example:
        read = example["input_ids"][:length]
        written = example["decoder_labels"]
        segments = [
            *_segments(read, np.zeros(len(read), bool), tokenizer),
            ("\n", False),
            *_segments(written, np.ones(len(written), bool), tokenizer),
        ]
        note = f"{len(read)} tokens of the encoder, {len(written)} trained in the decoder"
        return Masked(where, segments, note)
    if "labels" not in example:
        msg = "this objective labels no tokens before the training: there is no mask to show"
        raise ConfigError(msg)
    whole, _ = _tokens(example["input_ids"], example["labels"])
    ids, trained = _tokens(example["input_ids"][:length], example["labels"][:length])
    is_cut = len(example["input_ids"]) > length
    cut = f", cut from {len(whole)} to data.max_length={length}" if is_cut else ""
    note = f"{len(ids)} tokens, {int(trained.sum())} trained{cut}"
    return Masked(where, _segments(ids, trained, tokenizer), note)


def _tokens(ids_T: np.ndarray, labels_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens, and which of them are trained.

    Where labels are the tokens that follow, the label of the last one is a token of its own.
    """
    labelled_T = labels_T != IGNORED
    follows = np.array_equal(labels_T[:-1][labelled_T[:-1]], ids_T[1:][labelled_T[:-1]])
    if not follows:
        return ids_T, labelled_T
    trained = np.concatenate([[False], labelled_T])
    whole = np.concatenate([ids_T, labels_T[-1:]])
    return (whole, trained) if labelled_T[-1] else (ids_T, trained[:-1])


def _segments(
    ids_T: np.ndarray, trained_T: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> list[Segment]:
    """Decode runs of tokens of one kind; each as it reads after all before it."""
    segments: list[Segment] = []
    end, told = 0, 0
    for trained, run in groupby(trained_T.tolist()):
        end += len(list(run))
        text = cast("str", tokenizer.decode(ids_T[:end], clean_up_tokenization_spaces=False))
        segments.append((text[told:], trained))
        told = len(text)
    return segments


def _text(segments: Sequence[Segment], *, coloured: bool) -> Text:
    text = Text()
    for words, trained in segments:
        marked = words if coloured or not trained else f"{OPEN}{words}{CLOSE}"
        text.append(marked, style=TRAINED if trained else GIVEN)
    return text
