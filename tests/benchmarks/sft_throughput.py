"""SFT on rows of very unequal length, timed: `python sft_throughput.py WAY STEPS`.

Ways: `ours` (the whole of Ontogeny at its defaults, rows packed) and `trl` (SFTTrainer at its
defaults plus bf16). Both train the same model once on the same rows, prompts with completions, of
log-normal length (median 60 tokens, long tail) cut at 1,024: TRL 8 rows a step, 1,122 tokens on
average; ours one packed row of 1,024 tokens, 7 to 8 rows. Both use AdamW. Prints one JSON line:
real tokens per second (no padding counts) of wall time and of processor time, milliseconds per
step, and the peak of memory above the built model.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightning as L
import numpy as np
import torch
from throughput import (  # type: ignore[import-not-found]  # beside this script
    CONFIG,
    VOCABULARY,
    WARM_UP,
    Clock,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MEDIAN, SIGMA, LONGEST, ROWS = 60, 1.44, 1024, 8
END, PADDING = "</s>", "<pad>"  # ids 0 and 1


class TokenClock(Clock):  # type: ignore[misc]
    """Counts the real tokens of each step beside its time."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.worked: list[float] = []  # seconds of all processors, at the end of each step

    def count(self, tokens: int) -> None:
        """Note the tokens of the step that has just ended."""
        self.tokens.append(tokens)
        self.worked.append(time.process_time())
        self.tick()

    def report(self) -> dict[str, float]:
        """Return the figures; lengths vary from step to step, so tokens are summed."""
        found, tokens = super().report(), sum(self.tokens[WARM_UP:])
        found["tokens_per_second"] = tokens / (self.ends[-1] - self.ends[WARM_UP - 1])
        found["tokens_per_cpu_second"] = tokens / (self.worked[-1] - self.worked[WARM_UP - 1])
        found["tokens_per_step"] = tokens / len(self.tokens[WARM_UP:])
        return found


def rows(count: int) -> list[dict[str, str]]:
    """Return prompts and completions of words that are one token each, the same for every way."""
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.normal(np.log(MEDIAN), SIGMA, count)).astype(int).clip(4, 4096)
    made = []
    for length in lengths:
        words = [f"w{number}" for number in generator.integers(2, VOCABULARY, length)]
        half = length // 2
        made.append({"prompt": " ".join(words[:half]) + " ", "completion": " ".join(words[half:])})
    return made


def start(folder: Path) -> Path:
    """Save a model of random weights with a tokenizer of words."""
    words = {END: 0, PADDING: 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(0)
    ids = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, "max_position_embeddings": LONGEST}, **ids))
    for each in (model, tokenizer):
        each.save_pretrained(folder / "start")
    return folder / "start"


def trl(steps: int) -> dict[str, float]:
    """Time TRL's SFTTrainer at its defaults plus bf16."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    counted: list[int] = []

    class Counted(SFTTrainer):
        def training_step(self, *arguments: Any) -> torch.Tensor:
            counted.append(int(arguments[1]["attention_mask"].sum()))
            return super().training_step(*arguments)

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.count(counted[-1])

    with tempfile.TemporaryDirectory() as folder:
        source = start(Path(folder))
        model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
        options = SFTConfig(
            folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            bf16=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Counted(
            model,
            options,
            train_dataset=Dataset.from_list(rows(ROWS * steps)),
            processing_class=AutoTokenizer.from_pretrained(source),
            callbacks=[Ticks()],
        )
        clock = TokenClock()
        trainer.train()
    return clock.report()


class Ticker(L.Callback):
    """A Lightning callback that notes the end of each step, and its tokens."""

    clock: TokenClock

    def on_fit_start(self, *_: object) -> None:
        """Count memory from the built model."""
        Ticker.clock = TokenClock()

    def on_train_batch_end(self, *arguments: object) -> None:
        """Note the end of a step; the place of padding holds the id 0, which no row begins with."""
        batches = cast("list[dict[str, torch.Tensor]]", arguments[3])
        Ticker.clock.count(sum(int((batch["input_ids"] != 0).sum()) for batch in batches))


def ours(steps: int) -> dict[str, float]:
    """Time a run as users start it."""
    from ontogeny import compose, run

    with tempfile.TemporaryDirectory() as folder:
        source, file = start(Path(folder)), Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(ROWS * steps)))
        config = compose(
            [
                "stage=sft",
                f"model.source={source}",
                f"data.path={file}",
                "data.validation.share=0",
                f"data.max_length={LONGEST}",
                "data.batch_size=1",
                "stage.chat_template=none",
                "trainer.max_epochs=1",
                "trainer.save_every_minutes=null",
                "precision=bf16-mixed",
                "preflight=off",
                "evaluator=[]",
                "stage.samples=0",
            ]
        )
        stage = next(iter(config.stages.values()))
        stage.callbacks = {"ticker": {"_target_": f"{__name__}.Ticker"}}
        run(config, f"{folder}/run")
    return Ticker.clock.report()


if __name__ == "__main__":
    sys.modules["sft_throughput"] = sys.modules["__main__"]
    __name__ = "sft_throughput"
    with tempfile.TemporaryDirectory() as home:
        os.environ["ONTOGENY_HOME"] = home
        began = time.perf_counter()
        figures = {"ours": ours, "trl": trl}[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({**figures, "seconds": time.perf_counter() - began}))
