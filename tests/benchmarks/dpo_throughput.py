"""DPO on prompts three times as long as their answers, timed: `python dpo_throughput.py WAY STEPS`.

Ways: `ours` and `ours_cached` (the whole of Ontogeny, with a frozen reference and with one that has
read all pairs before) and `trl` (DPOTrainer, reference recomputed in each step). All train the same
model on the same pairs, 4 a step: a prompt of 192 tokens and two answers of 64, in bf16 with AdamW,
without gradient checkpointing. Prints one JSON line: tokens per second (a prompt counts once),
milliseconds per step, and the peak of memory above the built models.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from sft_throughput import Ticker, TokenClock, start  # type: ignore[import-not-found]
from throughput import VOCABULARY  # type: ignore[import-not-found]
from transformers import LlamaForCausalLM

PAIRS, PROMPT, ANSWER = 4, 192, 64  # of a step; tokens
TOKENS = PAIRS * (PROMPT + 2 * ANSWER)
BETA = 0.1


def rows(count: int) -> list[dict[str, str]]:
    """Return pairs of words that are one token each; the end of an answer is one of its tokens."""
    generator = np.random.default_rng(0)

    def words(length: int) -> str:
        return " ".join(f"w{number}" for number in generator.integers(2, VOCABULARY, length))

    return [
        {"prompt": f"{words(PROMPT)} ", "chosen": words(ANSWER - 1), "rejected": words(ANSWER - 1)}
        for _ in range(count)
    ]


def trl(steps: int) -> dict[str, float]:
    """Time TRL's DPOTrainer, whose reference is a second model."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.count(TOKENS)

    with tempfile.TemporaryDirectory() as folder:
        source = start(Path(folder))
        models = [LlamaForCausalLM.from_pretrained(source, dtype=torch.float32) for _ in range(2)]
        options = DPOConfig(
            folder,
            per_device_train_batch_size=PAIRS,
            max_steps=steps,
            bf16=True,
            beta=BETA,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = DPOTrainer(
            models[0],
            models[1],
            options,
            train_dataset=Dataset.from_list(rows(PAIRS * steps)),
            processing_class=AutoTokenizer.from_pretrained(source),
            callbacks=[Ticks()],
        )
        clock = TokenClock()
        trainer.train()
    return clock.report()


class PairTicker(Ticker):  # type: ignore[misc]
    """Notes the end of each step: all have the same tokens."""

    def on_train_batch_end(self, *_: object) -> None:
        """Note the end of a step."""
        Ticker.clock.count(TOKENS)


def _ours(steps: int, reference: str) -> dict[str, float]:
    from ontogeny import compose, run

    with tempfile.TemporaryDirectory() as folder:
        source, file = start(Path(folder)), Path(folder) / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(PAIRS * steps)))
        config = compose(
            [
                "stage=preference",
                f"model.source={source}",
                f"data.path={file}",
                "data.validation.share=0",
                f"data.max_length={PROMPT + 2 * ANSWER}",
                f"data.batch_size={PAIRS}",
                f"objective.beta={BETA}",
                f"objective.reference={reference}",
                "trainer.max_epochs=1",
                "trainer.compile=true",
                "trainer.save_every_minutes=null",
                "precision=bf16-mixed",
                "preflight=off",
                "evaluator=[]",
                "stage.samples=0",
            ]
        )
        stage: Any = next(iter(config.stages.values()))
        stage.callbacks = {"ticker": {"_target_": f"{__name__}.PairTicker"}}
        run(config, f"{folder}/run")
    return Ticker.clock.report()  # type: ignore[no-any-return]


def ours(steps: int) -> dict[str, float]:
    """Time a run whose reference is a second model."""
    return _ours(steps, "frozen")


def ours_cached(steps: int) -> dict[str, float]:
    """Time a run whose reference has read all pairs before."""
    return _ours(steps, "cached")


WAYS = {"ours": ours, "ours_cached": ours_cached, "trl": trl}

if __name__ == "__main__":
    sys.modules["dpo_throughput"] = sys.modules["__main__"]
    __name__ = "dpo_throughput"
    with tempfile.TemporaryDirectory() as home:
        os.environ["ONTOGENY_HOME"] = home
        began = time.perf_counter()
        figures = WAYS[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({**figures, "seconds": time.perf_counter() - began}))
