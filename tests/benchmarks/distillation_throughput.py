"""Distillation at a vocabulary of 50,000, timed: `python distillation_throughput.py WAY STEPS`.

Ways: `ours` (the whole of Ontogeny, teacher in memory) and `trl` (GKDTrainer without sampling).
Both train the same student on the same rows, 8 of 256 tokens a step, with the same teacher and loss
(JSD, β = ½), in bf16 with AdamW, without gradient checkpointing. Prints one JSON line: tokens per
second, milliseconds per step, and the peak of memory above the built models.
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
from sft_throughput import END, PADDING, Ticker, TokenClock  # type: ignore[import-not-found]
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, ROWS, LENGTH = 50_000, 8, 256
TOKENS = ROWS * LENGTH
SIZES: dict[str, Any] = {
    "num_attention_heads": 6,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
}
TEACHER = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6}
STUDENT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3}


def saved(folder: Path) -> list[Path]:
    """Save a teacher and a student of random weights with a tokenizer of words."""
    words = {END: 0, PADDING: 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
    )
    made = []
    for seed, sizes in enumerate((TEACHER, STUDENT)):
        torch.manual_seed(seed)
        made.append(folder / str(seed))
        LlamaForCausalLM(LlamaConfig(**SIZES, **sizes)).save_pretrained(made[-1])
        tokenizer.save_pretrained(made[-1])
    return made


def numbers(count: int) -> np.ndarray:
    """Return rows of tokens, one more than are learned: [rows, LENGTH + 1], each after an end."""
    generator = np.random.default_rng(0)
    rows = generator.integers(2, VOCABULARY, (count, LENGTH + 1))
    rows[:, 0] = 0
    return rows


def trl(steps: int) -> dict[str, float]:
    """Time TRL's GKDTrainer on the data's own rows."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.count(TOKENS)

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["ids"] for row in rows])
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    with tempfile.TemporaryDirectory() as folder:
        teacher, student = saved(Path(folder))
        built = [
            LlamaForCausalLM.from_pretrained(each, dtype=torch.float32)
            for each in (student, teacher)
        ]
        options = GKDConfig(
            folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            bf16=True,
            beta=0.5,
            lmbda=0.0,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = GKDTrainer(
            built[0],
            built[1],
            options,
            data_collator=collate,
            train_dataset=Dataset.from_list(
                [{"ids": row.tolist()} for row in numbers(ROWS * steps)]
            ),
            processing_class=AutoTokenizer.from_pretrained(student),
            callbacks=[Ticks()],
        )
        clock = TokenClock()
        trainer.train()
    return clock.report()  # type: ignore[no-any-return]


class RowTicker(Ticker):  # type: ignore[misc]
    """Notes the end of each step: all have the same tokens."""

    def on_train_batch_end(self, *_: object) -> None:
        """Note the end of a step."""
        Ticker.clock.count(TOKENS)


def ours(steps: int) -> dict[str, float]:
    """Time a run with the teacher in memory."""
    from ontogeny import compose, run

    with tempfile.TemporaryDirectory() as folder:
        teacher, student = saved(Path(folder))
        file = Path(folder) / "rows.jsonl"
        texts = [" ".join(f"w{number}" for number in row[1:]) for row in numbers(ROWS * steps)]
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        config = compose(
            [
                "stage=distillation",
                "objective=jsd",
                "objective.cross_entropy=0",
                "objective.document_end=false",
                f"teacher.source={teacher}",
                f"model.source={student}",
                f"data.path={file}",
                "data.validation.share=0",
                f"data.max_length={LENGTH}",
                f"data.batch_size={ROWS}",
                "trainer.compile=true",
                "trainer.save_every_minutes=null",
                "precision=bf16-mixed",
                "preflight=off",
                "evaluator=[]",
                "stage.sample_tokens=0",
            ]
        )
        stage: Any = next(iter(config.stages.values()))
        stage.callbacks = {"ticker": {"_target_": f"{__name__}.RowTicker"}}
        run(config, f"{folder}/run")
    return Ticker.clock.report()  # type: ignore[no-any-return]


WAYS = {"ours": ours, "trl": trl}

if __name__ == "__main__":
    sys.modules["distillation_throughput"] = sys.modules["__main__"]
    __name__ = "distillation_throughput"
    with tempfile.TemporaryDirectory() as home:
        os.environ["ONTOGENY_HOME"] = home
        began = time.perf_counter()
        figures = WAYS[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({**figures, "seconds": time.perf_counter() - began}))
