"""Output layers on any backbone, also where transformers has no class for the task.

The class of a model is made for its family: it derives from the family's own base class, and its
backbone has the name that the family gives it. So transformers loads and saves it as one of its
own, and the backbone opens in every other class of the family.
"""
# B rows, T tokens, D width, C classes, M choices of all rows together

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput

from ontogeny.errors import ConfigError
from ontogeny_plugins.heads.pooling import pooled

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    Base = PreTrainedModel
else:
    Base = object  # the family's own base class comes in when the class is made

DROPOUTS = ("classifier_dropout", "hidden_dropout_prob")  # of a config, the first that is set
SETTINGS = "ontogeny_head"  # key of config.json that says which of these heads a folder holds


class Attached(Base):
    """A backbone with an output layer; `ontogeny_head` of the config says what it is."""

    name: ClassVar[str]

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        backbone = cast("nn.Module", AutoModel.from_config(config))
        if hasattr(backbone, "pooler"):
            backbone.pooler = nn.Identity()  # part of another head: it would never be trained
        self.add_module(self.base_model_prefix, backbone)
        text = config.get_text_config()
        dropouts = [getattr(text, name, None) for name in DROPOUTS]
        self.dropout = nn.Dropout(next((each for each in dropouts if each is not None), 0.0))
        self.settings: dict[str, object] = getattr(config, SETTINGS)
        self.attach(text.hidden_size, cast("int", config.num_labels))
        self.post_init()  # type: ignore[no-untyped-call]

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the backbone."""
        return cast("PreTrainedModel", self.base_model).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embeddings of the backbone."""
        cast("PreTrainedModel", self.base_model).set_input_embeddings(value)

    def freeze_unread(self) -> None:
        """Leave a decoder beside the encoder as it is: only the states of the encoder are read."""
        if self.config.is_encoder_decoder:
            self.base_model.requires_grad_(requires_grad=False)
            self.reader().requires_grad_(requires_grad=True)

    def reader(self) -> nn.Module:
        """Return what reads texts: the backbone, or its encoder where it has a decoder, too."""
        body = cast("PreTrainedModel", self.base_model)
        if self.config.is_encoder_decoder:
            return cast("nn.Module", body.get_encoder())
        return cast("nn.Module", body)

    def hidden(self, mask_BT: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        """Return the last hidden states, [B, T, D]."""
        found = self.reader()(attention_mask=mask_BT, **inputs)
        return self.dropout(found.last_hidden_state)  # type: ignore[no-any-return]

    def pooled(self, mask_BT: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
        """Return what stands for each text, [B, D]."""
        return pooled(str(self.settings["pooling"]), self.hidden(mask_BT, inputs), mask_BT)


class AttachedSequenceClassification(Attached):
    """Classes of a whole text."""

    name = "sequence_classification"

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer, [D, C]."""
        self.score = nn.Linear(width, classes)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return logits, [B, C]."""
        return SequenceClassifierOutput(logits=self.score(self.pooled(attention_mask, inputs)))


class AttachedTokenClassification(Attached):
    """Classes of every token."""

    name = "token_classification"

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer, [D, C]."""
        self.score = nn.Linear(width, classes)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return logits, [B, T, C]."""
        return TokenClassifierOutput(logits=self.score(self.hidden(attention_mask, inputs)))


class AttachedValue(AttachedTokenClassification):
    """One number for every token, in float32 and without dropout; it begins at 0."""

    name = "value"

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer, [D, 1]."""
        super().attach(width, classes)
        self.dropout = nn.Dropout(0.0)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return logits, [B, T, 1]."""
        states_BTD = self.hidden(attention_mask, inputs)
        with torch.autocast(states_BTD.device.type, enabled=False):
            return TokenClassifierOutput(logits=self.score(states_BTD.to(self.score.weight.dtype)))


class AttachedQuestionAnswering(Attached):
    """Where an answer begins and ends."""

    name = "question_answering"

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer, [D, 2]."""
        del classes
        self.qa_outputs = nn.Linear(width, 2)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return start_logits and end_logits, [B, T]."""
        start_BT, end_BT = self.qa_outputs(self.hidden(attention_mask, inputs)).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=start_BT, end_logits=end_BT)


class AttachedMultipleChoice(Attached):
    """A score for each text to choose from."""

    name = "multiple_choice"

    def attach(self, width: int, classes: int) -> None:
        """Make the output layer, [D, 1]."""
        del classes
        self.classifier = nn.Linear(width, 1)

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return logits, [1, M], for inputs of shape [1, M, T] as transformers' classes take them.

        Inputs [M, T] give [M, 1].
        """
        shape = inputs["input_ids"].shape[:-1]
        flat = {name: tensor.flatten(0, -2) for name, tensor in inputs.items()}
        mask_MT = None if attention_mask is None else attention_mask.flatten(0, -2)
        logits_M1 = self.classifier(self.pooled(mask_MT, flat))
        logits = logits_M1 if len(shape) == 1 else logits_M1.view(shape)
        return MultipleChoiceModelOutput(logits=logits)


@dataclass
class EmbeddingOutput(ModelOutput):
    """What a model of embeddings returns."""

    embeddings: Tensor | None = None  # [B, D]


class AttachedEmbedding(Attached):
    """One vector for a text: no weights beside those of the backbone."""

    name = "embedding"

    def attach(self, width: int, classes: int) -> None:
        """Leave the vectors as wide as the backbone."""
        del width, classes

    def forward(self, attention_mask: Tensor | None = None, **inputs: Tensor) -> ModelOutput:
        """Return embeddings, [B, D]."""
        vectors_BD = self.pooled(attention_mask, inputs)
        if self.settings["normalise"]:
            vectors_BD = nn.functional.normalize(vectors_BD.float(), dim=-1)
        return EmbeddingOutput(embeddings=vectors_BD)


def attached_class(head: type[Attached], config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class of this head for a family, such as Llama with multiple choice.

    Raises ConfigError for families of which transformers has nothing but whole models.
    """
    kind = MODEL_MAPPING.get(type(config), None)
    if kind is None:
        msg = f"head={head.name}: transformers has no backbone for {config.model_type} models"
        raise ConfigError(msg)
    backbone = cast("type", kind[0] if isinstance(kind, tuple) else kind)
    suffix = PreTrainedModel.__name__
    family = next(base for base in backbone.__mro__ if base.__name__.endswith(suffix))
    name = family.__name__.removesuffix(suffix) + head.__name__.removeprefix("Attached")
    return cast("type[PreTrainedModel]", type(name, (head, family), {}))
