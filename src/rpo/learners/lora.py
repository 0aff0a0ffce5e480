"""Low-rank adapters of a denoiser: LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353), by peft.

The adapted denoiser is a second set of modules around the base's own tensors. So the base itself,
untouched, is the reference model of the preference loss, and no weight is held twice.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rpo.config import Config, LoraConfig
from rpo.errors import UserError
from rpo.exports.lora_file import read_adapter
from rpo.exports.lora_names import ADAPTER_FILE, obstacle
from rpo.learners.learner import Learner
from rpo.learners.sharing import sharing_copy, snapshot_of
from rpo.models.backbone import Backbone
from rpo.quiet import quiet
from rpo.seeds import derive_seed

NAME = "default"  # of the adapter within the denoiser
# The attention projections as diffusers names them; the second row is that of the transformers
# which let pictures and words attend to each other.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def is_adapted(denoiser: nn.Module) -> bool:
    """Whether `denoiser` carries an adapter."""
    return bool(getattr(denoiser, "peft_config", None))


def adapted(base: nn.Module, settings: LoraConfig, *, dora: bool, seed: int) -> nn.Module:
    """`base` with a new adapter that changes nothing yet; only the adapter learns, in float32.

    seed: decides the adapter's first, random half. Raises UserError where no layer, or not every
    layer asked for, is there.
    """
    denoiser: Any = sharing_copy(base)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "adapter"))
        try:
            denoiser.add_adapter(_peft_config(base, settings, dora))
        except ValueError as error:  # a layer that is no linear map or convolution
            raise UserError(
                f"lora.targets '{settings.targets}' names layers that can have no adapter; "
                "use auto, or name linear layers and convolutions"
            ) from error
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return denoiser.eval()


def _peft_config(base: nn.Module, settings: LoraConfig, dora: bool) -> Any:
    """peft's configuration of a new adapter."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type] # a float does as well
        target_modules=list(find_targets(base, settings.targets)),
        use_dora=dora,
    )


def refuse_unfit(file: Path, base: nn.Module, settings: LoraConfig, *, dora: bool) -> None:
    """Raises UserError unless the file holds an adapter of `base` that was made by these settings.

    peft takes from a file's configuration which code it runs: it must be the one it had here.
    """
    adapter = read_adapter(file)
    remedy = "put the file back, or start a new run"
    expected = _peft_config(base, settings, dora).to_dict()
    for key, value in adapter.config.items():
        own = expected.get(key, value)
        if isinstance(own, set | list | tuple):
            own, value = sorted(own), sorted(value) if isinstance(value, list) else value
        if key not in ("peft_version", "peft_type", "inference_mode") and own != value:
            raise UserError(f"{file}: its {key} is not the one of the run's settings; {remedy}")
    modules = dict(base.named_modules())
    layers = find_layers(base, settings.targets)
    if strange := sorted(set(layers) ^ set(adapter.layers)):
        what = "lacks the layer" if strange[0] in layers else "holds a layer of another model,"
        raise UserError(f"{file}: {what} {strange[0]}; {remedy}")
    for name, layer in adapter.layers.items():
        module: Any = modules[name]
        if isinstance(module, nn.Conv2d):
            shape = (module.out_channels, module.in_channels)
        else:
            shape = (module.out_features, module.in_features)
        found = (layer.up.shape[0], layer.down.shape[1])
        if found != shape or layer.rank != settings.rank:
            raise UserError(
                f"{file}: {name} is of rank {layer.rank} for {found}, not {settings.rank} for "
                f"{shape}; {remedy}"
            )
        if (layer.magnitude is not None) != dora:
            raise UserError(f"{file}: {name} is {'no ' if dora else 'a '}DoRA; {remedy}")


def find_layers(base: nn.Module, wanted: str) -> list[str]:
    """The names of the layers that `lora.targets` means. Raises UserError as `find_targets`."""
    ends = tuple(f".{end}" for end in find_targets(base, wanted))
    return [name for name in _adaptable(base) if f".{name}".endswith(ends)]


def _adaptable(base: nn.Module) -> list[str]:
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, module in base.named_modules() if isinstance(module, kinds)]


