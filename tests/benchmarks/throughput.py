"""One way of training the same model on the same rows, timed: `python throughput.py WAY STEPS`.

Ways: `ours` (the whole of Ontogeny), `loop` (a hand-tuned PyTorch loop with the same precision,
optimiser, loss and compilation), `transformers` (its Trainer at its defaults plus bf16).
Prints one JSON line: milliseconds per step (median), tokens per second, and the peak of resident
memory over the timed steps above what the process held once the model was built.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lightning as L
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROWS, LENGTH, VOCABULARY, WARM_UP = 8, 256, 32_000, 3
CONFIG = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}


class Clock:
    """Notes when each step ends, and the peak of memory after the first few."""

    def __init__(self) -> None:
        self.base = resident("VmRSS")
        self.ends: list[float] = []

    def tick(self) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP:
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here

    def report(self) -> dict[str, float]:
        """Return the figures."""
        steps = np.diff(self.ends[WARM_UP - 1 :])
        seconds = statistics.median(steps)
        return {
            "ms": 1000 * seconds,
            "tokens_per_second": ROWS * LENGTH / seconds,
            "peak_mb": resident("VmHWM") - self.base,
        }


def resident(name: str) -> float:
    """Return a memory figure of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return float("nan")


def rows(count: int) -> torch.Tensor:
    """Return token ids, [count, LENGTH + 1], the same for every way."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCABULARY, (count, LENGTH + 1), generator=generator)


def build() -> LlamaForCausalLM:
    """Return the model with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**CONFIG)).train()


def loop(steps: int) -> dict[str, float]:
    """Time what a careful person writes by hand."""
    from ontogeny.logit_loss import compile_kernels
    from ontogeny.vocabulary_loss import vocabulary_loss

    model = build()
    clock = Clock()
    compile_kernels(True)
    model.model.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    data = rows(ROWS * steps)
    for step in range(steps):
        batch = data[step * ROWS : (step + 1) * ROWS]
        with torch.autocast("cpu", torch.bfloat16):
            inputs = {"input_ids": batch[:, :-1], "use_cache": False}
            loss = vocabulary_loss(model, inputs, batch[:, 1:]) / (ROWS * LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.tick()
    return clock.report()


def transformers(steps: int) -> dict[str, float]:
    """Time transformers.Trainer at its defaults plus bf16."""
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Rows(Dataset):
        data = rows(ROWS * steps)[:, :-1]

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": self.data[index], "labels": self.data[index]}

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.tick()

    model = build()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS,
            max_steps=steps,
            bf16=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=Rows(), callbacks=[Ticks()]).train()
    return clock.report()


class Ticker(L.Callback):
    """A Lightning callback that notes the end of each step."""

    clock: Clock

    def on_fit_start(self, *_: object) -> None:
        """Count memory from the built model."""
        Ticker.clock = Clock()

    def on_train_batch_end(self, *_: object) -> None:
        """Note the end of a step."""
        Ticker.clock.tick()


def ours(steps: int) -> dict[str, float]:
    """Time a run as users start it, on rows of the same shape."""
    from ontogeny import compose, run

    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONTOGENY_HOME"] = f"{folder}/home"
        text = Path(folder) / "text.txt"
        words = rows(ROWS * (steps + 2)).tolist()
        text.write_text("\n".join(" ".join(map(str, row)) for row in words))
        sizes = [f"model.config.{name}={value}" for name, value in CONFIG.items()]
        config = compose(
            [
                "model=llama_tiny",
                *(size.lower() for size in sizes),
                f"data.path={text}",
                "data.text_unit=document",
                "data.validation.share=0",
                f"data.max_length={LENGTH}",
                f"data.batch_size={ROWS}",
                "tokenizer.vocab_size=1000",
                f"trainer.max_steps={steps}",
                "trainer.compile=true",
                "trainer.save_every_minutes=null",
                "precision=bf16-mixed",
                "preflight=off",
                "evaluator=[]",
                "stage.sample_tokens=0",
            ]
        )
        stage = next(iter(config.stages.values()))
        stage.callbacks = {"ticker": {"_target_": f"{__name__}.Ticker"}}
        run(config, f"{folder}/run")
    return Ticker.clock.report()


if __name__ == "__main__":
    sys.modules["throughput"] = sys.modules["__main__"]
    __name__ = "throughput"
    ways = {"ours": ours, "loop": loop, "transformers": transformers}
    print(json.dumps(ways[sys.argv[1]](int(sys.argv[2]))))
