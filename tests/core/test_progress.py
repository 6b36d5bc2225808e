"""What a run tells while it works: plain lines, or one display at the bottom of a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.core.chain import two_stages

from ontogeny.progress import Display, Progress, Speed, duration, progress_for


def screen(text: io.StringIO, width: int = 100) -> Console:
    return Console(file=text, force_terminal=True, width=width, color_system=None)


def shown(display: Display) -> str:
    text = io.StringIO()
    Console(file=text, width=100, color_system=None).print(display.render())
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def test_a_speed_is_that_of_late() -> None:
    now = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    speed = Speed(lambda: next(now))
    speed.note(0, 0)
    assert speed.rates() is None
    for steps, tokens in ((10, 100), (20, 200), (50, 500), (80, 800)):
        speed.note(steps, tokens)
    assert speed.rates() == (3.0, 30.0)  # of the last 20 seconds, not of all 40


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.44, "0.4 s"),
        (59, "59 s"),
        (60, "1 min"),
        (190, "3 min 10 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_length_of_time_has_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_plain_lines_name_the_stage_and_now_and_then_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    told = Progress(lines.append)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    told.begin(["one", "two"])
    told.stage("one", "cached")
    told.stage("two", "running")
    told._speed = Speed(lambda: clock[0])
    for step in range(101):
        clock[0] = float(step)
        told.steps(step, 100, step * 50.0)
    assert lines == [
        "stage 2 of 2: two",
        "two: step 30 of 100, 50 tokens/s, 1 min 10 s left",
        "two: step 60 of 100, 50 tokens/s, 40 s left",
        "two: step 90 of 100, 50 tokens/s, 10 s left",
    ]


def test_a_single_stage_is_not_counted() -> None:
    lines: list[str] = []
    told = Progress(lines.append)
    told.begin(["one"])
    told.stage("one", "running")
    assert lines == []


def test_the_display_shows_the_chain_and_the_bar() -> None:
    display = Display(screen(io.StringIO()))
    display.begin(["one", "two", "three"])
    display.stage("one", "cached")
    display.stage("two", "running")
    assert shown(display).strip() == "stage 2 of 3  ✓ one (cached) ▶ two · three"
    clock = iter([0.0, 10.0])
    display._speed = Speed(lambda: next(clock))
    display.steps(0, 40, 0)
    display.steps(10, 40, 12_000)
    chain, bar = shown(display).splitlines()
    assert re.match(r" ?two ━+.* 10 of 40 steps, 1,200 tokens/s, 30 s left", bar)
    assert "three" in chain


def test_lines_go_above_the_display_and_nothing_of_it_stays() -> None:
    text = io.StringIO()
    with Display(screen(text)) as display:
        display.begin(["one", "two"])
        display.stage("one", "running")
        display.announce("one: [a line]")
    told = text.getvalue()
    assert "one: [a line]" in told
    assert "stage 1 of 2" in told
    assert told.rstrip().endswith("\x1b[2K")  # the display's own lines are erased


def test_only_a_terminal_gets_a_display() -> None:
    assert isinstance(progress_for(screen(io.StringIO()), display=True), Display)
    assert not isinstance(progress_for(screen(io.StringIO()), display=False), Display)
    assert not isinstance(progress_for(Console(file=io.StringIO()), display=True), Display)


def in_a_terminal(arguments: list[str], stop_after: str | None = None) -> tuple[int, str]:
    """Run `ontogeny` in a terminal of its own; return its code and all that was drawn."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ontogeny", *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(other)
    drawn, until, stopped = b"", time.monotonic() + 120, False
    while process.poll() is None or select.select([main], [], [], 0.2)[0]:
        assert time.monotonic() < until, drawn
        if select.select([main], [], [], 0.2)[0]:
            try:
                drawn += os.read(main, 65536)
            except OSError:  # the terminal is closed
                break
        if stop_after and not stopped and stop_after.encode() in drawn:
            process.send_signal(signal.SIGINT)
            stopped = True
    os.close(main)
    return process.wait(), drawn.decode()


def test_in_a_terminal_one_display_tells_of_all_stages(home: Path, text_file: Path) -> None:
    code, drawn = in_a_terminal(two_stages(text_file, "report.matrix=false", steps=8))
    assert code == 0, drawn
    assert "stage 1 of 2" in drawn
    assert re.search(r"8 of 8 steps, [\d,]+ tokens/s", drawn)
    assert "Epoch" not in drawn  # Lightning's own bar
    assert "stage 1 of 2: first" not in drawn  # the plain line
    assert "?25l" not in drawn or drawn.rindex("?25h") > drawn.rindex("?25l")  # the cursor is back


def test_an_interrupt_says_its_line_below_the_display(home: Path, text_file: Path) -> None:
    long = two_stages(text_file, "report.matrix=false", steps=100_000)
    code, drawn = in_a_terminal(long, stop_after=" of 100,000 steps")
    assert code == 130
    assert "ontogeny: stopped by SIGINT; the same command goes on from here" in drawn
    assert drawn.rindex("ontogeny: stopped") > drawn.rindex("of 100,000 steps")
