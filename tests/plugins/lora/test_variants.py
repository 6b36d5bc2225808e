"""Named variants in YAML: each has its own key, and the options that its name promises."""

from __future__ import annotations

import pytest

from ontogeny import ConfigError, compose
from ontogeny.help import options_by_group
from ontogeny_plugins.lora import DATA_INITS, INITS, Lora, Peft
from ontogeny_plugins.lora.methods import METHODS

OF_LORA = {
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "lora_plus": {"b_lr_ratio": 16.0},
    **{
        name: {"init": name}
        for name in ("pissa", "olora", "mica", "loftq", "eva", "corda", "lora_ga")
    },
}


def test_every_variant_composes_under_its_own_name() -> None:
    names = sorted({*OF_LORA, *METHODS})
    composed = compose([f"adapter=[{','.join(names)}]"]).stages["pretraining"].adapter
    assert sorted(composed) == names
    for name, changes in OF_LORA.items():
        assert composed[name] == Lora(**changes)
    for name in METHODS:
        own: dict[str, list[str]] = {"target_modules": []} if name in {"ia3", "ln_tuning"} else {}
        assert composed[name] == Peft(method=name, **own)


def test_every_method_and_every_init_has_its_variant() -> None:
    offered = set(options_by_group()["adapter"])
    assert set(METHODS) <= offered
    assert {*INITS, *DATA_INITS} - {"default", "gaussian", "orthogonal"} <= offered


def test_a_variant_takes_the_options_of_what_it_is_built_on() -> None:
    overrides = ["adapter=[dora,vera]", "adapter.dora.r=4", "adapter.vera.options.r=8"]
    composed = compose(overrides).stages["pretraining"].adapter
    assert composed == {
        "dora": Lora(dora=True, r=4),
        "vera": Peft(method="vera", options={"r": 8}),
    }


def test_a_variant_checks_its_options() -> None:
    with pytest.raises(ConfigError, match=r"no option adapter.dora.rr \(did you mean 'adapter.dor"):
        compose(["adapter=[dora]", "adapter.dora.rr=4"])


def test_the_method_of_peft_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"adapter.peft.method is not set"):
        compose(["adapter=[peft]"])
