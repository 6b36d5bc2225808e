"""Masked language modelling: examples, special tokens, and a loss without most of the logits."""
# B rows, T tokens, V vocabulary

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertLMHeadModel,
    CanineTokenizer,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from ontogeny import ConfigError
from ontogeny.attention import model_inputs
from ontogeny.data.collation import pad_row
from ontogeny.data.packing import pack
from ontogeny.masking_proofs import masking_proofs
from ontogeny.objective import Batch, Example
from ontogeny.preflight import Proof
from ontogeny.seeding import seed_everything
from ontogeny.testing import byte_tokenizer
from ontogeny_plugins.mlm import MLM
from ontogeny_plugins.mlm.objective import MaskedLM

TEXTS = [
    "the old house on the road",
    "a mill, dark and light, where nobody had ground any corn for many years",
    "river",
    "the road ran on [MASK] past it [SEP] strange 🙂 words",
]
MASK, SPECIAL = 4, {0, 1, 2, 3, 4}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Return one as BERT has it, with words of one to three pieces."""
    words = ["the", "old", "house", "on", "road", "a", "mill", "dark", "and", "light", "where"]
    pieces = ["no", "##bo", "##dy", "had", "gr", "##ound", "any", "corn", "for", "many", "year"]
    pieces += ["##s", ",", "river", "ran", "past", "it", "words"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *pieces]
    numbers = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def objective(**options: Any) -> MaskedLM:
    return MaskedLM(MLM(**options))


def examples(texts: list[str] | None = None, **options: Any) -> list[Example]:
    rows = [{"text": text} for text in texts or TEXTS]
    return list(objective(**options).prepare(rows, tokenizer()))


def pieces(*names: str) -> list[int]:
    return cast("list[int]", tokenizer().convert_tokens_to_ids(list(names)))


# ------------------------------------------------------------------------------------- examples


def test_a_text_stands_between_the_special_tokens_of_its_tokenizer() -> None:
    (example,) = examples(["the old house"])
    assert example["input_ids"].tolist() == [2, *pieces("the", "old", "house"), 3]
    assert example["units"].tolist() == [0, 1, 2, 3, 0]


def test_whole_words_have_one_number_for_all_their_pieces() -> None:
    (example,) = examples(["nobody had years, it"], masking="word")
    expected = pieces("no", "##bo", "##dy", "had", "year", "##s", ",", "it")
    assert example["input_ids"].tolist() == [2, *expected, 3]
    assert example["units"].tolist() == [0, 1, 1, 1, 2, 3, 3, 4, 5, 0]


@pytest.mark.parametrize("masking", ["token", "word", "span"])
def test_special_tokens_in_a_text_and_unknown_words_are_not_for_masking(masking: str) -> None:
    (example,) = examples(["the [MASK] road [SEP] it strange"], masking=masking)
    assert example["input_ids"].tolist() == [
        2,
        *pieces("the", "[MASK]", "road", "[SEP]", "it"),
        1,
        3,
    ]
    assert (example["units"] > 0).tolist() == [
        False, True, False, True, False, True, False, False,
    ]  # fmt: skip


def test_a_tokenizer_that_adds_nothing_gives_its_start_and_end_token() -> None:
    (example,) = objective().prepare([{"text": "ab"}], byte_tokenizer())
    end = byte_tokenizer().eos_token_id
    assert example["input_ids"].tolist()[0] == example["input_ids"].tolist()[-1] == end
    assert example["units"].tolist() == [0, 1, 2, 0]


def test_pieces_of_a_text_have_their_own_special_tokens_and_lose_none_of_its() -> None:
    text = " ".join(["the old road ran on past it"] * 9)
    whole = tokenizer()(text, add_special_tokens=False)["input_ids"]
    found = examples([text], piece_length=12)
    assert [len(example["input_ids"]) for example in found] == [12] * 6 + [5]
    for example in found:
        assert (example["input_ids"][0], example["input_ids"][-1]) == (2, 3)
        assert (example["units"][0], example["units"][-1]) == (0, 0)
    inner = [token for example in found for token in example["input_ids"][1:-1].tolist()]
    assert inner == whole


def test_without_a_piece_length_a_text_is_one_example() -> None:
    assert len(examples(["the old road " * 500])) == 1


def test_an_empty_text_gives_nothing() -> None:
    assert examples([" "]) == []
    assert examples([" "], piece_length=9, masking="word") == []


def test_a_piece_needs_room_for_more_than_special_tokens() -> None:
    words = "objective.piece_length is 2; expected more than the 2 special tokens around a piece"
    with pytest.raises(ConfigError, match=words):
        examples(piece_length=2)


def test_a_tokenizer_without_a_mask_token_is_refused_with_the_way_out() -> None:
    without = byte_tokenizer()
    without.mask_token = None
    with pytest.raises(ConfigError, match=r"has no mask token, which masked texts need: set tok"):
        list(objective().prepare([{"text": "a"}], without))


def test_a_tokenizer_that_knows_no_words_is_refused_for_whole_words() -> None:
    wordless = CanineTokenizer()
    with pytest.raises(ConfigError, match="does not tell which tokens make a word; take one with"):
        list(objective(masking="word").prepare([{"text": "a"}], wordless))
    assert list(objective().prepare([{"text": "a"}], wordless))


@pytest.mark.parametrize("masking", ["token", "word"])
def test_special_tokens_without_a_role_are_neither_masked_nor_shown(masking: str) -> None:
    marked = byte_tokenizer()
    marked.backend_tokenizer.add_special_tokens(["<|mark|>"])
    marked = PreTrainedTokenizerFast(
        tokenizer_object=marked.backend_tokenizer, mask_token=marked.mask_token
    )
    mark = marked.convert_tokens_to_ids("<|mark|>")
    assert mark not in marked.all_special_ids
    (example,) = objective(masking=masking).prepare([{"text": "a<|mark|>b"}], marked)
    (place,) = np.flatnonzero(example["input_ids"] == mark)
    assert example["units"][place] == 0
    assert (example["units"] > 0).sum() == 2
    assert not int(example["first_regular"]) <= mark < int(example["end_of_regular"])


def test_random_tokens_come_from_where_no_special_one_is() -> None:
    batch = objective().collate(examples())
    assert batch["vocabulary"].tolist() == [MASK, 5, len(tokenizer())]
    shown = byte_tokenizer()
    shown.add_special_tokens({"additional_special_tokens": ["a"]})
    (example,) = objective().prepare([{"text": "b"}], shown)
    first, end = int(example["first_regular"]), int(example["end_of_regular"])
    assert not set(range(first, end)) & set(shown.all_special_ids)
    assert end - first > 100


# ---------------------------------------------------------------------------------------- masks


def batches(**options: Any) -> dict[str, Batch]:
    rows, made = examples(**options), objective(**options)
    packed = pad_row(pack(rows), sum(len(row["input_ids"]) for row in rows) + 5)
    return {"padded": made.collate(rows), "packed": made.collate([packed, packed])}


@pytest.mark.parametrize("masking", ["token", "word", "span"])
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_no_special_token_is_ever_masked_and_none_is_ever_shown(masking: str, kind: str) -> None:
    made = objective(masking=masking, rate=0.6, mask_share=0.0, random_share=1.0)
    batch = batches(masking=masking)[kind]
    special_BT = torch.isin(batch["input_ids"], torch.tensor(sorted(SPECIAL)))
    for seed in range(200):
        seed_everything(seed)
        masked = made.masked(batch)
        labels_BT = masked["labels"]
        assert not SPECIAL & set(labels_BT[labels_BT != -100].tolist())
        assert torch.equal(masked["input_ids"][special_BT], batch["input_ids"][special_BT])
        assert not SPECIAL & set(masked["input_ids"][~special_BT].tolist())


def test_the_masked_share_of_real_batches_is_within_its_binomial_interval() -> None:
    for batch in batches().values():
        maskable = int((batch["units"] > 0).sum())
        hits, draws = 0, 500
        for seed in range(draws):
            seed_everything(seed)
            hits += int((objective().masked(batch)["labels"] != -100).sum())
        expected = draws * maskable * 0.15
        assert abs(hits - expected) < 4 * math.sqrt(expected * 0.85)


def test_labels_are_what_stood_there_before() -> None:
    seed_everything(0)
    batch = batches()["padded"]
    masked = objective(rate=0.5).masked(batch)
    at = masked["labels"] != -100
    assert torch.equal(masked["labels"][at], batch["input_ids"][at])
    assert torch.equal(masked["input_ids"][~at], batch["input_ids"][~at])


# ------------------------------------------------------------------------------------------ loss

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=6, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
    ),
}
every_model = pytest.mark.parametrize("name", CONFIGS)
every_kind = pytest.mark.parametrize("kind", ["padded", "packed"])


@cache
def model(name: str) -> PreTrainedModel:
    """Return a masked language model whose predictions differ, in float64."""
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForMaskedLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return made.eval().double()


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters()}


@every_model
@every_kind
def test_loss_and_gradients_are_those_of_full_logits_on_the_same_masks(
    name: str, kind: str
) -> None:
    batch, made = batches()[kind], objective(rate=0.4)
    seed_everything("masks")
    masked = made.masked(batch)
    inputs = model_inputs(model(name), masked)
    # The library's own loss: the mean of the cross-entropy over full logits.
    mean = model(name)(**inputs, labels=masked["labels"]).loss
    count = (masked["labels"] != -100).sum()
    expected = gradients(model(name), mean * count)
    seed_everything("masks")
    loss = made.loss(model(name), batch)
    # ModernBERT's own is in float32.
    close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(loss.total, mean * count, **close)
    assert loss.weight == count
    found = gradients(model(name), loss.total)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, **close, msg=parameter)


@every_model
def test_a_packed_row_has_the_loss_of_its_documents_alone(name: str) -> None:
    seed_everything("masks")
    masked = objective(rate=0.4).masked(batches()["packed"])

    def cross_entropy(at_T: Tensor, **inputs: Any) -> float:
        with torch.no_grad():
            logits_TV = model(name)(**inputs).logits[0]
        labels_T = masked["labels"][0, at_T]
        at_T = labels_T != -100
        return float(nn.functional.cross_entropy(logits_TV[at_T], labels_T[at_T], reduction="sum"))

    documents_T = masked["document_ids"][0]
    together = cross_entropy(documents_T >= 0, **model_inputs(model(name), masked))
    alone = 0.0
    for document in range(len(TEXTS)):
        at_T = documents_T == document
        alone += cross_entropy(at_T, input_ids=masked["input_ids"][:1, at_T])
    assert alone > 0
    assert together == pytest.approx(alone, rel=1e-9)


def test_a_batch_in_which_nothing_is_masked_has_a_loss_of_zero_that_goes_backward() -> None:
    seed_everything(0)
    for name in CONFIGS:
        loss = objective(rate=1e-9).loss(model(name), batches()["padded"])
        assert (float(loss.total.detach()), int(loss.weight)) == (0.0, 0)
        assert not any(each.any() for each in gradients(model(name), loss.total).values())


def test_only_masked_positions_reach_the_output_layer() -> None:
    batch, sizes = batches()["padded"], CONFIGS["bert"]

    def cost(rate: float) -> tuple[int, int]:
        seed_everything("masks")
        with FlopCounterMode(display=False) as counter:
            loss = objective(rate=rate).loss(model("bert"), batch)
            loss.total.backward()
        return counter.get_total_flops(), int(loss.weight)

    (few, few_masked), (all_, all_masked) = cost(0.2), cost(1.0)
    assert 0 < few_masked < all_masked
    # Products of the masked positions with the vocabulary, of two operations for each number: two
    # for the gradients, and one that the counter does not see, into memory that is there.
    each = 2 * 2 * sizes.hidden_size * sizes.vocab_size
    assert all_ - few == each * (all_masked - few_masked)


def test_a_random_model_begins_near_the_logarithm_of_the_vocabulary() -> None:
    torch.manual_seed(0)
    for config in CONFIGS.values():
        new = AutoModelForMaskedLM.from_config(config).eval()
        with torch.no_grad():
            loss = objective(rate=0.5).loss(new, batches()["padded"])
        assert float(loss.total / loss.weight) == pytest.approx(math.log(40), abs=0.15)


# ---------------------------------------------------------------------------------------- proofs


def proofs(model: nn.Module, **options: Any) -> dict[str, Proof]:
    batch = batches(**options)["packed"]
    return {proof.name: proof for proof in objective(**options).proofs(model, batch)}


@pytest.mark.parametrize("masking", ["token", "word", "span"])
def test_the_proofs_hold_for_a_masked_language_model(masking: str) -> None:
    for name in CONFIGS:
        found = proofs(model(name), masking=masking)
        assert len(found) == 4
        assert all(proof.holds for proof in found.values()), found


def test_a_causal_model_fails_the_proof() -> None:
    torch.manual_seed(0)
    decoder = BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)).eval()
    proof = proofs(decoder)["every token sees both sides"]
    assert proof.holds is False
    assert "causal: choose an encoder and its head" in proof.evidence


def test_masks_on_special_tokens_and_wrong_shares_are_found() -> None:
    batch = batches()["padded"]

    def everywhere(given: Batch) -> Batch:
        return {**given, "labels": given["input_ids"]}

    special, share = masking_proofs(everywhere, batch, 0.15)
    assert special.holds is False
    assert share.holds is False
    assert share.evidence.startswith("100.00%")


def test_a_batch_without_anything_to_mask_proves_nothing_of_the_share() -> None:
    batch = {**batches()["padded"]}
    batch["units"] = torch.zeros_like(batch["units"])
    special, share = masking_proofs(objective().masked, batch, 0.15)
    assert special.holds
    assert share.holds is None


# --------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0.0}, "objective.rate is 0.0; expected 0 < rate <= 1"),
        ({"rate": 1.5}, "objective.rate is 1.5; expected 0 < rate <= 1"),
        ({"span_stop": 0.0}, "objective.span_stop is 0.0; expected 0 < span_stop <= 1"),
        ({"mask_share": -0.1}, "objective.mask_share is -0.1; expected 0 <= mask_share <= 1"),
        ({"random_share": 0.3}, "mask_share and random_share are 1.1 together; expected 1 at most"),
        ({"masking": "letter"}, "objective.masking is 'letter'; expected one of token, word, span"),
        ({"span_longest": 0}, "objective.span_longest is 0; expected 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MLM(**options)


def test_the_defaults_are_those_of_bert() -> None:
    found = dataclasses.asdict(MLM())
    assert (found["rate"], found["mask_share"], found["random_share"]) == (0.15, 0.8, 0.1)
    assert found["masking"] == "token"


def test_examples_are_arrays_that_the_store_takes() -> None:
    for example in examples(masking="word"):
        kinds = {name: column.dtype for name, column in example.items()}
        assert kinds["input_ids"] == kinds["units"] == np.int32
        assert all(example[name].ndim == 0 for name in example.keys() - {"input_ids", "units"})
