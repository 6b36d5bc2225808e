"""Signals: a run that is told to stop saves at a step border and exits with 128 + the signal."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

from ontogeny.errors import Interrupted

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interruption:
    """Listens for signals while it is entered.

    Outside of training a signal raises `Interrupted` at once. While `deferred` is set, it is only
    noted in `received`, and the training loop acts on it at the next step border. A second signal
    ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Install the handlers; signals can only be handled in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def install(self) -> None:
        """Take the signals (again: Lightning sets its own handlers when a fit begins)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            self._previous.setdefault(number, before)

    def error(self) -> Interrupted:
        """Return the exception for the signal that was received."""
        number = self.received or signal.SIGTERM
        name = signal.Signals(number).name
        return Interrupted(f"stopped by {name}; the same command goes on from here", number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        if not self.deferred:
            raise self.error()
