"""`ontogeny chat CHECKPOINT`: a conversation in the terminal, through the checkpoint's template."""
# T tokens

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    TextStreamer,
)

from ontogeny.errors import ConfigError, UserError
from ontogeny.generation import stop_tokens
from ontogeny.given_options import parsed
from ontogeny.models import load_pretrained, longest_context, writing_config
from ontogeny.options import Model, require_positive
from ontogeny.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

USAGE = (
    "usage: ontogeny chat CHECKPOINT [system='...'] [max_tokens=512] [temperature=0.7] "
    "[top_p=0.95] [seed=0] [plain=true] [device=cpu]"
)
HELP = "a line is a turn; /new begins anew, /exit or Ctrl-D ends, Ctrl-C stops an answer"
YOU, NEW, EXIT = "you> ", "/new", "/exit"


@dataclass
class Chat:
    """How a checkpoint is talked with."""

    system: str | None = None  # what the model is told before the first turn
    max_tokens: int = 512  # of an answer
    temperature: float = 0.7  # 0: the likeliest token each time
    top_p: float = 0.95  # of the likeliest tokens, as many as have this probability together
    seed: int | None = None  # makes the answers repeatable; none: other ones each time
    plain: bool = False  # continue the text as it stands, without a template
    device: str = "auto"  # as torch calls it: cpu, cuda, mps

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        require_positive("max_tokens", self.max_tokens)
        if self.temperature < 0:
            msg = f"temperature is {self.temperature}; expected 0 (the likeliest token) or more"
            raise ConfigError(msg)
        if not 0 < self.top_p <= 1:
            msg = f"top_p is {self.top_p}; expected more than 0 and at most 1"
            raise ConfigError(msg)
        if self.plain and self.system is not None:
            msg = "system is set, and plain=true goes without a template: leave out one of them"
            raise ConfigError(msg)


def chat(arguments: Sequence[str]) -> None:
    """Talk until the input ends; lines that are piped in are answered one after the other."""
    if not arguments or "=" in arguments[0]:
        raise ConfigError(USAGE)
    source, options = arguments[0], parsed(Chat, arguments[1:], USAGE)
    conversation = Conversation.open(source, options)
    say = _to_stderr if sys.stdin.isatty() else _nowhere
    if not conversation.has_template:
        _to_stderr(
            f"{source} has no chat template: what you write is continued as it stands"
            if not options.plain
            else "what you write is continued as it stands"
        )
    elif not options.plain:
        say(HELP)
    if options.seed is not None:
        torch.manual_seed(options.seed)
    for line in lines(sys.stdin):
        if line == NEW:
            conversation.begin()
            continue
        if line == EXIT:
            return
        conversation.answer(line, sys.stdout)


def lines(source: IO[str]) -> Iterator[str]:
    """Yield what is typed or piped in, without empty lines."""
    is_terminal = source.isatty()
    if is_terminal:
        import readline  # noqa: F401, PLC0415  lets `input` edit its line
    while True:
        try:
            line = input(YOU) if is_terminal else source.readline()
        except EOFError:
            return
        if not is_terminal and not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


