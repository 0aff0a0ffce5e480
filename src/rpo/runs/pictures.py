"""Pictures as files: their names, their texts, and adding them where others are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.errors import UserError
from rpo.replacing import ELSEWHERE, replacing

if TYPE_CHECKING:
    from PIL import Image


def slug(text: str, limit: int = 60) -> str:
    """A file name made of the text's letters and digits, joined by hyphens."""
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return "-".join(words)[:limit].strip("-") or "image"


def as_pictures(images: Any) -> list[Image.Image]:
    """(N, 3, H, W) in uint8 or [0, 1] floats, or a sequence of PIL images, to PIL images."""
    import torch
    from PIL import Image

    if not isinstance(images, torch.Tensor):
        return list(images)
    if images.dtype != torch.uint8:
        images = images.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]


def save_png(picture: Image.Image, path: Path, texts: Mapping[str, Any]) -> None:
    """A PNG with text entries and no time: the same picture gives the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, str(value))
    picture.save(path, format="PNG", pnginfo=info)


def save_generated(
    pictures: Iterable[Image.Image], folder: Path, prompt: str, settings: Iterable[Mapping]
) -> list[Path]:
    """Adds pictures to a folder as NNNN-<prompt>.png after the highest number there.

    Never overwrites, even with two commands at once. settings: one mapping a picture, kept as
    the PNG's text. Raises UserError where the folder cannot be written to or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made a folder; name another") from error
    taken = [int(f.name[:4]) for f in folder.glob("[0-9][0-9][0-9][0-9]-*.png")]
    number = max(taken, default=0)
    written = []
    for picture, texts in zip(pictures, settings, strict=True):
        while True:
            number += 1
            path = folder / f"{number:04d}-{slug(prompt)}.png"
            try:
                path.open("xb").close()
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from error
            break
        try:
            with replacing(path, ELSEWHERE) as temporary:
                save_png(picture, temporary, texts)
        except BaseException:
            path.unlink()  # the empty file that had taken the name
            raise
        written.append(path)
    return written
