"""Adapter `peft`: a method of PEFT by its name, with the options that PEFT knows it by."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ontogeny.errors import ConfigError
from ontogeny_plugins.lora.adapter import PeftAdapter
from ontogeny_plugins.lora.methods import check_options, default_of, has_field, require_method
from ontogeny_plugins.lora.targets import Layer, require_rank

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from ontogeny_plugins.lora import Peft

ROUNDING = 1e-4  # relative, of methods that compute the weights anew


class MethodAdapter(PeftAdapter):
    """Any method of PEFT that changes layers."""

    def __init__(self, config: Peft) -> None:
        super().__init__(f"adapter.{config.method}", config)  # as its named variant is called
        self.method = require_method(config.method)
        if self.method.package is not None and find_spec(self.method.package) is None:
            raise ConfigError(
                f"adapter.peft.method is {config.method!r}, which needs {self.method.package}: "
                f"install it, or choose another method"
            )
        self.kind: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[config.method.upper()]]
        self.options = dict(config.options)
        check_options(self.key, self.kind, self.options)
        self.keeps_function = self.method.start != "moved"
        self.tolerance = 0.0 if self.method.start == "exact" else ROUNDING

    def check_layers(self, layers: list[Layer]) -> None:
        """Refuse ranks above the width of a layer."""
        if self.method.ranked:
            rank = self.options.get("r", default_of(self.kind, "r"))
            require_rank(f"{self.key}.options.r", rank, layers)

    def configuration(self, model: PreTrainedModel, targets: list[str] | None) -> PeftConfig:
        """Return the method's configuration."""
        del model
        options = dict(self.options)
        if has_field(self.kind, "progressbar"):
            options.setdefault("progressbar", False)
        return self.configured(self.kind, targets, **options)
