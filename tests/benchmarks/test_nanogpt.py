"""nanoGPT's character-level recipe against a plain loop of the same settings."""
# B rows, T characters

from __future__ import annotations

import gzip
import json
import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from ontogeny import compose, run

STEPS, ROWS, LENGTH = 2000, 12, 64


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_character_recipe_agrees_with_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONTOGENY_HOME", str(tmp_path / "home"))
    packed = files("ontogeny_plugins.demo").joinpath("data/general.jsonl.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)
    border = int(0.9 * len(text))
    (tmp_path / "train.txt").write_text(text[:border])
    (tmp_path / "val.txt").write_text(text[border:])
    ours = _ours(tmp_path)
    plain = _plain_loop(text[:border], text[border:])
    print(f"validation loss: ours {ours:.4f}, plain loop {plain:.4f} nats per character")
    assert ours == pytest.approx(plain, abs=0.02)


def _ours(folder: Path) -> float:
    overrides = [
        "recipe=nanogpt_characters",
        f"data.path={folder}/train.txt",
        f"data.validation.path={folder}/val.txt",
        f"trainer.max_steps={STEPS}",
        "stage.sample_tokens=0",
        "precision=32-true",
        "seed=1",
    ]
    result = run(compose(overrides), folder / "run")
    return result.metrics["pretraining"]["perplexity"]["nats_per_token"].value


def _plain_loop(train: str, validation: str) -> float:
    """Train as nanoGPT's train.py does: random windows, AdamW, warm-up and cosine to a tenth."""
    alphabet = {letter: number for number, letter in enumerate(sorted(set(train + validation)))}
    data = torch.tensor([alphabet[letter] for letter in train])
    torch.manual_seed(1)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(alphabet), n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    ).train()  # fmt: skip
    decayed = [each for each in model.parameters() if each.dim() >= 2]
    plain = [each for each in model.parameters() if each.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step)
        starts = torch.randint(len(data) - LENGTH, (ROWS,))
        inputs_BT = torch.stack([data[start : start + LENGTH] for start in starts])
        targets_BT = torch.stack([data[start + 1 : start + LENGTH + 1] for start in starts])
        _loss(model, inputs_BT, targets_BT).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return _evaluate(model.eval(), torch.tensor([alphabet[letter] for letter in validation]))


def _learning_rate(step: int) -> float:
    if step < 100:
        return 1e-3 * (step + 1) / 101
    progress = (step - 100) / (STEPS - 100)
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * progress)) * 9e-4


def _loss(model: GPT2LMHeadModel, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    logits = model(inputs_BT).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())


@torch.no_grad()
def _evaluate(model: GPT2LMHeadModel, data: Tensor) -> float:
    """Return nats per character over all windows that do not overlap."""
    count = (len(data) - 1) // LENGTH
    inputs = data[: count * LENGTH].view(count, LENGTH)
    targets = data[1 : count * LENGTH + 1].view(count, LENGTH)
    losses = [_loss(model, inputs[i : i + 64], targets[i : i + 64]) for i in range(0, count, 64)]
    sizes = [len(inputs[i : i + 64]) for i in range(0, count, 64)]
    return sum(float(a) * b for a, b in zip(losses, sizes, strict=True)) / count
