"""TRL's DPOTrainer and KTOTrainer as oracles: the same losses on the same batch and weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.preference.conftest import PAIRS, batch_of, small_llama

from ontogeny.objective import Row
from ontogeny_plugins.preference import DPO, KTO
from ontogeny_plugins.preference.dpo import DPOObjective
from ontogeny_plugins.preference.kto import KTOObjective

pytestmark = pytest.mark.slow

# What TRL calls it, and what we do.
LOSSES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"loss_types": ["sigmoid"]}, {}),
    ({"loss_types": ["hinge"]}, {"loss": "hinge"}),
    ({"loss_types": ["ipo"]}, {"loss": "ipo"}),
    (
        {"loss_types": ["robust"], "label_smoothing": 0.1},
        {"loss": "robust", "label_smoothing": 0.1},
    ),
    ({"loss_types": ["exo_pair"], "label_smoothing": 0.1}, {"loss": "exo", "label_smoothing": 0.1}),
    ({"loss_types": ["nca_pair"]}, {"loss": "nca"}),
    ({"loss_types": ["bco_pair"]}, {"loss": "bco"}),
    ({"loss_types": ["sppo_hard"]}, {"loss": "sppo_hard"}),
    ({"loss_types": ["aot"]}, {"loss": "aot"}),
    ({"loss_types": ["aot_unpaired"]}, {"loss": "aot_unpaired"}),
    ({"loss_types": ["apo_zero"]}, {"loss": "apo_zero"}),
    ({"loss_types": ["apo_down"]}, {"loss": "apo_down"}),
    ({"loss_types": ["discopop"]}, {"loss": "discopop"}),
    ({"loss_types": ["sigmoid_norm"]}, {"loss": "sigmoid_norm"}),
    (
        {"loss_types": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
        {"weight": 0.8, "mix": {"bco": 0.2}},
    ),
    ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    ({"f_divergence_type": "js_divergence"}, {"divergence": "js"}),
    (
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        {"divergence": "alpha", "alpha": 0.3},
    ),
    ({"use_weighting": True}, {"wpo": True}),
    ({"ld_alpha": 0.3}, {"ld_alpha": 0.3}),
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and its dependencies
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

        arguments = DPOConfig(
            str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=len(PAIRS),
            report_to=[],
            use_cpu=True,
            bf16=False,
            beta=0.3,
            use_weighting=True,  # else the model is not made to tell what it needs
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        return DPOTrainer(
            small_llama(1),
            small_llama(2),
            arguments,
            train_dataset=Dataset.from_list([dict(row) for row in PAIRS]),
            processing_class=bare_tokenizer(),
        )


def rows_of(trainer: Any) -> Any:
    """Return the rows that a trainer of TRL has prepared."""
    return trainer.train_dataset


def bare_tokenizer() -> Any:
    from ontogeny.testing import byte_tokenizer

    made = byte_tokenizer()
    made.chat_template = None
    return made


@pytest.mark.parametrize(("theirs", "ours"), LOSSES)
def test_losses_are_those_of_trl(
    theirs: dict[str, Any], ours: dict[str, Any], trainer: Any
) -> None:
    defaults = {
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "ld_alpha": None,
    }
    for name, value in {**defaults, **theirs}.items():
        setattr(trainer, name, value)
    batch = trainer.data_collator([rows_of(trainer)[row] for row in range(len(PAIRS))])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = float(trainer.compute_loss(trainer.model.eval(), dict(batch)))
    objective = DPOObjective(DPO(beta=0.3, **ours))
    made = batch_of(objective, [dict(row) for row in PAIRS], bare_tokenizer(), small_llama(2))
    with torch.no_grad():
        loss = objective.loss(small_llama(1), made)
    assert float(loss.total / loss.weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("baseline", ["batch", "zero"])
def test_kto_is_that_of_trl(baseline: str, tmp_path: Path) -> None:
    rows: list[Row] = [
        {"prompt": "What is a river? ", "completion": "Water that runs.", "label": True},
        {"prompt": "Why? ", "completion": "Because it was so.", "label": False},
        {"prompt": "Name a bird, any bird: ", "completion": "owl", "label": True},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from trl import KTOConfig, KTOTrainer  # type: ignore[attr-defined]

        arguments = KTOConfig(
            str(tmp_path),
            per_device_train_batch_size=len(rows),
            report_to=[],
            use_cpu=True,
            bf16=False,
            beta=0.3,
            loss_type="kto" if baseline == "batch" else "apo_zero_unpaired",
            desirable_weight=1.2,
            undesirable_weight=0.7,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        trainer = KTOTrainer(
            small_llama(1),
            small_llama(2),
            arguments,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=bare_tokenizer(),
        )
        # They pair each answer with the prompt after it, we with the one before: turn the order.
        given = [rows_of(trainer)[row] for row in range(len(rows))]
        with torch.no_grad():
            expected = float(
                trainer.compute_loss(trainer.model.eval(), trainer.data_collator(given))
            )
    objective = KTOObjective(
        KTO(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7, baseline=baseline)
    )
    objective.reference.model = small_llama(2)
    examples = list(objective.prepare(list(reversed(rows)), bare_tokenizer()))
    with torch.no_grad():
        loss = objective.loss(small_llama(1), objective.collate(examples))
    assert float(loss.total / loss.weight) == pytest.approx(expected, rel=1e-5)
