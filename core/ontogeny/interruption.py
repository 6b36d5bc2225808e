"""Signals: a run that is told to stop saves at a step border and exits with 128 + the signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from ontogeny.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
# One wish may arrive twice: `timeout` signals its child and then the whole process group.
SAME_WISH_SECONDS = 1.0


class Interruption:
    """Listens for signals while it is entered.

    Outside of training a signal raises `Interrupted` at once. Within `deferring` it is only noted
    in `received`, and the training loop acts on it at the next step border. A second signal ends
    the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._when = 0.0
        self._deferred = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Install the handlers; signals can only be handled in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.install()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Put back the handlers that were there before.

        Whatever breaks after a signal, breaks because of it: raises `Interrupted` instead.
        """
        del kind, trace
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
        if error is not None and self.received is not None and not isinstance(error, Interrupted):
            raise self.error() from error

    def install(self) -> None:
        """Take the signals (again: Lightning sets its own handlers when a fit begins)."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.signal(number, self._handle)
            self._previous.setdefault(number, before)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Take signals as wishes: the block looks at `received` when it is ready to stop."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def error(self) -> Interrupted:
        """Return the exception for the signal that was received."""
        number = self.received or signal.SIGTERM
        name = signal.Signals(number).name
        return Interrupted(f"stopped by {name}; the same command goes on from here", number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._when > SAME_WISH_SECONDS:
                os._exit(128 + number)
            return
        self.received, self._when = number, time.monotonic()
        if not self._deferred:
            raise self.error()
