"""Supervised fine-tuning on instructions: stage `sft`, its objectives and its evaluator."""

from dataclasses import dataclass
from pathlib import Path

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import require_choice, require_not_negative, require_positive
from ontogeny.spelling import suggestion

TEMPLATES = ("chatml", "llama3", "plain")  # those that ship along


@dataclass
class SFT:
    """Learn to answer: -Σ log p of the tokens of answers alone (Ouyang et al., 2022)."""

    # trained turns of `messages`: assistant (all), last (the last one), or all (every token)
    loss_on: str = "assistant"
    loss: str = "cross_entropy"  # or dft: each token weighted by its own probability
    neftune_alpha: float = 0.0  # noise on embeddings while training, 5 to 15; 0: none

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("objective.loss_on", self.loss_on, ("assistant", "last", "all"))
        require_choice("objective.loss", self.loss, ("cross_entropy", "dft"))
        if self.neftune_alpha < 0:
            msg = f"objective.neftune_alpha is {self.neftune_alpha}; expected 0 or more"
            raise ConfigError(msg)


@dataclass
class Seq2Seq:
    """Learn to write a completion in the decoder, with the prompt in the encoder."""

    max_completion: int = 512  # tokens of a completion and its end; a row with more is a bad one

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("objective.max_completion", self.max_completion)


@dataclass
class Instruction:
    """Supervised fine-tuning on prompts with completions, or on conversations."""

    # auto (the tokenizer's own, else chatml), none (bare text), chatml, llama3, plain, or the path
    # of a Jinja template
    chat_template: str = "auto"
    samples: int = 3  # held-out prompts that the finished model answers at the end of the run
    sample_tokens: int = 60  # of each answer, at most; 0: none are written
    temperature: float = 0.0  # of the answers; 0: the likeliest token each time

    def __post_init__(self) -> None:
        """Check what types cannot say; a path becomes the template that stands there."""
        require_not_negative("stage.samples", self.samples)
        require_not_negative("stage.sample_tokens", self.sample_tokens)
        if self.temperature < 0:
            msg = f"stage.temperature is {self.temperature}; expected 0 or more"
            raise ConfigError(msg)
        self.chat_template = _template(self.chat_template)


@dataclass
class CompletionPerplexity:
    """How well a model predicts held-out answers, given their prompts."""

    batch_size: int = 8  # rows per forward pass
    resamples: int = 1000  # bootstrap resamples of rows, for the 95 % intervals

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("evaluator.completion_perplexity.batch_size", self.batch_size)
        require_positive("evaluator.completion_perplexity.resamples", self.resamples)


def _template(chosen: str) -> str:
    """Return a name as it is, and the content of a file; a template is known by its braces."""
    names = ("auto", "none", *TEMPLATES)
    if chosen in names or "{%" in chosen or "{{" in chosen:
        return chosen
    try:
        return Path(chosen).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = (
            f"stage.chat_template is {chosen!r}, which is no file that can be read"
            f"{suggestion(chosen, names)}; expected {', '.join(names)}, or the path of a Jinja "
            f"template"
        )
        raise ConfigError(msg) from error


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `sft`."""
    implementation = "ontogeny_plugins.sft.stage:InstructionStage"
    return [Component("sft", config=Instruction, implementation=implementation)]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `sft` and `seq2seq`."""
    decoder = "ontogeny_plugins.sft.objective:SFTObjective"
    encoder_decoder = "ontogeny_plugins.sft.seq2seq:Seq2SeqObjective"
    return [
        Component("sft", config=SFT, implementation=decoder),
        Component("seq2seq", config=Seq2Seq, implementation=encoder_decoder),
    ]


@hookimpl
def ontogeny_evaluators() -> list[Component]:
    """Offer `completion_perplexity`."""
    implementation = "ontogeny_plugins.sft.evaluator:CompletionPerplexityEvaluator"
    return [
        Component(
            "completion_perplexity", config=CompletionPerplexity, implementation=implementation
        )
    ]
