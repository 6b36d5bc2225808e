"""Who teaches: the model of `teacher.source`, or the one that a student is cut out of."""
# N positions, D width

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ontogeny.errors import ConfigError
from ontogeny.logit_loss import ChunkedLogits
from ontogeny.models import longest_context
from ontogeny.output_layer import label_states
from ontogeny_plugins.distillation import Cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from ontogeny.adapter import Bundle
    from ontogeny.companions import Companion, Companions
    from ontogeny.output_layer import OutputLayer

SUPPORTED = (
    "or choose stage=distillation_cross_tokenizer, which reads the same text with both tokenizers "
    "(its objective.loss is aligned or uld)"
)


def teacher_of(companions: Companions) -> Companion:
    """Return the teacher; raise ConfigError where there is none."""
    named = companions.teacher
    if named is not None:
        return named
    cuts = any(isinstance(options, Cut) for options in companions.config.adapter.values())
    if cuts and companions.config.model.source is not None:
        return companions.original
    raise ConfigError(
        "teacher.source is not set: name the checkpoint folder or Hub name of the teacher, or cut "
        "the student out of it: model.source=TEACHER 'adapter=[cut]' adapter.cut.depth=2"
    )


def require_same_tokens(companions: Companions, teacher: Companion) -> None:
    """Raise ConfigError for a teacher of another vocabulary, and say what takes one."""
    try:
        companions.require_same_tokens(teacher)
    except ConfigError as error:
        raise ConfigError(f"{error}, {SUPPORTED}") from error


def load(companions: Companions, teacher: Companion) -> Bundle:
    """Load a teacher, frozen; raise ConfigError where it cannot read rows of data.max_length."""
    bundle = teacher.load()
    bundle.model.config.use_cache = False
    longest, asked = longest_context(bundle.model), companions.config.data.max_length
    if longest is not None and asked > longest:
        raise ConfigError(
            f"data.max_length is {asked}, longer than the context of {teacher.key}: {longest}"
        )
    made_for, used_as = bundle.model.config.architectures or [], type(bundle.model).__name__
    if made_for and used_as not in made_for:
        companions.announce(
            f"teacher: {teacher.key} was trained as {made_for[0]}, and is read as {used_as}: what "
            f"it was not trained to predict it teaches badly"
        )
    return bundle


class TeacherStates:
    """What a teacher's output layer gets at labelled positions, and its logits by chunks."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, object], labels_BT: Tensor) -> None:
        with torch.no_grad():
            self.hidden_ND, self.labels_N, self.layer = label_states(model, inputs, labels_BT)

    def logits(self, vocabulary: int) -> ChunkedLogits:
        """Return the logits of the first tokens of its vocabulary, a chunk at a time."""
        return ChunkedLogits(self.hidden_ND, self.layer, vocabulary)


def shared_vocabulary(student: OutputLayer, teacher: OutputLayer) -> int:
    """Return how many rows both output layers have: what is beyond is padding that no text uses."""
    return min(student.vocabulary, teacher.vocabulary)


def as_module(bundle: Bundle) -> nn.Module:
    """Return a bundle's model as torch knows it."""
    return cast("nn.Module", bundle.model)
