"""The command `ontogeny`: sub-commands that answer at once, and everything else to Hydra."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ontogeny.environment import prepare_environment
from ontogeny.errors import ConfigError, Interrupted, OntogenyError
from ontogeny.spelling import suggestion

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ontogeny.lifecycle import RunResult
    from ontogeny.options import Sweep

# What these say while they are imported, wherever they are installed, is of kernels for other
# processors; transformers and PEFT import them whether or not they are used.
TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes.backends")


def main() -> None:
    """Run the command line and exit: 0, 2 for what the user can mend, 128+n for signals, else 1."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Carry out one command line; return its exit code. Errors are printed in one line."""
    prepare_environment()
    quieten()
    show_trace = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    try:
        _dispatch(arguments)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except SystemExit as error:  # Hydra ends --hydra-help and the like so
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except OntogenyError as error:
        if show_trace:
            traceback.print_exc()
        return _say(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001  whatever went wrong, the user gets one line
        if show_trace:
            traceback.print_exc()
        line = " ".join(str(error).split())
        hint = "set HYDRA_FULL_ERROR=1 for the traceback"
        return _say(f"{type(error).__name__}: {line} ({hint})", 1)
    return 0


def quieten() -> None:
    """Keep off the screen what packages say while they are imported though nothing is wrong."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def _dispatch(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else ""
    if name == "help" or not {"--help", "-h"}.isdisjoint(arguments):
        _help()
    elif name == "--version":
        _version()
    elif name in SUBCOMMANDS:
        SUBCOMMANDS[name](list(arguments[1:]))
    else:
        _run(arguments)


def _help() -> None:
    from ontogeny.help import help_text  # noqa: PLC0415

    print(help_text())  # noqa: T201  the command's output


def _version() -> None:
    from importlib.metadata import version  # noqa: PLC0415

    print(f"ontogeny {version('ontogeny')}")  # noqa: T201


def _plugins(_: list[str]) -> None:
    from ontogeny.help import plugins_text  # noqa: PLC0415

    print(plugins_text())  # noqa: T201


def _explain(arguments: list[str]) -> None:
    from ontogeny.explain import explain  # noqa: PLC0415

    print(explain(arguments))  # noqa: T201


def _show(arguments: list[str]) -> None:
    from ontogeny.show import show  # noqa: PLC0415

    if len(arguments) != 1:
        msg = "usage: ontogeny show CHECKPOINT"
        raise ConfigError(msg)
    print(show(arguments[0]))  # noqa: T201


def _reproduce(arguments: list[str]) -> None:
    from ontogeny.reproduce import reproduce  # noqa: PLC0415

    if len(arguments) != 1:
        msg = "usage: ontogeny reproduce-run CHECKPOINT"
        raise ConfigError(msg)
    print(reproduce(arguments[0]))  # noqa: T201


def _report(arguments: list[str]) -> None:
    from ontogeny.report.page import rewrite  # noqa: PLC0415

    if len(arguments) != 1:
        msg = "usage: ontogeny report RUN, a folder as outputs/2026-01-31/12-00-00-1a2b"
        raise ConfigError(msg)
    print(rewrite(arguments[0]))  # noqa: T201


def _show_mask(arguments: list[str]) -> None:
    from ontogeny.show_mask import show_mask  # noqa: PLC0415

    show_mask(arguments)


def _store(arguments: list[str]) -> None:
    from ontogeny.store_command import store_command  # noqa: PLC0415

    print(store_command(arguments))  # noqa: T201


def _chat(arguments: list[str]) -> None:
    from ontogeny.terminal_chat import chat  # noqa: PLC0415

    chat(arguments)


def _serve(arguments: list[str]) -> None:
    from ontogeny.serving import serve  # noqa: PLC0415

    serve(arguments)


SUBCOMMANDS: dict[str, Callable[[list[str]], None]] = {
    "plugins": _plugins,
    "explain": _explain,
    "show": _show,
    "show-mask": _show_mask,
    "store": _store,
    "reproduce-run": _reproduce,
    "report": _report,
    "chat": _chat,
    "serve": _serve,
}


def _run(arguments: Sequence[str]) -> None:
    """Give the arguments to Hydra; its exceptions come back as ours."""
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    from ontogeny import _hydra  # noqa: PLC0415
    from ontogeny.plugins import registry  # noqa: PLC0415
    from ontogeny.sweep import finish_sweep  # noqa: PLC0415

    overrides = _hydra.overrides_of(arguments)
    for item in overrides:
        _require_override(item)
    _hydra.sweeps.clear()
    _stopped.clear()
    failures: list[Exception] = []
    try:
        _hydra.run_main(partial(_job, failures), arguments)
    except _SweepStopped as stopped:
        raise stopped.args[0] from stopped
    except (HydraException, OmegaConfBaseException) as error:
        registry().check()  # what a broken plugin offers is missing now
        _hydra.explain_error(error, overrides)
    except ValueError as error:
        for start, meaning in _hydra.MISUSES.items():
            if str(error).startswith(start):
                raise ConfigError(meaning) from error
        raise
    finally:
        for folder, options in _hydra.sweeps:
            print(finish_sweep(folder, options))  # noqa: T201
    if failures:
        raise failures[0]
    for folder, options in _hydra.sweeps:
        _require_success(folder, options)


def _require_success(folder: str, options: Sweep) -> None:
    """Raise OntogenyError where a job failed and the sweeper went on: a sweep does not hide it."""
    from ontogeny.sweep import Results  # noqa: PLC0415

    results = Results(Path(folder), options)
    failed = [job for job in results.jobs if job.state in {"failed", "killed"}]
    if failed:
        first = f"job {failed[0].name}: {failed[0].reason or failed[0].state}"
        raise OntogenyError(f"{len(failed)} of {len(results.jobs)} jobs failed, the first {first}")
    if results.missing is not None:
        raise ConfigError(results.missing)


def _require_override(item: str) -> None:
    if "=" not in item and not item.startswith("~"):
        near = suggestion(item, SUBCOMMANDS)
        msg = f"{item!r} is neither a command nor an override, as key=value{near}"
        raise ConfigError(f"{msg}; see ontogeny --help")


class _SweepStopped(BaseException):
    """Carries a signal's Interrupted out of a sweep; Hydra runs the next job after an Exception."""


# A process of a sweep that was told to stop begins no other job, even if it is handed one.
_stopped: list[Interrupted] = []


def _job(failures: list[Exception], config: DictConfig) -> float | tuple[float, ...] | None:
    """Run one Hydra job; return what a sweeper optimises (`sweep.metric`).

    In a sweep Hydra must see that a job failed, and nothing but an ordinary exception may leave
    it: a SystemExit would end the whole sweep. A single run's failure is kept for `command`, since
    Hydra would print lines of its own about it.
    """
    from ontogeny import _hydra  # noqa: PLC0415
    from ontogeny.terminal import run_in_terminal  # noqa: PLC0415

    if _stopped:
        raise _SweepStopped(_stopped[0])
    quieten()  # here, too: a launcher may run jobs in processes of its own
    try:
        result = run_in_terminal(config, _hydra.job_overrides(), _hydra.job_folder())
        return _value(result, config) if _hydra.is_sweep() else None
    except SystemExit as error:
        msg = f"a job asked to exit with code {error.code}"
        raise OntogenyError(msg) from error
    except Exception as error:
        if not _hydra.is_sweep():
            failures.append(error)
        elif isinstance(error, Interrupted):
            _stopped.append(error)
            raise _SweepStopped(error) from error
        else:
            raise
    return None


def _value(result: RunResult, config: DictConfig) -> float | tuple[float, ...] | None:
    from omegaconf import OmegaConf  # noqa: PLC0415

    from ontogeny.sweep import returned_values  # noqa: PLC0415

    metrics = {
        f"{stage}/{evaluator}/{name}": metric.value
        for stage, evaluators in result.metrics.items()
        for evaluator, values in evaluators.items()
        for name, metric in values.items()
    }
    return returned_values(metrics, OmegaConf.to_object(config.sweep))  # type: ignore[arg-type]


def _say(line: str, code: int) -> int:
    print(f"ontogeny: {line}", file=sys.stderr)  # noqa: T201
    return code
