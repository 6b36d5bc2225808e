"""The stage: teachers in memory and kept ones, students given and cut, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.plugins.distillation.conftest import RUN, STUDENT, saved, small_bert, small_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from ontogeny import ConfigError, compose, run
from ontogeny.annotations import IDENTITY, Annotations


def distil(*overrides: str, student: list[str] = STUDENT) -> Any:
    return run(compose(["stage=distillation", *student, *RUN, *overrides]))


def losses(result: Any, column: str = "train/loss") -> list[float]:
    (log,) = result.folder.glob("stages/*/logs/metrics.csv")
    with log.open() as lines:
        return [float(row[column]) for row in csv.DictReader(lines) if row[column]]


def kept(home: Path) -> list[Path]:
    return sorted((home / "annotations").glob("*"))


def test_a_teacher_that_was_kept_whole_teaches_as_one_in_memory(
    teacher: Path, texts: Path, home: Path
) -> None:
    common = [f"teacher.source={teacher}", f"data.path={texts}", "objective.temperature=2"]
    memory = distil(*common)
    offline = distil(*common, "objective.teacher=offline", "objective.top=259")
    assert losses(offline) == pytest.approx(losses(memory), rel=1e-3)
    divergences = [losses(each, "train/divergence") for each in (offline, memory)]
    assert divergences[0] == pytest.approx(divergences[1], rel=2e-3)
    few = distil(*common, "objective.teacher=offline", "objective.top=16")
    bound = losses(few, "train/divergence")[0]
    assert 0 < bound < divergences[1][0]
    assert len(kept(home)) == 2


def test_a_teacher_that_is_read_as_what_it_was_not_trained_for_is_announced(
    tmp_path: Path, teacher: Path, texts: Path
) -> None:
    encoder = saved(tmp_path / "encoder", small_bert())
    said: dict[Path, list[str]] = {encoder: [], teacher: []}
    for source, lines in said.items():
        overrides = [f"teacher.source={source}", f"data.path={texts}", "trainer.max_steps=1"]
        config = compose(["stage=distillation", *STUDENT, *RUN, *overrides])
        run(config, announce=lines.append)
    expected = "was trained as BertForMaskedLM, and is read as BertLMHeadModel"
    assert [any(expected in line for line in lines) for lines in said.values()] == [True, False]
    assert not any("was trained as" in line for line in said[teacher])


def test_a_kept_teacher_takes_few_bytes_and_reads_once_for_all_points_of_a_sweep(
    teacher: Path, texts: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [f"teacher.source={teacher}", f"data.path={texts}", "objective.teacher=offline"]
    distil(*common)
    (entry,) = kept(home)
    size = sum(file.stat().st_size for file in entry.rglob("*.npy"))
    tokens = sum(len(np.load(part)) for part in entry.glob("part-*/teacher_rest.npy"))
    assert size / tokens < 300
    row = Annotations(entry)[0]
    assert row["teacher_ids"].dtype == np.uint16
    assert row["teacher_ids"].shape == (64, 64)
    (teacher / "model.safetensors").touch()  # the same content
    for loss in ("reverse_kl", "jsd"):
        distil(*common, f"objective.loss={loss}", "trainer.max_steps=2")
    assert kept(home) == [entry]


def test_a_pass_that_was_cut_off_goes_on_where_it_was(
    teacher: Path, texts: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("ontogeny.annotations")
    monkeypatch.setattr(module, "PART_ROWS", 32)
    common = [f"teacher.source={teacher}", f"data.path={texts}", "objective.teacher=offline"]
    common += ["data.packing=false"]
    write, written = module._write_part, list[Path]()

    def counted(folder: Path, rows: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, rows)

    monkeypatch.setattr(module, "_write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        distil(*common)
    assert not kept(home)
    written.append(Path())  # four: nothing interrupts any more
    distil(*common, "data.batch_size=3")
    (entry,) = kept(home)
    parts = len(list(entry.glob("part-*")))
    assert len(written) - 4 == parts - 3
    lengths = [len(row["teacher_rest"]) for row in Annotations(entry)]  # type: ignore[attr-defined]
    assert len(lengths) > 32 * (parts - 1)


def test_what_was_kept_elsewhere_teaches_without_the_teacher(
    teacher: Path, texts: Path, home: Path, tmp_path: Path
) -> None:
    common = [f"data.path={texts}", "objective.teacher=offline"]
    first = distil(*common, f"teacher.source={teacher}")
    (entry,) = kept(home)
    elsewhere = entry.rename(tmp_path / "elsewhere")
    tokens = f"tokenizer.source={teacher}"
    second = distil(*common, f"objective.kept={elsewhere}", tokens)
    assert losses(second) == losses(first)
    assert not kept(home)


def test_what_was_kept_of_other_data_or_of_another_teacher_is_refused(
    teacher: Path, texts: Path, home: Path, tmp_path: Path
) -> None:
    offline = ["objective.teacher=offline", "objective.kept=null"]
    distil(f"data.path={texts}", f"teacher.source={teacher}", *offline)
    (entry,) = kept(home)
    others = tmp_path / "others.jsonl"
    others.write_text("".join(json.dumps({"text": f"other {n}"}) + "\n" for n in range(40)))
    offline[1] = f"objective.kept={entry}"
    with pytest.raises(ConfigError, match=r"objective.kept: what is kept there was made for other"):
        distil(f"data.path={others}", f"teacher.source={teacher}", *offline)
    another = saved(tmp_path / "another", small_llama(2))
    with pytest.raises(ConfigError, match="was made for another model than"):
        distil(f"data.path={texts}", f"teacher.source={another}", *offline)
    with pytest.raises(ConfigError, match="was made for other options of the objective"):
        distil(f"data.path={texts}", f"teacher.source={teacher}", *offline, "objective.top=8")
    here = f"objective.kept={tmp_path / 'another'}"
    with pytest.raises(ConfigError, match=rf"which holds no {IDENTITY}"):
        distil(f"data.path={texts}", f"teacher.source={teacher}", offline[0], here)


def test_a_folder_that_is_none_and_one_with_other_content_are_noticed(
    teacher: Path, texts: Path, home: Path, tmp_path: Path
) -> None:
    common = ["objective.teacher=offline", f"data.path={texts}", f"tokenizer.source={teacher}"]
    with pytest.raises(ConfigError, match=r"objective\.kept is '.*none', which is no folder"):
        distil(*common, f"objective.kept={tmp_path / 'none'}")
    folder, results = tmp_path / "kept", []
    for seed in (1, 2):
        saved(teacher, small_llama(seed))
        distil(f"teacher.source={teacher}", *common[:2], "trainer.max_steps=1")
        (entry,) = kept(home)
        shutil.rmtree(folder, ignore_errors=True)
        entry.rename(folder)
        results.append(losses(distil(*common, f"objective.kept={folder}")))
    assert results[0] != results[1]


def other_tokenizer(texts: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words."""
    words = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    from tokenizers.trainers import BpeTrainer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def test_a_teacher_with_other_tokens_needs_an_alignment(teacher: Path, texts: Path) -> None:
    folder = teacher.parent / "tokens"
    other_tokenizer(texts).save_pretrained(folder)
    tokens = f"tokenizer.source={folder}"
    with pytest.raises(
        ConfigError, match=r"another vocabulary .* choose stage=distillation_cross_tok"
    ):
        distil(f"data.path={texts}", f"teacher.source={teacher}", tokens)


