"""Distillation: a small model learns from what a large one says, thinks and writes."""

from dataclasses import dataclass, field

from ontogeny import Component, ConfigError, hookimpl
from ontogeny.options import (
    CHECKPOINT,
    FOLDER,
    require_choice,
    require_not_negative,
    require_positive,
)

LOSSES = (
    *("forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"),
    "total_variation",
)
TEACHERS = ("memory", "offline")


@dataclass
class DistillationStage:
    """A student learns from a teacher: `teacher.source`, or the model that adapter=[cut] cuts."""

    # what the student is asked to continue at the end of the run
    prompts: list[str] = field(default_factory=lambda: ["The", "It is", "A"])
    sample_tokens: int = 40  # length of each continuation; 0: none are written
    temperature: float = 0.8  # of the samples; 0: the likeliest token each time

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_not_negative("stage.sample_tokens", self.sample_tokens)
        if self.temperature < 0:
            raise ConfigError(f"stage.temperature is {self.temperature}; expected 0 or more")


@dataclass
class Distillation:
    """Distillation of next-token distributions, and of what leads to them (Hinton et al., 2015).

    The loss of a token is α·CE + (1-α)·τ²·D(p ‖ q): α is `cross_entropy`, τ `temperature`, p the
    teacher's distribution and q the student's.
    """

    # D: forward_kl KL(p‖q), reverse_kl KL(q‖p), jsd β KL(p‖m) + (1-β) KL(q‖m) with m = βp + (1-β)q,
    # skew_forward_kl KL(p‖αp+(1-α)q), skew_reverse_kl KL(q‖(1-α)p+αq), total_variation ½Σ|p-q|
    loss: str = "forward_kl"
    beta: float = 0.5  # of loss=jsd: near 0 as forward_kl, near 1 as reverse_kl; 0 and 1 are these
    skew: float = 0.1  # α of the skewed KLs (Ko et al., 2024)
    temperature: float = 1.0  # τ, by which the logits of both are divided
    # multiply D by τ², so that its gradients keep their size (Hinton et al., 2015); TRL does not
    scale_by_temperature: bool = True
    cross_entropy: float = 0.1  # weight of the data's own tokens; 1 less it is that of the teacher
    # where the teacher is: memory (runs beside the student) or offline (it reads all rows once; its
    # likeliest tokens and the rest of its mass are kept in the store)
    teacher: str = "memory"
    top: int = 64  # offline: likeliest tokens kept of each position
    # offline: folder of the store, or a copy of it, with what a teacher has said before; the
    # teacher itself is not needed then
    kept: str | None = field(default=None, metadata=FOLDER)
    hidden: float = 0.0  # weight of matching hidden states, mean squared error per value
    # weight of matching attention, KL(teacher‖student), which needs model.attention=eager
    attention: float = 0.0
    # blocks that are matched, as {student: teacher} counted from 0; none: all, evenly spread
    layers: dict[int, int] = field(default_factory=dict)
    loss_on: str = "assistant"  # of rows with answers: assistant (all its turns) or last
    document_start: bool = True  # put the tokenizer's bos (else eos) token before a text
    document_end: bool = True  # put the tokenizer's eos token after it

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_divergence(self.loss, self.beta, self.skew, self.temperature, self.cross_entropy)
        require_choice("objective.teacher", self.teacher, TEACHERS)
        require_choice("objective.loss_on", self.loss_on, ("assistant", "last"))
        require_positive("objective.top", self.top)
        _check_features(self.hidden, self.attention, self.layers)
        features = self.hidden or self.attention
        if self.teacher == "offline" and features:
            raise ConfigError(
                "objective.teacher is 'offline', which keeps no hidden states and no attention; "
                "set objective.teacher=memory, or objective.hidden=0 and objective.attention=0"
            )
        if self.kept is not None and self.teacher != "offline":
            raise ConfigError(
                f"objective.kept is {self.kept!r}, but objective.teacher is {self.teacher!r}; set "
                f"objective.teacher=offline"
            )


