"""How a file is replaced: complete or not at all, also when the power fails.

Write under a name of its own, made exclusively; flush it to the disk; rename; flush the folder.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rpo.errors import UserError

TO_GO_ON = "free some space, then --resume"
ELSEWHERE = "free some space, or name another folder by --out"
_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # what `replacing` names a temporary file


@contextmanager
def naming_full_disk(path: Path, remedy: str = TO_GO_ON) -> Iterator[None]:
    """Makes a full disk or quota a UserError that names the file."""
    try:
        yield
    except Exception as error:
        # safetensors raises an error of its own, with the number in the text alone
        numbers = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        if getattr(error, "errno", None) in numbers or any(
            f"(os error {number})" in str(error) for number in numbers
        ):
            raise UserError(f"{path}: the disk is full; {remedy}") from error
        raise


@contextmanager
def replacing(path: Path, remedy: str = TO_GO_ON) -> Iterator[Path]:
    """Gives a new empty file beside `path`; renames it to `path` if nothing goes wrong.

    A symbolic link at `path` is replaced itself, not what it leads to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    if path.is_dir() and not path.is_symlink():
        raise UserError(f"{path}: a folder where a file belongs; move it away")
    try:
        with naming_full_disk(path, remedy):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield temporary
            flush(temporary)
            os.replace(temporary, path)
            flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Returns once a file, or a folder's list of names, is on the disk (fsync)."""
    folder = path.is_dir()
    try:
        number = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError:
        if folder:  # Windows opens none
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # it cannot
            raise
    finally:
        os.close(number)


def flush_tree(folder: Path) -> None:
    """`flush` of everything in a folder, and of itself."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place, name))
        flush(Path(place))


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder of ours, as far as it can be; follows no link."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a process that was killed; none may be at work."""
    for place, _, names in os.walk(folder):
        for name in names:
            if _LEFTOVER.fullmatch(name):
                remove(Path(place, name))
