"""Drawing a subject that nobody taught: by a base model alone, and by IP-Adapter from its photos.

Both are told the prompts with the plain noun, "a dog on the beach".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.config import Config, load_config
from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import NumberedPrompt, Reference
from rpo.models.resolve import known_presets, resolve_model
from rpo.runs.environment import file_hash, model_files
from rpo.runs.meter import naming_exhausted_memory
from rpo.runs.pictures import as_pictures
from rpo.seeds import derive_seed

if TYPE_CHECKING:
    from rpo.models.backbone import Backbone
    from rpo.models.ip_adapter import IPAdapter


@dataclass(frozen=True)
class Untrained:
    """A loaded base model, the settings that it draws with, and an IP-Adapter if one was given."""

    config: Config
    path: Path
    backbone: Backbone
    adapter: IPAdapter | None = None

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the model's weights."""
        return _weights(self.path)

    def adapter_hashes(self) -> dict[str, str]:
        """SHA-256 of the adapter's weights and of its encoder's."""
        assert self.adapter is not None
        files = self.adapter.files
        encoder = {f"{files.encoder.name}/{k}": v for k, v in _weights(files.encoder).items()}
        return {files.weights.name: file_hash(files.weights), **encoder}


def _weights(path: Path) -> dict[str, str]:
    return {k: v for k, v in model_files(path).items() if k.endswith(".safetensors")}


def open_untrained(
    model: str,
    settings: Sequence[str] = (),
    device: str | None = None,
    ip_adapter: str | PathLike[str] | None = None,
    ip_adapter_scale: float | None = None,
) -> Untrained:
    """Loads a base model as `resolve_model` finds it, and the IP-Adapter that it is to draw with.

    settings: "sampling.steps=20" and the like, over the presets that suit the model. ip_adapter: a
    file or a folder as `rpo.models.ip_adapter.find_ip_adapter` reads it. Raises UserError.
    """
    from rpo.models.backbone import Backbone  # slow to import, and so is the adapter
    from rpo.models.ip_adapter import SCALE, AdapterFiles, IPAdapter, find_ip_adapter

    config = load_config(known=known_presets(), model=model, device=device, overrides=settings)
    scale = SCALE if ip_adapter_scale is None else ip_adapter_scale
    if not 0 <= scale <= 1:
        raise UserError(f"--ip-adapter-scale must be between 0 and 1, not {scale:g}")
    if ip_adapter is None and ip_adapter_scale is not None:
        raise UserError("--ip-adapter-scale is of --ip-adapter, which is missing")
    files: AdapterFiles | None = None if ip_adapter is None else find_ip_adapter(ip_adapter)
    if files and config.quantize != "no":
        raise UserError("--ip-adapter: not on a model in 8 or 4 bits; leave out --set quantize")
    path = resolve_model(model)
    backbone = Backbone.load(
        path,
        device=config.device,
        resolution=config.resolution,
        precision=config.precision,
        quantize=config.quantize,
        offload=config.offload,
    )
    return Untrained(config, path, backbone, IPAdapter(backbone, files, scale) if files else None)


def draw_untrained(
    model: Untrained,
    subject: Reference,
    prompts: Sequence[NumberedPrompt],
    images_per_prompt: int,
    on_picture: Callable[[int, int], None] | None = None,
    *,
    with_photos: bool = False,
) -> Drawn:
    """The base model draws a subject's test prompts; with_photos: by its IP-Adapter, which sees it.

    The first noise of picture k is of the stream (seed, "test", k), as of a run: so a run and the
    model that it began from begin every picture from the same noise. on_picture: called with
    (pictures done, in all).
    """
    config, backbone = model.config, model.backbone
    listed = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    texts = [prompt.plain(subject.noun) for prompt in listed]
    seeds = [derive_seed(config.seed, "test", k) for k in range(len(listed))]
    with ExitStack() as stack:
        stack.enter_context(naming_exhausted_memory())
        negative: Any = None
        if with_photos:
            assert model.adapter is not None
            stack.enter_context(model.adapter.attached())
            conditions, negative = model.adapter.encode(texts, subject.photos)
        else:
            conditions = backbone.encode_prompts(texts)
            if backbone.family.classifier_free:
                backbone.unconditional()  # before the denoiser is there, where that is offloaded
        pictures = _drawn(model, conditions, negative, seeds, on_picture)
    numbers = [k % images_per_prompt + 1 for k in range(len(listed))]
    return Drawn(subject, tuple(as_pictures(pictures)), tuple(listed), tuple(numbers))


def _drawn(
    model: Untrained,
    conditions: Any,
    negative: Any,
    seeds: Sequence[int],
    on_picture: Callable[[int, int], None] | None,
) -> Any:
    """(N, 3, H, W) in [0, 1]."""
    from rpo.events import Progress
    from rpo.models.pictures import draw_pictures

    backbone, sampling = model.backbone, model.config.sampling
    drawing = draw_pictures(
        backbone, backbone.denoiser, conditions, seeds, sampling, "sampling", negative=negative
    )
    while True:
        try:
            event = next(drawing)
        except StopIteration as end:
            return end.value[1]
        if on_picture and isinstance(event, Progress):
            on_picture(event.done, event.total)
