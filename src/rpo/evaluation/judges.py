"""Who measures: the encoders, each loaded once, and each picture encoded once by each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rpo.data.photo import pixel_hash
from rpo.errors import UserError
from rpo.models.resolve import EMBEDDED, resolve_models
from rpo.runs.environment import file_hash, model_files

if TYPE_CHECKING:
    from rpo.models.encoders import Encoder

DREAMBENCH_DINO = "facebook/dino-vits16"
DREAMBENCH_CLIP = "openai/clip-vit-base-patch32"
AESTHETIC_CLIP = "openai/clip-vit-large-patch14"  # what LAION's heads were fitted to

Head: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""Linear layers, each a (W, b), one after the other."""


@dataclass
class Judge:
    """An encoder that remembers what it has seen, by content: copies are not encoded again.

    about: its name, the SHA-256 of its weights, and what it does to a picture first.
    """

    encoder: Encoder
    about: Mapping[str, Any]
    _images: dict[bytes, Tensor] = field(default_factory=dict, repr=False)
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) unit vectors, as `Encoder.encode_images` gives them. ValueError for no image."""
        keys = [pixel_hash(image) for image in images]
        new = {k: image for k, image in zip(keys, images, strict=True) if k not in self._images}
        if new:
            features = self.encoder.encode_images(list(new.values()))
            self._images.update(zip(new, features, strict=True))
        if not keys:
            raise ValueError("no images to encode")
        return torch.stack([self._images[key] for key in keys])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit vectors in the images' space."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self.encoder.encode_texts(new), strict=True))
        return torch.stack([self._texts[text] for text in texts])


@dataclass(frozen=True)
class Judges:
    """The judges of one evaluation; the aesthetic one is there only where its head was given."""

    dino: Judge
    clip: Judge
    aesthetic: Judge | None = None
    head: Head | None = None

    def named(self) -> Iterator[tuple[str, Judge]]:
        """Each that is there, under the name by which a `Metric` asks for it."""
        for name in ("dino", "clip", "aesthetic"):
            if judge := getattr(self, name):
                yield name, judge


def default_judges(model: str) -> tuple[str, str]:
    """The DINO and the CLIP model that suit pictures of a base model.

    Emojiland's own for its drawings, else those of DreamBooth's paper.
    """
    return (EMBEDDED, EMBEDDED) if model == EMBEDDED else (DREAMBENCH_DINO, DREAMBENCH_CLIP)


def load_judges(
    dino: str,
    clip: str,
    aesthetic: Path | None = None,
    aesthetic_clip: str = AESTHETIC_CLIP,
    device: str = "auto",
) -> Judges:
    """Loads the encoders by folder, hub id or "emojiland"; nothing is downloaded.

    aesthetic: a safetensors file with LAION's head, for features of `aesthetic_clip`. UserError
    names whichever is missing or does not fit, and the command that fetches it.
    """
    from rpo.models.backbone import resolve_device  # slow to import, and so are encoders

    head = None if aesthetic is None else read_head(aesthetic)
    wanted = [(dino, "judge-dino"), (clip, "judge-clip")]
    if head:
        wanted.append((aesthetic_clip, "judge-clip"))
    folders = resolve_models(wanted)  # type: ignore[arg-type]
    where = resolve_device(device)
    once = {folder: _load(folder, where) for folder in dict.fromkeys(folders)}
    loaded = [once[folder] for folder in folders]
    if not loaded[1].encoder.has_text:
        raise UserError(f"--clip {clip}: has no text tower; choose a CLIP or ALIGN model")
    if not head:
        return Judges(loaded[0], loaded[1])
    assert aesthetic is not None
    judge = loaded[2]
    width, wants = judge.encode_images([Image.new("RGB", (64, 64))]).shape[1], head[0][0].shape[1]
    if width != wants:
        raise UserError(
            f"--aesthetic {aesthetic}: reads {wants} features, but {judge.encoder.name} gives "
            f"{width}; name the CLIP model that the head was fitted to by --aesthetic-clip"
        )
    told = {**judge.about, "head": aesthetic.name, "head_sha256": file_hash(aesthetic)}
    aesthetic_judge = replace(judge, about=told)  # with what a --clip of the same name has seen
    return Judges(loaded[0], loaded[1], aesthetic_judge, head)


def _load(folder: Path, device: torch.device) -> Judge:
    from rpo.models.encoders import load_encoder

    encoder = load_encoder(folder, device)
    weights = {k: v for k, v in model_files(folder).items() if k.endswith(".safetensors")}
    about = {"name": encoder.name, "sha256": weights, "preprocessing": encoder.preprocessing}
    return Judge(encoder, about)


def read_head(path: Path) -> Head:
    """The linear layers of an aesthetic head, in the order of the numbers in their names.

    LAION's first predictor is one layer ("weight", "bias"), its improved one five
    ("layers.0.weight" …), with dropout between them and no non-linearity. UserError for a file that
    is no such chain down to one figure.
    """
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise UserError(f"--aesthetic {path}: no such file; name the head's .safetensors") from None
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"--aesthetic {path}: not a safetensors file ({error}); pickled .pth heads are "
            "refused, save their state_dict by safetensors.torch.save_file"
        ) from None
    names = sorted((n for n in tensors if n.endswith("weight")), key=_layer_number)
    layers = [(tensors[name], tensors.get(f"{name[:-6]}bias")) for name in names]
    widths = [weight.shape[::-1] for weight, _ in layers]  # (in, out)
    chained = all(before[-1] == after[0] for before, after in pairwise(widths))
    if (
        not layers
        or len(tensors) != 2 * len(layers)
        or any(w.ndim != 2 or b is None or b.shape != w.shape[:1] for w, b in layers)
        or not chained
        or widths[-1][-1] != 1
    ):
        raise UserError(
            f"--aesthetic {path}: not a chain of linear layers from features to one figure; "
            "give LAION's head for CLIP ViT-L/14"
        )
    return tuple((weight, bias) for weight, bias in layers if bias is not None)


def _layer_number(name: str) -> int:
    return next((int(part) for part in name.split(".") if part.isdecimal()), 0)


def steps_of(preprocessing: Mapping[str, Any]) -> str:
    """ "64 x 64 bicubic, crop 64 x 64" of an image processor's settings."""
    said = []
    if preprocessing.get("do_resize"):
        filter_name = Image.Resampling(preprocessing.get("resample", 3)).name.lower()
        said.append(f"{_extent(preprocessing['size'])} {filter_name}")
    if preprocessing.get("do_center_crop"):
        said.append(f"crop {_extent(preprocessing['crop_size'])}")
    return ", ".join(said) or "as it is"


def _extent(size: Mapping[str, int]) -> str:
    if "shortest_edge" in size:
        return f"short side {size['shortest_edge']}"
    return f"{size['height']} x {size['width']}"
