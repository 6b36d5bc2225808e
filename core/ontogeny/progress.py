"""What a run tells while it works: lines, and where there is a terminal, one display below them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from rich.console import Console, RenderableType

LINE_SECONDS = 30.0  # between two lines about the steps, where there is no display
WINDOW_SECONDS = 20.0  # that the speed is a mean over
MARKS = {
    "waiting": ("·", "dim"),
    "running": ("▶", "bold cyan"),
    "cached": ("✓", "green"),
    "finished": ("✓", "green"),
    "unfinished": ("…", "yellow"),
    "left out": ("–", "dim"),
}


class Speed:
    """Steps and tokens per second, of late."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen: deque[tuple[float, int, float]] = deque()

    def note(self, steps: int, tokens: float) -> None:
        """Note how many steps and tokens are done."""
        now = self._now()
        self._seen.append((now, steps, tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()

    def rates(self) -> tuple[float, float] | None:
        """Return steps and tokens per second; None before there is anything to compare."""
        if len(self._seen) < 2 or self._seen[-1][0] == self._seen[0][0]:
            return None
        (then, steps, tokens), (now, steps_now, tokens_now) = self._seen[0], self._seen[-1]
        return (steps_now - steps) / (now - then), (tokens_now - tokens) / (now - then)


class Progress:
    """Tells of a run in plain lines; `announce` gets each of them."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.announce = announce
        self.names: Sequence[str] = ()
        self.states: dict[str, str] = {}
        self.current = ""
        self.done = self.total = 0
        self._speed = Speed()
        self._told = 0.0
        self._look: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        """Begin to tell."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, whatever has happened."""

    def watch(self, look: Callable[[], None]) -> None:
        """Call `look` at every step: it may look at what the run has left so far."""
        self._look = look

    def begin(self, names: Sequence[str]) -> None:
        """Take the names of all stages, in order."""
        self.names = list(names)
        self.states = dict.fromkeys(names, "waiting")

    def stage(self, name: str, state: str) -> None:
        """Take the state of a stage: running, cached, finished or unfinished."""
        self.states[name] = state
        self.current, self.done, self.total = name, 0, 0
        self._speed, self._told = Speed(), time.monotonic()
        if state == "running" and len(self.names) > 1:
            self._say_stage(f"stage {self.names.index(name) + 1} of {len(self.names)}: {name}")

    def steps(self, done: int, total: int, tokens: float) -> None:
        """Take how many optimiser steps are done, and the tokens that were in them."""
        self.done, self.total = done, total
        self._speed.note(done, tokens)
        self._look()
        if done < total and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._say_steps(f"{self.current}: step {done:,} of {total:,}{self.pace()}")

    def pace(self) -> str:
        """Return `, 1,200 tokens/s, 3 min left`, as far as it is known."""
        rates = self._speed.rates()
        if rates is None or not rates[0]:
            return ""
        left = (self.total - self.done) / rates[0]
        return f", {rates[1]:,.0f} tokens/s, {duration(left)} left"

    def _say_stage(self, line: str) -> None:
        self.announce(line)

    def _say_steps(self, line: str) -> None:
        self.announce(line)


class Display(Progress):
    """Keeps one display at the bottom of a terminal; lines go above it, and it leaves no trace."""

    def __init__(self, console: Console) -> None:
        super().__init__(lambda line: console.print(line, markup=False))
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        """Show the display."""
        self._live.start()
        self._live.console.show_cursor(True)  # a killed process could not put it back
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the display off the screen."""
        self._live.stop()

    def render(self) -> RenderableType:
        """Return the stages in a line, and the bar of the one that runs."""
        shown = Table.grid(padding=(0, 1))
        if len(self.names) > 1:
            shown.add_row(self._chain())
        if self.total:
            shown.add_row(self._bar())
        return shown

    def _chain(self) -> Text:
        over = [name for name, state in self.states.items() if state not in {"waiting", "running"}]
        number = min(len(over) + 1, len(self.names))
        text = Text(f"stage {number} of {len(self.names)} ")
        for name, state in self.states.items():
            mark, style = MARKS.get(state, MARKS["waiting"])
            cached = " (cached)" if state == "cached" else ""
            text.append(f" {mark} {name}{cached}", style=style)
        return text

    def _bar(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self.total, completed=self.done, width=30)
        counted = f"{self.done:,} of {self.total:,} steps{self.pace()}"
        row.add_row(self.current, bar, counted)
        return row

    def _say_stage(self, line: str) -> None:
        """Say nothing: the display shows it."""

    def _say_steps(self, line: str) -> None:
        """Say nothing: the display shows it."""


def progress_for(console: Console, *, display: bool) -> Progress:
    """Return a display where it is wished and the console is a terminal, else plain lines."""
    if display and console.is_terminal and not console.is_dumb_terminal:
        return Display(console)
    return Progress(lambda line: console.print(line, markup=False))


def duration(seconds: float) -> str:
    """Return a length of time with its two largest units: `42 s`, `3 min 10 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller_size, smaller in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
