"""The options that every stage shares, with their only defaults.

A field with `VOLATILE` cannot change the result of a stage, so it stays out of the stage's key.
The comment behind a field is its documentation: `ontogeny explain` prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ontogeny.errors import ConfigError
from ontogeny.spelling import suggestion

VOLATILE = {"volatile": True}
FILE = {"file": True}  # the option names rows in files: their content is part of the stage's key
FOLDER = {"folder": True}  # the option names a folder of results: so is its content
# The option names a checkpoint, or several by name: their content is part of the stage's key.
CHECKPOINT = {"checkpoint": True}


STAGE_SOURCE = "stage:"  # before the name of an earlier stage, where a checkpoint is named
NO_SOURCE = f"{STAGE_SOURCE}none"  # random weights, also where a stage before has left a checkpoint


def checkpoint_of(*kinds: str) -> dict[str, Any]:
    """Return metadata as CHECKPOINT, for an option that takes these kinds (names of heads) only."""
    return {**CHECKPOINT, "takes": kinds}


@dataclass
class Model:
    """The model a stage starts from."""

    # checkpoint folder, Hub name, or stage:<name> for an earlier stage of the lifecycle; none: that
    # of the stage before, else random weights of `config`
    source: str | None = None
    config: dict[str, Any] = field(default_factory=dict)  # architecture, in transformers' words
    # auto (sdpa where the family has it, else eager), sdpa, eager, flash_attention_2 or
    # flex_attention
    attention: str = "auto"
    # weights in few bits, for adapters: nf4, fp4, int8 or torchao_int8; none: float32
    quantization: str | None = None

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.quantization is not None:
            allowed = ("nf4", "fp4", "int8", "torchao_int8")
            require_choice("model.quantization", self.quantization, allowed)


@dataclass
class Tokenizer:
    """The tokenizer: one that exists, or one trained on the data."""

    # folder, Hub name or stage:<name>; none: the model's, else trained on the data
    source: str | None = None
    algorithm: str = "byte_bpe"  # when trained: byte_bpe or characters
    vocab_size: int = 4096  # when trained: rows of the vocabulary, special tokens included
    min_frequency: int = 2  # when trained: how often a pair must occur to be merged


@dataclass
class Teacher:
    """The model that another one learns from or is compared with."""

    source: str | None = None  # checkpoint folder, Hub name or stage:<name>


@dataclass
class Source:
    """One source of a mixture."""

    path: str = "???"  # file, glob, folder, Hub name or pkg://package/file
    # share of the tokens; none in all sources: by their size; 0: only measured, never trained on
    weight: float | None = None
    validation: str | None = None  # its held-out rows, as path; none: as data.validation says


@dataclass
class Validation:
    """Rows that are never trained on."""

    path: str | None = None  # file, glob, folder or Hub name; none: a share of the rows
    share: float = 0.05  # held out by hash of the row: the same rows in every stage
    limit: int | None = None  # evaluate at most so many rows of a source; none: all

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not 0 <= self.share < 1:
            msg = f"data.validation.share is {self.share}; expected 0 <= share < 1"
            raise ConfigError(msg)
        if self.limit is not None:
            require_positive("data.validation.limit", self.limit)


@dataclass
class Texts:
    """Texts that are compared, not trained on."""

    path: str | None = None  # file, glob, folder, Hub name or pkg://package/file


@dataclass
class Data:
    """Where rows come from and how they become batches."""

    path: str | None = None  # file, glob, folder or Hub name; short for a single source
    # a mixture, by tokens: sources.<name>.path and sources.<name>.weight
    sources: dict[str, Any] = field(default_factory=dict)
    example: str | None = None  # text that ships along: used while neither path nor sources is set
    domain: Texts = field(default_factory=Texts)  # the field that a model is to learn
    general: Texts = field(default_factory=Texts)  # what it knows already
    task: Texts = field(default_factory=Texts)  # rows of the task that it is meant for
    validation: Validation = field(default_factory=Validation)
    text_column: str = "text"  # name of this column in your files; the same below
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    messages_column: str = "messages"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    label_column: str = "label"
    tokens_column: str = "tokens"
    tags_column: str = "tags"
    tools_column: str = "tools"
    question_column: str = "question"
    context_column: str = "context"
    answers_column: str = "answers"
    choices_column: str = "choices"
    text_unit: str = "block"  # what one row of a .txt or .md is: document, paragraph, line, block
    max_length: int = 512  # tokens in a row of the batch
    batch_size: int = 8  # rows per device and forward pass
    packing: bool = True  # several examples in a row, isolated from each other
    on_error: str = "error"  # bad rows: error, or skip (rejected rows are written beside the run)
    workers: int = field(default=0, metadata=VOLATILE)  # processes that prepare batches

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        self.sources = {name: _source(name, value) for name, value in self.sources.items()}
        require_positive("data.max_length", self.max_length)
        require_positive("data.batch_size", self.batch_size)
        require_choice("data.on_error", self.on_error, ("error", "skip"))
        units = ("document", "paragraph", "line", "block")
        require_choice("data.text_unit", self.text_unit, units)
        require_not_negative("data.workers", self.workers)


def column_names(data: Data) -> dict[str, str]:
    """Return the user's column name for each canonical one, out of the `*_column` options."""
    names = [item.name for item in fields(data) if item.name.endswith("_column")]
    return {name.removesuffix("_column"): getattr(data, name) for name in names}


