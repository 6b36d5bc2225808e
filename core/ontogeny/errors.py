"""Errors are part of the product: one line, what is wrong, where, and what to do."""

from __future__ import annotations


class OntogenyError(Exception):
    """Something went wrong; the message is one line that a user can act on."""

    exit_code = 1


class UserError(OntogenyError):
    """The user can mend this: the command exits with code 2."""

    exit_code = 2


class ConfigError(UserError):
    """An option is wrong: the message names its full key, its value and what is allowed."""


class DataError(UserError):
    """Data cannot be used: the message names the file and, where there is one, the line."""


class RowError(DataError):
    """A row that `Objective.prepare` was given cannot be used; the core adds where it stands."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"row {index}: {reason}")
        self.index = index  # in the rows of that call
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """Rebuild with both arguments, so that worker processes can send it."""
        return type(self), (self.index, self.reason)


class PluginError(UserError):
    """A plugin is missing, broken, or clashes with another one."""


class CheckpointError(UserError):
    """A checkpoint or a training state cannot be read or written."""


class RewardError(UserError):
    """A reward cannot be used: the message names it, and an answer that it was given."""


class DivergedError(UserError):
    """A training has left where its objective holds; its last training state is kept."""


class NonFiniteError(OntogenyError):
    """The loss or a gradient is NaN or infinite; the weights were not touched by that step."""


class Interrupted(OntogenyError):
    """A signal asked the run to stop; its training state is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        """Rebuild with both arguments, so that sweep launchers can pickle it."""
        return type(self), (str(self), self.signal_number)