@dataclass
class MaskedDistillation:
    """Distillation of a masked language model in DistilBERT's manner (Sanh et al., 2019).

    The loss of a masked token is α·MLM + (1-α)·τ²·D(p ‖ q), to which matching of hidden states is
    added: 1 - cosine, over all tokens.
    """

    loss: str = "forward_kl"  # D, as of objective=distillation
    beta: float = 0.5  # of loss=jsd: near 0 as forward_kl, near 1 as reverse_kl; 0 and 1 are these
    skew: float = 0.1  # α of the skewed KLs (Ko et al., 2024)
    temperature: float = 2.0  # τ, by which the logits of both are divided
    scale_by_temperature: bool = True  # multiply D by τ², so that its gradients keep their size
    # weight of the masked tokens themselves; 1 less it is that of the teacher (DistilBERT: 2 of 7)
    cross_entropy: float = 0.286
    cosine: float = 0.143  # weight of 1 - cosine of the last hidden states (DistilBERT: 1 of 7)
    hidden: float = 0.0  # weight of matching hidden states, mean squared error per value
    # weight of matching attention, KL(teacher‖student), which needs model.attention=eager
    attention: float = 0.0
    # blocks that are matched, as {student: teacher} counted from 0; none: all, evenly spread
    layers: dict[int, int] = field(default_factory=dict)
    rate: float = 0.15  # share of the tokens to predict
    mask_share: float = 0.8  # of those to predict: shown as the mask token
    random_share: float = 0.1  # of those to predict: shown as a random token; the rest as they are
    # tokens, special ones included, of the pieces of a document; none: whole documents
    piece_length: int | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_divergence(self.loss, self.beta, self.skew, self.temperature, self.cross_entropy)
        _check_features(self.hidden, self.attention, self.layers)
        _require_weight("objective.cosine", self.cosine)
        for name in ("rate", "mask_share", "random_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "rate" and value == 0):
                raise ConfigError(f"objective.{name} is {value}; expected a share of 1")
        if self.mask_share + self.random_share > 1:
            total = self.mask_share + self.random_share
            raise ConfigError(
                f"objective.mask_share and random_share are {total:g} together; expected at most 1"
            )


@dataclass
class OnPolicyDistillation:
    """On-policy distillation: the teacher judges what the student writes (Agarwal et al., 2024)."""

    loss: str = "jsd"  # D, as of objective=distillation
    beta: float = 0.5  # of loss=jsd: near 0 as forward_kl, near 1 as reverse_kl; 0 and 1 are these
    skew: float = 0.1  # α of the skewed KLs (Ko et al., 2024)
    temperature: float = 1.0  # τ of the loss, by which the logits of both are divided
    scale_by_temperature: bool = False  # multiply D by τ²; neither the paper nor TRL does
    cross_entropy: float = 0.0  # weight of the data's own tokens, in rows that the data has written
    student_share: float = 0.5  # λ: rows whose answer the student writes; the others are the data's
    # added to λ whenever an evaluation (trainer.evaluate_every) is worse than the one before; 0: λ
    # stays as it is (Ko et al., 2024: 0.1, from student_share=0)
    share_step: float = 0.0
    # evaluator/metric that decides over it
    share_monitor: str = "completion_perplexity/nats_per_token"
    share_tolerance: float = 0.0  # by how much that may get worse from one to the next
    # answers that are kept, of each rank: once there are so many, rows of the student get an old
    # answer with a probability that grows from 0 to 1 over the training; 0: always a new one
    replay: int = 0
    max_tokens: int = 64  # that the student writes, at most
    sampling_temperature: float = 1.0  # of what it writes
    prompt_tokens: int = 16  # of rows of text: so many tokens are the prompt

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _check_divergence(self.loss, self.beta, self.skew, self.temperature, self.cross_entropy)
        _check_sampling(self.max_tokens, self.sampling_temperature, self.prompt_tokens)
        if not 0 <= self.student_share <= 1:
            raise ConfigError(
                f"objective.student_share is {self.student_share}; expected a share of 1"
            )
        _require_share("objective.share_step", self.share_step)
        _require_weight("objective.share_tolerance", self.share_tolerance)
        require_not_negative("objective.replay", self.replay)
        if self.replay and not (self.student_share or self.share_step):
            raise ConfigError(
                f"objective.replay is {self.replay}, but objective.student_share and share_step "
                f"are 0: the student writes nothing; raise one of them"
            )


@dataclass
class MiniLLM:
    """Reverse KL of whole answers by policy gradient (Gu et al., 2024).

    Rewards are log p/q of each token that the student writes, p the teacher's and q its own.
    """

    cross_entropy: float = 0.1  # weight of the data's own tokens beside it (L_PT of the paper)
    single_step: bool = True  # take the part of a token itself from all its vocabulary (§2.2)
    length_norm: bool = True  # divide what is yet to come by its length
    teacher_mix: float = 0.2  # share α of the teacher in the distribution that is sampled from
    clip: float = 0.2  # how far the ratio of new and old probabilities may go (PPO)
    reward_clip: float = 10.0  # of the reward of a token, from both sides
    updates: int = 1  # optimiser steps made of what was written once
    max_tokens: int = 64  # that the student writes, at most
    sampling_temperature: float = 1.0  # of what it writes
    prompt_tokens: int = 16  # of rows of text: so many tokens are the prompt

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        _require_weight("objective.cross_entropy", self.cross_entropy)
        _check_sampling(self.max_tokens, self.sampling_temperature, self.prompt_tokens)
        require_positive("objective.updates", self.updates)
        if not 0 <= self.teacher_mix < 1:
            raise ConfigError(
                f"objective.teacher_mix is {self.teacher_mix}; expected 0 or more, and less than 1"
            )
        for name in ("clip", "reward_clip"):
            _require_more_than_zero(f"objective.{name}", getattr(self, name))


@dataclass
class CrossTokenizer:
    """Distillation between tokenizers: both read the same text, each in its own tokens.

    Positions are compared where both have read the same text and go on from there.
    """

    # uld: Σ |p₍ᵢ₎ - q₍ᵢ₎| of both sorted (Boizard et al., 2024); aligned: forward KL of the tokens
    # that are spelled the same in both, with one bucket for all others
    loss: str = "aligned"
    temperature: float = 1.0  # τ, by which the logits of both are divided
    cross_entropy: float = 0.5  # weight of the data's own tokens; 1 less it is that of the teacher
    # folder or Hub name of the tokenizer of the teacher
    teacher_tokenizer: str | None = field(default=None, metadata=CHECKPOINT)
    # tokens, of the student, of the pieces of a text: the teacher reads each by itself
    piece_length: int = 256

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("objective.loss", self.loss, ("uld", "aligned"))
        _require_more_than_zero("objective.temperature", self.temperature)
        _require_share("objective.cross_entropy", self.cross_entropy)
        require_positive("objective.piece_length", self.piece_length)


@dataclass
class Cut:
    """A student is cut out of the model: blocks, and the strongest units of each width.

    The model as it is given is the teacher, unless teacher.source names one.
    """

    # blocks that are kept, counted from 0; none: as many as `depth` says
    layers: list[int] = field(default_factory=list)
    depth: int | None = None  # blocks that are kept, evenly spread; none: all
    hidden_size: int | None = None  # width of the states; none: as it is
    intermediate_size: int | None = None  # width of the feed-forward parts; none: as it is
    # attention heads, in whole groups that share keys; none: as they are, or as hidden_size says
    # in families (BERT, GPT-2) whose heads divide the states among them
    heads: int | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        names = ("depth", "hidden_size", "intermediate_size", "heads")
        for name in names:
            value = getattr(self, name)
            if value is not None:
                require_positive(f"adapter.cut.{name}", value)
        if self.layers and self.depth is not None:
            raise ConfigError("adapter.cut.layers and adapter.cut.depth are both set; choose one")
        if len({*self.layers}) < len(self.layers):
            raise ConfigError(f"adapter.cut.layers is {self.layers}, which names a block twice")
        if not self.layers and all(getattr(self, name) is None for name in names):
            raise ConfigError(
                "adapter.cut cuts nothing: set layers, depth, hidden_size, intermediate_size or "
                "heads"
            )


def _check_divergence(
    loss: str, beta: float, skew: float, temperature: float, cross_entropy: float
) -> None:
    require_choice("objective.loss", loss, LOSSES)
    _require_share("objective.beta", beta)
    if not 0 <= skew < 1:
        raise ConfigError(f"objective.skew is {skew}; expected 0 or more, and less than 1")
    _require_more_than_zero("objective.temperature", temperature)
    _require_share("objective.cross_entropy", cross_entropy)


def _check_features(hidden: float, attention: float, layers: dict[int, int]) -> None:
    _require_weight("objective.hidden", hidden)
    _require_weight("objective.attention", attention)
    if layers and not (hidden or attention):
        raise ConfigError(
            "objective.layers is set, but objective.hidden and objective.attention are 0: nothing "
            "is matched"
        )
    for student, teacher in layers.items():
        if student < 0 or teacher < 0:
            raise ConfigError(
                f"objective.layers has {student}: {teacher}; expected numbers of blocks, as "
                f"objective.layers={{0: 1, 1: 3}}"
            )


def _check_sampling(max_tokens: int, temperature: float, prompt_tokens: int) -> None:
    require_positive("objective.max_tokens", max_tokens)
    require_positive("objective.prompt_tokens", prompt_tokens)
    _require_more_than_zero("objective.sampling_temperature", temperature)


def _require_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{key} is {value}; expected 0 to 1")


def _require_weight(key: str, value: float) -> None:
    if value < 0:
        raise ConfigError(f"{key} is {value}; expected 0 or more")


def _require_more_than_zero(key: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"{key} is {value}; expected more than 0")


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `distillation`."""
    place = "ontogeny_plugins.distillation.stage:TeachingStage"
    return [Component("distillation", config=DistillationStage, implementation=place)]


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer distillation from logits, of masked models, on-policy, and between tokenizers."""
    place = "ontogeny_plugins.distillation"
    return [
        Component(
            "distillation",
            config=Distillation,
            implementation=f"{place}.objective:DistillationObjective",
        ),
        Component(
            "masked_distillation",
            config=MaskedDistillation,
            implementation=f"{place}.masked:MaskedDistillationObjective",
        ),
        Component(
            "gkd", config=OnPolicyDistillation, implementation=f"{place}.on_policy:GKDObjective"
        ),
        Component("minillm", config=MiniLLM, implementation=f"{place}.minillm:MiniLLMObjective"),
        Component(
            "cross_tokenizer",
            config=CrossTokenizer,
            implementation=f"{place}.cross_tokenizer:CrossTokenizerObjective",
        ),
    ]


@hookimpl
def ontogeny_adapters() -> list[Component]:
    """Offer `cut`."""
    place = "ontogeny_plugins.distillation.cut:CutAdapter"
    return [Component("cut", config=Cut, implementation=place)]
