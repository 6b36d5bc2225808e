"""Starting LoRA from the first batches of a run: EVA, CorDA and LoRA-GA."""
# B rows, T tokens, N tokens that count, D width

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import initialize_lora_eva_weights
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor

from ontogeny.errors import ConfigError
from ontogeny.objective import IGNORED
from ontogeny.vocabulary_loss import vocabulary_loss
from ontogeny_plugins.lora.forward import arguments, computed
from ontogeny_plugins.lora.injection import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ontogeny.objective import Batch
    from ontogeny_plugins.lora.injection import Injection

PASSES = 50  # over the batches, after which EVA's components are taken not to settle


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Raise ConfigError, in one line, for what PEFT refuses."""
    try:
        with quiet():
            yield
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{what}: PEFT refuses: {' '.join(str(error).split())}") from error


def require_tokens(what: str, batches: Sequence[Batch]) -> None:
    """Raise ConfigError where there are no batches, or none that one model is run on."""
    if not batches or "input_ids" not in batches[0]:
        held = ", ".join(batches[0]) if batches else "nothing"
        raise ConfigError(f"{what} starts from batches with input_ids; those of this run: {held}")


def eva(key: str, injection: Injection, name: str, batches: Sequence[Batch]) -> None:
    """Set A to the main directions of what each layer is given (Paischer et al., 2024).

    Ranks move to the layers where they explain most. Raises ConfigError where the batches are too
    small for the components that are looked for, or the components do not settle.
    """
    config = cast("Any", injection.config(name))
    components = round(config.r * config.eva_config.rho)
    fewest = min(int(_counted(batch).sum()) for batch in batches)
    if fewest < components:
        raise ConfigError(
            f"{key}=eva looks for {components} components (r · rho) in each batch, but one has "
            f"only {fewest} labelled tokens: raise data.batch_size, or lower r or "
            f"options.eva_config.rho"
        )
    runs = _Runs(key, PASSES * len(batches))
    with _refusals(f"{key}=eva"), injection.active([name]):
        initialize_lora_eva_weights(
            injection.handle,
            dataloader=batches,
            forward_fn=runs.forward,
            prepare_model_inputs_fn=lambda batch, _: _counted(batch),
            prepare_layer_inputs_fn=_layer_inputs,
            adapter_name=name,
            gather_distributed_inputs=False,  # every rank is given the same batches
            show_progress_bar=False,
        )


class _Runs:
    """Counts forward passes: EVA goes round the batches until its components settle."""

    def __init__(self, key: str, limit: int) -> None:
        self.key, self.left = key, limit

    def forward(self, handle: Any, batch: Batch) -> object:
        if self.left == 0:
            raise ConfigError(
                f"{self.key}=eva: the components have not settled after {PASSES} passes over the "
                f"batches: raise init_batches, or lower options.eva_config.tau"
            )
        self.left -= 1
        return computed(handle.get_base_model(), batch)


def _counted(batch: Batch) -> Tensor:
    """Return which tokens count: those with a label, where tokens have labels; [B, T]."""
    ids_BT = batch["input_ids"]
    labels = batch.get("labels")
    if labels is not None and labels.shape == ids_BT.shape:
        return labels != IGNORED
    return batch.get("attention_mask", torch.ones_like(ids_BT)).bool()


def _layer_inputs(given: Any, counted_BT: Tensor, name: str) -> Tensor:
    """Return what a layer was given for the tokens that count, [N, D]."""
    del name
    states = cast("Tensor", given[0] if isinstance(given, tuple | list) else given)
    if states.shape[:-1] == counted_BT.shape:
        return states[counted_BT]
    return states.reshape(-1, states.shape[-1])


def corda(key: str, model: PreTrainedModel, config: Any, batches: Sequence[Batch]) -> None:
    """Split the weights by the covariance of what each layer is given (Yang et al., 2024)."""

    def run() -> None:
        for batch in batches:
            for row in range(len(batch["input_ids"])):  # PEFT takes one at a time
                alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
                computed(model, alone)

    training = model.training
    model.eval()
    with torch.no_grad(), _refusals(f"{key}=corda"):
        preprocess_corda(model, config, run_model=run)
    cast("nn.Module", model).train(training)


def lora_ga(key: str, model: PreTrainedModel, config: Any, batches: Sequence[Batch]) -> None:
    """Split the first gradients of the weights (Wang et al., 2024); for language models."""
    if "labels" not in batches[0] or batches[0]["labels"].shape != batches[0]["input_ids"].shape:
        raise ConfigError(f"{key}=lora_ga needs a label for each token; take pissa or eva")

    def step() -> None:
        for batch in batches:
            labels_BT = batch["labels"]
            total = vocabulary_loss(model, arguments(model, batch), labels_BT)
            (total / (labels_BT != IGNORED).sum()).backward()

    with _refusals(f"{key}=lora_ga"):
        preprocess_loraga(model, config, step)
