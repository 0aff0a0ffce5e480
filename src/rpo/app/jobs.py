"""The queue of jobs: each a process of its own, `rpo train`, that outlives the page and its server.

All that is known lies in files: the queue's own in the page's folder, three a job, and the runs.
So a server that is started again finds what another one began.

    NAME.json    the job as it was written down, and who works at it
    NAME.events  what its process says, one event a line       NAME.log  and what went wrong
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rpo.app.home import Home, read_table, write_table
from rpo.config import to_toml
from rpo.errors import UserError, printable
from rpo.runs.folder import RunFolder, is_run
from rpo.runs.locking import Owner, holder
from rpo.runs.result import Run
from rpo.runs.spec import JobSpec

State = Literal["waiting", "running", "finished", "stopped", "failed"]
ACTIVE = ("waiting", "running")
MOST_WAITING = 50
_LOG_END = 20_000  # bytes that are read of a log's end


@dataclass(frozen=True)
class Status:
    """How a run stands; message: what went wrong, in a line."""

    name: str
    state: State
    message: str = ""

    @property
    def active(self) -> bool:
        """Whether it is at work, or will be without anybody's doing."""
        return self.state in ACTIVE


class Queue:
    """Jobs of one folder of runs. Safe to use from several threads; for one server at a time."""

    def __init__(self, home: Home, devices: Sequence[str] = ()) -> None:
        """devices: numbers of the GPUs, none for the processor; a job each at a time."""
        self.home, self.devices = home, tuple(devices)
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    # --- what there is ---------------------------------------------------------------------

    def file(self, name: str, ending: str) -> Path:
        """A file of the queue's own about a run."""
        return self.home.jobs / f"{self.home.place(name).name}.{ending}"

    def _table(self, name: str) -> dict[str, Any]:
        return read_table(self.file(name, "json"))

    def waiting(self) -> list[str]:
        """The names of the jobs that wait, the next one first."""
        found = []
        for file in self.home.jobs.glob("*.json"):
            table = read_table(file)
            if table.get("state") == "waiting" and isinstance(table.get("added"), float):
                found.append((table["added"], file.stem))
        return [name for _, name in sorted(found)]

    def names(self) -> list[str]:
        """All that a job was written down for, or that has a run folder; the newest first."""
        found = {run.name: (run / "environment.json").stat().st_mtime for run in self.home.runs()}
        for file in self.home.jobs.glob("*.json"):
            with suppress(OSError, UserError):
                self.home.place(file.stem)
                found[file.stem] = max(found.get(file.stem, 0.0), file.stat().st_mtime)
        return sorted(found, key=lambda name: -found[name])

    def status(self, name: str) -> Status:
        """How a run stands. Raises UserError for a name that is none."""
        path, table = self.home.place(name), self._table(name)
        if table.get("state") == "waiting":
            return Status(name, "waiting")
        if self._worker(name) is not None:
            return Status(name, "running")
        if not is_run(path):
            said = self._said(name)
            return Status(name, "failed" if said else "stopped", said)
        try:
            if Run(path).finished:
                return Status(name, "finished")
            records = RunFolder(path).records()
        except UserError as error:
            return Status(name, "failed", printable(str(error)))
        last = records[-1] if records else {}
        if last.get("event") == "failed":
            return Status(name, "failed", printable(str(last.get("message", ""))))
        return Status(name, "stopped", self._said(name))

    def _worker(self, name: str) -> Owner | None:
        """The process that works at a run: the queue's, or one that was started elsewhere."""
        child = self._children.get(name)
        if child is not None and child.poll() is not None:  # which also buries it
            self._children.pop(name, None)
        try:
            owner = Owner(**self._table(name).get("owner") or {})
            if owner.alive:
                return owner
        except TypeError:
            pass
        return holder(self.home.place(name))

    def _said(self, name: str) -> str:
        """The error that a process ended with; empty for none."""
        try:
            with self.file(name, "log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_END))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        told = [line for line in lines if line.startswith("error: ")]
        if told:
            return printable(told[-1].removeprefix("error: "))
        ended = bool(lines) and not lines[-1].startswith(("Interrupted", "Stopping"))
        return printable(lines[-1][:500]) if ended else ""

    # --- what can be done ------------------------------------------------------------------

    def add(self, spec: JobSpec) -> str:
        """Puts a job at the end of the queue and returns its name.

        A run that is there already goes on. Raises UserError where it is at work, or where too
        many wait.
        """
        name = spec.path.name
        with self._lock:
            if self.home.place(name) != spec.path.absolute():
                raise UserError(f"{spec.path}: lies elsewhere than in {self.home.root}")
            if spec.photos is None:
                raise UserError(f"{name}: its photos were in memory alone; start a new run")
            if len(self.waiting()) >= MOST_WAITING:
                raise UserError(f"{MOST_WAITING} jobs wait already; let some of them finish")
            if self.status(name).active:
                raise UserError(f"{name}: is at work already")
            table = {"job": spec.to_dict(), "state": "waiting", "added": time.time()}
            write_table(self.file(name, "json"), table)
        self.tick()
        return name

    def resume(self, name: str) -> str:
        """Puts a run that was broken off into the queue again. Raises UserError if it cannot be."""
        path = self.home.place(name)
        if is_run(path):
            folder = RunFolder.open(path)
            photos = folder.environment()["subject"]["folder"]
            return self.add(JobSpec(Path(photos) if photos else None, folder.config(), path))
        job = self._table(name).get("job")
        if not isinstance(job, Mapping):
            raise UserError(f"{name}: no run of this folder; choose one of the list")
        return self.add(JobSpec.from_dict(job))

    def stop(self, name: str) -> None:
        """Asks a job to save and stop; one that waits leaves the queue.

        Raises UserError for one that works on another machine, or not at all.
        """
        with self._lock:
            table = self._table(name)
            if table.get("state") == "waiting":
                write_table(self.file(name, "json"), {**table, "state": "withdrawn"})
                return
            owner = self._worker(name)
            if owner is None:
                raise UserError(f"{name}: is not at work")
            if not owner.here:
                raise UserError(f"{name}: works on {owner.host}; stop it there")
            with suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGTERM)

    def tick(self) -> None:
        """Starts what waits, as far as there is room."""
        with self._lock:
            waiting = self.waiting()
            if not waiting:
                for child in [c for c in self._children.values() if c.poll() is not None]:
                    self._children = {n: c for n, c in self._children.items() if c is not child}
                return
            busy = [name for name in self.names() if self.status(name).state == "running"]
            taken = [self._table(name).get("device") for name in busy]
            free = [device for device in self.devices or ("",) if device not in taken]
            room = max(1, len(self.devices)) - len(busy)
            for name, device in zip(waiting[: max(0, room)], free, strict=False):
                self._start(name, device)

    def _start(self, name: str, device: str) -> None:
        table = self._table(name)
        try:
            spec = JobSpec.from_dict(table["job"])
            command = self._command(name, spec)
            environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": device} if device else {})}
            for ending in ("events", "log"):  # of an earlier session
                self.file(name, ending).unlink(missing_ok=True)
            with (
                self.file(name, "events").open("xb") as events,
                self.file(name, "log").open("xb") as log,
            ):
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=events,
                    stderr=log,
                    cwd=self.home.root,
                    env=environment,
                    **_DETACHED,
                )
        except (UserError, OSError, KeyError) as error:
            self.file(name, "log").write_text(f"error: {error}\n", encoding="utf-8")
            write_table(self.file(name, "json"), {**table, "state": "withdrawn"})
            return
        self._children[name] = child
        owner = asdict(Owner.of(child.pid))
        started = {**table, "state": "started", "owner": owner, "device": device}
        write_table(self.file(name, "json"), started)

    def _command(self, name: str, spec: JobSpec) -> list[str]:
        """The command line of a job, the one that a person would type."""
        words = [sys.executable, "-m", "rpo", "train", str(spec.photos), "--json"]
        words += ["--noun", spec.config.noun, "--out", str(spec.path)]
        if is_run(spec.path):
            return [*words, "--resume"]
        config = self.file(name, "toml")
        config.write_text(to_toml(spec.config), encoding="utf-8")
        return [*words, "--config", str(config)]


# A process of its own: no signal of the server's terminal reaches it.
_DETACHED: dict[str, Any] = {"start_new_session": True}
if os.name == "nt":
    flags = "DETACHED_PROCESS", "CREATE_NEW_PROCESS_GROUP"
    _DETACHED = {"creationflags": sum(getattr(subprocess, flag) for flag in flags)}


class Clockwork(threading.Thread):
    """Ticks a queue once a second, until `stop`; asks first which GPUs there are.

    also: what else is to be done each second.
    """

    def __init__(
        self, queue: Queue, devices: Callable[[], tuple[str, ...]], also: Callable[[], None]
    ) -> None:
        super().__init__(name="rpo queue", daemon=True)
        self._queue, self._devices, self._also = queue, devices, also
        self._end = threading.Event()

    def run(self) -> None:
        """What the thread does."""
        self._queue.devices = self._devices()
        while not self._end.wait(1):
            with suppress(OSError, UserError):  # a full disk, say: the next tick tries again
                self._queue.tick()
                self._also()

    def stop(self) -> None:
        """Ends it; the jobs go on."""
        self._end.set()
