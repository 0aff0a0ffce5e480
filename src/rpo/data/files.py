"""The files of a folder, or of a zip, of photos: which are photos, and what lies beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path

from rpo.data.archive import is_archive, opened_archive
from rpo.data.photo import FORMATS_BY_ENDING, read_file
from rpo.errors import UserError, printable

MASKS = "masks"  # the folder beside the photos that holds them, as NAME.png
BOXES = "boxes.toml"
CAPTION = ".txt"
_MASK_LABEL = "-masklabel.png"  # OneTrainer's name for a mask beside its photo

# Pictures to their owner, but not read here: cameras' RAW files, documents of image editors,
# drawings, and formats that need a library of their own. They are reported, not passed over.
_PICTURES = """
    .3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf
    .raw .rw2 .rwl .sr2 .srf .srw .x3f
    .afphoto .eps .psb .psd .svg .svgz .xcf
    .exr .hdr .j2k .jp2 .jpx .jxl .jxr .pgm .pnm .ppm .tga .wdp
"""
NOT_READ = frozenset(_PICTURES.split())


@dataclass(frozen=True)
class File:
    """A file on disk or in a zip.

    path: what it is called; in a zip, the zip's path and the name in it. read: gives its bytes.
    head: its first 12 bytes, None where it is no plain file. Both raise OSError, and `read`
    RejectedPhoto for what is no file, or too large.
    """

    path: Path
    read: Callable[[], bytes]
    head: Callable[[], bytes | None]


@dataclass(frozen=True)
class Listing:
    """What a folder or a zip holds, in natural order of the names ("2.jpg" before "10.jpg").

    photos: files to judge, among them pictures that are not read. captions: by the photo's stem,
    masks: likewise; both stems in small letters. boxes: boxes.toml, where there is one.
    """

    photos: tuple[File, ...]
    captions: Mapping[str, File]
    masks: Mapping[str, File]
    boxes: File | None


@contextmanager
def listed(folder: str | os.PathLike[str]) -> Iterator[Listing]:
    """The listing of a folder or zip; its files can be read while the context lasts.

    Raises UserError for what is neither, or holds no photos that can be read.
    """
    where = printable(folder)
    if not os.fspath(folder):
        raise UserError("the photos' folder is empty; name the folder that holds the photos")
    path = Path(expanduser(folder))
    try:
        archived = is_archive(path)
        if not archived and not path.exists():
            raise UserError(f"{where}: no such folder; name the folder that holds the photos")
        if not archived and not path.is_dir():
            raise UserError(f"{where}: not a folder; name the folder that holds the photos")
        if not archived:
            files, masks = _on_disk(path), _on_disk(path / MASKS)
    except PermissionError:
        raise UserError(f"{where}: cannot be read; allow reading it") from None
    except OSError as error:  # a name that is too long, a drive that is gone
        raise UserError(
            f"{where}: cannot be opened ({error.strerror}); name the folder that holds the photos"
        ) from None
    if not archived:
        yield _sorted_out(where, files, masks)
        return
    with opened_archive(path) as members:
        found = [(parts, File(path / parts[-1], m.read, m.head)) for parts, m in members]
        files = [file for parts, file in found if len(parts) == 1]
        masks = [file for parts, file in found if parts[:-1] == (MASKS,)]
        yield _sorted_out(where, files, masks)


def _on_disk(folder: Path) -> list[File]:
    """All but folders and what is hidden. A broken link or a pipe is reported, not passed over."""
    if folder.name == MASKS and not folder.is_dir():
        return []

    def head(path: Path) -> bytes | None:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(12)

    return [
        File(path, lambda path=path: read_file(path), lambda path=path: head(path))  # type: ignore[misc]
        for path in folder.iterdir()
        if not path.name.startswith(".") and not path.is_dir()
    ]


def _sorted_out(where: str, files: Sequence[File], masks: Sequence[File]) -> Listing:
    files = sorted(files, key=_natural)
    readable = [file for file in files if file.path.suffix.lower() in FORMATS_BY_ENDING]
    labels = {file: _labelled(file) for file in readable}
    own = {_stem(file) for file in readable if not labels[file]}
    photos = [file for file in readable if labels[file] not in own]
    stems = {_stem(file) for file in photos}
    not_read = [  # less the doubles: cameras write IMG_1.dng beside IMG_1.jpg
        file
        for file in files
        if file.path.suffix.lower() not in FORMATS_BY_ENDING
        and _stem(file) not in stems
        and _is_picture(file)
    ]
    if not photos and not_read:
        raise UserError(
            f"{where}: no photos that can be read; {export([f.path for f in not_read])}"
        )
    if not photos:
        raise UserError(f"{where}: no photos in it; looked for {', '.join(FORMATS_BY_ENDING)}")
    beside = {labels[file]: file for file in readable if labels[file] in own}
    inside = {_stem(file): file for file in masks if file.path.suffix.lower() in FORMATS_BY_ENDING}
    return Listing(
        tuple(sorted(photos + not_read, key=_natural)),
        {_stem(f): f for f in files if f.path.suffix.lower() == CAPTION and _stem(f) in stems},
        beside | inside,
        next((file for file in files if file.path.name == BOXES), None),
    )


def _stem(file: File) -> str:
    return file.path.stem.casefold()


def _labelled(file: File) -> str:
    """The stem of the photo that a file named as OneTrainer's masks belongs to; else empty."""
    name = file.path.name.casefold()
    return name.removesuffix(_MASK_LABEL) if name.endswith(_MASK_LABEL) else ""


def _is_picture(file: File) -> bool:
    """Whether its ending says so, or its first bytes; nothing that is no plain file."""
    named = file.path.suffix.lower() in NOT_READ
    try:
        return file.head() is not None and (named or bool(sniffed(file)))
    except OSError:
        return named


def sniffed(file: File) -> str:
    """The format of a picture whose name has no ending of one; empty for anything else."""
    try:
        head = file.head() or b""
    except OSError:
        return ""
    return next((name for start, name in _SIGNATURES.items() if head.startswith(start)), "")


_SIGNATURES = {b"\xff\xd8\xff": "a JPEG", b"\x89PNG\r\n\x1a\n": "a PNG"}


def export(paths: Sequence[Path]) -> str:
    """The remedy for pictures in formats that are not read."""
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"export {printable(paths[0].name)}{more} as JPEG"


def _natural(file: File) -> tuple[list[str | int], str]:
    """Sorts "2.jpg" before "10.jpg"; the name itself decides between "1.jpg" and "01.jpg"."""
    # Splitting by a group gives text and digits in turn, so like is always compared with like.
    name = file.path.name
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name
