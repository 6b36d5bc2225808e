"""Components whose options, or whose naming of the implementation, break one promise each."""

from abc import abstractmethod
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from ontogeny import Component, hookimpl

from .working import LastLayer

ADAPTER = "contract_plugins.working:LastLayer"


class TakesTwo(LastLayer):
    def __init__(self, config: object, other: object) -> None:
        super().__init__(config)
        self.other = other


class Unfinished(LastLayer):
    @abstractmethod
    def finish(self) -> None: ...


@dataclass
class Undocumented:
    size: int = 1  # of it


@dataclass
class Uncommented:
    """A field that nothing explains."""

    size: int = 1


@dataclass
class InnerUncommented:
    """A field within a field that nothing explains."""

    inner: Uncommented = field(default_factory=Uncommented)


@dataclass
class Required:
    """A field without a default."""

    size: int  # of it


@dataclass
class Untyped:
    """A value that is no option."""

    size = 1  # of it


@dataclass
class Unstructured:
    """A type that no config can hold."""

    size: set[int] = field(default_factory=set)  # of it


@dataclass
class Fresh:
    """No fields."""


@dataclass
class Missing:
    """No fields."""


@dataclass
class Function:
    """No fields."""


@dataclass
class Foreign:
    """No fields."""


@dataclass
class Extra:
    """No fields."""


@dataclass
class Abstract:
    """No fields."""


@dataclass
class Forgetful:
    """Does not come back from a pickle as it went in."""

    names: list[str] = field(default_factory=lambda: ["a"])  # of it

    def __getstate__(self) -> dict[str, Any]:
        return {"names": []}


@dataclass
class Anything:
    """A field that no value breaks."""

    size: Any = 1  # of it


@dataclass
class Binary:
    """Has no place in JSON."""

    data: bytes = b""  # of it


def local() -> type:
    @dataclass
    class Local:
        """Cannot be found by its name."""

    return Local


GENERATED = make_dataclass("Generated", [("size", int, 1)], namespace={"__doc__": "Generated."})
OFFERED: dict[str, tuple[type, str]] = {
    "undocumented": (Undocumented, ADAPTER),
    "uncommented": (Uncommented, ADAPTER),
    "inneruncommented": (InnerUncommented, ADAPTER),
    "untyped": (Untyped, ADAPTER),
    "forgetful": (Forgetful, ADAPTER),
    "local": (local(), ADAPTER),
    "anything": (Anything, ADAPTER),
    "required": (Required, ADAPTER),
    "binary": (Binary, ADAPTER),
    "generated": (GENERATED, ADAPTER),
    "missing": (Missing, "nowhere:Adapter"),
    "function": (Function, "contract_plugins.broken_options:local"),
    "foreign": (Foreign, "contract_plugins.working:NextToken"),
    "extra": (Extra, "contract_plugins.broken_options:TakesTwo"),
    "abstract": (Abstract, "contract_plugins.broken_options:Unfinished"),
    "twin": (Fresh, "contract_plugins.broken_options:Unfinished"),
    "othertwin": (Fresh, ADAPTER),
}


@hookimpl
def ontogeny_adapters() -> list[Component]:
    return [Component(name, *rest) for name, rest in OFFERED.items()]
