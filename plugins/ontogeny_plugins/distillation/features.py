"""Matching of hidden states and attention between blocks of a student and of its teacher."""
# B rows, T tokens, N matched positions, D width, H heads

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ontogeny.blocks import find_blocks
from ontogeny.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import PreTrainedModel

SMALLEST = 1e-9  # of an attention probability, before its logarithm


class Seen:
    """What selected blocks have returned: states [B, T, D] and attention [B, H, T, T] by block."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}


class Features:
    """Matches blocks of two models; where their widths differ, the student's are projected."""

    def __init__(
        self,
        layers: Mapping[int, int] | None = None,
        hidden: float = 0.0,
        attention: float = 0.0,
        cosine: float = 0.0,
    ) -> None:
        self.weights = {"hidden": hidden, "attention": attention, "cosine": cosine}
        self.hidden, self.attention, self.cosine = hidden, attention, cosine
        self.layers = dict(layers or {})  # block of the student -> block of the teacher
        self.projections: nn.ModuleDict | None = None  # of the student's states, by block
        self._last = (0, 0)  # the number of the last block of the student, and of the teacher

    def __bool__(self) -> bool:
        return any(self.weights.values())

    def fit(self, student: nn.Module, teacher: nn.Module) -> nn.Module | None:
        """Choose the blocks; return projections of the student's states, where widths differ.

        Raises ConfigError for blocks that are not there, and for widths that cannot be compared.
        """
        counts = [len(_blocks(model)) for model in (student, teacher)]
        self.layers = self.layers or spread(*counts)
        self._last = (counts[0] - 1, counts[1] - 1)
        for place, (side, count) in enumerate(zip(("student", "teacher"), counts, strict=True)):
            highest = max(pair[place] for pair in self.layers.items())
            if highest >= count:
                raise ConfigError(
                    f"objective.layers names block {highest} of the {side}, which has {count}, "
                    f"counted from 0"
                )
        own, theirs = _width(student), _width(teacher)
        if own == theirs or not (self.hidden or self.cosine):
            return None
        projected = {*self.layers} if self.hidden else set()
        projected |= {self._last[0]} if self.cosine else set()
        made = {str(each): nn.Linear(own, theirs, bias=False) for each in sorted(projected)}
        self.projections = nn.ModuleDict(made)
        return self.projections

    @contextmanager
    def watching(self, model: nn.Module, *, teacher: bool) -> Iterator[Seen]:
        """Keep what the matched blocks of a model return in a forward pass."""
        seen, handles = Seen(), []
        blocks = _blocks(model)
        numbers = {*(self.layers.values() if teacher else self.layers), self._last[teacher]}
        for number in numbers:
            block = blocks[number]
            if self.hidden or self.cosine:
                handles.append(block.register_forward_hook(_keep_states(seen, number)))
            if self.attention:
                handles += [
                    part.register_forward_hook(_keep_attention(seen, number))
                    for part in block.modules()
                ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def losses(self, own: Seen, teachers: Seen, matched_BT: Tensor) -> dict[str, Tensor]:
        """Return Σ over matched positions, mean over blocks, of each kind; with gradients."""
        own_last, their_last = self._last
        found: dict[str, Tensor] = {}
        if self.hidden:
            found["hidden"] = self._mean(
                states_loss(self._projected(number, own), theirs, matched_BT)
                for number, theirs in self._pairs(teachers.states)
            )
        if self.attention:
            _require_attention(own)
            found["attention"] = self._mean(
                attention_loss(own.attention[number], theirs, matched_BT)
                for number, theirs in self._pairs(teachers.attention)
            )
        if self.cosine:
            last = self._projected(own_last, own), teachers.states[their_last]
            found["cosine"] = cosine_loss(*last, matched_BT)
        return found

    def _pairs(self, teachers: Mapping[int, Tensor]) -> list[tuple[int, Tensor]]:
        return [(student, teachers[teacher]) for student, teacher in self.layers.items()]

    def _mean(self, losses: Iterator[Tensor]) -> Tensor:
        return torch.stack(list(losses)).mean()

    def _projected(self, number: int, own: Seen) -> Tensor:
        if self.projections is None:
            return own.states[number]
        return cast("Tensor", self.projections[str(number)](own.states[number]))


def spread(students: int, teachers: int) -> dict[int, int]:
    """Return which block of a teacher each of a student follows: the last one its last."""
    return {each: -(-(each + 1) * teachers // students) - 1 for each in range(students)}


def states_loss(student_BTD: Tensor, teacher_BTD: Tensor, matched_BT: Tensor) -> Tensor:
    """Return Σ over matched positions of the mean squared error of a value (Jiao et al., 2020)."""
    far_BT = (student_BTD.float() - teacher_BTD.float()).square().mean(-1)
    return (far_BT * matched_BT).sum()


def cosine_loss(student_BTD: Tensor, teacher_BTD: Tensor, matched_BT: Tensor) -> Tensor:
    """Return Σ over matched positions of 1 - cosine (Sanh et al., 2019)."""
    near_BT = F.cosine_similarity(student_BTD.float(), teacher_BTD.float(), dim=-1)
    return ((1 - near_BT) * matched_BT).sum()


def attention_loss(student_BHTT: Tensor, teacher_BHTT: Tensor, matched_BT: Tensor) -> Tensor:
    """Return Σ over matched positions of KL(teacher ‖ student) of where they look, mean over heads.

    Wang et al. 2020, "MiniLM", eq. 5. Models of unlike numbers of heads are compared in the mean
    of their heads.
    """
    if student_BHTT.shape[1] != teacher_BHTT.shape[1]:
        student_BHTT = student_BHTT.mean(1, keepdim=True)
        teacher_BHTT = teacher_BHTT.mean(1, keepdim=True)
    p_BHTT, q_BHTT = (each.float().clamp(min=SMALLEST) for each in (teacher_BHTT, student_BHTT))
    far_BT = (p_BHTT * (p_BHTT.log() - q_BHTT.log())).sum(-1).mean(1)
    return (far_BT * matched_BT).sum()


def _blocks(model: nn.Module) -> nn.ModuleList:
    return find_blocks(cast("PreTrainedModel", model))[1]


def _width(model: nn.Module) -> int:
    return int(cast("PreTrainedModel", model).config.get_text_config().hidden_size)


def _keep_states(seen: Seen, number: int) -> Callable[..., None]:
    def keep(_: nn.Module, __: object, returned: object) -> None:
        seen.states[number] = cast(
            "Tensor", returned[0] if isinstance(returned, tuple) else returned
        )

    return keep


def _keep_attention(seen: Seen, number: int) -> Callable[..., None]:
    def keep(_: nn.Module, __: object, returned: object) -> None:
        for each in returned if isinstance(returned, tuple) else ():
            if isinstance(each, Tensor) and each.ndim == 4 and each.shape[-1] == each.shape[-2]:
                seen.attention[number] = each

    return keep


def _require_attention(own: Seen) -> None:
    if not own.attention:
        raise ConfigError(
            "objective.attention matches attention, which this kernel does not return; set "
            "model.attention=eager, or objective.attention=0"
        )
