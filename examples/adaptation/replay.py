"""Show that replay saves what continued pre-training would forget: three seeds, with and without.

    make demo
    python examples/adaptation/replay.py outputs/…/stages/pretrain/checkpoint

Raises AssertionError if one of the claims does not hold.
"""

from __future__ import annotations

import sys
from statistics import mean

from ontogeny import compose, run

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.1)  # of the tokens, from the text that the model knows


def changes(checkpoint: str, share: float, seed: int) -> dict[str, float]:
    """Adapt a checkpoint; return what was gained and forgotten, by metric."""
    overrides = [
        "recipe=adaptation",
        f"model.source={checkpoint}",
        f"data.sources.domain.weight={1 - share}",
        f"data.sources.general.weight={share}",
        f"seed={seed}",
        "stage.sample_tokens=0",
    ]
    result = run(compose(overrides), f"outputs/replay-{share}-{seed}", lambda _: None)
    metrics = result.metrics["continued_pretraining"]["forgetting"]
    return {name: metric.value for name, metric in metrics.items()}


def main(checkpoint: str) -> None:
    """Print a line for each run, and check the claims."""
    forgotten: dict[float, list[float]] = {}
    for share in SHARES:
        for seed in SEEDS:
            found = changes(checkpoint, share, seed)
            gain, lost = found["gain/domain"], found["forgetting"]
            print(f"replay {share:.0%}, seed {seed}: domain -{gain:.1%}, general {lost:+.1%}")
            forgotten.setdefault(share, []).append(lost)
            assert gain > 0.15
    without, replayed = (mean(forgotten[share]) for share in SHARES)
    print(f"forgotten: {without:.1%} without replay, {replayed:.1%} with {SHARES[1]:.0%} of it")
    assert replayed < without / 2


if __name__ == "__main__":
    main(sys.argv[1])
