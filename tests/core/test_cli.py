"""The command line: answers at once, errors in one line, exit codes, and files that it leaves."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest


class Ended(Protocol):
    """How a command line ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]

HEAVY = ["torch", "lightning", "transformers", "datasets", "pyarrow", "peft", "tokenizers"]
LOOK = f"""
import sys
from ontogeny.cli import command
code = command(sys.argv[1:])
print([name for name in {HEAVY} if name in sys.modules], code)
"""
QUICK = [["--help"], ["--cfg", "job"], ["plugins"], ["explain", "objective=clm"], ["--version"]]
CPU_SECONDS = 0.7


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_quick_answers_import_nothing_heavy(arguments: list[str], home: Path) -> None:
    ended = process(sys.executable, "-c", LOOK, *arguments)
    assert ended.stdout.splitlines()[-1] == "[] 0", ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["plugins"]], ids=" ".join)
def test_quick_answers_take_little_time(arguments: list[str], home: Path) -> None:
    # Time of the processor, since others may keep it busy; the best of three, for cold caches.
    def measured() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(sys.executable, "-m", "ontogeny", *arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(measured() < CPU_SECONDS for _ in range(3))


def test_the_installed_command_ends_with_the_exit_code_and_one_line(home: Path) -> None:
    command = Path(sys.executable).parent / "ontogeny"
    ended = process(str(command), "trainer.max_step=1", HYDRA_FULL_ERROR="0")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("ontogeny: no option trainer.max_step (did you mean 'trainer.ma")
    assert ended.stderr.count("\n") == 1


def test_the_traceback_is_shown_to_those_who_ask_for_it(home: Path) -> None:
    ended = process(sys.executable, "-m", "ontogeny", "sede=1", HYDRA_FULL_ERROR="1")
    assert ended.returncode == 2
    assert "Traceback" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("ontogeny: no option sede")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["seed=1", "--help"]])
def test_help_is_given_wherever_it_is_asked_for(arguments: list[str], cli: Run, home: Path) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("ontogeny takes a language model through its life")


def test_the_version_is_that_of_the_package(cli: Run) -> None:
    assert cli("--version").out == "ontogeny 0.1.0\n"


def test_the_composed_config_is_printed_and_nothing_is_run(cli: Run, home: Path) -> None:
    ended = cli("--cfg", "job", "objective.document_end=false", "model=gpt2_tiny")
    assert ended.code == 0
    assert "document_end: false" in ended.out
    assert "n_embd: 128" in ended.out
    assert list(Path.cwd().iterdir()) == []


def test_flags_may_stand_among_overrides(cli: Run, home: Path) -> None:
    ended = cli("seed=5", "--cfg", "job", "trainer.max_steps=7")
    assert "seed: 5" in ended.out
    assert "max_steps: 7" in ended.out


def test_hydras_own_help_is_still_there(cli: Run, home: Path) -> None:
    ended = cli("--hydra-help")
    assert ended.code == 0
    assert "Hydra" in ended.out


def test_a_broken_plugin_breaks_neither_help_nor_the_config(
    cli: Run, home: Path, local_plugin: Callable[..., None]
) -> None:
    local_plugin("broken", "1 / 0")
    for arguments in (["--help"], ["plugins"], ["--cfg", "job"], ["explain", "data"]):
        assert cli(*arguments).code == 0


def test_an_option_of_a_broken_plugin_is_explained_by_the_plugin(
    cli: Run, home: Path, local_plugin: Callable[..., None]
) -> None:
    local_plugin("broken", "1 / 0")
    ended = cli("objective=of_the_broken_one")
    assert ended.code == 2
    assert "plugin 'broken' (local module) does not load: ZeroDivisionError" in ended.err