def find_targets(base: nn.Module, wanted: str) -> tuple[str, ...]:
    """The ends of layer names to adapt, all of them found in `base`. Raises UserError."""
    layers = _adaptable(base)

    def is_there(end: str) -> bool:
        return any(f".{name}".endswith(f".{end}") for name in layers)

    if wanted == "auto":
        return tuple(end for end in (*ATTENTION, *JOINT_ATTENTION) if is_there(end))
    ends = tuple(dict.fromkeys(end.strip() for end in wanted.split(",")))
    for end in ends:
        if not is_there(end):
            known = sorted({name.removesuffix(".0").rsplit(".", 1)[-1] for name in layers})
            near = difflib.get_close_matches(end, known, 6, cutoff=0.2)
            near = near or [name for name in ATTENTION if is_there(name)]
            raise UserError(
                f"lora.targets: no layer of this model is named {end}; use auto, or such as "
                f"{', '.join(near or known[:6])}"
            )
    return ends


def export_remarks(backbone: Backbone, config: Config) -> list[str]:
    """Which exports will refuse the adapter that is to be trained, and why; a sentence each."""
    weights, targets = config.training.weights, config.lora.targets
    base, pipeline = backbone.denoiser, type(backbone.family.pipeline).__name__
    layers = find_layers(base, targets)
    dora, depth = layers if weights == "dora" else [], base.config.get("layers_per_block", 2)
    formats: dict[str, list[str]] = {}  # by the reason
    for to in ("kohya", "comfyui"):
        formats.setdefault(obstacle(to, pipeline, layers, dora, depth), []).append(f"--to {to}")
    return [
        f"lora.targets {targets} with training.weights {weights} cannot be exported "
        f"{' or '.join(refused)}: {reason}"
        for reason, refused in formats.items()
        if reason
    ]


def adapter_weights(denoiser: Any) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names.

    diffusers has older ones for a U-Net's attention, and loads only half of a file with both.
    """
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(denoiser, adapter_name=NAME)


def save_adapter(pipeline: Any, part: str, denoiser: Any, folder: Path) -> None:
    """Writes folder/`ADAPTER_FILE` as diffusers does; part: the denoiser's name in the pipeline."""
    about = denoiser.peft_config[NAME].to_dict()
    about["target_modules"] = sorted(about["target_modules"])  # a set has no order of its own
    with quiet():
        type(pipeline).save_lora_weights(
            folder,
            **{
                f"{part}_lora_layers": adapter_weights(denoiser),
                f"{part}_lora_adapter_metadata": about,
            },
            weight_name=ADAPTER_FILE,
            safe_serialization=True,
        )
    _sort_header(folder / ADAPTER_FILE)


def _sort_header(file: Path) -> None:
    """Puts a safetensors file's metadata in order, which is random as it is written.

    The format is 8 bytes with the header's length, a JSON header, and the tensors.
    """
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= length, "sorting makes nothing longer"
    file.write_bytes(content[:8] + text.ljust(length) + content[8 + length :])


class Lora(Learner):
    """The base's own tensors with a low-rank adapter; what it saves is the adapter alone."""

    dora: ClassVar[bool] = False

    @classmethod
    def refuse(cls, backbone: Backbone, config: Config) -> None:
        find_targets(backbone.denoiser, config.lora.targets)

    @classmethod
    def remarks(cls, backbone: Backbone, config: Config) -> list[str]:
        return export_remarks(backbone, config)

    def build(self) -> nn.Module:
        settings, seed = self.config.lora, self.config.seed
        return adapted(self.backbone.denoiser, settings, dora=self.dora, seed=seed)

    def snapshot(self) -> Callable[[Path], None]:
        family = self.backbone.family
        return partial(
            save_adapter, family.pipeline, family.denoiser_name, snapshot_of(self.denoiser)
        )

    def load(self, folder: Path) -> nn.Module:
        """The base denoiser with the adapter on it."""
        file, settings = folder / ADAPTER_FILE, self.config.lora
        refuse_unfit(file, self.backbone.denoiser, settings, dora=self.dora)
        return self.backbone.load_adapter(folder, ADAPTER_FILE)


class Dora(Lora):
    """A LoRA whose matrices' norms learn apart (arXiv 2402.09353)."""

    dora = True
