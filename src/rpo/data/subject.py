"""The subject: a folder or zip of photos, checked at the door, upright, RGB, in a stable order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from rpo.config import PhotosConfig
from rpo.data.archive import is_archive
from rpo.data.beside import Beside, beside_images, read_beside, read_boxes
from rpo.data.crops import Crop, Square, choose_square, cut, weigh
from rpo.data.files import NOT_READ, export, listed, sniffed
from rpo.data.nouns import LIVE_NOUNS as LIVE_NOUNS
from rpo.data.nouns import Kind, checked_noun
from rpo.data.photo import FORMATS_BY_ENDING, Photo, RejectedPhoto, pixel_hash, prepare, read_photo
from rpo.data.prompts import Prompt
from rpo.data.remarks import nearly_same, remark_on, remark_on_all, signature
from rpo.errors import UserError, printable

if TYPE_CHECKING:
    import torch  # slow, and the photos alone do without it

DEFAULTS = PhotosConfig()
MIN_PHOTOS = 2
MIN_SIDE = 32  # pixels; below it there is nothing to learn from
_PREVIEW = 256  # pixels of the long side


@dataclass(frozen=True)
class PhotoCheck:
    """One photo's verdict: `size` is its upright (width, height) in pixels, None if not read.

    "ok" and "warning" are used; "rejected" stops a training; "ignored" is a picture in a format
    that is not read. `message` says what is wrong and what to do; it is empty where all is "ok".
    `preview` is the picture itself as it was read, 256 pixels at most; None if it was not.
    `square`, in its pixels, is what is learned from, and `beside` what was given with the photo.
    """

    path: Path
    status: Literal["ok", "warning", "rejected", "ignored"]
    size: tuple[int, int] | None
    message: str
    preview: Image.Image | None = field(default=None, repr=False, compare=False)
    square: Square | None = field(default=None, repr=False, compare=False)
    beside: Beside = field(default_factory=Beside, repr=False, compare=False)


def check_folder(
    folder: str | os.PathLike[str],
    small_below: int = 256,
    settings: PhotosConfig = DEFAULTS,
) -> list[PhotoCheck]:
    """Judge every photo in `folder`, in natural order of the names ("2.jpg" before "10.jpg").

    `folder` may be a zip. Hidden files, folders and what is no photo (videos, sidecars, texts) are
    passed over. A short side under `small_below` pixels is a warning, a picture in a format that is
    not read (RAW, PSD) or without its ending an ignored check, unless a readable one of the same
    name lies beside it. A bad photo is a rejected check, never an exception; so is one that lacks
    what `settings` ask for. UserError is for a folder that is missing, not a folder, or without
    photos that can be read.
    """
    checks = []
    for check, photo in _inspect(folder, small_below, settings):
        if photo and (reason := check.beside.refusal(settings, photo.image.size)):
            check = replace(check, status="rejected", message=reason)
        checks.append(check)
    return checks


def remark_on_folder(checks: Sequence[PhotoCheck]) -> str:
    """On all photos together: too little variety. Empty where nothing is to be said."""
    usable = [check for check in checks if check.status in ("ok", "warning")]
    return remark_on_all([signature(check.preview) for check in usable if check.preview])


@dataclass(frozen=True)
class Subject:
    """What is learned: its class noun and its photos (RGB, upright), by name order.

    `beside` is what was given with each photo. `crop` and `unmasked_weight` are a job's settings:
    see `arranged`.

    Photos whose short side is over 2048 pixels are kept reduced to it: the job holds them all its
    life, and a phone's full resolution is 150 MB a photo. `sha256` is that of each photo's file as
    it was read, or of the pixels where they came without a file (then `paths` is empty).
    """

    noun: str
    images: tuple[Image.Image, ...]
    paths: tuple[Path, ...]
    kind: Kind
    name: str
    sha256: tuple[str, ...] = ()
    checks: tuple[PhotoCheck, ...] = field(default=(), repr=False, compare=False)
    beside: tuple[Beside, ...] = ()
    crop: Crop = "centre"
    unmasked_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.beside:
            object.__setattr__(self, "beside", (Beside(),) * len(self.images))
        if not self.sha256:
            hashes = tuple(pixel_hash(image).hex() for image in self.images)
            object.__setattr__(self, "sha256", hashes)

    @property
    def names(self) -> tuple[str, ...]:
        """The photos' file names, each on one line; "1", "2" … where they came without files."""
        if not self.paths:
            return tuple(str(number + 1) for number in range(len(self.images)))
        return tuple(printable(path.name) for path in self.paths)

    @property
    def folder(self) -> str:
        """Where the photos lie, absolute, or their zip; empty where they came without files."""
        return printable(str(self.paths[0].resolve().parent)) if self.paths else ""

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        noun: str,
        kind: Literal["auto", "live", "object"] = "auto",
        small_below: int = 256,
        settings: PhotosConfig | None = DEFAULTS,
    ) -> Subject:
        """Read every photo in `folder`, or in a zip; its name becomes the subject's.

        What lies beside the photos is read as `rpo.data.beside` has it, and used as the settings of
        the job say. The remarks in `checks`, which holds what `check_folder` says of the photos
        themselves, go by `settings`; None: they are not known.
        `kind` "auto" is live where the noun's last word is in LIVE_NOUNS ("teddy bear" and the
        like are objects). Raises UserError for an empty noun, an unknown kind, a folder that
        `check_folder` refuses, any rejected photo (two files with the same picture are such), and
        fewer than 2 photos. Pictures in formats that are not read do not count.
        """
        noun, kind = checked_noun(noun, kind)
        photos: list[Photo] = []
        checks: list[PhotoCheck] = []
        for check, photo in _inspect(folder, small_below, settings):
            checks.append(check)
            if photo:
                photos.append(photo)
        rejected = [check for check in checks if check.status == "rejected"]
        if rejected:
            more = f" (and {len(rejected) - 1} more rejected)" if len(rejected) > 1 else ""
            raise UserError(f"{printable(rejected[0].path)}: {rejected[0].message}{more}")
        if len(photos) < MIN_PHOTOS:
            ignored = [check.path for check in checks if check.status == "ignored"]
            remedy = export(ignored) if ignored else "add more"
            raise UserError(
                f"{printable(folder)}: only {len(photos)} photo; {remedy}, best are 4 to 6"
            )
        return cls(
            noun,
            tuple(photo.image for photo in photos),
            tuple(check.path for check in checks if check.status in ("ok", "warning")),
            kind,
            _name_of(folder)[:_LONGEST_NAME] or "photos",
            tuple(photo.sha256 for photo in photos),
            tuple(checks),
            tuple(check.beside for check in checks if check.status in ("ok", "warning")),
        )

    @classmethod
    def from_images(
        cls,
        images: Sequence[Image.Image] | Sequence[torch.Tensor] | torch.Tensor,
        noun: str,
        name: str = "subject",
        kind: Literal["auto", "live", "object"] = "auto",
        *,
        captions: Sequence[str | None] = (),
        masks: Sequence[Image.Image | torch.Tensor | None] = (),
        boxes: Sequence[Sequence[float] | None] = (),
    ) -> Subject:
        """Take pictures from memory: PIL images of any mode, or tensors (N, 3, H, W) in [0, 1].

        They are made upright, sRGB and opaque as photos are. `name` names the runs. captions, masks
        (PIL images, or (H, W) tensors in [0, 1]) and boxes (left, top, right, bottom, in pixels of
        the upright picture): none, or one or None a picture, as `rpo.data.beside` has them. Raises
        UserError for what `from_folder` refuses in photos, a picture that is neither kind, and a
        tensor of another shape or range.
        """
        noun, kind = checked_noun(noun, kind)
        if (
            not name.strip(" .")
            or printable(name) != name
            or name != Path(name).name
            or len(name) > _LONGEST_NAME
        ):
            raise UserError(f"name {name!r}: give one that can name a folder, such as my-dog")
        if len(images) < MIN_PHOTOS:
            raise UserError(f"images: only {len(images)}; add more, best are 4 to 6")
        taken: dict[bytes, int] = {}
        pictures, sizes = [], []
        for number, image in enumerate(images, 1):
            picture, size = _from_memory(image, f"image {number}")
            twin = taken.setdefault(pixel_hash(picture), number)
            if twin != number:
                raise UserError(f"image {number}: the same as image {twin}; remove one of the two")
            pictures.append(picture)
            sizes.append(size)
        beside = beside_images(pictures, sizes, captions, masks, boxes)
        return cls(noun, tuple(pictures), (), kind, name, beside=beside)

    def arranged(self, settings: PhotosConfig) -> Subject:
        """The subject as a job with these settings learns it: squares, captions and weights.

        Raises UserError, naming the photo and the remedy, where a photo lacks what they ask for.
        """
        for where, image, beside in zip(self._places(), self.images, self.beside, strict=True):
            if reason := beside.refusal(settings, image.size):
                raise UserError(f"{where}: {reason}")
        return replace(
            self,
            beside=tuple(beside.used(settings) for beside in self.beside),
            crop=settings.crop,
            unmasked_weight=settings.unmasked_weight,
        )

    def _places(self) -> list[str]:
        if not self.paths:
            return [f"image {name}" for name in self.names]
        return [printable(path) for path in self.paths]

    def photo_prompts(self, identifier: str) -> tuple[str, ...]:
        """Each photo's caption filled in, "a photo of [V] dog in snow"; "" for one without.

        Empty where none has any. Raises UserError for a caption with the identifier in it.
        """
        prompts = []
        for where, beside in zip(self._places(), self.beside, strict=True):
            try:
                filled = beside.caption and Prompt.from_template(
                    beside.caption, self.noun, identifier
                )
            except UserError as error:
                raise UserError(f"{where}: its caption: {error}") from None
            prompts.append(filled.conditioning if filled else "")
        return tuple(prompts) if any(prompts) else ()

    @property
    def squares(self) -> tuple[Square, ...]:
        """What of each photo is learned from, in its pixels."""
        return tuple(
            choose_square(self.crop, *image.size, beside.subject_box)
            for image, beside in zip(self.images, self.beside, strict=True)
        )

    def tensor(self, size: int) -> torch.Tensor:
        """The photos' squares, resized by Lanczos: (n, 3, size, size) float32 in [-1, 1]."""
        import torch

        if size < 1:
            raise ValueError(f"size must be >= 1, not {size}")
        squares = [
            np.asarray(cut(image, square, size))
            for image, square in zip(self.images, self.squares, strict=True)
        ]
        pixels = torch.from_numpy(np.stack(squares))  # (n, size, size, 3) uint8
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1

    def weights(self, size: int) -> torch.Tensor | None:
        """How much each pixel of `tensor` counts in a loss: (n, 1, size, size) in [0, 1].

        None where each counts 1: nothing is padded and nothing is masked.
        """
        import torch

        found = torch.stack(
            [
                torch.from_numpy(
                    weigh(*image.size, square, size, beside.mask, self.unmasked_weight)
                )
                for image, square, beside in zip(
                    self.images, self.squares, self.beside, strict=True
                )
            ]
        )
        return None if bool((found == 1).all()) else found.unsqueeze(1)


