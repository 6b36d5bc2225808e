"""Signals, to this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from ontogeny.errors import Interrupted
from ontogeny.interruption import SIGNALS, Interruption

SECOND = """
import os, signal, time
from ontogeny.interruption import Interruption, SAME_WISH_SECONDS
with Interruption() as interruption, interruption.deferring():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAME_WISH_SECONDS + 0.1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_outside_of_training_ends_the_run_at_once(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught, Interruption():
        kill_self(number)
    assert caught.value.exit_code == 128 + number


def test_a_signal_within_training_is_only_noted() -> None:
    with Interruption() as interruption:
        with interruption.deferring():
            kill_self(signal.SIGTERM)
        assert interruption.received == signal.SIGTERM
        error = interruption.error()
    assert str(error) == "stopped by SIGTERM; the same command goes on from here"
    assert error.exit_code == 143


def test_the_same_wish_twice_is_one_wish() -> None:
    with Interruption() as interruption, interruption.deferring():
        kill_self(signal.SIGTERM)
        kill_self(signal.SIGTERM)
    assert interruption.received == signal.SIGTERM


def test_a_second_wish_ends_the_process_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", SECOND], check=False, timeout=30)
    assert ended.returncode == 128 + signal.SIGINT


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_handlers_that_lightning_took_are_taken_back_and_still_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption, interruption.deferring():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interruption.install()
        kill_self(signal.SIGTERM)
        assert interruption.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_breaks_after_a_signal_is_told_as_the_signal() -> None:
    def run() -> None:
        with Interruption() as interruption, interruption.deferring():
            kill_self(signal.SIGTERM)
            msg = "a worker was killed"
            raise RuntimeError(msg)

    with pytest.raises(Interrupted, match="stopped by SIGTERM") as caught:
        run()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_in_another_thread_there_are_no_handlers_and_no_errors() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with Interruption() as interruption:
            seen.append((interruption.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_an_interruption_survives_pickling_for_sweep_launchers() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Interrupted("stopped", signal.SIGTERM)))
    assert (str(again), again.exit_code, again.signal_number) == ("stopped", 143, 15)