@dataclass
class Conversation:
    """A model, its tokenizer, and what was said so far."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    options: Chat
    turns: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, source: str, options: Chat) -> Conversation:
        """Load a checkpoint (folder or Hub name), an adapter beside its base too.

        Raises CheckpointError for what cannot be opened, ConfigError for a model that cannot write
        and for a system prompt that the template has no place for.
        """
        tokenizer = load_tokenizer("CHECKPOINT", source)
        found = cls(_model(source, options.device), tokenizer, options)
        found.begin()
        if options.system is not None and not found.has_template:
            msg = f"system is set, and {source} has no chat template with a place for it"
            raise ConfigError(msg)
        if found.has_template:
            found.rendered([{"role": "user", "content": "a"}])
        return found

    @property
    def has_template(self) -> bool:
        """Whether turns go through a chat template."""
        return bool(self.tokenizer.chat_template) and not self.options.plain

    def begin(self) -> None:
        """Forget what was said."""
        system = self.options.system
        self.turns = [] if system is None else [{"role": "system", "content": system}]

    def answer(self, text: str, out: IO[str]) -> str:
        """Write the answer as it comes, and a line end after it; return it."""
        ids_1T = self._prompt(text)
        streamer = Streamer(self.tokenizer, out)
        try:
            self._generate(ids_1T, streamer)
        except KeyboardInterrupt:
            cast("Any", streamer).end()
        out.write("\n")
        out.flush()
        if self.has_template:
            self.turns.append({"role": "assistant", "content": streamer.text})
        return streamer.text

    def rendered(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """Return the ids of what was said before, these turns, and the beginning of an answer."""
        try:
            ids = self.tokenizer.apply_chat_template(
                [*self.turns, *turns], add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # each template refuses in its own way
            reason = " ".join(str(error).split())
            what = "system, which it may not know: " if self.options.system is not None else ""
            msg = f"the chat template of the checkpoint refuses these turns ({what}{reason})"
            raise ConfigError(msg) from error
        return cast("list[int]", ids)

    def _prompt(self, text: str) -> Tensor:
        """Return the ids to go on from, [1, T], without the oldest turns if they do not fit."""
        room = longest_context(self.model) or sys.maxsize
        if not self.has_template:
            ids = cast("list[int]", self.tokenizer(text)["input_ids"])
            if ids and ids[-1] == self.tokenizer.eos_token_id and len(ids) > 1:
                ids.pop()  # a tokenizer may end every text
            return self._fitting(ids, room)
        self.turns.append({"role": "user", "content": text})
        while len(ids := self.rendered([])) >= room - 1 and self._forget():
            _to_stderr("the oldest turns do not fit into the model's context, and are left out")
        return self._fitting(ids, room)

    def _fitting(self, ids: Sequence[int], room: int) -> Tensor:
        if len(ids) >= room and not self.model.config.is_encoder_decoder:
            msg = f"this turn has {len(ids)} tokens, and the model's context {room}: shorten it"
            raise UserError(msg)
        return torch.tensor([ids], device=self.model.device)

    def _forget(self) -> bool:
        """Leave out the oldest question with its answer; say whether there was one."""
        first = int(self.options.system is not None)
        if len(self.turns) - first <= 1:
            return False
        del self.turns[first : first + 2]
        return True

    def _generate(self, ids_1T: Tensor, streamer: TextStreamer) -> None:
        with torch.no_grad():
            self.model.generate(  # type: ignore[operator]
                ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                generation_config=self._config(ids_1T.shape[1]),
                streamer=streamer,
            )

    def _config(self, length: int) -> GenerationConfig:
        """Return the checkpoint's own config, with the options in it."""
        options, config = self.options, copy.deepcopy(self.model.generation_config)
        room = (longest_context(self.model) or sys.maxsize) - length
        if self.model.config.is_encoder_decoder:
            room = options.max_tokens
        stops = stop_tokens(self.model, self.tokenizer)
        config.update(
            max_new_tokens=min(options.max_tokens, room),
            max_length=None,
            do_sample=options.temperature > 0,
            temperature=float(options.temperature) or None,
            top_p=options.top_p if options.temperature else None,
            top_k=None,
            eos_token_id=stops or None,
            pad_token_id=next(
                each for each in (self.tokenizer.pad_token_id, *stops, 0) if each is not None
            ),
            use_cache=True,
        )
        return config


class Streamer(TextStreamer):
    """Writes words as they come, and keeps them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, out: IO[str]) -> None:
        super().__init__(cast("Any", tokenizer), skip_prompt=True, skip_special_tokens=True)
        self.out = out
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take a piece of the answer."""
        del stream_end
        self.text += text
        self.out.write(text)
        self.out.flush()


def _model(source: str, device: str) -> PreTrainedModel:
    """Return the model in the numbers that it is stored in, on its device, in eval mode."""
    config = writing_config("CHECKPOINT", source)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = load_pretrained(auto, Model(source=source), {}, dtype="auto", key="CHECKPOINT")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        cast("nn.Module", model).to(device).eval()
    except (RuntimeError, AssertionError) as error:  # each back end refuses in its own way
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {device!r}, which torch cannot use here: {reason}") from error
    return model


def _to_stderr(line: str) -> None:
    print(f"ontogeny: {line}", file=sys.stderr)  # noqa: T201


def _nowhere(line: str) -> None:
    del line
