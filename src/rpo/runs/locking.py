"""One writer at a time: the lock of a run folder, taken before any work and released at its end.

The lock is a small file that says who holds it. That of a process which is gone is taken over.
Reading a run needs no lock.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from rpo.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PATIENCE = 1.0  # seconds for another process that is just taking or releasing the lock
TURN = 0.02  # seconds between two tries


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock.

    Attributes:
        pid: its number, which the system gives again to others.
        host: the machine; space: where on it the number counts, as a container has its own.
        born: when the process began, as the system has it; empty where it does not say.
        since: when it took the lock, local time.
    """

    pid: int
    host: str
    space: str
    born: str
    since: str

    @classmethod
    def present(cls) -> Owner:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Owner:
        """A process of this machine, from now on."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(pid, socket.gethostname(), _space(), _born(pid) or "", now)

    @property
    def here(self) -> bool:
        """Whether the process's number counts where this one's does."""
        return (self.host, self.space) == (socket.gethostname(), _space())

    @property
    def alive(self) -> bool:
        """Whether the process may still be at work: one elsewhere may."""
        if not self.here:
            return True
        born = _born(self.pid)
        return born is not None and (not self.born or not born or born == self.born)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _space() -> str:
    """Names the space of process numbers; empty where there is only one."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except (OSError, AttributeError):
        return ""


def _born(pid: int) -> str | None:
    """When a process began: boot and clock ticks. "" where it is not said, None if it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "" if _exists(pid) else None
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything. After it come the 3rd field and on; 22 is the start.
    fields = state.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _exists(pid: int) -> bool:
    if os.name == "nt":  # there a signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def holder(folder: Path) -> Owner | None:
    """Who is at work in a run folder; None for nobody."""
    owner = _read(folder / LOCK)
    return owner if owner is not None and owner.alive else None


def _read(file: Path) -> Owner | None:
    """Whom the file names; None where there is none, or it was cut short."""
    try:
        number = os.open(file, os.O_RDONLY | _NO_LINK)
        with open(number, encoding="utf-8") as opened:
            owner = Owner(**json.loads(opened.read(10_000)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (owner.host, owner.space, owner.born, owner.since)
    sound = type(owner.pid) is int and owner.pid > 0 and all(isinstance(t, str) for t in texts)
    return owner if sound and owner.pid < 2**31 else None


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def locked(folder: Path) -> Iterator[str]:
    """Holds a run folder's lock; makes the folder, and takes it away again if it stays empty.

    Yields what to tell of a lock that was left behind; "" mostly. Raises UserError where another
    process holds it, or where the folder cannot be written to.
    """
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    file, owner = folder / LOCK, Owner.present()
    try:
        remark = _take(folder, file, owner)
    except OSError as error:
        _remove_empty(made)
        raise UserError(
            f"--out {folder}: cannot be written to ({error.strerror}); name another folder"
        ) from error
    try:
        yield remark
    finally:
        if _read(file) == owner:
            with suppress(OSError):
                file.unlink()
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one that holds something stays, and those above it
        for folder in folders:
            folder.rmdir()


def _take(folder: Path, file: Path, owner: Owner) -> str:
    """Makes the file ours. As two may find the same stale one, only one at a time may judge it."""
    late = time.monotonic() + PATIENCE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            number = os.open(file, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        except FileNotFoundError:  # the folder went away with another's lock
            if time.monotonic() > late:
                raise
            continue
        with open(number, "r+", encoding="utf-8", errors="replace") as opened:
            alone = _judges_alone(number)
            if alone is not False and _is_still(file, number):
                text = opened.read(10_000)
                before = _read(file)
                if before is not None and before.alive:
                    raise UserError(_in_use(folder, file, before))
                opened.seek(0)
                opened.truncate()
                opened.write(json.dumps(asdict(owner)) + "\n")
                opened.flush()
                os.fsync(number)
                if alone is None:
                    time.sleep(5 * TURN)
                    if _read(file) != owner:
                        raise UserError(f"{folder}: {_BEGINNING}")
                if before is not None:
                    return f"{folder}: took over the lock of {before}, which is gone"
                return f"{folder}: took over a damaged lock" if text else ""
        if time.monotonic() > late:
            raise UserError(f"{folder}: {_BEGINNING}")
        time.sleep(TURN)


_BEGINNING = (
    "another process is just beginning to write there; wait for it, or name another folder by --out"
)


def _judges_alone(number: int) -> bool | None:
    """Whether nobody else is between reading and writing the open file; None if it is not said."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
    except BlockingIOError:
        return False
    except OSError:  # a file system without them
        return None
    return True


def _is_still(file: Path, number: int) -> bool:
    """Whether the open file is still the one of that name, and not one released meanwhile."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(number))
    except FileNotFoundError:
        return False


def _in_use(folder: Path, file: Path, owner: Owner) -> str:
    here = owner.here and owner.born
    remedy = "wait for it or stop it" if here else f"if it runs no longer, delete {file}"
    return f"{folder}: in use by {owner}; {remedy}, or name another folder by --out"
