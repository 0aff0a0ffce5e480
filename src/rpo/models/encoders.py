"""Pretrained encoders that turn images and texts into unit vectors: ALIGN, CLIP, ViT and DINO.

Feature extraction only; the arithmetic on the features is in `rpo.rewards.harmonic`. Each kind is
one entry of ``TOWERS``, chosen by the ``model_type`` in the model's config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from rpo.errors import UserError
from rpo.models.computing import REWARD_BATCH as BATCH_SIZE
from rpo.models.offload import awake
from rpo.models.pixels import PixelProcessor
from rpo.quiet import quiet

Images: TypeAlias = Tensor | Sequence[Image.Image]
"""(N, 3, H, W) in [0, 1], or N PIL images of any size and mode."""


@dataclass(frozen=True)
class Tower:
    """How one model type gives features: ``image(model, pixel_values) -> (N, D)``."""

    image: Callable[[Any, Tensor], Tensor]
    has_text: bool
    model_kwargs: tuple[tuple[str, Any], ...] = ()


def _joint(model: Any, pixel_values: Tensor) -> Tensor:
    # ALIGN: the pooled map, which is the joint space itself. CLIP: projected into that space.
    return model.get_image_features(pixel_values=pixel_values).pooler_output


def _class_token(model: Any, pixel_values: Tensor) -> Tensor:
    return model(pixel_values=pixel_values).last_hidden_state[:, 0]


TOWERS: dict[str, Tower] = {
    "align": Tower(_joint, has_text=True),
    "clip": Tower(_joint, has_text=True),
    # DINO's ViT checkpoints hold no pooler: without this it would be filled with random weights.
    "vit": Tower(_class_token, has_text=False, model_kwargs=(("add_pooling_layer", False),)),
    "dinov2": Tower(_class_token, has_text=False),
}


_PREPROCESSING = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_normalize", "image_mean", "image_std"),
)


class Encoder:
    """A loaded encoder. Features are float32 unit vectors on the CPU, whatever its device."""

    def __init__(
        self,
        name: str,
        tower: Tower,
        model: Any,
        image_processor: Any,
        tokenizer: Any = None,
        device: str | torch.device | None = None,
    ) -> None:
        """device: where it computes, if that is not where the model is and waits."""
        self.name = name
        self.has_text = tower.has_text
        self.model = model
        self.home = model.device
        self.device = torch.device(device) if device else self.home
        self._tower = tower
        self._image_processor = image_processor
        self._tokenizer = tokenizer

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is done to a picture first, as the image processors of transformers call it."""
        told = self._image_processor.to_dict()
        return {name: told[name] for name in _PREPROCESSING if told.get(name) is not None}

    def encode_images(self, images: Images) -> Tensor:
        """Image features, (N, D): ALIGN pooled, CLIP projected, ViT and DINO class token.

        Tensors are rounded to 8 bits first, so a picture scores the same before and after it is
        saved as a PNG. ValueError for no image, another shape, or values outside [0, 1].
        """
        pictures = _as_pil(images)
        if not pictures:
            raise ValueError("no images to encode")
        return self._batched(pictures, self._image_batch)

    def encode_pixels(self, images: Tensor) -> Tensor:
        """Image features, (N, D), on the device and with the gradient of (N, 3, H, W) in [0, 1].

        What the image processor does is done to the tensor itself, so nothing is rounded to 8
        bits; otherwise the features are those of `encode_images`.
        """
        self.model.to(self.device)
        pixels = self._preprocess(images).to(self.device, self.model.dtype)
        return F.normalize(self._tower.image(self.model, pixels).float(), dim=-1)

    @cached_property
    def _preprocess(self) -> PixelProcessor:
        return PixelProcessor.of(self._image_processor)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Text features in the images' space, (N, D); long texts are cut as the model requires.

        TypeError if the model has no text tower or ``texts`` is one string; ValueError if empty.
        """
        if not self.has_text:
            raise TypeError(f"{self.name} has no text tower")
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a sequence of texts, not one string")
        if not texts:
            raise ValueError("no texts to encode")
        return self._batched(list(texts), self._text_batch)

    def _batched(self, items: list[Any], encode: Callable[[list[Any]], Tensor]) -> Tensor:
        with torch.inference_mode(), awake([self.model], self.device, self.home):
            parts = [
                encode(items[start : start + BATCH_SIZE])
                for start in range(0, len(items), BATCH_SIZE)
            ]
        features = torch.cat(parts).float().cpu()
        if not features.isfinite().all():
            raise UserError(
                f"reward.model {self.name} gives features that are not finite (NaN); check its "
                "weights, or set precision=fp32"
            )
        # The clone leaves inference mode: a caller may use the features under autograd.
        return F.normalize(features, dim=-1).clone()

    def _image_batch(self, pictures: list[Image.Image]) -> Tensor:
        inputs = self._image_processor(images=pictures, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        return self._tower.image(self.model, pixels)

    def _text_batch(self, texts: list[str]) -> Tensor:
        inputs = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        features = self.model.get_text_features(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        )
        return features.pooler_output


def load_encoder(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    offload: bool = False,
) -> Encoder:
    """Loads an encoder from its folder; `rpo.models.resolve.resolve_model` finds a hub id's.

    offload: it is on `device` only while it computes, else on the CPU.
    Weights are safetensors only; features are float32 whatever the `dtype` of the weights.
    UserError if the folder is missing, the model type is not in ``TOWERS``, a file is missing or
    broken, or the checkpoint lacks weights: those would stay random. Nothing is looked up online.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder; correct the path")
    try:
        with quiet():
            return _load(str(folder), _name(folder), device, dtype, offload)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{folder}: cannot load this encoder ({reason}); it needs config.json, "
            "preprocessor_config.json, *.safetensors and, with texts, a tokenizer"
        ) from error


def _load(
    source: str, name: str, device: str | torch.device, dtype: torch.dtype, offload: bool
) -> Encoder:
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    tower = TOWERS.get(config.model_type)
    if tower is None:
        raise UserError(
            f'{source}: model type "{config.model_type}" is not a known encoder; '
            f"use one of {', '.join(TOWERS)}"
        )
    # The default backend depends on whether torchvision is there; scores must not.
    processor = AutoImageProcessor.from_pretrained(source, backend="pil", local_files_only=True)
    tokenizer = None
    if tower.has_text:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        if tokenizer.pad_token is None:
            raise UserError(f"{source}: its tokenizer has no padding token; set pad_token in it")
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            # With its files gone transformers builds one that reads every word as "unknown".
            raise OSError("its tokenizer has no words: tokenizer.json or vocab.txt is missing")
    model, report = AutoModel.from_pretrained(
        source,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **dict(tower.model_kwargs),
    )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source}: the checkpoint lacks {len(missing)} weights, the first {missing[0]}; "
            "download or save it again"
        )
    model = model.eval().requires_grad_(False).to("cpu" if offload else device)
    return Encoder(name, tower, model, processor, tokenizer, device)


def _name(folder: Path) -> str:
    """A name for tables: the hub id of a cached snapshot, else the folder and its parent."""
    for part in folder.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return "/".join(folder.resolve().parts[-2:])


def _as_pil(images: Images) -> list[Image.Image]:
    if not isinstance(images, Tensor):
        return [image.convert("RGB") for image in images]
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), not {tuple(images.shape)}")
    if images.numel() and not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):
        raise ValueError(  # this form of the test also catches NaN
            f"images must lie in [0, 1], not [{images.min():.3g}, {images.max():.3g}]"
        )
    pixels = images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(pixel) for pixel in pixels.permute(0, 2, 3, 1).cpu().numpy()]
