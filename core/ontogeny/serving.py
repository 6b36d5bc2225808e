"""`ontogeny serve CHECKPOINT`: an OpenAI-compatible server of transformers or vLLM, well set up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from ontogeny.checkpoint import (
    ADAPTER,
    GENERATION,
    checkpoint_digest,
    read_lineage,
    read_object,
)
from ontogeny.data.hub import is_hub_name
from ontogeny.errors import ConfigError, OntogenyError
from ontogeny.given_options import parsed
from ontogeny.options import require_choice

USAGE = (
    "usage: ontogeny serve CHECKPOINT [port=8000] [host=127.0.0.1] [name=...] [engine=auto] "
    "[device=auto] [dtype=auto] [options='...']"
)
ENGINES = ("auto", "transformers", "vllm")
NEEDS = ("fastapi", "uvicorn", "openai", "pydantic")  # of transformers' server
REVISION = "ontogeny"  # of the model, in the cache that its server looks into
POLL_SECONDS = 0.3


@dataclass
class Serve:
    """How a checkpoint is served."""

    port: int = 8000
    host: str = "127.0.0.1"  # 0.0.0.0: whoever reaches this machine may use it
    name: str | None = (
        None  # of the model, in requests; none: that of the stage, else of the folder
    )
    engine: str = "auto"  # transformers, vllm, or auto: vllm where it is installed with a GPU
    device: str = "auto"  # read by transformers: auto, cpu, cuda, cuda:1
    dtype: str = "auto"  # auto: the numbers that are stored; else bfloat16, float16, float32
    options: str = ""  # more of the engine's own, as one text: '--continuous-batching'

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("engine", self.engine, ENGINES)
        if not 0 < self.port < 65536:
            msg = f"port is {self.port}; expected 1..65535"
            raise ConfigError(msg)


def serve(arguments: Sequence[str]) -> None:
    """Serve until a signal ends it; the line that says so comes once the server answers."""
    if not arguments or "=" in arguments[0]:
        raise ConfigError(USAGE)
    source, options = arguments[0], parsed(Serve, arguments[1:], USAGE)
    engine = _engine(options)
    _require_model(source)
    _require_free(options)
    with TemporaryDirectory(prefix="ontogeny-serve-") as place:
        name = options.name or _name(source)
        command, environment = _start(engine, source, name, options, Path(place))
        with _running(command, environment) as server:
            _wait_until_ready(server, options)
            _announce(source, name, options, engine)
            code = server.wait()
    if code not in {0, -signal.SIGTERM, -signal.SIGINT}:
        msg = f"the server ({engine}) has ended with code {code}; see what it wrote above"
        raise OntogenyError(msg)


def _engine(options: Serve) -> str:
    engine = options.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") and shutil.which("nvidia-smi") else "transformers"
    if engine == "vllm" and find_spec("vllm") is None:
        msg = "engine is vllm, which is not installed: pip install vllm, or engine=transformers"
        raise ConfigError(msg)
    missing = [each for each in NEEDS if find_spec(each) is None]
    if engine == "transformers" and missing:
        msg = (
            f"the server of transformers needs the packages {', '.join(missing)}: "
            f"pip install 'ontogeny[serve]'"
        )
        raise ConfigError(msg)
    return engine


def _require_model(source: str) -> None:
    """Raise CheckpointError or ConfigError for what no server opens."""
    if is_hub_name(source):
        return
    if (Path(source) / ADAPTER).is_file():
        msg = (
            f"{source} holds an adapter beside its base, which the server does not merge: make a "
            f"whole model of it (ontogeny stage=export model.source={source} "
            f"'exporter=[safetensors]') and serve stages/export/exports/safetensors of that run"
        )
        raise ConfigError(msg)
    checkpoint_digest("CHECKPOINT", source)
    from ontogeny.models import writing_config  # noqa: PLC0415  imports torch

    writing_config("CHECKPOINT", source)


def _require_free(options: Serve) -> None:
    try:
        with socket.create_server((options.host, options.port)):
            pass
    except OSError as error:
        msg = (
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}; choose "
            f"another port, as port={options.port + 1}"
        )
        raise ConfigError(msg) from error


def _name(source: str) -> str:
    """Return what requests call the model: the stage that made it, else its folder."""
    if is_hub_name(source):
        return source
    stage = read_lineage(Path(source)).get("stage")
    return str(stage or Path(source).resolve().name)


def _start(
    engine: str, source: str, name: str, options: Serve, place: Path
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a server."""
    environment = dict(os.environ)
    where = ["--host", options.host, "--port", str(options.port), "--dtype", options.dtype]
    more = options.options.split()
    if is_hub_name(source):
        model, served = source, []
    else:
        # It must not look for anything elsewhere: all that it needs is in the folder.
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(place)}
        folder = _as_cached(Path(source).resolve(), name, place)
        model = name if engine == "transformers" else str(folder)
        served = ["--served-model-name", name]
    if engine == "vllm":
        return ["vllm", "serve", model, *served, *where, *more], environment
    start = [sys.executable, "-m", "transformers.cli.transformers", "serve", model]
    return [*start, *where, "--device", options.device, *more], environment


def _as_cached(source: Path, name: str, cache: Path) -> Path:
    """Lay the checkpoint out as a model of that name in a cache of the Hub, by links.

    So the server knows it by a name, and lists it. What it may be asked for is set right: requests
    say how they want to be sampled, and temperature 0 is the likeliest token.
    """
    model = cache / f"models--{name.replace('/', '--')}"
    folder = model / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    for file in source.iterdir():
        if file.name != GENERATION:
            (folder / file.name).symlink_to(file)
    (folder / GENERATION).write_text(json.dumps(_generation(source), indent=2))
    return folder


def _generation(source: Path) -> dict[str, object]:
    """Return the generation config, sampling as OpenAI's own service does where it says nothing."""
    file = source / GENERATION
    own = read_object(file) if file.exists() else {}
    if own.get("do_sample"):
        return own
    return {**own, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server; a signal to this process ends it, too."""
    server = subprocess.Popen(command, env=environment)  # noqa: S603  no shell

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        server.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield server
    except KeyboardInterrupt:
        server.terminate()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if server.poll() is None:
            server.terminate()
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], options: Serve) -> None:
    """Return once the server answers; raise OntogenyError where it ends before that."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(f"{_address(options)}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    if server.returncode != -signal.SIGTERM:
        msg = (
            f"the server has ended with code {server.returncode} before it answered; see what it "
            f"wrote above"
        )
        raise OntogenyError(msg)


def _address(options: Serve) -> str:
    host = "127.0.0.1" if options.host in {"0.0.0.0", "::"} else options.host  # noqa: S104
    return f"http://{host}:{options.port}"


def _announce(source: str, name: str, options: Serve, engine: str) -> None:
    print(  # noqa: T201
        f"serving {source} as model {name!r} ({engine}): {_address(options)}/v1", flush=True
    )
    if not is_hub_name(source) and not _has_template(Path(source)):
        line = "there is no chat template: use /v1/completions, not /v1/chat/completions"
        print(line, flush=True)  # noqa: T201


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists():
        return True
    file = folder / "tokenizer_config.json"
    return file.exists() and bool(read_object(file).get("chat_template"))
