"""Heads on any backbone: what is saved opens again, in transformers too where it has the class."""
# B rows, T tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    T5EncoderModel,
)

from ontogeny import ConfigError
from ontogeny.errors import CheckpointError
from ontogeny.head import Head
from ontogeny.models import new_weights
from ontogeny.options import Model
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.heads import (
    Embedding,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
)
from ontogeny_plugins.heads.attached import Attached
from ontogeny_plugins.heads.embedding import EmbeddingHead
from ontogeny_plugins.heads.multiple_choice import MultipleChoiceHead
from ontogeny_plugins.heads.pooling import pooled
from ontogeny_plugins.heads.question_answering import QuestionAnsweringHead
from ontogeny_plugins.heads.sequence_classification import SequenceClassificationHead
from ontogeny_plugins.heads.token_classification import TokenClassificationHead

SIZES: dict[str, object] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": SIZES,
    "qwen3": {**SIZES, "num_key_value_heads": 1, "head_dim": 16},
    "granite": SIZES,  # no class for any of these tasks
    "bert": SIZES,
    "roberta": SIZES,
    "gpt2": {
        "vocab_size": 259,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}
# No fast kernel, no id of padding, or a class that reads padding.
ODD: dict[str, dict[str, object]] = {
    "deberta-v2": {**SIZES, "type_vocab_size": 0},
    "mamba": {**SIZES, "state_size": 8},
    "codegen": {**FAMILIES["gpt2"], "n_head": 4, "rotary_dim": 8},
    "roformer": {**SIZES, "embedding_size": 32},
}
ENDS = {"pad_token_id": 1, "eos_token_id": 0, "decoder_start_token_id": 1}
PAIRS: dict[str, dict[str, object]] = {  # of an encoder and a decoder
    "t5": {"vocab_size": 259, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, **ENDS},
    "bart": {
        "vocab_size": 259,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        **ENDS,
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    },
}
FEW = ("llama", "granite", "bert")
HEADS: dict[str, tuple[type, type]] = {
    "sequence_classification": (SequenceClassificationHead, SequenceClassification),
    "token_classification": (TokenClassificationHead, TokenClassification),
    "question_answering": (QuestionAnsweringHead, QuestionAnswering),
    "multiple_choice": (MultipleChoiceHead, MultipleChoice),
    "embedding": (EmbeddingHead, Embedding),
}
AUTO: dict[str, Any] = {
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "multiple_choice": AutoModelForMultipleChoice,
    "embedding": AutoModel,
}
LABELS = {"labels": ["no", "maybe", "yes"], "problem_type": "single_label_classification"}


def head_of(name: str, **options: object) -> Head:
    head, schema = HEADS[name]
    built = head(schema(**options))
    if name not in {"embedding", "question_answering", "multiple_choice"}:
        built.configure(LABELS)
    return cast("Head", built)


def language_model(family: str, folder: Path, **changes: object) -> Path:
    """Save what a head is put on: a masked or causal language model."""
    config = CONFIG_MAPPING[family](**{**(FAMILIES | ODD)[family], **changes})
    is_masked = family in {"bert", "roberta", "roformer", "deberta-v2"}
    auto = AutoModelForMaskedLM if is_masked else AutoModelForCausalLM
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder / "language_model")
    return folder / "language_model"


def load(head: Head, source: Path) -> PreTrainedModel:
    torch.manual_seed(1)
    model = head.load(Model(source=str(source)), byte_tokenizer())
    model.eval()
    return model


