"""IP-Adapter (arXiv 2308.06721): photos stand beside the prompt, and nothing learns.

Its weights give every cross-attention of a U-Net a second pair of keys and values, for tokens that
are made of a CLIP vision encoder's features. diffusers puts them in; `rpo.models.sampling` draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rpo.errors import UserError, printable
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.loading import FAILURES, load_component
from rpo.models.offload import awake
from rpo.quiet import quiet

SCALE = 0.5  # where text and photos are in balance, by diffusers' guide to IP-Adapter
ENCODER = "image_encoder"  # the published folder's name for it
_FETCH = (
    "`hf download h94/IP-Adapter --include models/ip-adapter_sd15.safetensors "
    f"--include models/{ENCODER}/config.json --include models/{ENCODER}/model.safetensors "
    "--local-dir ip-adapter` makes ip-adapter/models for Stable Diffusion 1.5"
)
_CONVERT = (
    "pickled files are refused, as they can run any program; take the .safetensors of that name, "
    "or convert it: state = torch.load(FILE, weights_only=True); save_file({f'{part}.{name}': "
    "tensor for part, own in state.items() for name, tensor in own.items()}, NEW)"
)


@dataclass(frozen=True)
class AdapterFiles:
    """The weights of an IP-Adapter, and the folder of the vision encoder that they read.

    width: of the features that they read; projected: these are the encoder's projected ones (the
    plain adapter), else its states before the last layer (the "plus" and "full face" ones).
    """

    weights: Path
    encoder: Path
    width: int
    projected: bool


def find_ip_adapter(place: str | PathLike[str]) -> AdapterFiles:
    """An adapter by its .safetensors file, or by the folder that holds no other one.

    Its encoder is the folder image_encoder beside it, as published. Raises UserError, with the
    remedy, for what is missing, pickled, or no IP-Adapter that reads pictures.
    """
    path, told = Path(expanduser(place)), f"--ip-adapter {printable(str(place))}"
    if not path.exists():
        raise UserError(f"{told}: no such file or folder; {_FETCH}")
    file = _only_file(path, told) if path.is_dir() else path
    if file.suffix != ".safetensors":  # by which diffusers chooses how to read it
        raise UserError(f"{told}: no .safetensors file; {_CONVERT}")
    try:
        with safe_open(file, framework="numpy") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{told}: not readable as safetensors ({error}); fetch the file again"
        ) from None
    width, projected = _reads(shapes, told)
    encoder = file.parent / ENCODER
    if not (encoder / "config.json").is_file() or not any(encoder.glob("*.safetensors")):
        pickled = any(encoder.glob("*.bin"))
        raise UserError(
            f"{encoder}: no config.json and .safetensors of the vision encoder in it; put there "
            "those of the encoder that the adapter was trained with"
            + (" (a pickled .bin is refused: load it and save_pretrained)" if pickled else "")
        )
    return AdapterFiles(file, encoder, width, projected)


def _only_file(folder: Path, told: str) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if not files and (pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])):
        raise UserError(f"{told}: only {printable(pickled[0].name)}; {_CONVERT}")
    if not files:
        raise UserError(f"{told}: holds no .safetensors file of an adapter; {_FETCH}")
    if len(files) > 1:
        names = ", ".join(printable(file.name) for file in files)
        raise UserError(f"{told}: holds {len(files)} adapters; name one of the files: {names}")
    return files[0]


def _reads(shapes: dict[str, tuple[int, ...]], told: str) -> tuple[int, bool]:
    """The width of the features that an adapter reads, and whether these are projected ones."""
    has_layers = any(name.startswith("ip_adapter.") for name in shapes)
    for name, projected in (
        ("proj.weight", True),
        ("proj_in.weight", False),  # "plus": a resampler
        ("proj.0.weight", False),  # "full face"; of "FaceID" too, which has another last layer
    ):
        shape = shapes.get(f"image_proj.{name}", ())
        face_id = name == "proj.0.weight" and "image_proj.proj.3.weight" not in shapes
        if has_layers and len(shape) == 2 and not face_id:
            return shape[1], projected
    what = "no IP-Adapter's weights"
    if has_layers and "image_proj.proj.0.weight" in shapes:
        what = "a FaceID adapter, which reads another library's vectors of faces"
    raise UserError(
        f"{told}: {what} (image_proj. and ip_adapter.); use a plain, plus or full-face adapter of "
        "Stable Diffusion 1.x, 2.x or XL"
    )


class IPAdapter:
    """An adapter for a backbone's U-Net, in place only while it is `attached`.

    Attributes:
        files: where it is from.
        scale: how much the photos say, 0 to 1.
    """

    def __init__(self, backbone: Backbone, files: AdapterFiles, scale: float = SCALE) -> None:
        """Loads it by diffusers' `load_ip_adapter`. UserError where it does not fit the model."""
        self.backbone, self.files, self.scale = backbone, files, scale
        told = f"--ip-adapter {printable(files.weights)}"
        pipeline = backbone.family.pipeline
        # diffusers' loaders for transformers read other files
        if backbone.family.denoiser_name != "unet" or not hasattr(pipeline, "load_ip_adapter"):
            raise UserError(
                f"{told}: the model is a {backbone.family.title}; IP-Adapter is for Stable "
                "Diffusion 1.x, 2.x and XL here"
            )
        self._encoder = self._load_encoder()
        from transformers import CLIPImageProcessorPil  # on every machine the same one

        size = self._encoder.config.image_size  # as diffusers has it, which reads no more of it
        processor = CLIPImageProcessorPil(size=size, crop_size=size)
        pipeline.register_modules(image_encoder=self._encoder, feature_extractor=processor)
        self._unet = pipeline.unet
        self._own = self._taken_off()
        try:
            with quiet():
                pipeline.load_ip_adapter(
                    str(files.weights.parent),
                    subfolder="",
                    weight_name=files.weights.name,
                    image_encoder_folder=None,
                    local_files_only=True,
                    low_cpu_mem_usage=False,  # which would pass over weights of another shape
                )
        except FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{told}: not for this model ({type(error).__name__}: {reason}); give the adapter "
                f"of a {backbone.family.title}"
            ) from None
        pipeline.set_ip_adapter_scale(scale)
        self._unet.eval().requires_grad_(False)
        self._put = self._taken_off()
        self._put_on(self._own)

    def _load_encoder(self) -> Any:
        folder, wanted = self.files.encoder, self.files.width
        index = {folder.name: ("transformers", "CLIPVisionModelWithProjection")}
        try:
            with quiet():
                encoder = load_component(folder.parent, folder.name, index, self.backbone.dtype)
        except FAILURES as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder}: cannot be loaded as a CLIP vision encoder ({reason}); fetch it again"
            ) from None
        config = encoder.config
        width = config.projection_dim if self.files.projected else config.hidden_size
        if width != wanted:
            raise UserError(
                f"{folder}: gives {width} numbers a picture where {self.files.weights.name} reads "
                f"{wanted}; put there the encoder that the adapter was trained with"
            )
        return encoder.eval().requires_grad_(False)

    def _taken_off(self) -> tuple[dict[str, Any], Any]:
        """The U-Net's attention processors and what projects pictures, which it has no more."""
        projection, self._unet.encoder_hid_proj = self._unet.encoder_hid_proj, None
        return dict(self._unet.attn_processors), projection  # a "plus" one has processors too

    def _put_on(self, taken: tuple[dict[str, Any], Any]) -> None:
        processors, projection = taken
        unet = self._unet
        unet.encoder_hid_proj = None
        unet.set_attn_processor(dict(processors))  # which empties what it is given
        unet.encoder_hid_proj = projection
        unet.config.encoder_hid_dim_type = None if projection is None else "ip_image_proj"

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The U-Net is one with the adapter meanwhile, and asks for `Conditions.images`."""
        self._put_on(self._put)
        self._unet.to(self._unet.device)  # it may have moved without what comes now
        try:
            yield
        finally:
            self._put_on(self._own)

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str], photos: Sequence[Image.Image]
    ) -> tuple[Conditions, Conditions]:
        """N prompts, each beside all photos, and the row that guidance goes away from.

        Of each photo the adapter makes tokens; the U-Net attends to those of all photos at once,
        as diffusers does with a list of pictures. While it is `attached` only.
        """
        backbone, pipeline = self.backbone, self.backbone.family.pipeline
        with quiet(), awake([self._encoder], backbone.device, torch.device("cpu")):
            (both,) = pipeline.prepare_ip_adapter_image_embeds(
                [list(photos)], None, backbone.device, 1, True
            )
        without, shown = both.chunk(2)  # each (1, M, ...)
        beside: Tensor = shown.expand(len(prompts), *shown.shape[1:])
        return (
            replace(backbone.encode_prompts(prompts), images=beside),
            replace(backbone.unconditional(), images=without),
        )