@pytest.mark.parametrize("loss", ["aligned", "uld"])
def test_a_teacher_with_other_tokens_teaches_where_both_meet(
    teacher: Path, texts: Path, loss: str
) -> None:
    folder = teacher.parent / "tokens"
    other_tokenizer(texts).save_pretrained(folder)
    overrides = ["stage=distillation_cross_tokenizer", *STUDENT, *RUN, "trainer.max_steps=30"]
    overrides += [f"data.path={texts}", f"teacher.source={teacher}", f"tokenizer.source={folder}"]
    overrides += [f"objective.loss={loss}", "optimizer.lr=1e-2", "objective.cross_entropy=0"]
    result = run(compose(overrides))
    found = losses(result, "train/divergence")
    assert found[-1] < found[0]
    assert all(share > 0.9 for share in losses(result, "train/aligned_share"))


def test_a_student_is_cut_out_of_the_teacher_and_the_lineage_says_how(
    teacher: Path, texts: Path
) -> None:
    cut = [f"model.source={teacher}", "adapter=[cut]", "adapter.cut.layers=[1]"]
    result = distil(f"data.path={texts}", *cut, "adapter.cut.intermediate_size=32", student=[])
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (1, 32)
    lineage = json.loads((result.checkpoint / "lineage.json").read_text())
    assert lineage["changes"]["cut"]["layers"] == [1]
    assert len(lineage["changes"]["cut"]["widths"]["intermediate_size"]["kept"]) == 32
    assert losses(result)[-1] < losses(result)[0]