@dataclass
class AdamW:
    """AdamW (Loshchilov & Hutter, 2019); vectors (biases, norms) are not decayed."""

    _target_: str = "torch.optim.AdamW"
    lr: float = 1e-3  # peak learning rate
    embedding_lr: float | None = None  # of input and output embeddings; none: lr
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    fused: bool = True  # one kernel for all parameters

    def __post_init__(self) -> None:
        """Check what types cannot say; values are torch's own to check."""
        if len(self.betas) != 2:
            msg = f"optimizer.betas is {list(self.betas)}; expected two numbers, as [0.9,0.95]"
            raise ConfigError(msg)


@dataclass
class SGD:
    """Stochastic gradient descent with momentum."""

    _target_: str = "torch.optim.SGD"
    lr: float = 0.1  # peak learning rate
    embedding_lr: float | None = None  # of input and output embeddings; none: lr
    momentum: float = 0.9
    weight_decay: float = 0.0


@dataclass
class Schedule:
    """Learning rate over the steps, as a factor of `optimizer.lr`."""

    shape: str = "cosine"  # cosine, linear, constant, or wsd (warm-up, stable, decay)
    warmup_steps: int | None = None  # none: warmup_share of all steps
    warmup_share: float = 0.05  # linear from 0
    decay_share: float = 0.2  # wsd only: the last part, falling like 1 - sqrt
    min_ratio: float = 0.1  # where the factor ends

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        shapes = ("cosine", "linear", "constant", "wsd")
        require_choice("scheduler.shape", self.shape, shapes)
        if self.warmup_steps is not None:
            require_not_negative("scheduler.warmup_steps", self.warmup_steps)
        for name in ("warmup_share", "decay_share", "min_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                msg = f"scheduler.{name} is {value}; expected a number from 0 to 1"
                raise ConfigError(msg)


@dataclass
class Forgetting:
    """What a stage may lose of what the model knew: bits per byte of a source, held-out rows."""

    # name in data.sources of the text that must not be forgotten; none: general, else replay
    source: str | None = None
    budget: float | None = None  # relative rise that is allowed, as 0.05; none: only reported
    action: str = "stop"  # past the budget: stop, or replay (raise the source's share)
    replay_step: float = 0.1  # what `replay` adds to the source's share of the tokens, each time
    replay_limit: float = 0.5  # share at which `replay` adds no more, but stops

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("forgetting.action", self.action, ("stop", "replay"))
        if self.budget is not None and self.budget <= 0:
            msg = f"forgetting.budget is {self.budget}; expected more than 0, or null for none"
            raise ConfigError(msg)
        for name in ("replay_step", "replay_limit"):
            value = getattr(self, name)
            if not 0 < value < 1:
                msg = f"forgetting.{name} is {value}; expected a share between 0 and 1"
                raise ConfigError(msg)


@dataclass
class Trainer:
    """How long, on what, and how often to save and look."""

    max_steps: int | None = None  # optimiser steps
    max_epochs: float | None = None  # passes over the data; none, and no max_steps: one
    # per process, as 90s, 10m, 2h or DD:HH:MM:SS; the same command goes on afterwards
    max_time: str | None = field(default=None, metadata=VOLATILE)
    accumulate_grad_batches: int = 1  # forward passes per optimiser step
    gradient_clip_val: float | None = 1.0  # norm of all gradients together; none: no clipping
    gradient_checkpointing: bool = False  # less memory, one more forward pass
    compile: str = "auto"  # torch.compile: true, false, or auto (when the run is long enough)
    evaluate_every: int = 0  # steps between evaluations; 0: only at the end
    monitor: str | None = None  # metric of these evaluations, as perplexity/bits_per_byte
    monitor_mode: str = "auto"  # which is better: min, max, or auto (min for losses and errors)
    patience: int | None = None  # evaluations without a better one after which training ends
    keep_best: bool = False  # the checkpoint has the weights of the best evaluation
    save_every_steps: int | None = field(default=None, metadata=VOLATILE)  # training states
    save_every_minutes: float | None = field(default=10.0, metadata=VOLATILE)
    log_every: int = field(default=10, metadata=VOLATILE)  # steps between writes of the log
    accelerator: str = field(default="auto", metadata=VOLATILE)  # Lightning's own words
    devices: Any = field(default="auto", metadata=VOLATILE)
    num_nodes: int = field(default=1, metadata=VOLATILE)
    strategy: str = field(default="auto", metadata=VOLATILE)
    progress: bool = field(default=True, metadata=VOLATILE)  # a progress bar

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name in ("max_steps", "accumulate_grad_batches", "save_every_steps", "log_every"):
            value = getattr(self, name)
            if value is not None:
                require_positive(f"trainer.{name}", value)
        for name in ("max_epochs", "gradient_clip_val", "save_every_minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                msg = f"trainer.{name} is {value}; expected more than 0, or null for none"
                raise ConfigError(msg)
        require_not_negative("trainer.evaluate_every", self.evaluate_every)
        self._check_monitor()
        self.compile = self.compile.lower()
        require_choice("trainer.compile", self.compile, ("auto", "true", "false"))

    def _check_monitor(self) -> None:
        require_choice("trainer.monitor_mode", self.monitor_mode, ("auto", "min", "max"))
        if self.patience is not None:
            require_positive("trainer.patience", self.patience)
        wants = [name for name in ("patience", "keep_best") if getattr(self, name)]
        if self.monitor is None and wants:
            msg = (
                f"trainer.{wants[0]} is set, but trainer.monitor is not: name the metric that "
                f"decides, as trainer.monitor=perplexity/bits_per_byte"
            )
            raise ConfigError(msg)
        if self.monitor is not None and not wants:
            msg = "trainer.monitor is set, but neither trainer.patience nor trainer.keep_best is"
            raise ConfigError(msg)
        if self.monitor is not None and self.evaluate_every == 0:
            msg = "trainer.monitor is set, but trainer.evaluate_every is 0: nothing is evaluated"
            raise ConfigError(msg)


@dataclass
class Storing:
    """How a run's folder holds what the store has."""

    link: bool = True  # stages/<name> is a link into the store; false: a copy, of the run's own


@dataclass
class Sweep:
    """What decides between the jobs of a multirun."""

    # stage/evaluator/metric (the stage may be left out), or a list of them; none: bits_per_byte of
    # the last stage that has it, else the first metric of the last one
    metric: Any = None
    mode: str = "auto"  # which is better: min, max, or auto (min for losses, errors, forgetting)
    # evaluator/metric of the evaluations in the loop (trainer.evaluate_every): a job that is behind
    # the median of those before it ends early
    prune: str | None = None
    prune_after: int = 3  # jobs that must have come as far before one is ended

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_choice("sweep.mode", self.mode, ("auto", "min", "max"))
        require_positive("sweep.prune_after", self.prune_after)
        named = self.metric if isinstance(self.metric, list) else [self.metric]
        if any(not isinstance(each, str) for each in named if each is not None) or not named:
            raise ConfigError(
                f"sweep.metric is {self.metric!r}; expected stage/evaluator/metric, or a list"
            )

    @property
    def metrics(self) -> list[str]:
        """The metrics that are asked for, in order."""
        if self.metric is None:
            return []
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]


@dataclass
class Report:
    """What a run's `report.html` is made of; nothing here changes a stage."""

    # measure every checkpoint with what other stages of the lifecycle are measured by; the numbers
    # are kept in the store
    matrix: bool = True


def _source(name: str, given: object) -> Source:
    """Return the options of one source; a typed node would not take new names from overrides."""
    if isinstance(given, Source):
        return given
    key = f"data.sources.{name}"
    known = [item.name for item in fields(Source)]
    if not isinstance(given, Mapping) or not isinstance(given.get("path"), str):
        msg = f"{key}.path is not set; expected a file, glob, folder or Hub name"
        raise ConfigError(msg)
    for each in given:
        if each not in known:
            msg = f"no option {key}.{each}{suggestion(str(each), known)}; known: {', '.join(known)}"
            raise ConfigError(msg)
    weight, validation = given.get("weight"), given.get("validation")
    if validation is not None and not isinstance(validation, str):
        msg = f"{key}.validation is {validation!r}; expected a file, glob, folder or Hub name"
        raise ConfigError(msg)
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        msg = f"{key}.weight is {weight!r}; expected a number"
        raise ConfigError(msg)
    return Source(given["path"], weight, validation)


def require_positive(key: str, value: int) -> None:
    """Raise ConfigError unless `value` is at least 1."""
    if value < 1:
        msg = f"{key} is {value}; expected 1 or more"
        raise ConfigError(msg)


def require_not_negative(key: str, value: int) -> None:
    """Raise ConfigError for a value below 0."""
    if value < 0:
        msg = f"{key} is {value}; expected 0 or more"
        raise ConfigError(msg)


def require_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of `allowed`."""
    if value not in allowed:
        msg = f"{key} is {value!r}; expected one of {', '.join(allowed)}"
        raise ConfigError(msg)
