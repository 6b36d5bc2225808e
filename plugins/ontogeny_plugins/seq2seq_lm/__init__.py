"""Head `seq2seq_lm`: an encoder that reads and a decoder that writes, as in T5 and BART."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class Seq2SeqLM:
    """An encoder-decoder with a language-model head, as `AutoModelForSeq2SeqLM` opens it."""


@hookimpl
def ontogeny_heads() -> list[Component]:
    """Offer `seq2seq_lm`."""
    implementation = "ontogeny_plugins.seq2seq_lm.head:Seq2SeqLMHead"
    takes = ("seq2seq_lm",)
    return [Component("seq2seq_lm", Seq2SeqLM, implementation, takes=takes)]