_LONGEST_NAME = 60  # characters; in UTF-8, with a number behind, it is still a folder's name


def _from_memory(
    image: Image.Image | torch.Tensor, which: str
) -> tuple[Image.Image, tuple[int, int]]:
    """A PIL image, or a (3, H, W) tensor in [0, 1], as read photos are, and its size upright.

    Raises UserError.
    """
    import torch

    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise UserError(f"{which}: a tensor must be (3, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu().double()
        if not image.is_floating_point() or not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"{which}: a tensor must hold floats from 0 to 1; divide by 255")
        pixels = (values * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous()
        image = Image.fromarray(pixels.numpy())
    elif not isinstance(image, Image.Image):
        raise UserError(f"{which}: neither a PIL image nor a tensor, but {type(image).__name__}")
    if min(image.size) < MIN_SIDE:
        raise UserError(f"{which}: smaller than {MIN_SIDE} pixels; give a larger one")
    try:
        picture = prepare(image, [])
    except Exception as error:  # one opened from a damaged file, which raises nearly anything
        raise UserError(f"{which}: cannot be read ({error}); give another") from None
    turned = (image.width > image.height) != (picture.width > picture.height)
    return picture, image.size[::-1] if turned else image.size


def _inspect(
    folder: str | os.PathLike[str], small_below: int, settings: PhotosConfig | None
) -> Iterator[tuple[PhotoCheck, Photo | None]]:
    """Each photo's check with the photo (None if not used), one at a time."""
    seen: dict[bytes, Path] = {}
    kept: list[tuple[Path, np.ndarray]] = []  # with their signatures
    with listed(folder) as listing:
        boxes = read_boxes(listing)
        for file in listing.photos:
            path = file.path
            if path.suffix.lower() not in FORMATS_BY_ENDING:
                known = path.suffix.lower() in NOT_READ
                remedy = "export it as JPEG" if known else f"rename it, it is {sniffed(file)}"
                yield PhotoCheck(path, "ignored", None, f"not used: {remedy}"), None
                continue
            photo = preview = None
            try:
                photo = read_photo(path, file.read)
                preview = photo.image.copy()
                preview.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.LANCZOS)
                if min(photo.size) < MIN_SIDE:
                    raise RejectedPhoto(
                        f"smaller than {MIN_SIDE} pixels; replace it by the original photo"
                    )
                twin = seen.setdefault(pixel_hash(photo.image), path)
                if twin != path:
                    name = printable(twin.name)
                    raise RejectedPhoto(f"the same picture as {name}; remove one of the two")
            except RejectedPhoto as reason:
                size = photo.size if photo else None
                yield PhotoCheck(path, "rejected", size, str(reason), preview), None
                continue
            notes = list(photo.notes)
            if min(photo.size) < small_below:
                notes.append(f"small: under {small_below} pixels; a larger original is better")
            if settings and settings.crop == "centre" and max(photo.size) > 2 * min(photo.size):
                notes.append(
                    "elongated: only the centre square is used; crop it around the subject"
                )
            remark, coarse = remark_on(photo.image), signature(photo.image)
            near = next((other for other, its in kept if nearly_same(coarse, its)), None)
            if near and not remark:
                remark = f"nearly the same as {printable(near.name)}; one of the two is enough"
            kept.append((path, coarse))
            if remark:
                notes.append(remark)
            beside = read_beside(listing, file, photo, boxes)
            notes += beside.wrong.values()
            status: Literal["ok", "warning"] = "warning" if notes else "ok"
            message = "; ".join(notes)
            square = _square_of(preview, photo, beside, settings or DEFAULTS)
            yield PhotoCheck(path, status, photo.size, message, preview, square, beside), photo


def _square_of(
    preview: Image.Image, photo: Photo, beside: Beside, settings: PhotosConfig
) -> Square | None:
    """What is learned from, in pixels of the preview; None where the settings cannot be met."""
    if settings.crop == "subject" and not beside.subject_box:
        return None
    if settings.crop != "subject":  # without the preview's rounding
        return choose_square(settings.crop, *preview.size)
    square = choose_square(settings.crop, *photo.image.size, beside.subject_box)
    return square.scaled(preview.width / photo.image.width)


def _name_of(folder: str | os.PathLike[str]) -> str:
    path = Path(expanduser(folder)).resolve()
    return printable(path.stem if is_archive(path) else path.name)
