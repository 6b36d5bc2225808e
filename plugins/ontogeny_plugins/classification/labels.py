"""What labels there are, what kind of task they make, and the target that a row's label is."""
# C classes

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np

from ontogeny.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ontogeny_plugins.classification import Classification

# transformers' word for each task; ordinal ones ask "is it more than ...?" once for each class but
# the last, which is a multi-label question to transformers
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "ordinal": "multi_label_classification",
    "regression": "regression",
}
NUMBER = ["score"]  # the name of the only output of a regression
SHOWN = 12  # names of classes that a message lists


@dataclass(frozen=True)
class Labels:
    """The task and its classes, in the order of their ids."""

    task: str
    names: Sequence[str]
    counts: Sequence[int] = ()  # training rows with each class
    rows: int = 0  # training rows
    ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {name: number for number, name in enumerate(self.names)})

    @property
    def facts(self) -> dict[str, object]:
        """What the head and the key of the prepared data are told."""
        return {
            "labels": list(self.names),
            "problem_type": PROBLEM_TYPES[self.task],
            "ordinal": self.task == "ordinal",
            "counts": list(self.counts),
            "rows": self.rows,
        }

    def target(self, value: object) -> np.ndarray:
        """Return the class of a label (0-d), its classes ([number of them]), or the number (0-d).

        Raises ValueError, with what a message can go on with, for a label that does not fit.
        """
        if self.task == "regression":
            return np.array(number(value), np.float32)
        if self.task == "multi_label":
            return np.array(sorted({self._class(each) for each in several(value)}), np.int32)
        return np.array(self._class(value), np.int32)

    def _class(self, value: object) -> int:
        """Return the id of a class by its name, or by its number where names are no numbers."""
        name = label_name(value)
        if name in self.ids:
            return self.ids[name]
        is_number = _is_whole(name) and int(name) in range(len(self.names))
        if is_number and not any(map(_is_whole, self.names)):
            return int(name)
        raise ValueError(f"label is {name!r}, which is none of the classes: {self.listed}")

    @property
    def listed(self) -> str:
        """The names of the first classes."""
        return ", ".join(self.names[:SHOWN]) + ", …" * (len(self.names) > SHOWN)


def find_labels(values: Iterable[object], options: Classification) -> Labels:
    """Return the task and the classes of all labels that are trained on.

    Labels that fit no task are passed over here: `target` refuses them, row by row.
    """
    tally = _Tally()
    for value in values:
        tally.add(value)
    task = tally.task if options.task == "auto" else options.task
    _check_options(task, options)
    if task == "regression":
        return Labels(task, NUMBER)
    found = tally.several if task == "multi_label" else tally.single
    if task == "ordinal" and not options.labels and not all(map(_is_whole, found)):
        msg = (
            f"objective.task is ordinal, and the labels are no whole numbers: say their order, as "
            f"'objective.labels=[{','.join(sorted(found)[:3])}]'"
        )
        raise ConfigError(msg)
    names = options.labels or in_order(found)
    if not names and tally.rows and not tally.unfit:
        raise DataError("all rows have an empty list of labels; a classification needs some")
    if len(names) == 1 and task != "multi_label":  # none: `target` says what is wrong, row by row
        who = "objective.labels names" if options.labels else "all rows have"
        raise DataError(f"{who} the label {names[0]!r} alone; a classification needs two or more")
    counts = [found[name] or found[str(number)] for number, name in enumerate(names)]
    return Labels(task, names, counts, tally.rows)


class _Tally:
    """Counts labels as single ones and as members of lists, and notes what forms they have."""

    def __init__(self) -> None:
        self.single: Counter[str] = Counter()
        self.several: Counter[str] = Counter()
        self.decimals = False
        self.lists = self.rows = self.unfit = 0

    def add(self, value: object) -> None:
        self.rows += 1
        self.lists += isinstance(value, list)
        self.decimals |= isinstance(value, float)
        try:
            if isinstance(value, list):
                self.several.update({label_name(each) for each in value})
            else:
                self.single[label_name(value)] += 1
        except ValueError:
            self.unfit += 1

    @property
    def task(self) -> str:
        if 2 * self.lists > self.rows:  # a few lists among single labels are mistakes, and told so
            return "multi_label"
        return "regression" if self.decimals else "single_label"


def label_name(value: object) -> str:
    """Return the name of a class; raise ValueError for what names none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(f"label is {_told(value)}; expected text or a whole number")


def several(value: object) -> list[object]:
    """Return a list of labels; raise ValueError for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"label is {_told(value)}; expected a list of labels, as in other rows")  # noqa: TRY004
    return value


def number(value: object) -> float:
    """Return the number that a label is, in text too; raise ValueError for anything else."""
    try:
        found = float(cast("str | float", value))
    except (TypeError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not math.isfinite(found):
        raise ValueError(f"label is {_told(value)}; expected a number")
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names; as numbers where all of them are whole ones."""
    listed = list(names)
    return sorted(listed, key=int) if all(map(_is_whole, listed)) else sorted(listed)


def renumbered(labels: Labels) -> str | None:
    """Say that whole numbers are names here, where they are not the ids themselves."""
    if labels.task == "regression" or not all(map(_is_whole, labels.names)):
        return None
    numbers = [int(name) for name in labels.names]
    if numbers == list(range(len(numbers))):
        return None
    return (
        f"the numbers {labels.listed} are names of classes, whose ids are 0 to {len(numbers) - 1} "
        f"in this order"
    )


def class_weights(labels: Labels, options: Classification) -> list[float] | None:
    """Return how much each class counts in the loss, [C], or none where all count the same.

    Balanced as scikit-learn does, rows / (classes * rows of the class). With several labels a
    weight is for rows that have the class; balanced: rows without it / rows with it.
    """
    if not labels.names or not (options.class_weights or options.balanced):
        return None
    weights_C = np.ones(len(labels.names))
    if options.balanced:
        counts_C = np.maximum(np.array(labels.counts, float), 1)
        several = labels.task == "multi_label"
        weights_C = (
            labels.rows / counts_C - 1 if several else labels.rows / counts_C / len(counts_C)
        )
    for name, weight in options.class_weights.items():
        if name not in labels.ids:
            msg = f"objective.class_weights.{name} names no class; known: {labels.listed}"
            raise ConfigError(msg)
        weights_C[labels.ids[name]] *= weight
    if labels.task != "multi_label":  # a row weighs 1 on average
        weights_C *= labels.rows / float(weights_C @ np.array(labels.counts, float))
    return [float(weight) for weight in weights_C]


def _check_options(task: str, options: Classification) -> None:
    if options.label_smoothing and task != "single_label":
        msg = (
            f"objective.label_smoothing is {options.label_smoothing}, but this is a {task} task: "
            f"it is for single labels"
        )
        raise ConfigError(msg)
    if task == "regression" and (options.labels or options.class_weights or options.balanced):
        msg = (
            "objective.labels, class_weights and balanced are for classes, but the labels are "
            "numbers to be predicted; objective.task=single_label makes classes of them"
        )
        raise ConfigError(msg)


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
