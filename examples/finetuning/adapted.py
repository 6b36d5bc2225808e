"""Adapt a model to a domain, then fine-tune it on few labels: against no and a wrong adaptation.

    make demo
    python examples/finetuning/adapted.py outputs/…/stages/pretrain/checkpoint

As Gururangan et al. (2020) did at scale. The domain is the natural world, in which the labels lie
too; the wrong one, of the same size, is the code of Python's standard library. Terms of the test
rows stand in neither. Each adaptation is one run; every seed fine-tunes on rows of its own.

Raises AssertionError unless the right adaptation helps (95 % interval of the mean over seeds) and
more than the wrong one, and the wrong one does not.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import random
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean, stdev

from ontogeny import compose, run

SHIPPED = "ontogeny_plugins.demo"
SEEDS = (0, 1, 2, 3, 4)
STUDENT = 2.776  # the 97.5 % quantile of Student's t with 4 degrees of freedom
LABELS = 30  # rows of each class
FOLDER = Path("outputs/adapted")
TEST = f"pkg://{SHIPPED}/data/domain_classification_test.jsonl.gz"
ADAPTATION = [
    "stage=continued_pretraining",
    "data.validation.share=0.02",
    "data.max_length=256",
    "optimizer.lr=1e-3",
    "trainer.max_steps=500",
    "stage.sample_tokens=0",
    "evaluator=[]",
]
FINETUNING = [
    "stage=finetuning",
    f"data.validation.path={TEST}",
    "optimizer.lr=1e-3",
    "trainer.max_epochs=20",
    "head.pooling=mean",
    "evaluator.classification.resamples=10",
]


def shipped_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a shipped file."""
    packed = files(SHIPPED).joinpath(f"data/{name}.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def write(name: str, rows: Iterable[dict[str, str]]) -> Path:
    """Write rows to a file in the folder of this example."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def standard_library() -> Iterator[str]:
    """Yield the modules of Python's standard library as code without comments."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield ast.unparse(ast.parse(file.read_text(encoding="utf-8")))


def texts_of_one_size() -> dict[str, Path]:
    """Write the text of the right and of the wrong domain, as many bytes of each."""
    found = {
        "domain": [row["text"] for row in shipped_rows("domain")],
        "wrong": list(standard_library()),
    }
    size = min(sum(len(text.encode()) for text in texts) for texts in found.values())
    written = {}
    for name, texts in found.items():
        random.Random(0).shuffle(texts)
        ends = [sum(len(text.encode()) for text in texts[: end + 1]) for end in range(len(texts))]
        kept = texts[: sum(end <= size for end in ends)]
        written[name] = write(name, ({"text": text} for text in kept))
    return written


def few_labels(seed: int) -> Path:
    """Write as many labelled rows of each class, drawn for a seed."""
    rows = shipped_rows("domain_classification")
    random.Random(seed).shuffle(rows)
    kept: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        kept.setdefault(row["label"], []).append(row)
    return write(f"labels-{seed}", (row for each in kept.values() for row in each[:LABELS]))


def adapted(checkpoint: str, text: Path) -> str:
    """Return the checkpoint of a model after continued pre-training on a text."""
    overrides = [f"model.source={checkpoint}", f"data.path={text}", "seed=0"]
    result = run(compose([*ADAPTATION, *overrides]), FOLDER / text.stem)
    return str(result.checkpoint)


def accuracy(checkpoint: str, seed: int, name: str) -> float:
    """Return the accuracy on the test rows after fine-tuning on few labels."""
    overrides = [f"model.source={checkpoint}", f"data.path={few_labels(seed)}", f"seed={seed}"]
    result = run(compose([*FINETUNING, *overrides]), FOLDER / f"finetuned-{name}-{seed}")
    return result.metrics["finetuning"]["classification"]["accuracy"].value


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % interval."""
    half = STUDENT * stdev(differences) / math.sqrt(len(differences))
    return mean(differences), mean(differences) - half, mean(differences) + half


def main(checkpoint: str) -> None:
    """Print a line for each seed and for each comparison, and check the claims."""
    adaptations = {name: adapted(checkpoint, text) for name, text in texts_of_one_size().items()}
    starts = {"none": checkpoint, **adaptations}
    found: dict[str, list[float]] = {name: [] for name in starts}
    for seed in SEEDS:
        for name, start in starts.items():
            found[name].append(accuracy(start, seed, name))
        print(
            f"seed {seed}: " + ", ".join(f"{name} {each[-1]:.3f}" for name, each in found.items())
        )
    print("mean: " + ", ".join(f"{name} {mean(each):.3f}" for name, each in found.items()))
    gains = {}
    for better, worse in (("domain", "none"), ("wrong", "none"), ("domain", "wrong")):
        pairs = zip(found[better], found[worse], strict=True)
        gains[better, worse] = interval([one - other for one, other in pairs])
        value, low, high = gains[better, worse]
        print(f"{better} - {worse}: {value:+.3f} ({low:+.3f} to {high:+.3f})")
    assert gains["domain", "none"][1] > 0
    assert gains["domain", "wrong"][1] > 0
    assert gains["wrong", "none"][1] <= 0


if __name__ == "__main__":
    main(sys.argv[1])
