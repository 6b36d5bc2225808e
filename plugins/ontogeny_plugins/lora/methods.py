"""What the methods of PEFT are, beside LoRA: how each one starts, and which are not offered."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as OF_IA3

from ontogeny.errors import ConfigError
from ontogeny.spelling import suggestion
from ontogeny_plugins.lora.targets import is_linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftConfig
    from transformers import PreTrainedModel

# Whether a new adapter leaves the outputs alone: bit for bit, up to rounding, or not at all.
Start = Literal["exact", "close", "moved"]


@dataclass(frozen=True)
class Method:
    """A method of PEFT, by the name of its configuration there."""

    title: str
    start: Start = "exact"
    ranked: bool = False  # whether `r` is a rank that no layer may be narrower than
    package: str | None = None  # that it needs beside PEFT


METHODS: dict[str, Method] = {
    "adamss": Method("AdaMSS: subspaces of the weights", "close", package="sklearn"),
    "beft": Method("BEFT: biases alone"),
    "boft": Method("BOFT: orthogonal butterfly factors (Liu et al., 2023)"),
    "c3a": Method("C³A: circular convolution (Chen et al., 2024)", "moved"),
    "deft": Method("DEFT: decomposition of the update", "close", ranked=True),
    "delora": Method("DeLoRA: angle and strength apart (Bini et al., 2025)", ranked=True),
    "fourierft": Method("FourierFT: few frequencies (Gao et al., 2024)", "moved"),
    "frod": Method("FRoD: joint decomposition, sparse rotation", "close"),
    "glora": Method("GLoRA: weights, inputs and biases together (Chavan et al., 2023)"),
    "gralora": Method("GraLoRA: one LoRA for each block of a matrix (2025)"),
    "hira": Method("HiRA: Hadamard product with the weights (2025)", ranked=True),
    "hra": Method("HRA: Householder reflections (Yuan et al., 2024)", "close", ranked=True),
    "ia3": Method("(IA)³: one factor for each feature (Liu et al., 2022)"),
    "lily": Method("Lily: shared low-rank experts"),
    "ln_tuning": Method("layer norms alone (Zhao et al., 2023)"),
    "loha": Method("LoHa: Hadamard product of two low-rank matrices (2021)", ranked=True),
    "lokr": Method("LoKr: Kronecker product (Yeh et al., 2023)"),
    "miss": Method("MiSS, once Bone: shards that share one matrix (Kang & Yin, 2024)"),
    "oft": Method("OFT: orthogonal blocks (Qiu et al., 2023)"),
    "osf": Method("OSF: orthogonal subspaces for continual learning (2025)", "close"),
    "peanut": Method("PEANuT: a small network of the weights"),
    "psoft": Method("PSOFT: orthogonal within the principal subspace (2025)", ranked=True),
    "pvera": Method("PVeRA: VeRA with sampled vectors"),
    "randlora": Method("RandLoRA: full rank of fixed random bases (Albert et al., 2025)"),
    "road": Method("RoAd: rotations in planes (Liao & Monz, 2024)"),
    "shira": Method("SHiRA: a sparse set of the weights (Bhardwaj et al., 2024)"),
    "supertuning": Method("SuperTuning: a sparse set chosen by size"),
    "tinylora": Method("TinyLoRA: a few shared numbers"),
    "unilora": Method("Uni-LoRA: one vector for all layers (2025)", "moved"),
    "vblora": Method("VB-LoRA: a bank of shared vectors (Li et al., 2024)", "moved"),
    "vera": Method("VeRA: shared random matrices, trained scales (Kopiczko et al., 2024)"),
    "waveft": Method("WaveFT: few wavelet coefficients (2025)"),
}

_PROMPTS = "it puts virtual tokens in front of a prompt, which packed rows and aligned labels lack"
REFUSED: dict[str, str] = {
    "lora": "it is an adapter of its own: adapter=[lora]",
    "adalora": "it is an adapter of its own: adapter=[adalora]",
    "trainable_tokens": "adapter=[vocabulary] trains chosen rows of the embeddings",
    "xlora": "it mixes adapters that were trained before",
    "poly": "it needs the number of its task in every row",
    "shadow": "its extra states do not pass through a model that is adapted in place",
    **dict.fromkeys(
        (
            *("adaption_prompt", "cartridge", "cpt", "multitask_prompt_tuning"),
            *("p_tuning", "prefix_tuning", "prompt_tuning"),
        ),
        _PROMPTS,
    ),
}


def require_method(name: str) -> Method:
    """Return a method by its name; raise ConfigError for one that does not exist or is refused."""
    if name in REFUSED:
        msg = f"adapter.peft.method is {name!r}, which is not offered: {REFUSED[name]}"
        raise ConfigError(msg)
    if name not in METHODS:
        msg = (
            f"adapter.peft.method is {name!r}, which PEFT lacks{suggestion(name, METHODS)}; "
            f"known: {', '.join(METHODS)}"
        )
        raise ConfigError(msg)
    return METHODS[name]


def require_known(key: str, model: PreTrainedModel, config: PeftConfig) -> None:
    """Raise ConfigError for a family of which PEFT's own choice of layers knows nothing."""
    family = model.config.model_type
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    if family not in getattr(tuner, "target_module_mapping", OF_IA3):  # its tuner names none
        ends = {name.rpartition(".")[2] for name, each in model.named_modules() if is_linear(each)}
        msg = (
            f"{key}.target_modules is [], PEFT's own choice, and PEFT has none for {family} "
            f"models: name layers of {type(model).__name__}, such as {', '.join(sorted(ends))}"
        )
        raise ConfigError(msg)


# Fields of every configuration of PEFT that are not the user's to set.
_INTERNAL = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "runtime_config", "megatron_config", "megatron_core"),
    *("fan_in_fan_out", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "layer_replication"),
}
_WITH_REASONS = {
    "modules_to_save": "name the modules in train_also",
    "trainable_token_indices": "adapter=[vocabulary] trains chosen rows of the embeddings",
    "arrow_config": "it mixes adapters that were trained before",
    "alora_invocation_tokens": "PEFT's own wrapper of the model must run, and it does not here",
    "kasa_config": "its loss has terms of its own, which are not added here",
    "monteclora_config": "its loss has terms of its own, which are not added here",
}


def check_options(
    key: str, config: type, options: Mapping[str, object], taken: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError for an option that a configuration of PEFT lacks, or that is not offered.

    `taken` are its fields that have options of their own in the adapter, with these.
    """
    taken = taken or {}
    known = [item.name for item in fields(config) if item.name not in {*_INTERNAL, *taken}]
    known = [name for name in known if name not in _WITH_REASONS]
    for name in options:
        if name in taken:
            msg = f"{key}.options.{name} has an option of its own: {key}.{taken[name]}"
            raise ConfigError(msg)
        if name in _WITH_REASONS and name in {item.name for item in fields(config)}:
            msg = f"{key}.options.{name} is not offered: {_WITH_REASONS[name]}"
            raise ConfigError(msg)
        if name not in known:
            msg = (
                f"no option {key}.options.{name}{suggestion(name, known)}; {config.__name__} of "
                f"PEFT has {', '.join(known)}"
            )
            raise ConfigError(msg)


def has_field(config: type, name: str) -> bool:
    """Say whether a configuration of PEFT has a field."""
    return any(item.name == name for item in fields(config))


def default_of(config: type, name: str) -> object:
    """Return the default of a field of a configuration of PEFT."""
    item: Field[Any] = next(item for item in fields(config) if item.name == name)
    return cast("object", None if item.default is MISSING else item.default)
