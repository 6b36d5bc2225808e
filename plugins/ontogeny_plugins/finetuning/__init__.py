"""Stage `finetuning`: a checkpoint learns a task from labelled rows."""

from dataclasses import dataclass

from ontogeny import Component, hookimpl


@dataclass
class Finetuning:
    """Fine-tuning on labelled rows: backbone and head learn a task (Devlin et al., 2019)."""


@hookimpl
def ontogeny_stages() -> list[Component]:
    """Offer `finetuning`."""
    implementation = "ontogeny_plugins.finetuning.stage:FinetuningStage"
    return [Component("finetuning", config=Finetuning, implementation=implementation)]
