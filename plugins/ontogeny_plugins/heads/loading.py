"""Which class a model with a head has, and what its head is told: labels, pooling, padding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    PreTrainedModel,
)

from ontogeny.errors import CheckpointError, ConfigError
from ontogeny.models import architecture, load_pretrained, random_weights
from ontogeny_plugins.heads.attached import SETTINGS, Attached, attached_class

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ontogeny.options import Model

Facts = Mapping[str, object]
Settings = Mapping[str, object]  # of one of our heads
ORDINAL = "ordinal_labels"  # key of config.json: the classes in their order
LEFT_PADDED = ("xlnet",)  # its class reads the last position of the row, whatever stands there
# Their class for choices does so, too, unless the config says otherwise.
SUMMARISED = ("convbert", "roformer")
# Facts that stay in config.json as they are: whether a question may have no answer, and what stands
# between the words of a tagged text.
KEPT = ("unanswerable", "word_separator")


@dataclass(frozen=True)
class TaskClasses:
    """Stands where `ontogeny.models` expects one of transformers' Auto classes.

    It takes transformers' class of the family where that does what is asked, else ours.
    """

    classes: Callable[[type], type | None]  # transformers' class for the task by type of config
    attached: type[Attached]  # ours
    # settings of our head for a config; none: transformers' own class, the second argument, will do
    decide: Callable[[PreTrainedConfig, type | None], Settings | None]
    tokenizer: PreTrainedTokenizerBase
    facts: Facts = field(default_factory=dict)  # of the data, where there is any

    def from_config(self, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """Return a model with random weights."""
        kind = self._class(config)
        return cast("PreTrainedModel", cast("Any", kind)._from_config(config, **options))  # noqa: SLF001

    def from_pretrained(
        self, weights: str, *, config: PreTrainedConfig, **options: Any
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return a model with the weights of a checkpoint, and what transformers says of them.

        The head is new where the checkpoint has none, or one for other labels.
        """
        before = label_names(config)
        kind = self._class(config)
        renamed = _renamed_body(kind, self.attached, config)
        with _without_report():
            model, info = cast("Any", kind).from_pretrained(
                weights,
                config=config,
                ignore_mismatched_sizes=True,
                key_mapping=renamed,
                **options,
            )
        _save_as_named(model, renamed)
        refitted = {name for name, *_ in info["mismatched_keys"]}
        _require_fitting_body(weights, model, refitted)
        new = {*info["missing_keys"], *refitted}
        head = set(_head_weights(model))
        if head - new and self._are_others(before, label_names(config)):
            renew(model)
            new |= head
        info["missing_keys"] = new
        return model, info

    def _class(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """Tell the config what there is to know of the task, and return the class for it."""
        tell_labels(config, self.facts)
        text = config.get_text_config()
        # By it some of transformers' classes find the last token. A new one has no row yet: the
        # config is told of it once the embeddings have grown.
        padding = _padding(self.tokenizer)
        if getattr(text, "pad_token_id", None) is None and padding < text.vocab_size:
            text.pad_token_id = padding
        own = self.classes(type(config))
        settings = self.decide(config, own)
        if settings is None:
            vars(config).pop(SETTINGS, None)
            return cast("type[PreTrainedModel]", own)
        setattr(config, SETTINGS, {"name": self.attached.name, **settings})
        return attached_class(self.attached, config)

    def _are_others(self, before: list[str] | None, now: list[str] | None) -> bool:
        """Say whether the labels of the data are not those that the head was trained for."""
        if before is None or now is None or before == now:
            return False
        if sorted(before) == sorted(now):
            msg = (
                f"model.source has the labels {', '.join(before)}, the data {', '.join(now)}: the "
                f"same in another order; set 'objective.labels=[{','.join(before)}]'"
            )
            raise ConfigError(msg)
        return True


def classes_of(mapping: object) -> Callable[[type], type | None]:
    """Return how transformers' class for a task is found in one of its mappings."""
    return lambda config: cast("Any", mapping).get(config, None)


def load_with_head(
    classes: TaskClasses, model: Model, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Return the model of `model.source`, or random weights of `model.config`."""
    auto = cast("type", classes)  # it has the two class methods that are called
    if model.source is not None:
        loaded = load_pretrained(auto, model, {})
    else:
        loaded = random_weights(auto, architecture(model, tokenizer, {}))
    if isinstance(loaded, Attached):
        loaded.freeze_unread()
    return loaded


def own_settings(config: PreTrainedConfig, name: str) -> Settings | None:
    """Return the settings of a checkpoint with one of our heads, if it is that of this name."""
    settings = cast("Settings | None", getattr(config, SETTINGS, None))
    if settings is None or settings["name"] != name:
        return None
    return {key: value for key, value in settings.items() if key != "name"}


def plain_settings(config: PreTrainedConfig, own: type | None, *, name: str) -> Settings | None:
    """Return the settings of a head that has none to choose."""
    if (settings := own_settings(config, name)) is not None:
        return settings
    return {} if own is None else None


def pooling_settings(
    config: PreTrainedConfig,
    own: type | None,
    *,
    name: str,
    asked: str,
    tokenizer: PreTrainedTokenizerBase,
) -> Settings | None:
    """Return how our head pools, or none where the family's own class pools as asked.

    transformers' classes read the last token of decoders and the first of encoders; some encoders
    can do more, by `classifier_pooling` of their config. Of an encoder with a decoder they read
    the decoder's state at the end token; ours reads the encoder's states.
    """
    if asked == "auto" and (settings := own_settings(config, name)) is not None:
        return settings
    if config.is_encoder_decoder:
        is_natural = asked == "auto" and own is not None and _ends_texts(tokenizer, config)
        return None if is_natural else {"pooling": "mean" if asked == "auto" else asked}
    natural = "last" if is_decoder(config) else "cls"
    turned = getattr(config, "is_decoder", False)  # an encoder as decoder: the class reads no last
    if own is None or config.model_type in LEFT_PADDED or turned:
        return {"pooling": natural if asked == "auto" else asked}
    if asked in {"cls", "mean"} and hasattr(config, "classifier_pooling"):
        config.classifier_pooling = asked
        return None
    if config.model_type in SUMMARISED and asked in {"auto", "cls"}:
        cast("Any", config).summary_type = "first"
    return None if asked in {"auto", natural} else {"pooling": asked}


def _ends_texts(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> bool:
    """Say whether texts end with the token that the family's class looks for, and padding is other.

    Those classes need equally many of them in all texts of a batch.
    """
    end = tokenizer.eos_token_id
    last = cast("list[int]", tokenizer("a")["input_ids"])[-1]
    return end is not None and bool(last == end != config.get_text_config().pad_token_id)


def is_decoder(config: PreTrainedConfig) -> bool:
    """Say whether a token of this family sees only what stands before it."""
    if config.is_encoder_decoder:
        return False  # what is read are the states of the encoder
    family = type(config)
    is_masked = family in MODEL_FOR_MASKED_LM_MAPPING
    return bool(getattr(config, "is_decoder", False)) or (
        family in MODEL_FOR_CAUSAL_LM_MAPPING and not is_masked
    )


def tell_labels(config: PreTrainedConfig, facts: Facts) -> None:
    """Write what the survey of the data has found into the config, in transformers' words."""
    labels = cast("list[str] | None", facts.get("labels"))
    if labels is not None:
        vars(config).pop(ORDINAL, None)
        config.problem_type = cast("Any", facts.get("problem_type"))
        if facts.get("ordinal"):
            setattr(config, ORDINAL, labels)
            labels = [f"> {label}" for label in labels[:-1]]
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    for name in KEPT:
        if name in facts:
            setattr(config, name, facts[name])


def label_names(config: PreTrainedConfig) -> list[str] | None:
    """Return the labels in their order, or none where nobody has given them names."""
    named = cast("dict[int, str]", config.id2label)
    names = [named[number] for number in sorted(named)]
    unnamed = [f"LABEL_{number}" for number in range(len(names))]
    return None if names == unnamed else names


def renew(model: PreTrainedModel) -> None:
    """Draw the weights of the head anew, from torch's seed."""
    for name, module in model.named_modules():
        if name and not _is_body(name, model):
            for parameter in module.parameters(recurse=False):
                cast("Any", parameter)._is_hf_initialized = False  # noqa: SLF001  else left alone
            cast("Any", model)._init_weights(module)  # noqa: SLF001


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers' table of new and superfluous weights off the screen: see the preflight."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)  # a higher level would make it log other things
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _renamed_body(
    kind: type[PreTrainedModel], attached: type[Attached], config: PreTrainedConfig
) -> dict[str, str] | None:
    """Return how weights of the body are renamed, where a class has another name for its body.

    transformers' question answering of Llama and its kin calls it `transformer`, and finds no
    weight in a checkpoint of a language model.
    """
    if issubclass(kind, Attached):
        return None
    usual, own = attached_class(attached, config).base_model_prefix, kind.base_model_prefix
    return None if own == usual else {rf"^{usual}\.": f"{own}."}


def _save_as_named(model: PreTrainedModel, renamed: Mapping[str, str] | None) -> None:
    """Let weights be saved under the names that they have now: they would be turned back."""
    conversions = getattr(model, "_weight_conversions", None)
    if renamed and conversions:
        kept = [each for each in conversions if not set(each.source_patterns) & renamed.keys()]
        cast("Any", model)._weight_conversions = kept  # noqa: SLF001


def _head_weights(model: PreTrainedModel) -> Iterable[str]:
    return (name for name, _ in model.named_parameters() if not _is_body(name, model))


def _is_body(name: str, model: nn.Module) -> bool:
    return name.partition(".")[0] == cast("PreTrainedModel", model).base_model_prefix


def _require_fitting_body(weights: str, model: PreTrainedModel, refitted: Iterable[str]) -> None:
    """Refuse a checkpoint whose body has other sizes than its config says."""
    wrong = sorted(name for name in refitted if _is_body(name, model))
    if wrong:
        msg = f"{weights} has weights of another size than its config says, such as {wrong[0]}"
        raise CheckpointError(msg)


def _padding(tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
