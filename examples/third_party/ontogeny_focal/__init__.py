"""Objective `focal`: a loss that looks away from tokens which the model predicts well already.

This is the whole entry module of a plugin: options and hooks. It imports nothing heavy, since
every `ontogeny --help` imports it.
"""

from dataclasses import dataclass

from ontogeny import Component, ConfigError, hookimpl


@dataclass
class Focal:
    """Focal next-token loss, -Σ (1 - p)^γ log p (Lin et al., 2017)."""

    gamma: float = 2.0  # 0 is plain cross-entropy; the higher, the less easy tokens count

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not 0 <= self.gamma <= 100:
            message = f"objective.gamma is {self.gamma}; expected 0 <= gamma <= 100"
            raise ConfigError(message)


@hookimpl
def ontogeny_objectives() -> list[Component]:
    """Offer `focal`."""
    implementation = "ontogeny_focal.objective:FocalObjective"
    return [Component("focal", config=Focal, implementation=implementation)]


@hookimpl
def ontogeny_config_paths() -> list[str]:
    """Offer the named variants in `conf/`."""
    return ["pkg://ontogeny_focal.conf"]
