"""Jobs on Ray, on this machine: workers that die, jobs that go on, models that travel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import make_world, save_photos
from stubs import make_stub
from test_bench_work import nothing, order_of

from rpo.bench.executors.parcels import pack, read_piece, unpack
from rpo.bench.executors.ray import pack_for
from rpo.bench.records import read_results
from rpo.bench.work import do_job

HERE = Path(__file__).parent
# Ray opens sockets, so it runs in a process of its own. ARGUMENTS: what, results, more.
SCRIPT = """
import json, sys
from pathlib import Path
from stubs import load_stub, make_stub
from rpo.bench.executors.executor import load_work
from rpo.bench.executors.ray import Needs, RayExecutor
from rpo.bench.order import Order
from rpo.bench.records import Job
from rpo.bench.runner import Tally, run_orders

def show(heard, tally):
    print(json.dumps([heard.id, heard.kind, heard.text, dict(heard.record)]), flush=True)

if __name__ == "__main__":
    what, results = sys.argv[1], Path(sys.argv[2])
    if what == "stubs":
        orders = [make_stub(number, results, 0.1) for number in range(5, 10)]
        executor = RayExecutor(2, load_stub, None, Needs())
    else:
        from test_bench_work import order_of
        from jobs import World
        world = World(*map(Path, sys.argv[3:8]))
        orders = [order_of(world, results, "rpo.rex.0", steps=60, every=20)]
        executor = RayExecutor(2, load_work, None, Needs())
    run_orders(orders, results, executor, show, Tally(len(orders)))
"""


def started(tmp_path: Path, *words: object) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(script), *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_workers_that_die_are_replaced(tmp_path: Path) -> None:
    """As with local processes; and Ray prints nothing of its own."""
    out, noise = started(tmp_path, "stubs", tmp_path / "results").communicate(timeout=900)
    heard = [json.loads(line) for line in out.splitlines()]
    assert [one[:2] for one in heard if one[1] == "lost" and "7" in one[0]] == [
        ["stub.7.0", "lost"]
    ]
    found = {result.job.subject: result for result in read_results(tmp_path / "results")}
    assert [found[name].status for name in "56789"] == ["done", "done", "done", "failed", "failed"]
    assert found["8"].error == "the worker died, 3 times"
    assert noise == ""


@pytest.mark.slow
def test_a_job_whose_worker_was_killed_has_the_weights_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path / "world")
    subjects = world.root / "subjects"
    save_photos(subjects / "rex")
    (subjects / "subjects.toml").write_text('[rex]\nnoun = "dog"\n')
    places = [world.root, world.photos, world.model, world.reward, world.prompts]
    disturbed, whole = tmp_path / "disturbed", tmp_path / "whole"
    do_job(order_of(world, whole, "rpo.rex.0", steps=60, every=20), nothing)
    run = started(tmp_path, "job", disturbed, *places)
    killed = 0
    assert run.stdout is not None
    for line in run.stdout:
        job, kind, text, record = json.loads(line)
        if record.get("event") == "validated" and record["step"] == 20 and not killed:
            owner = json.loads((disturbed / "runs" / job / ".lock").read_text())
            os.kill(owner["pid"], signal.SIGKILL)
            killed += 1
        assert kind != "failed", text
    assert run.wait(600) == 0
    assert killed == 1
    first, second = (next(read_results(place)) for place in (disturbed, whole))
    assert first.provenance["attempt"] == 2
    assert first.judged == second.judged
    assert first.curve == second.curve


def test_a_folder_travels_by_its_content(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "unet").mkdir(parents=True)
    (source / "unet" / "a.safetensors").write_bytes(b"weights")
    (source / "b.json").write_bytes(b"")
    (source / "c.bin").write_bytes(b"a pickle")
    parcel = pack(source, weights=True)
    assert parcel.files == (("b.json", 0), ("unet/a.safetensors", 7))
    fetched: list[str] = []

    def fetch(file: str, offset: int) -> bytes:
        fetched.append(Path(file).name)
        return read_piece(file, offset)[:4]  # as if pieces were small

    for _ in range(2):
        assert unpack(parcel, fetch, tmp_path / "node" / "x") == tmp_path / "node" / "x"
    assert fetched == ["a.safetensors", "a.safetensors"]
    assert pack(tmp_path / "node" / "x", weights=True).digest == parcel.digest
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["x"]


def test_a_parcel_that_is_cut_short_is_none(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    (source / "a.png").write_bytes(b"1234")
    parcel = pack(source)
    with pytest.raises(OSError, match="a.png of .* is shorter than it was"):
        unpack(parcel, lambda file, offset: b"", tmp_path / "node" / "x")
    assert list((tmp_path / "node").iterdir()) == []


def test_an_order_of_the_built_in_world_needs_no_luggage(tmp_path: Path) -> None:
    luggage = pack_for(make_stub(1, tmp_path))
    assert (luggage.photos, luggage.gallery, luggage.models) == (None, None, ())
