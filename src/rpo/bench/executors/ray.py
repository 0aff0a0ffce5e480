"""Jobs on a Ray cluster. A job is a task with the CPUs, GPUs and memory that it needs.

Photos, and models that a node lacks, come through the object store (`parcels`); results and run
folders lie on storage that all nodes reach under one path. Ray itself retries nothing: a job whose
worker died is handed out anew by the runner, to whichever node is free, and goes on from its last/.

Two actors on the runner's node: a mailbox, which takes what jobs tell and answers whether to stop,
and a depot, which gives pieces of files.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rpo.bench.executors.executor import Heard, StopWork, Work, work_on
from rpo.bench.executors.parcels import Parcel, node_place, pack, read_piece, unpack
from rpo.bench.order import Order, models_of
from rpo.errors import UserError
from rpo.models import resolve
from rpo.models.resolve import EMBEDDED, Kind, resolve_model

GIGABYTE = 10**9


@dataclass(frozen=True)
class Needs:
    """What each job reserves: CPUs, GPUs (0.5: two share one), memory in GB (0: no limit)."""

    cpus: float = 1
    gpus: float = 0
    memory: float = 0


@dataclass(frozen=True)
class Luggage:
    """What an order needs besides: photos, the gallery's folder, and models by (name, kind)."""

    photos: Parcel | None
    gallery: Parcel | None
    models: tuple[tuple[str, Kind, Parcel], ...]


def require_ray() -> None:
    """Raises UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError("--executor ray: Ray is not installed; pip install 'rpo-diffusion[ray]'")


class RayExecutor:
    """`slots` tasks at once: as many as given, or as the cluster has room for."""

    def __init__(
        self, slots: int, work: Callable[[], Work], address: str | None, needs: Needs
    ) -> None:
        """address: of a cluster, "auto" for the one of this machine; None starts one of its own.

        slots: 0 for as many as there is room for. Raises UserError where no cluster answers.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default
        ray: Any = import_module("ray")
        self._ray, self._slots, self._needs = ray, slots, needs
        own: dict[str, Any] = {} if address else {"include_dashboard": False}
        if not address and slots:
            own["num_cpus"] = max(1, round(slots * needs.cpus))
        # What raylets print of dead workers is heard as "lost"; Ray has no setting for it.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise UserError(f"--address {address}: no Ray cluster answers ({reason})") from None
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        actor = ray.remote(num_cpus=0, scheduling_strategy=here)
        self._mailbox, self._depot = actor(_Mailbox).remote(), actor(_Depot).remote()
        memory = {"memory": int(needs.memory * GIGABYTE)} if needs.memory else {}
        task = ray.remote(max_retries=0, num_cpus=needs.cpus, num_gpus=needs.gpus, **memory)
        self._task = partial(task(_do).remote, self._mailbox, self._depot, work)
        self._under_way: dict[Any, str] = {}

    @property
    def slots(self) -> int:
        """More where nodes have joined since."""
        if self._slots:
            return self._slots
        room, needs = self._ray.cluster_resources(), self._needs
        counts = [
            room.get(name, 0) / each
            for name, each in (
                ("CPU", needs.cpus),
                ("GPU", needs.gpus),
                ("memory", needs.memory * GIGABYTE),
            )
            if each
        ]
        return max(1, int(min(counts, default=1)))

    def submit(self, order: Order) -> None:
        """Hands it to Ray, which begins it where and when there is room."""
        self._under_way[self._task(order, pack_for(order))] = order.job.id

    def hear(self, seconds: float) -> list[Heard]:
        """A job's worker waits until what it tells is in the mailbox, so its end comes last."""
        ray = self._ray
        ended, _ = ray.wait(
            list(self._under_way), num_returns=len(self._under_way), timeout=seconds
        )
        found: list[Heard] = ray.get(self._mailbox.take.remote())
        for reference in ended:
            job = self._under_way.pop(reference)
            try:
                found.append(ray.get(reference))
            except ray.exceptions.RayError as error:
                found.append(Heard(job, "lost", text=_epitaph(error)))
        return found

    def stop(self) -> None:
        """Those under way hear it when next they tell something."""
        self._ray.get(self._mailbox.stop.remote())

    def close(self) -> None:
        """What is left ends with this session of Ray."""
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._under_way = {}
        self._ray.shutdown()


_DEATHS = {
    "WorkerCrashedError": "the worker died",
    "NodeDiedError": "its node is gone",
    "OutOfMemoryError": "its node's memory ran out",
}


def _epitaph(error: Exception) -> str:
    """What is known of a lost worker, in one line."""
    kind, told = type(error).__name__, str(error).strip().splitlines() or [""]
    return _DEATHS.get(kind, f"{kind}: {told[-1]}"[:300])


class _Mailbox:
    """What jobs have told, until the runner takes it."""

    def __init__(self) -> None:
        self.told: list[Heard] = []
        self.stopped = False

    def tell(self, heard: Heard) -> bool:
        self.told.append(heard)
        return self.stopped

    def take(self) -> list[Heard]:
        told, self.told = self.told, []
        return told

    def stop(self) -> None:
        self.stopped = True


class _Depot:
    """The runner's files."""

    def piece(self, file: str, offset: int) -> bytes:
        return read_piece(file, offset)


def pack_for(order: Order) -> Luggage:
    """What the order's node may lack. UserError for a model that is not here either."""
    models = []
    for name, kind in models_of(order):
        if name != EMBEDDED and (place := resolve_model(name, kind)).is_dir():
            models.append((name, kind, pack(place, weights=True)))
    needed = order.photos and (order.job.method or order.ip_adapter)
    photos = pack(Path(order.photos)) if needed else None
    gallery = pack(Path(order.gallery)) if order.gallery not in ("", EMBEDDED) else None
    return Luggage(photos, gallery, tuple(models))


def _do(
    mailbox: Any, depot: Any, work: Callable[[], Work], order: Order, luggage: Luggage
) -> Heard:
    """The task: one order on one node; returns its end."""
    import torch

    ray: Any = import_module("ray")
    share = ray.get_runtime_context().get_assigned_resources()
    torch.set_num_threads(max(1, int(share.get("CPU", 1))))
    ends: list[Heard] = []
    stopped = False

    def send(heard: Heard) -> None:
        nonlocal stopped
        if heard.kind != "event":
            ends.append(heard)
            return
        try:
            stopped = ray.get(mailbox.tell.remote(heard))
        except ray.exceptions.RayError:  # the runner is gone
            raise StopWork from None

    def fetch(file: str, offset: int) -> bytes:
        return ray.get(depot.piece.remote(file, offset))

    for name, kind, parcel in luggage.models:
        _have_model(name, kind, parcel, fetch)
    if luggage.gallery:
        gallery = unpack(luggage.gallery, fetch, node_place(luggage.gallery))
        order = replace(order, gallery=str(gallery))
    with tempfile.TemporaryDirectory(prefix="rpo-") as folder:
        if luggage.photos:
            place = Path(folder, Path(order.photos).name)
            order = replace(order, photos=str(unpack(luggage.photos, fetch, place)))
        work_on(order, work(), send, lambda: stopped)
    return ends[0]


def _have_model(name: str, kind: Kind, parcel: Parcel, fetch: Callable[[str, int], bytes]) -> None:
    """Sees to it that the name leads to the runner's own model: what is here, if it is the same."""
    if (name, kind) in resolve.PLACES:
        return
    try:
        if pack(resolve_model(name, kind), weights=True).digest == parcel.digest:
            return
    except UserError:
        pass
    resolve.PLACES[name, kind] = unpack(parcel, fetch, node_place(parcel))
