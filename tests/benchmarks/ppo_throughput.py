"""PPO, rollout and update together, timed: `python ppo_throughput.py WAY STEPS`.

Ways: `ours` (the whole of Ontogeny, values by a separate model), `ours_shared` (values by a layer
on the policy's own states) and `trl` (the PPOTrainer of TRL 1.12, the last version that has one).
All train the same policy with a frozen reference and the same reward model on the same prompts of
20 to 140 tokens, 16 a step, each answered with 53 tokens; 4 epochs of one minibatch, in bf16 with
AdamW, without gradient checkpointing. Prints one JSON line: tokens (of prompts and answers) per
second of wall time and of processor time, milliseconds per step, and the peak of memory above the
built models.
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
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

PROMPTS, SHORTEST, LONGEST, ANSWER = 16, 20, 140, 53  # of a step; tokens
EPOCHS, TEMPERATURE, LR = 4, 0.7, 3e-6


def lengths(count: int) -> list[int]:
    """Return the lengths of the prompts, in their order."""
    found: list[int] = np.random.default_rng(1).integers(SHORTEST, LONGEST + 1, count).tolist()
    return found


def prompts(count: int) -> list[str]:
    """Return prompts of words that are one token each."""
    generator = np.random.default_rng(0)
    return [
        " ".join(f"w{number}" for number in generator.integers(2, VOCABULARY, length))
        for length in lengths(count)
    ]


TOKENS = sum(lengths(4096)) / 4096 * PROMPTS + PROMPTS * ANSWER  # of a step, on average


def judge(folder: Path, source: Path) -> Path:
    """Save a reward model of random weights beside the policy."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32
    )
    model.save_pretrained(folder / "judge")
    for file in source.glob("tokenizer*"):
        (folder / "judge" / file.name).write_bytes(file.read_bytes())
    return folder / "judge"


def trl(steps: int) -> dict[str, float]:
    """Time TRL's PPOTrainer."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import (  # type: ignore[import-not-found]  # of TRL 1.12
        PPOConfig,
        PPOTrainer,
    )

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.count(int(TOKENS))

    with tempfile.TemporaryDirectory() as folder:
        source = start(Path(folder))
        reward = judge(Path(folder), source)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        policy, reference = (
            LlamaForCausalLM.from_pretrained(source, dtype=torch.float32) for _ in range(2)
        )
        value, judged = (
            AutoModelForSequenceClassification.from_pretrained(
                reward, num_labels=1, dtype=torch.float32
            )
            for _ in range(2)
        )
        options = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=PROMPTS,
            gradient_accumulation_steps=1,
            total_episodes=PROMPTS * steps,
            response_length=ANSWER,
            temperature=TEMPERATURE,
            num_ppo_epochs=EPOCHS,
            learning_rate=LR,
            bf16=True,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            num_sample_generations=0,
            disable_tqdm=True,
            use_cpu=True,
        )
        rows = [tokenizer(text) for text in prompts(PROMPTS * steps)]
        data = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
        trainer = PPOTrainer(
            args=options,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=judged,
            value_model=value,
            train_dataset=data,
            eval_dataset=data.select(range(PROMPTS)),
            callbacks=[Ticks()],
        )
        clock = TokenClock()
        trainer.train()
    return clock.report()  # type: ignore[no-any-return]


class StepTicker(Ticker):  # type: ignore[misc]
    """Notes the end of each step."""

    def on_train_batch_end(self, *_: object) -> None:
        """Note the end of a step."""
        Ticker.clock.count(int(TOKENS))


def _ours(steps: int, value: str) -> dict[str, float]:
    from ontogeny import compose, run

    with tempfile.TemporaryDirectory() as folder:
        source, file = start(Path(folder)), Path(folder) / "prompts.jsonl"
        reward = judge(Path(folder), source)
        rows = [{"prompt": text} for text in prompts(PROMPTS * steps)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = compose(
            [
                "stage=reinforcement",
                f"model.source={source}",
                f"data.path={file}",
                "data.validation.share=0",
                f"data.max_length={LONGEST}",
                f"data.batch_size={PROMPTS}",
                f"objective.max_tokens={ANSWER}",
                f"objective.temperature={TEMPERATURE}",
                f"objective.epochs={EPOCHS}",
                f"objective.value={value}",
                *([f"objective.value_source={reward}"] if value == "separate" else []),
                "reward=[checkpoint]",
                f"reward.checkpoint.source={reward}",
                f"optimizer.lr={LR}",
                "trainer.max_epochs=1",
                "trainer.save_every_minutes=null",
                "precision=bf16-mixed",
                "preflight=off",
                "evaluator=[]",
                "stage.samples=0",
                *sys.argv[3:],
            ]
        )
        stage: Any = next(iter(config.stages.values()))
        stage.callbacks = {"ticker": {"_target_": f"{__name__}.StepTicker"}}
        run(config, f"{folder}/run")
    return Ticker.clock.report()  # type: ignore[no-any-return]


def ours(steps: int) -> dict[str, float]:
    """Time a run whose values come from a model of their own, as TRL's do."""
    return _ours(steps, "separate")


def ours_shared(steps: int) -> dict[str, float]:
    """Time a run whose values come from a layer on the policy's states."""
    return _ours(steps, "shared")


WAYS = {"ours": ours, "ours_shared": ours_shared, "trl": trl}

if __name__ == "__main__":
    sys.modules["ppo_throughput"] = sys.modules["__main__"]
    __name__ = "ppo_throughput"
    with tempfile.TemporaryDirectory() as home:
        os.environ["ONTOGENY_HOME"] = home
        began = time.perf_counter()
        figures = WAYS[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({**figures, "seconds": time.perf_counter() - began}))
