"""Supervised fine-tuning of causal models: the loss of answers alone."""
# B rows, T tokens, N labelled positions

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from ontogeny.attention import is_causal, model_inputs
from ontogeny.chat.answers import answer_examples, answer_text
from ontogeny.chat.rendering import Rendered
from ontogeny.data.collation import collate_tokens
from ontogeny.objective import IGNORED, Batch, Example, LongExamples, Loss, Objective, Row
from ontogeny.preflight import Proof, future_proof, vocabulary_proof
from ontogeny.vocabulary_loss import label_log_probs, vocabulary_loss
from ontogeny_plugins.sft.noise import noisy_embeddings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from ontogeny.chat.template import ChatTemplate
    from ontogeny.data.corpus import Corpus
    from ontogeny_plugins.sft import SFT


class SFTObjective(Objective):
    """Trains on answers: completions, or turns of the assistant, and the token that ends them.

    With a chat template prompts and completions are turns of the user and the assistant; without
    one they are bare text, one after the other.
    """

    columns: ClassVar[Sequence[Sequence[str]]] = (
        ("messages",),
        ("prompt", "completion"),
        ("text",),
    )
    long_examples: ClassVar[LongExamples] = "truncate"
    packs: ClassVar[bool] = True

    def __init__(self, config: SFT) -> None:
        self.config = config

    def survey(self, corpus: Corpus) -> dict[str, object]:
        """Say of each source what its rows are read as: a column of text is trained whole."""
        for name in corpus.names:
            row = next(corpus.rows(name), {})
            columns = next((each for each in self.columns if set(each) <= set(row)), ())
            whole = ", every token trained" if columns == ("text",) else ""
            corpus.announce(f"data: rows of {name} are read as {' + '.join(columns)}{whole}")
        return {}

    def prepare(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Iterable[Example]:
        """Yield one example for each row, with the answers as labels.

        Raises RowError for a row that cannot be rendered, or of which no token is trained.
        """
        return answer_examples(rows, tokenizer, self._rendered)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad to the longest row: input_ids and labels [B, T]."""
        return collate_tokens(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Return Σ -log p over the trained tokens, or Dynamic Fine-Tuning's, and their number."""
        labels_BT = batch["labels"]
        weight = (labels_BT != IGNORED).sum()
        inputs = self._inputs(model, batch)
        if self.config.loss == "cross_entropy":
            return Loss(vocabulary_loss(model, inputs, labels_BT), weight)
        log_probs_N = label_log_probs(model, inputs, labels_BT)
        metrics = {"nats_per_token": -log_probs_N.sum()}
        return Loss(dynamic_loss(log_probs_N).sum(), weight, metrics)

    def proofs(self, model: nn.Module, batch: Batch) -> Iterable[Proof]:
        """Prove that the model is causal, its chunked loss exact, and ends of answers trained."""
        yield future_proof(model, batch, causal=is_causal(model))
        yield vocabulary_proof(model, batch)
        yield _ends_proof(model, batch)

    def _rendered(self, row: Row, template: ChatTemplate | None) -> Rendered:
        """Return the text of a row with what is trained; raise UnfitError where it has none."""
        if "messages" not in row and "prompt" not in row:
            text = str(row["text"])
            return Rendered(text, [(0, len(text))], is_bare=True)
        rendered = answer_text(row, template, self.config.loss_on)
        if self.config.loss_on == "all":
            return Rendered(rendered.text, [(0, rendered.spans[-1][1])], is_bare=rendered.is_bare)
        return rendered

    def _inputs(self, model: nn.Module, batch: Batch) -> dict[str, object]:
        inputs = model_inputs(model, batch)
        if self.config.neftune_alpha and model.training:
            del inputs["input_ids"]
            inputs["inputs_embeds"] = noisy_embeddings(model, batch, self.config.neftune_alpha)
        return inputs


def dynamic_loss(log_probs_N: Tensor) -> Tensor:
    """Return -sg(p) · log p of each token (Wu et al. 2025, arXiv 2508.05629)."""
    return -log_probs_N.exp().detach() * log_probs_N


def _ends_proof(model: nn.Module, batch: Batch) -> Proof:
    """Look for a token that stops a served model among the labels: else it would never stop."""
    name = "the end of an answer is trained"
    config = cast("object", getattr(model, "generation_config", None))
    known = getattr(config, "eos_token_id", None)
    stops = set(known if isinstance(known, list) else [known]) - {None}
    if not stops:
        return Proof(name, None, "the tokenizer has no end of text")
    labels = set(batch["labels"].flatten().tolist())
    found = sorted(stops & labels)
    evidence = f"stop tokens {sorted(stops)}, trained {found}"
    # A batch may hold nothing but answers that data.max_length cuts off.
    return Proof(name, bool(found) or None, evidence)
