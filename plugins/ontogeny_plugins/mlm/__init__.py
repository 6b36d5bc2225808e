"""Objective `mlm`: masked language modelling."""

from dataclasses import dataclass

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_positive

MASKINGS = ("token", "word", "span")


@dataclass
class MLM:
    """Predict tokens from both sides: -Σ log p(x_t | x without masked ones) (Devlin et al., 2019).

    New ones are masked every time a text is seen; special tokens never are.
    """

    # share of the tokens to predict: 0.15 in BERT; large models learn faster at 0.4 (Wettig 2023)
    rate: float = 0.15
    masking: str = "token"  # token; word (all tokens of one); span of words (Joshi et al., 2020)
    mask_share: float = 0.8  # of those to predict: shown as the mask token
    random_share: float = 0.1  # of those to predict: shown as a random token; the rest as they are
    span_stop: float = 0.2  # span: a span ends after each word with this probability
    span_longest: int = 10  # span: words at most
    # tokens, special ones included, of the pieces of a document, each of which gets its [CLS] and
    # [SEP]; none: documents are cut at data.max_length and have them at their own ends alone
    piece_length: int | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("objective.masking", self.masking, MASKINGS)
        require_positive("objective.span_longest", self.span_longest)
        for name, low, value in (
            ("rate", "0 <", self.rate),
            ("span_stop", "0 <", self.span_stop),
            ("mask_share", "0 <=", self.mask_share),
            ("random_share", "0 <=", self.random_share),
        ):
            if not 0 <= value <= 1 or (low == "0 <" and value == 0):
                raise ConfigError(f"objective.{name} is {value}; expected {low} {name} <= 1")
        if self.mask_share + self.random_share > 1:
            total = self.mask_share + self.random_share
            msg = (
                f"objective.mask_share and random_share are {total:g} together; expected 1 at most"
            )
            raise ConfigError(msg)


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `mlm`."""
    return [Component("mlm", config=MLM, implementation="ontogeny_plugins.mlm.objective:MaskedLM")]