def batch(pad: int = 1) -> dict[str, Tensor]:
    """Return two rows of 12 and 7 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, 259, (2, 12), generator=generator)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 7:] = 0
    return {"input_ids": ids_BT.masked_fill(mask_BT == 0, pad), "attention_mask": mask_BT}


def outputs(model: PreTrainedModel, inputs: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    if name == "multiple_choice":
        inputs = {key: value[None] for key, value in inputs.items()}
    with torch.no_grad():
        found = model(**inputs)
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("name", HEADS)
def test_a_saved_model_gives_the_same_outputs_again(name: str, family: str, tmp_path: Path) -> None:
    model = load(head_of(name), language_model(family, tmp_path))
    head_of(name).save(model, tmp_path / "saved")
    again = load(HEADS[name][0](HEADS[name][1]()), tmp_path / "saved")
    assert_same(outputs(model, batch(), name), outputs(again, batch(), name))
    assert not new_weights(again)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("sequence_classification", family) for family in FAMILIES if family != "granite"),
        *(("token_classification", family) for family in FAMILIES if family != "granite"),
        *(("question_answering", family) for family in FAMILIES if family != "granite"),
        *(("multiple_choice", family) for family in ("bert", "roberta")),
    ],
)
def test_where_transformers_has_the_class_it_opens_the_folder_with_the_same_outputs(
    name: str, family: str, tmp_path: Path
) -> None:
    head = head_of(name)
    model = load(head, language_model(family, tmp_path))
    head.save(model, tmp_path / "saved")
    theirs, info = AUTO[name].from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.eval()
    assert_same(outputs(model, batch(), name), outputs(theirs, batch(), name))


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("name", HEADS)
def test_the_weights_of_the_language_model_are_taken_and_only_the_head_is_new(
    name: str, family: str, tmp_path: Path
) -> None:
    source = language_model(family, tmp_path)
    model = load(head_of(name), source)
    body = AutoModel.from_pretrained(source).state_dict()
    prefix = f"{model.base_model_prefix}."
    own = {key.removeprefix(prefix): value for key, value in model.state_dict().items()}
    taken = [key for key in body if "pooler" not in key]
    assert taken
    assert all(torch.equal(own[key], body[key]) for key in taken)
    fresh = {key.removeprefix(prefix) for key in new_weights(model)}
    assert {key for key in own if key not in body or "pooler" in key} == fresh


@pytest.mark.parametrize("family", ["llama", "granite"])
@pytest.mark.parametrize("name", HEADS)
def test_random_weights_follow_the_seed(name: str, family: str) -> None:
    options = Model(config={"model_type": family, **FAMILIES[family]})
    torch.manual_seed(3)
    first = head_of(name).load(options, byte_tokenizer())
    torch.manual_seed(3)
    again = head_of(name).load(options, byte_tokenizer())
    assert first.training
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}
    other = again.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


# --------------------------------------------------------------------------------------- pooling


def test_pooling_takes_what_it_says_whichever_side_is_padded() -> None:
    hidden_BTD = torch.arange(24.0).view(2, 4, 3)
    mask_BT = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    first, last = hidden_BTD[:, [0, 1, 2]], hidden_BTD[:, [1, 2, 3]]
    expected = {
        "cls": torch.stack([first[0, 0], last[1, 0]]),
        "last": torch.stack([first[0, 2], last[1, 2]]),
        "mean": torch.stack([first[0].mean(0), last[1].mean(0)]),
    }
    for name, value_BD in expected.items():
        torch.testing.assert_close(pooled(name, hidden_BTD, mask_BT), value_BD)
    torch.testing.assert_close(pooled("last", hidden_BTD, None), hidden_BTD[:, 3])


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_pooling_other_than_the_familys_own_is_that_of_the_hidden_states(
    pooling: str, family: str, tmp_path: Path
) -> None:
    source = language_model(family, tmp_path)
    model = load(head_of("sequence_classification", pooling=pooling), source)
    natural = {"llama": "last", "bert": "cls"}[family]
    assert isinstance(model, Attached) == (pooling != natural)
    if pooling == natural:
        return
    inputs = batch()
    with torch.no_grad():
        hidden_BTD = AutoModel.from_pretrained(source).eval()(**inputs).last_hidden_state
        pooled_BD = pooled(pooling, hidden_BTD, inputs["attention_mask"])
        score = cast("Any", model).score
        torch.testing.assert_close(model(**inputs).logits, score(pooled_BD))


@pytest.mark.parametrize("family", [*FEW, "gpt2"])
@pytest.mark.parametrize("name", HEADS)
def test_padding_changes_no_output(name: str, family: str, tmp_path: Path) -> None:
    model = load(head_of(name), language_model(family, tmp_path))
    pad = cast("int", model.config.pad_token_id)
    together = outputs(model, batch(pad), name)
    short = {key: value[1:, :7] for key, value in batch(pad).items()}
    for key, alone in outputs(model, short, name).items():
        row = together[key][:, 1:] if name == "multiple_choice" else together[key][1:]
        if name in {"token_classification", "question_answering"}:
            row = row[:, :7]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_keeps_its_pooling_unless_another_is_asked_for(tmp_path: Path) -> None:
    model = load(
        head_of("sequence_classification", pooling="mean"), language_model("llama", tmp_path)
    )
    model.save_pretrained(tmp_path / "saved")
    kept = load(head_of("sequence_classification"), tmp_path / "saved")
    assert cast("Attached", kept).settings["pooling"] == "mean"
    asked = load(head_of("sequence_classification", pooling="cls"), tmp_path / "saved")
    assert cast("Attached", asked).settings["pooling"] == "cls"
    assert not new_weights(asked)


def test_an_encoder_that_was_made_a_decoder_is_read_at_its_last_token(tmp_path: Path) -> None:
    source = language_model("bert", tmp_path, is_decoder=True)
    model = load(head_of("sequence_classification"), source)
    assert cast("Attached", model).settings["pooling"] == "last"


def test_a_model_without_padding_token_gets_the_tokenizers(tmp_path: Path) -> None:
    source = language_model("gpt2", tmp_path)
    assert AutoConfig.from_pretrained(source).pad_token_id is None
    model = load(head_of("sequence_classification"), source)
    assert model.config.pad_token_id == byte_tokenizer().pad_token_id
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    padded_by_end = head_of("sequence_classification").load(Model(source=str(source)), tokenizer)
    assert padded_by_end.config.pad_token_id == tokenizer.eos_token_id


def test_a_family_that_pads_on_the_left_is_read_where_its_text_ends() -> None:
    sizes = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 48, "vocab_size": 259}
    options = Model(config={"model_type": "xlnet", **sizes}, attention="eager")
    model = head_of("sequence_classification").load(options, byte_tokenizer())
    assert isinstance(model, Attached)


def test_a_family_whose_class_for_choices_reads_padding_is_told_to_read_the_first_token(
    tmp_path: Path,
) -> None:
    source = language_model("roformer", tmp_path)
    model = load(head_of("multiple_choice"), source)
    assert not isinstance(model, Attached)
    alone = {key: value[1:, :7] for key, value in batch().items()}
    scores = outputs(model, batch(), "multiple_choice")["logits"][:, 1:]
    torch.testing.assert_close(scores, outputs(model, alone, "multiple_choice")["logits"])


@pytest.mark.parametrize("family", ["deberta-v2", "mamba", "codegen"])
def test_families_without_a_fast_kernel_or_an_id_of_padding_have_heads(
    family: str, tmp_path: Path
) -> None:
    model = load(head_of("sequence_classification"), language_model(family, tmp_path))
    head_of("sequence_classification").save(model, tmp_path / "saved")
    again = load(head_of("sequence_classification"), tmp_path / "saved")
    assert not new_weights(again)
    name = "sequence_classification"
    assert_same(outputs(model, batch(), name), outputs(again, batch(), name))


# ------------------------------------------------------------------------- encoders with a decoder


def encoder_decoder(family: str, folder: Path) -> Path:
    config = CONFIG_MAPPING[family](**PAIRS[family])
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder / family)
    return folder / family


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("name", ["sequence_classification", "multiple_choice", "embedding"])
def test_of_an_encoder_with_a_decoder_the_encoder_reads_and_is_trained(
    name: str, family: str, tmp_path: Path
) -> None:
    source = encoder_decoder(family, tmp_path)
    model = load(head_of(name, pooling="mean"), source)
    assert isinstance(model, Attached)
    inputs = {key: value[None] for key, value in batch().items()}
    found = model(**(inputs if name == "multiple_choice" else batch()))
    next(iter(found.values())).sum().backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert without
    assert all(".decoder." in key for key in without)
    assert all(not model.get_parameter(key).requires_grad for key in without)
    head_of(name).save(model, tmp_path / "saved")
    again = load(HEADS[name][0](HEADS[name][1]()), tmp_path / "saved")
    assert_same(outputs(model, batch(), name), outputs(again, batch(), name))
    assert not new_weights(again)


def test_the_encoder_reads_as_it_does_in_its_own_class(tmp_path: Path) -> None:
    source = encoder_decoder("t5", tmp_path)
    found = outputs(load(head_of("embedding"), source), batch(), "embedding")["embeddings"]
    with torch.no_grad():
        hidden_BTD = T5EncoderModel.from_pretrained(source).eval()(**batch()).last_hidden_state
    mean_BD = pooled("mean", hidden_BTD, batch()["attention_mask"])
    torch.testing.assert_close(found, torch.nn.functional.normalize(mean_BD, dim=-1))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("sequence_classification", "t5"),
        ("sequence_classification", "bart"),
        ("token_classification", "t5"),
        ("question_answering", "t5"),
        ("question_answering", "bart"),
    ],
)
def test_where_transformers_has_the_class_for_both_it_opens_the_folder(
    name: str, family: str, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    end = cast("int", tokenizer.eos_token_id)
    cast("Any", tokenizer).backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, end)]
    )
    model = head_of(name).load(Model(source=str(encoder_decoder(family, tmp_path))), tokenizer)
    model.eval()
    assert not isinstance(model, Attached)
    head_of(name).save(model, tmp_path / "saved")
    theirs, info = AUTO[name].from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    texts = tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
    inputs = {key: texts[key] for key in ("input_ids", "attention_mask")}
    assert_same(outputs(model, inputs, name), outputs(theirs.eval(), inputs, name))


# ---------------------------------------------------------------------------------------- labels


def test_names_of_labels_travel_in_the_config(tmp_path: Path) -> None:
    model = load(head_of("sequence_classification"), language_model("bert", tmp_path))
    model.save_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    assert config.problem_type == "single_label_classification"


def test_ordered_labels_become_questions_whether_it_is_more(tmp_path: Path) -> None:
    head = SequenceClassificationHead(SequenceClassification())
    head.configure({**LABELS, "problem_type": "multi_label_classification", "ordinal": True})
    load(head, language_model("bert", tmp_path)).save_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.id2label == {0: "> no", 1: "> maybe"}
    assert config.ordinal_labels == ["no", "maybe", "yes"]


def trained_classifier(folder: Path) -> tuple[Path, Tensor]:
    model = load(head_of("sequence_classification"), language_model("bert", folder))
    model.save_pretrained(folder / "classifier")
    return folder / "classifier", cast("Any", model).classifier.weight


def configured(labels: list[str]) -> Head:
    head = SequenceClassificationHead(SequenceClassification())
    head.configure({**LABELS, "labels": labels})
    return head


def test_a_trained_head_goes_on_with_the_same_labels(tmp_path: Path) -> None:
    source, weight = trained_classifier(tmp_path)
    model = load(configured(["no", "maybe", "yes"]), source)
    assert torch.equal(cast("Any", model).classifier.weight, weight)
    assert not new_weights(model)


@pytest.mark.parametrize("labels", [["red", "green", "blue"], ["red", "green"]])
def test_for_other_labels_the_head_is_new_and_the_body_is_not(
    labels: list[str], tmp_path: Path
) -> None:
    source, weight = trained_classifier(tmp_path)
    model = load(configured(labels), source)
    fresh = cast("Any", model).classifier.weight
    assert fresh.shape[0] == len(labels)
    assert not torch.equal(fresh[:2], weight[:2])
    assert new_weights(model) == {"classifier.weight", "classifier.bias"}
    assert float(fresh.detach().std()) == pytest.approx(0.02, rel=0.3)  # as transformers draws it
    again = cast("Any", load(configured(labels), source)).classifier.weight
    assert torch.equal(fresh, again)


def test_the_same_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    source, _ = trained_classifier(tmp_path)
    with pytest.raises(ConfigError, match=r"set 'objective.labels=\[no,maybe,yes\]'"):
        load(configured(["yes", "no", "maybe"]), source)


def test_a_classifier_can_go_on_as_a_model_that_answers_questions(tmp_path: Path) -> None:
    source, _ = trained_classifier(tmp_path)
    model = load(QuestionAnsweringHead(QuestionAnswering()), source)
    with torch.no_grad():
        assert model(**batch()).start_logits.shape == (2, 12)


def test_facts_about_questions_and_words_stay_in_the_config(tmp_path: Path) -> None:
    head = QuestionAnsweringHead(QuestionAnswering())
    head.configure({"unanswerable": True, "max_length": 384})
    load(head, language_model("llama", tmp_path)).save_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.unanswerable is True
    assert not hasattr(config, "max_length")


def test_a_body_of_another_size_than_its_config_says_is_refused(tmp_path: Path) -> None:
    source = language_model("bert", tmp_path)
    config = AutoConfig.from_pretrained(source)
    config.intermediate_size = 64
    config.save_pretrained(source)
    with pytest.raises(CheckpointError, match="weights of another size than its config says"):
        load(head_of("sequence_classification"), source)


# ------------------------------------------------------------------------------------ embeddings


def test_an_embedding_is_the_mean_of_the_hidden_states_at_length_one(tmp_path: Path) -> None:
    source = language_model("bert", tmp_path)
    inputs = batch()
    with torch.no_grad():
        found_BD = load(head_of("embedding"), source)(**inputs).embeddings
        hidden_BTD = AutoModel.from_pretrained(source).eval()(**inputs).last_hidden_state
    mean_BD = torch.stack([hidden_BTD[0].mean(0), hidden_BTD[1, :7].mean(0)])
    torch.testing.assert_close(found_BD, mean_BD / mean_BD.norm(dim=-1, keepdim=True))


def test_an_embedding_without_normalisation_stays_so_in_its_checkpoint(tmp_path: Path) -> None:
    model = load(head_of("embedding", normalise=False), language_model("llama", tmp_path))
    model.save_pretrained(tmp_path / "saved")
    again = cast("Attached", load(head_of("embedding"), tmp_path / "saved"))
    assert again.settings == {"name": "embedding", "pooling": "last", "normalise": False}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_folder_of_embeddings_opens_with_automodel(family: str, tmp_path: Path) -> None:
    model = load(head_of("embedding", pooling="cls"), language_model(family, tmp_path))
    model.save_pretrained(tmp_path / "saved")
    backbone = AutoModel.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        hidden_BTD = backbone(**batch()).last_hidden_state
        expected_BD = torch.nn.functional.normalize(hidden_BTD[:, 0], dim=-1)
        torch.testing.assert_close(model(**batch()).embeddings, expected_BD)


def test_a_head_can_be_trained_with_checkpointed_activations(tmp_path: Path) -> None:
    model = load(head_of("multiple_choice"), language_model("llama", tmp_path)).train()
    model.activation_checkpointing_enable()
    inputs = {key: value[None] for key, value in batch().items()}
    model(**inputs).logits.sum().backward()
    gradients = [parameter.grad is not None for parameter in model.parameters()]
    assert all(gradients)