MISUSES = [
    (["plugin"], "'plugin' is neither a command nor an override, as key=value (did you mean 'plug"),
    (["data.path"], "'data.path' is neither a command nor an override, as key=value; see ontogeny"),
    (["show"], "usage: ontogeny show CHECKPOINT"),
    (["show", "."], ". is no checkpoint: it has no config.json"),
    (["explain"], "usage: ontogeny explain group=option | group | group.key"),
    (["explain", "objectve=clm"], "no group 'objectve' (did you mean 'objective'?)"),
    (["--halp"], "unrecognized arguments: --halp; see ontogeny --help"),
    (["--run", "--cfg", "job"], "give only one of --run, --multirun, --cfg"),
    (["--resolve"], "--resolve needs --cfg beside it"),
    (["stage=null"], "a group is null; choose an option of it or drop it: ~group"),
    (["lifecycle=own"], "lifecycle=own: no such option; known: auto, demo"),
    (["adapter=[lorra]"], "adapter=lorra: no such option (did you mean 'lora'?); known: adalora, "),
    (["~stage"], "stage is not set; choose one with stage=<name>"),
    (["seed=-1"], "seed is -1; expected a whole number of 0 or more"),
    (["optimizer.lr=abc"], "optimizer.lr is 'abc'; expected a number"),
    (["model=lama_tiny"], "model=lama_tiny: no such option (did you mean 'llama_tiny'?); known: "),
]


@pytest.mark.parametrize(("arguments", "words"), MISUSES, ids=[" ".join(a) for a, _ in MISUSES])
def test_what_is_wrong_on_the_command_line_is_told_in_one_line(
    arguments: list[str], words: str, cli: Run, home: Path
) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert ended.err.startswith(f"ontogeny: {words}")
    assert ended.err.count("\n") == 1
    assert ended.out == ""


FILES = {
    "good.jsonl": b'{"text": "a b c"}\n{"text": "d e f"}\n{"text": "g h i"}\n',
    "one_row.txt": b"only one row of text here",
    "empty.txt": b"",
    "blank.jsonl": b"\n\n",
    "latin.txt": b"good\n\nbad \xe9\xe8 here\n",
    "broken.jsonl": b'{"text": "fine"}\n{"text": "torn\n',
    "list.jsonl": b'{"text": "fine"}\n[1, 2]\n',
    "columns.csv": b"txt,label\nhello,1\n",
    "numbers.jsonl": b'{"text": 3}\n',
    "torn.parquet": b"PAR1 and no more",
    "picture.png": b"\x89PNG",
    "folder/picture.png": b"\x89PNG",
}
BAD_INPUT = [
    (["data.path=qqqqqq.md"], "qqqqqq.md does not exist; expected a file, a glob, a folder or a"),
    (["data.path=good.json"], "good.json does not exist (did you mean 'good.jsonl'?)"),
    (["data.path=*.jsonk"], "*.jsonk matches no file (did you mean '*.jsonl'?)"),
    (["data.path="], "data.path is empty; expected a file, a glob, a folder or a Hub name"),
    (["data.path=empty.txt"], "empty.txt has no rows"),
    (["data.path=blank.jsonl"], "blank.jsonl has no rows"),
    (["data.path=latin.txt"], "latin.txt:3: invalid UTF-8: byte 0xe9 at byte offset 10; mend the"),
    (["data.path=broken.jsonl"], "broken.jsonl:2: not JSON: "),
    (["data.path=list.jsonl"], "list.jsonl:2: not a JSON object but [1, 2]; mend the row or set d"),
    (["data.path=columns.csv"], "columns.csv:2: no column 'text' (did you mean 'txt'?); expected "),
    (["data.path=good.jsonl", "data.text_column=body"], "good.jsonl:1: no column 'body'"),
    (["data.path=numbers.jsonl"], "numbers.jsonl:1: text is 3; expected text; mend the row"),
    (["data.path=torn.parquet"], "torn.parquet: cannot be read: "),
    (["data.path=picture.png"], "picture.png: unknown suffix '.png'; expected .txt .md"),
    (["data.path=folder"], "folder holds no file of a known kind; expected .txt"),
    (["data.path=one_row.txt"], "one_row.txt has a single row, so none can be held out: set data."),
    (["data.path=null", "data.example=null"], "no data: set data.path (file, glob, folder, Hub na"),
    (["data.path=good.jsonl", "data.max_length=128"], "data.max_length is 128, longer than the co"),
    (
        ["data.path=good.jsonl", "evaluator.perplexity.max_length=65"],
        "evaluator.perplexity.max_length is 65, longer than the context of the model: 64",
    ),
    (
        ["data.path=good.jsonl", "data.validation.share=0"],
        "no held-out rows to evaluate on: set data.validation.path or data.validation.share",
    ),
    (["data.path=good.jsonl", "data.validation.path=empty.txt"], "empty.txt has no rows"),
    (["data.path=good.jsonl", "model.source=./absent"], "model.source is './absent', which does n"),
    (["data.path=good.jsonl", "model.source=empty.txt"], "model.source is 'empty.txt', which is n"),
    (["data.path=good.jsonl", "model.source=folder"], "model.source is 'folder', which holds no c"),
    (["data.path=good.jsonl", "tokenizer.source=folder"], "tokenizer.source is 'folder', which ho"),
    (["data.path=good.jsonl", "tokenizer.vocab_size=99"], "tokenizer.vocab_size is 99; byte_bpe n"),
    (["data.path=good.jsonl", "tokenizer.algorithm=bpe"], "tokenizer.algorithm is 'bpe'; expected"),
    (["data.path=good.jsonl", "model.config.hidden_sizes=4"], "model.config.hidden_sizes is no op"),
    (["data.path=good.jsonl", "model.config.hidden_size=a"], "model.config does not fit a llama m"),
    (["data.path=good.jsonl", "model.config.model_type=lama"], "model.config.model_type is 'lama'"),
    (["data.path=good.jsonl", "model.attention=sdpaa"], "cannot build a llama model with model.at"),
    (["data.path=good.jsonl", "precision=16-mixed"], "precision is '16-mixed'; expected one of"),
    (["data.path=good.jsonl", "trainer.max_time=soon"], "trainer.max_time is 'soon'; expected 90s"),
    (["data.path=good.jsonl", "trainer.accelerator=no"], "trainer: You selected an invalid accele"),
    (["data.path=good.jsonl", "optimizer.lr=-1"], "optimizer: Invalid learning rate: -1.0"),
    (["data.path=good.jsonl", "resume=must"], "resume is must, but "),
    (
        ["data.sources.a.path=good.jsonl", "data.sources.a.weight=-1"],
        "data.sources.a.weight is -1; expected a finite number, 0 or more",
    ),
]


