"""What lies beside a photo and says more of it: a caption, a mask, a box around the subject.

    dog1.txt             "a photo of {} on a sofa": its prompt, {} being the subject
    masks/dog1.png       white where the subject is; dog1-masklabel.png is one as well
    boxes.toml           "dog1.jpg" = [left, top, right, bottom], in pixels of the upright photo

What is wrong with one of them is told where it is asked for, and no sooner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from rpo.config import PhotosConfig
from rpo.config.toml import parse_toml
from rpo.data.crops import Box, choose_square
from rpo.data.files import BOXES, MASKS, File, Listing
from rpo.data.photo import Photo, RejectedPhoto, prepare, read_photo
from rpo.errors import UserError, printable

MAX_CAPTION = 1000  # letters; no text encoder reads that many
MAX_BOXES = 1 << 20  # bytes
_HALF = 128  # of 255: from here on a mask says "subject"
_COLOURED = 24  # of 255: by so much a grey JPEG's channels never differ
_SHAPE = 0.02  # by so much the sides' ratios of photo and mask may differ


@dataclass(frozen=True)
class Beside:
    """What was given with one photo.

    caption: one line with one {}. mask: "L", of the photo's size in memory, white where the
    subject is; mask_sha256: of its file, or of its pixels. box: in the same pixels. wrong: why
    there is no "caption", "mask" or "box" although one was given, in the user's words.
    """

    caption: str = ""
    mask: Image.Image | None = field(default=None, repr=False, compare=False)
    mask_sha256: str = ""
    box: Box | None = None
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject_box(self) -> Box | None:
        """The box, or else the one around the mask."""
        return self.box or (box_of(self.mask) if self.mask else None)

    def refusal(self, settings: PhotosConfig, size: tuple[int, int]) -> str:
        """Why the settings cannot be met with a photo of this size in memory; empty if they can.

        It names what is missing or wrong, and the remedy.
        """
        if settings.captions and "caption" in self.wrong:
            return f"{self.wrong['caption']}, or set photos.captions=false"
        if settings.crop == "subject" and (reason := self.wrong.get("box")):
            return reason
        if settings.crop == "subject" and not self.subject_box:
            return self.wrong.get("mask") or (
                f"crop subject does not know where its subject is; give a mask in {MASKS}/ or a "
                f"line in {BOXES}, or use crop centre"
            )
        if settings.unmasked_weight < 1:
            if self.mask is None:
                return self.wrong.get("mask") or (
                    f"photos.unmasked_weight needs its mask; put it into {MASKS}/, white where "
                    "the subject is, or set it to 1"
                )
            square = choose_square(settings.crop, *size, self.subject_box)
            seen = self.mask.crop(tuple(map(round, square.within(*size))))  # type: ignore[arg-type]
            if settings.unmasked_weight == 0 and not seen.getbbox():
                return (
                    "nothing that its mask keeps lies in its square; use crop subject, or a "
                    "photos.unmasked_weight above 0"
                )
        return ""

    def used(self, settings: PhotosConfig) -> Beside:
        """Without what the settings make no use of."""
        cropped, masked = settings.crop == "subject", settings.unmasked_weight < 1
        mask = self.mask if masked or (cropped and not self.box) else None
        return Beside(
            self.caption if settings.captions else "",
            mask,
            self.mask_sha256 if mask else "",
            self.box if cropped else None,
        )

    def record(self) -> dict[str, Any]:
        """For environment.json: what there is, by name."""
        found = {"caption": self.caption, "mask": self.mask_sha256, "box": self.box}
        return {
            name: list(value) if name == "box" else value for name, value in found.items() if value
        }


def described(beside: Beside, settings: PhotosConfig) -> dict[str, str]:
    """What a photo is learned with, in words, by "crop", "mask" and "caption"; others are left out.

    What is there and not used is said too.
    """
    found, masked = {}, settings.unmasked_weight < 1
    if settings.crop == "none":
        found["crop"] = "whole"
    elif settings.crop == "subject":
        found["crop"] = "around its box" if beside.box else "around its mask"
    elif beside.box:
        found["crop"] = "centre"
    if beside.mask:
        found["mask"] = f"the rest counts {settings.unmasked_weight:g}" if masked else "not used"
    if beside.caption:
        found["caption"] = beside.caption if settings.captions else "not used"
    return found


def read_beside(listing: Listing, file: File, photo: Photo, boxes: Boxes) -> Beside:
    """What lies beside one photo of a listing. Raises nothing: `wrong` says what is wrong."""
    stem, wrong = file.path.stem.casefold(), {}
    caption, mask, digest, box = "", None, "", None
    if found := listing.captions.get(stem):
        try:
            caption = check_caption(_text_of(found, 4 * MAX_CAPTION))
        except RejectedPhoto as reason:
            wrong["caption"] = f"its caption {printable(found.path.name)}: {reason}"
    if found := listing.masks.get(stem):
        try:
            read = read_photo(found.path, found.read)
            _refuse_transparent(read.notes)
            mask, digest = as_mask(read.image, photo.image.size), read.sha256
        except RejectedPhoto as reason:
            wrong["mask"] = f"its mask {_below(found)}: {reason}"
    if boxes.wrong:
        wrong["box"] = boxes.wrong
    elif (given := boxes.boxes.get(file.path.name)) is not None:
        try:
            box = _reduced(check_box(given, photo.size), photo.size, photo.image.size)
        except RejectedPhoto as reason:
            wrong["box"] = f"its box in {BOXES}: {reason}"
    return Beside(caption, mask, digest, box, wrong)


def _below(file: File) -> str:
    inside = file.path.parent.name == MASKS
    return printable(f"{MASKS}/{file.path.name}" if inside else file.path.name)


@dataclass(frozen=True)
class Boxes:
    """boxes.toml: values by the photos' names, or what is wrong with it."""

    boxes: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""