def test_projections_are_trained_and_not_saved(teacher: Path, texts: Path) -> None:
    features = ["objective.hidden=1", "objective.attention=20", "model.attention=eager"]
    result = distil(
        f"data.path={texts}",
        f"teacher.source={teacher}",
        *features,
        "trainer.max_steps=25",
        "optimizer.lr=1e-2",
    )
    hidden, attention = (losses(result, f"train/{name}") for name in ("hidden", "attention"))
    assert hidden[-1] < 0.9 * hidden[0]
    assert attention[-1] < attention[0]
    names = load_file(result.checkpoint / "model.safetensors")
    assert not [name for name in names if not name.startswith(("model.", "lm_head."))]


def test_answers_are_learned_and_prompts_are_not(teacher: Path, answers: Path) -> None:
    more = ["objective.cross_entropy=0", "trainer.max_steps=25", "optimizer.lr=1e-2"]
    result = distil(f"data.path={answers}", f"teacher.source={teacher}", *more)
    assert losses(result)[-1] < losses(result)[0]


def test_a_masked_model_learns_from_a_wider_one(tmp_path: Path, texts: Path, home: Path) -> None:
    folder = saved(tmp_path / "bert", small_bert(1))
    student = ["model=bert_tiny", *(f"model.config.{n}={v}" for n, v in BERT.items())]
    overrides = ["stage=distillation_mlm", *student, *RUN, "trainer.max_steps=25"]
    overrides += [f"data.path={texts}", f"teacher.source={folder}", "optimizer.lr=5e-3"]
    result = run(compose(overrides))
    assert losses(result, "train/cosine")[-1] < losses(result, "train/cosine")[0]
    assert losses(result)[-1] < losses(result)[0]
    assert AutoModelForMaskedLM.from_pretrained(result.checkpoint).config.hidden_size == 16


BERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("objective", ["gkd", "minillm"])
def test_a_student_learns_from_what_it_writes(
    teacher: Path, answers: Path, tmp_path: Path, objective: str
) -> None:
    student = saved(tmp_path / "student", small_llama(3, num_hidden_layers=1))
    overrides = ["stage=distillation_on_policy", f"objective={objective}", *RUN]
    overrides += [f"data.path={answers}", f"teacher.source={teacher}", f"model.source={student}"]
    overrides += ["objective.max_tokens=6", "optimizer.lr=1e-2", "trainer.max_steps=12"]
    result = run(compose(overrides))
    name = "divergence" if objective == "gkd" else "reverse_kl"
    found = losses(result, f"train/{name}")
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objective.teacher=offline", "objective.hidden=1"], "keeps no hidden states"),
        (["objective.kept=x"], "set objective.teacher=offline"),
        (["objective.layers={0: 1}"], "nothing is matched"),
        (["objective.beta=0.3"], r"nothing reads objective\.beta"),
        (["objective.top=8"], r"nothing reads objective\.top"),
        (["objective.temperature=0"], "temperature is 0"),
        (["objective.hidden=1", "objective.layers={0: 7}"], "block 7 of the teacher, which has 2"),
        (["objective.attention=1"], "set model.attention=eager"),
        (["data.max_length=128", "model.config.max_position_embeddings=64"], "longer than"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    teacher: Path, texts: Path, overrides: list[str], told: str
) -> None:
    with pytest.raises(Exception, match=told):
        distil(f"data.path={texts}", f"teacher.source={teacher}", *overrides)


def test_without_a_teacher_there_is_nothing_to_learn_from(teacher: Path, texts: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.source is not set: name the checkpoint"):
        distil(f"data.path={texts}", f"model.source={teacher}", student=[])
    with pytest.raises(ConfigError, match=r"neither model\.source nor teacher\.source is set"):
        distil(f"data.path={texts}")
