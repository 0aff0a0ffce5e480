"""A zip of photos: its members read in memory, nothing unpacked to disk, and nothing trusted."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rpo.data.photo import MAX_BYTES, RejectedPhoto
from rpo.errors import UserError, printable

MAX_MEMBERS = 1000  # files of any kind
MAX_TOTAL = 4 << 30  # bytes that all of them declare
_MAX_DIRECTORY = 1 << 20  # bytes of the list of members: a thousand with long names
_BLOCK = 1 << 20  # bytes unpacked at once, so that no member outgrows what it declares
# A photo hardly packs; a drawing may, but not to a hundredth of 64 MB.
_LARGE, _RATIO = 1 << 26, 100

_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, UnicodeError, EOFError, ValueError, RuntimeError),
)


def is_archive(path: Path) -> bool:
    """Whether a path names a zip, by its ending; not where a folder is called so."""
    return path.suffix.lower() == ".zip" and path.is_file()


@dataclass(frozen=True)
class Member:
    """A file of an open zip."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def read(self) -> bytes:
        """Its bytes. Raises RejectedPhoto for a link, and where it is damaged or packed oddly."""
        info = self.info
        if kind := stat.S_IFMT(info.external_attr >> 16):
            if kind == stat.S_IFLNK:
                raise RejectedPhoto("a link, which a zip's photo may not be; put the photo there")
            if kind != stat.S_IFREG:
                raise RejectedPhoto("no file, whatever its name says; remove it")
        if info.file_size > MAX_BYTES:
            raise RejectedPhoto("over 1 GB; export it as JPEG")
        if info.file_size > max(_LARGE, _RATIO * info.compress_size):
            raise RejectedPhoto(
                f"packs {info.file_size >> 20} MB into {info.compress_size} bytes, as no photo "
                "does; remove it or export it as JPEG"
            )
        return self._unpacked(info.file_size)

    def head(self) -> bytes | None:
        """Its first 12 bytes; None where it is no plain file or cannot be unpacked."""
        if stat.S_IFMT(self.info.external_attr >> 16) not in (0, stat.S_IFREG):
            return None
        try:
            return self._unpacked(min(12, self.info.file_size))
        except RejectedPhoto:
            return None

    def _unpacked(self, size: int) -> bytes:
        data = bytearray()
        try:
            with self.archive.open(self.info) as stream:
                while len(data) < size and (block := stream.read(min(_BLOCK, size - len(data)))):
                    data += block
                if size == self.info.file_size:
                    stream.read(1)  # only at its end is the sum compared
        except _BROKEN as error:
            raise RejectedPhoto(f"damaged in the zip ({error}); make the zip anew") from None
        if len(data) < min(size, self.info.file_size):
            raise RejectedPhoto("damaged in the zip, its end is missing; make the zip anew")
        return bytes(data)


@contextmanager
def opened_archive(path: Path) -> Iterator[list[tuple[tuple[str, ...], Member]]]:
    """The files of a zip, each with the parts of its name below the one folder that holds all.

    Left out are folders, __MACOSX and what is hidden. Raises UserError for a zip that is damaged,
    encrypted, too large, packed by a method other than deflate, or has names that are not UTF-8,
    come twice or lead out of it.
    """
    where = printable(path)
    try:
        _refuse_many(path)
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); name a zip") from None
    except UnicodeError:
        raise UserError(f"{where}: a name in it is not UTF-8; make the zip anew") from None
    except _BROKEN as error:
        raise UserError(f"{where}: not a zip that can be read ({error}); make it anew") from None
    with archive:
        members = _files(archive, where)
        _refuse_odd([member.info for _, member in members], where)
        yield members


def _refuse_many(path: Path) -> None:
    """Raises UserError for too many members before the list of them is read."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - (1 << 16) - 42, 0))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise zipfile.BadZipFile("its end is missing")
    count, directory = struct.unpack("<HI", tail[at + 10 : at + 16])
    zip64 = tail[max(at - 20, 0) : at].startswith(b"PK\6\7")  # for what has no room in these
    if zip64 or count > MAX_MEMBERS or directory > _MAX_DIRECTORY:
        raise UserError(
            f"{printable(path)}: over {MAX_MEMBERS} files, or of over 4 GB; "
            "put the photos alone into a zip"
        )


def _files(archive: zipfile.ZipFile, where: str) -> list[tuple[tuple[str, ...], Member]]:
    found: dict[tuple[str, ...], Member] = {}
    if len(archive.infolist()) > MAX_MEMBERS:
        raise UserError(f"{where}: over {MAX_MEMBERS} files; put the photos alone into a zip")
    for info in archive.infolist():
        name = _name_of(info)
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
            raise UserError(f"{where}: {printable(name)} leads out of the zip; make it anew")
        ignored = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if name.endswith("/") or ignored or not parts:
            continue
        if parts in found:
            raise UserError(f"{where}: holds {printable(name)} twice; make the zip anew")
        found[parts] = Member(archive, info)
    while len(found) > 0 and len({parts[0] for parts in found}) == 1:
        if any(len(parts) == 1 for parts in found):
            break
        found = {parts[1:]: member for parts, member in found.items()}
    return list(found.items())


def _name_of(info: zipfile.ZipInfo) -> str:
    """With / between its parts. macOS writes UTF-8 without saying so, others code page 437."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _refuse_odd(infos: list[zipfile.ZipInfo], where: str) -> None:
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(f"{where}: encrypted; make a zip without a password")
    if odd := [
        i for i in infos if i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]:
        raise UserError(
            f"{where}: {printable(odd[0].filename)} is packed by another method than deflate; "
            "make a plain zip"
        )
    if sum(info.file_size for info in infos) > MAX_TOTAL:
        raise UserError(
            f"{where}: over {MAX_TOTAL >> 30} GB unpacked; put the photos alone into it"
        )