def read_boxes(listing: Listing) -> Boxes:
    """The boxes of a listing; a name that no photo has is wrong."""
    if listing.boxes is None:
        return Boxes()
    try:
        boxes = parse_toml(_text_of(listing.boxes, MAX_BOXES), BOXES)
    except RejectedPhoto as reason:
        return Boxes(wrong=f"{BOXES}: {reason}")
    except UserError as error:
        return Boxes(wrong=f"{' '.join(str(error).split())}; correct it")
    names = {file.path.name for file in listing.photos}
    if strange := [name for name in boxes if name not in names]:
        return Boxes(wrong=f"{BOXES} names {printable(strange[0])}, which is no photo; correct it")
    return Boxes(boxes)


def check_caption(text: str) -> str:
    """A caption on one line. Raises RejectedPhoto, or says why it is none."""
    text = " ".join(text.split())
    if not text:
        raise RejectedPhoto('empty; write a sentence such as "a photo of {} in snow"')
    if printable(text) != text:
        raise RejectedPhoto("holds control characters, as no text does; write plain text")
    if len(text) > MAX_CAPTION:
        raise RejectedPhoto(f"over {MAX_CAPTION} letters; shorten it")
    if text.count("{}") != 1:
        raise RejectedPhoto("must hold exactly one {}, where the subject stands; write it there")
    return text


def check_box(value: Any, size: tuple[int, int]) -> Box:
    """Four numbers within a photo of this size. Raises RejectedPhoto."""
    width, height = size
    sound = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 4
    if sound and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        left, top, right, bottom = value
        if 0 <= left < right <= width and 0 <= top < bottom <= height:
            return float(left), float(top), float(right), float(bottom)
    raise RejectedPhoto(
        f"must be [left, top, right, bottom] within {width} x {height} pixels; correct it"
    )


def as_mask(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGB picture as the mask of a photo of this size. Raises RejectedPhoto.

    It may be smaller or larger than the photo, in the same shape.
    """
    channels = np.asarray(image, dtype=np.int16)  # (H, W, 3)
    if (channels.max(axis=2) - channels.min(axis=2)).max() > _COLOURED:
        raise RejectedPhoto("it has colours; paint it black, and white for the subject")
    if abs(image.width * size[1] / (image.height * size[0]) - 1) > _SHAPE:
        raise RejectedPhoto(
            f"it has {image.width} x {image.height} pixels, not the shape of the photo, "
            "which is {} x {}; make it of the upright photo".format(*size)
        )
    mask = image.convert("L")
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    if box_of(mask) is None:
        raise RejectedPhoto("it is black all over; paint it white for the subject")
    return mask


def _refuse_transparent(notes: Sequence[str]) -> None:
    if any(note.startswith("transparent") for note in notes):
        raise RejectedPhoto("it is transparent; paint it black, and white for the subject")


def _reduced(box: Box, size: tuple[int, int], to: tuple[int, int]) -> Box:
    """A box in a picture of that size, in the picture reduced to another."""
    x, y = to[0] / size[0], to[1] / size[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def box_of(mask: Image.Image) -> Box | None:
    """The box around what a mask says is the subject; None where that is nothing."""
    return mask.point(lambda level: 255 * (level >= _HALF)).getbbox()


def _text_of(file: File, at_most: int) -> str:
    """A small text. Raises RejectedPhoto."""
    try:
        data = file.read()
        if len(data) > at_most:
            raise RejectedPhoto(f"over {at_most} bytes; shorten it")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RejectedPhoto("not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise RejectedPhoto(f"cannot be read ({error.strerror}); remove it") from None


def digest_of(image: Image.Image) -> str:
    """SHA-256 of a mask's pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def beside_images(
    images: Sequence[Image.Image],
    sizes: Sequence[tuple[int, int]],
    captions: Sequence[str | None] = (),
    masks: Sequence[Any] = (),
    boxes: Sequence[Sequence[float] | None] = (),
) -> tuple[Beside, ...]:
    """What is given with pictures in memory, each of it none or one a picture.

    sizes: of the upright pictures before they were reduced; the boxes are in their pixels. Raises
    UserError that names the picture.
    """
    given = {"captions": captions, "masks": masks, "boxes": boxes}
    for name, values in given.items():
        if len(values) not in (0, len(images)):
            raise UserError(
                f"{name}: {len(values)} for {len(images)} images; give one or None each"
            )
    none = [None] * len(images)
    rows = zip(*(values if len(values) else none for values in given.values()), strict=True)
    found = []
    for number, (image, size, (caption, mask, box)) in enumerate(
        zip(images, sizes, rows, strict=True), 1
    ):
        what = "caption"
        try:
            text = "" if caption is None else check_caption(str(caption))
            what = "mask"
            own = None if mask is None else as_mask(_mask_from_memory(mask), image.size)
            what = "box"
            limits = None if box is None else _reduced(check_box(box, size), size, image.size)
        except RejectedPhoto as reason:
            raise UserError(f"image {number}: its {what}: {reason}") from None
        found.append(Beside(text, own, digest_of(own) if own else "", limits))
    return tuple(found)


def _mask_from_memory(mask: Any) -> Image.Image:
    if isinstance(mask, Image.Image):
        notes: list[str] = []
        image = prepare(mask, notes)
        _refuse_transparent(notes)
        return image
    import torch  # slow, and what lies beside photos in a folder does without it

    values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
        raise RejectedPhoto("it is neither a PIL image nor (H, W) floats from 0 to 1; give one")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)).convert("RGB")
