"""The ranks of a fit on one machine: started by the first of them, out of what it is doing."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from typing_extensions import override

from ontogeny.errors import Interrupted, OntogenyError
from ontogeny.interruption import Interruption
from ontogeny.plugins import registry
from ontogeny.ranks import FitIsOver
from ontogeny.stage import Stage, StageContext
from ontogeny.store import Store, home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

ENTRY = "from ontogeny.cli import quieten; quieten(); import ontogeny.distributed as d; d.follow()"
KEPT = ("name", "config", "folder", "key", "lineage", "overrides")  # what a rank is told of a stage
GRACE_SECONDS = 5.0  # when one rank has failed, for the others to find out by themselves
_log = logging.getLogger("ontogeny.distributed")


class Ranks(LightningEnvironment):
    """The ranks of this machine; the others are started out of what this one is doing.

    Lightning would run `sys.argv` again, which in a sweep or a notebook is another run.
    """

    def __init__(self, context: StageContext) -> None:
        super().__init__()
        self._order = pickle.dumps({name: getattr(context, name) for name in KEPT})
        self._over = False

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the other ranks, which end with the block."""
        others = [self._start(rank) for rank in range(1, self.world_size())]
        try:
            yield
        except BaseException as error:
            failed = next((other for other in others if other.poll()), None)
            for other in others:
                other.kill()
            if failed is not None:
                msg = f"another rank (process {failed.pid}) ended with code {failed.returncode}"
                raise OntogenyError(msg) from error
            raise
        finally:
            self._over = True
            for other in others:
                other.wait()
        if others:  # a later stage begins anew
            torch.distributed.destroy_process_group()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        ranks = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": self.world_size()}
        place = {"MASTER_ADDR": self.main_address, "MASTER_PORT": self.main_port}
        own = {name: str(value) for name, value in {**ranks, **place}.items()}
        process = subprocess.Popen(  # noqa: S603  nothing of it comes from outside
            [sys.executable, "-c", ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **own},
        )
        pipe = cast("IO[bytes]", process.stdin)
        pipe.write(self._order)
        pipe.flush()  # it stays open: its end tells the other rank that this process is gone
        threading.Thread(target=self._watch, args=(process, rank), daemon=True).start()
        return process

    def _watch(self, process: subprocess.Popen[bytes], rank: int) -> None:
        """End this process if another rank failed, and it hangs waiting for that one."""
        if process.wait() != 0 and not self._over:
            time.sleep(GRACE_SECONDS)
            if not self._over:
                _log.error("rank %d has failed with exit code %d", rank, process.returncode)
                os._exit(1)


def follow() -> None:
    """Do the part of another rank: nothing but the fit of the stage that standard input names."""
    plugins = registry()  # also makes local modules importable, whose options may be in the order
    order = pickle.load(sys.stdin.buffer)  # noqa: S301  from the process that started this one
    threading.Thread(target=_end_with_first_rank, daemon=True).start()
    try:
        with Interruption() as interruption:
            context = StageContext(
                **order,
                registry=plugins,
                store=Store(home()),
                interruption=interruption,
                announce=lambda _: None,
            )
            context.config.preflight = False  # the first rank has proved it
            cast("Stage", plugins.build(context.config.stage)).run(context)
    except (FitIsOver, Interrupted):
        pass
    except Exception:
        # If the first rank fails too, it says why, and ends this one.
        time.sleep(GRACE_SECONDS)
        raise


def _end_with_first_rank() -> None:
    os.read(0, 1)
    os._exit(1)
