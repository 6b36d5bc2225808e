"""Chat templates by name, given to a tokenizer with the special tokens that they need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import TemplateSyntaxError
from tokenizers import AddedToken
from transformers.utils.chat_template_utils import _compile_jinja_template

from ontogeny.errors import ConfigError
from ontogeny_plugins.sft import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Special:
    """The special tokens of a template, and the one that ends a turn."""

    tokens: tuple[str, ...] = ()
    end: str | None = None  # none: the tokenizer's own eos


LIKE_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")  # such as <|im_end|>

SPECIAL = {
    "chatml": Special(("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": Special(("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "plain": Special(),
}


def give_template(tokenizer: PreTrainedTokenizerBase, chosen: str) -> str:
    """Give a tokenizer the template that was chosen, in place; say in a few words what was done.

    `chosen` is a name, or a template itself. The token that ends a turn becomes the tokenizer's
    eos token; where there is none for padding, the eos token before becomes that, so that padding
    is never taken for the end of a turn. Raises ConfigError for a template that is no Jinja.
    """
    own = bool(tokenizer.chat_template)
    if chosen == "auto" and own:
        return "the tokenizer's own"
    if chosen == "none":
        tokenizer.chat_template = None
        return "none, prompts and completions are bare text"
    name = "chatml" if chosen == "auto" else chosen
    tokenizer.chat_template = _text(name)
    told = name if name in TEMPLATES else "the one of stage.chat_template"
    before = "in place of the tokenizer's own" if own else "since the tokenizer has none"
    new = _give_tokens(tokenizer, SPECIAL.get(name, Special()))
    return f"{told}, {before}{new}{_told_missing(tokenizer)}"


def _text(name: str) -> str:
    """Return the template of a name, or the template itself if it is one."""
    if name in TEMPLATES:
        return files("ontogeny_plugins.sft").joinpath("templates", f"{name}.jinja").read_text()
    try:
        _compile_jinja_template(name)
    except TemplateSyntaxError as error:
        msg = f"stage.chat_template is no Jinja template: line {error.lineno}: {error.message}"
        raise ConfigError(msg) from error
    return name


def _give_tokens(tokenizer: PreTrainedTokenizerBase, special: Special) -> str:
    known = tokenizer.get_vocab()
    new = [token for token in special.tokens if token not in known]
    # As added tokens alone: a list of extra ones in its config is what older readers stumble over.
    tokenizer.add_tokens([AddedToken(token, special=True) for token in new], special_tokens=True)
    if special.end is not None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.eos_token = special.end
    return f"; new tokens {', '.join(new)}" if new else ""


def _told_missing(tokenizer: PreTrainedTokenizerBase) -> str:
    """Tell of what looks like a special token of the template, and is none of the tokenizer."""
    known = tokenizer.get_vocab()
    written = dict.fromkeys(LIKE_SPECIAL.findall(str(tokenizer.chat_template)))
    missing = [token for token in written if token not in known]
    return f"; the tokenizer has no token {', '.join(missing)}" if missing else ""