@pytest.mark.parametrize(("overrides", "words"), BAD_INPUT, ids=[" ".join(o) for o, _ in BAD_INPUT])
def test_bad_input_is_one_clear_line_and_exit_code_two(
    overrides: list[str], words: str, tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    ended = tiny_run(*overrides)
    assert ended.code == 2
    assert ended.err.startswith(f"ontogeny: {words}")
    assert ended.err.count("\n") == 1


UNREAD = [
    (["data.validation.share=0.1", "data.validation.path=other.txt"], "data.validation.share"),
    (["scheduler.decay_share=0.3"], "scheduler.decay_share"),
    (["scheduler=constant", "scheduler.min_ratio=0.3"], "scheduler.min_ratio"),
    (["scheduler.warmup_steps=1", "scheduler.warmup_share=0.3"], "scheduler.warmup_share"),
    (["teacher.source=nobody"], "teacher.source"),
    (["data.example=other.txt"], "data.example"),
]


@pytest.mark.parametrize(("overrides", "key"), UNREAD, ids=[key for _, key in UNREAD])
def test_a_key_that_nothing_reads_stops_the_run_before_its_first_step(
    overrides: list[str], key: str, tiny_run: Run, text_file: Path
) -> None:
    Path("other.txt").write_text("one\n\ntwo\n\nthree\n\n")
    ended = tiny_run(f"data.path={text_file}", *overrides)
    assert ended.code == 2
    assert f"every key that was set is read does not hold: nothing reads {key};" in ended.err


def test_keys_that_only_the_fit_reads_are_no_dead_ones(tiny_run: Run) -> None:
    ended = tiny_run(
        *("trainer.gradient_clip_val=0.5", "trainer.evaluate_every=1", "trainer.compile=false"),
        *("trainer.log_every=1", "trainer.save_every_steps=1", "data.validation.limit=2"),
        *("trainer.max_time=1h", "evaluator.perplexity.batch_size=3", "optimizer.eps=1e-7"),
        *("scheduler.warmup_steps=1", "objective.document_end=false", "tokenizer.min_frequency=3"),
        *("trainer.max_epochs=0.5", "data.text_unit=line", "data.on_error=skip", "resume=never"),
    )
    assert ended.code == 0, ended.err


def test_an_option_of_the_objective_is_read_though_its_examples_are_cached(tiny_run: Run) -> None:
    assert tiny_run("objective.document_end=false").code == 0
    again = tiny_run("objective.document_end=false", "seed=1")
    assert again.code == 0, again.err


def test_preflight_can_be_switched_off(tiny_run: Run) -> None:
    ended = tiny_run("scheduler.decay_share=0.3", "preflight=off")
    assert ended.code == 0
    assert "preflight: " not in ended.out


def test_bad_rows_are_left_out_when_that_is_asked_for_and_listed(tiny_run: Run) -> None:
    rows = [json.dumps({"text": f"row {number} of these"}) for number in range(9)]
    Path("rows.jsonl").write_text("\n".join([*rows[:4], "torn", *rows[4:]]))
    ended = tiny_run("data.path=rows.jsonl", "data.on_error=skip")
    assert ended.code == 0, ended.err
    (rejected,) = Path(os.environ["ONTOGENY_HOME"]).glob("examples/*/rejected.jsonl")
    (line,) = rejected.read_text().splitlines()
    assert json.loads(line)["where"] == "rows.jsonl:5"


def test_what_a_run_leaves_is_what_the_design_promises(tiny_run: Run) -> None:
    folder = Path(tiny_run().out.splitlines()[-1].removeprefix("run: "))
    metrics = json.loads((folder / "metrics.json").read_text())
    bits = metrics["pretraining"]["perplexity"]["bits_per_byte"]
    assert bits.keys() == {"value", "unit", "low", "high"}
    assert bits["low"] <= bits["value"] <= bits["high"]
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    assert status["stages"] == {"pretraining": "finished"}
    assert status["versions"]["ontogeny"] == "0.1.0"
    stage = folder / "stages" / "pretraining"
    assert stage.is_symlink()
    assert (folder / ".hydra" / "overrides.yaml").is_file()
    log = (stage / "logs" / "metrics.csv").read_text().splitlines()
    assert {"step", "train/loss", "train/lr"} <= set(log[0].split(","))
    assert [line.split(",")[0] for line in log[1:]] == ["0", "1"]
    assert not (stage / "training_states").exists()


def test_an_error_inside_of_a_run_names_its_kind_and_how_to_see_more(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ontogeny.training import Training

    def fail(_: Training) -> None:
        msg = "something\nunforeseen"
        raise ArithmeticError(msg)

    monkeypatch.setattr(Training, "run", fail)
    ended = tiny_run()
    assert ended.code == 1
    assert ended.err == (
        "ontogeny: ArithmeticError: something unforeseen (set HYDRA_FULL_ERROR=1 for the "
        "traceback)\n"
    )


def test_a_sweep_runs_every_combination_and_ends_with_a_table(
    cli: Run, home: Path, tiny_overrides: list[str], text_file: Path
) -> None:
    ended = cli("-m", *tiny_overrides, f"data.path={text_file}", "seed=1,2")
    assert ended.code == 0, ended.err
    table = ended.out[ended.out.rindex("\nsweep ") :].strip().splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["0", "finished"], ["1", "finished"]]
    assert "bits_per_byte" in table[1]
    assert "seed=2" in table[2]


@pytest.mark.parametrize("name", ["bitsandbytes", "torchao"])
def test_packages_that_nothing_uses_say_nothing_where_they_are_installed(
    name: str, home: Path
) -> None:
    """transformers and PEFT import them, and they tell of kernels for other processors."""
    pytest.importorskip(name)
    look = f"from ontogeny.cli import command; command(['--version']); import peft, {name}"
    ended = process(sys.executable, "-c", look)
    assert (ended.returncode, ended.stderr) == (0, "")
