"""Which models a run holds, what of them is shared, and how much memory that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ontogeny.reward import Rewards
    from ontogeny_plugins.reinforcement.reference import Reference

GIB = 2**30
ADAM_BYTES = 8  # two float32 moments of each trained weight


@dataclass(frozen=True)
class Held:
    """One role, and the weights that it adds."""

    role: str
    what: str
    modules: Sequence[nn.Module] = ()


def held_beside(
    reference: Reference, value: nn.Module | None, value_name: str, rewards: Rewards
) -> Iterator[Held]:
    """Yield what a run holds beside the policy."""
    if reference.model is not None:
        yield Held("reference", "a frozen copy", [reference.model])
    elif reference.kind == "adapter_off":
        yield Held("reference", "the policy without its adapters")
    if value is not None:
        yield Held("value", value_name, [value])
    for name, reward in rewards.built.items():
        modules = [each for each in vars(reward).values() if isinstance(each, nn.Module)]
        yield Held(f"reward {name}", type(reward).__name__, modules)


def memory_table(held: Iterable[Held]) -> list[str]:
    """Return lines: role, weights, of which trained, GiB with gradients and Adam's moments.

    Weights that two roles share count for the first. Activations are not in it.
    """
    seen: set[int] = set()
    rows = [("role", "weights", "trained", "GiB", "")]
    total = 0.0
    for each in held:
        weights, trained, size = _counted(each.modules, seen)
        total += size
        rows.append((each.role, f"{weights:,}", f"{trained:,}", f"{size / GIB:.3f}", each.what))
    rows.append(("in all", "", "", f"{total / GIB:.3f}", "without activations and the KV cache"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [_line(row, widths) for row in rows]


def _line(row: tuple[str, ...], widths: Sequence[int]) -> str:
    cells = [f"{row[0]:<{widths[0]}}"]
    cells += [f"{cell:>{width}}" for cell, width in zip(row[1:4], widths[1:], strict=True)]
    return f"memory: {'  '.join([*cells, row[4]])}".rstrip()


def _counted(modules: Iterable[nn.Module], seen: set[int]) -> tuple[int, int, float]:
    """Return weights, trained weights and bytes of what was not counted before."""
    weights = trained = 0
    size = 0.0
    for parameter in (each for module in modules for each in module.parameters()):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        weights += parameter.numel()
        size += parameter.numel() * parameter.element_size()
        if parameter.requires_grad:
            trained += parameter.numel()
            size += parameter.numel() * (parameter.element_size() + ADAM_BYTES)
    return weights, trained, size
