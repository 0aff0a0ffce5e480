"""Damaged and hostile run folders (mutations.py): one line or success, and nothing else changes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jobs import World, break_off, contents, make_world
from mutations import KINDS, Mutation, mutations, neighbour

from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import Validated
from rpo.report.overview import overview
from rpo.report.report import render_report
from rpo.runs.result import load_run

SECONDS = 30  # for what takes one: a hang, not a busy machine
ALL = [mutation for kind in KINDS for mutation in mutations(kind)]
SAMPLE = 25  # of each kind, in the ordinary suite
LORA = {"training.weights": "lora", "lora.rank": 2, "validation.keep": "last"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """By the kind of run; a LoRA learns on the same model as all weights do."""
    root = tmp_path_factory.mktemp("kleine Welt")
    full = make_world(root / "full")
    return {"full": full, "lora": full, "flow": make_world(root / "flow", "sd3-without-t5")}


@pytest.fixture(scope="module")
def runs(worlds: dict[str, World]) -> dict[tuple[str, str], Path]:
    """The runs to spoil copies of, by kind and state."""
    out: dict[tuple[str, str], Path] = {}
    for kind, world in worlds.items():
        done, begun = (world.root / f"{kind} {state}" for state in ("done", "begun"))
        arguments = ["train", str(world.photos), "--quiet", "--out", str(done)]
        assert cli.run([*arguments, *_flags(world, kind)]) == 0
        break_off(world, begun, Validated, 1, **_settings(kind))
        out |= {(kind, "done"): done, (kind, "begun"): begun}
    return out


def _settings(kind: str) -> dict[str, Any]:
    return {"steps": 2, "every": 1, **(LORA if kind == "lora" else {})}


def _flags(world: World, kind: str) -> list[str]:
    return world.flags(**_settings(kind))


@contextmanager
def _in_time() -> Iterator[None]:
    def ring(*_: Any) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _everything(folder: Path) -> dict[str, Any]:
    """Names, kinds and contents, no link followed."""
    found: dict[str, Any] = dict(contents(folder))
    for place, folders, _ in os.walk(folder):
        found |= {f"{place}/{name}/": os.path.islink(Path(place, name)) for name in folders}
    return found


def _report(run: Path) -> int:
    """Makes the report, as the end of a job does; as a command it would end like this."""
    try:
        opened = load_run(run)
        page = render_report(opened.folder)
        if opened.history:
            overview(opened)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    opened.report.write_text(page, encoding="utf-8")
    return 0


USES = ("generate", "export", "resume", "report")


def _use(use: str, run: Path, kind: str, world: World) -> int:
    """The exit code of one use of a run."""
    if use == "generate":
        return cli.run(["generate", str(run), "a [V] dog", "--steps", "1"])
    if use == "export":
        return cli.run(["export", str(run), "--to", "lora" if kind == "lora" else "diffusers"])
    if use == "report":
        return _report(run)
    arguments = ["train", str(world.photos), "--quiet", "--resume", "--out", str(run)]
    return cli.run([*arguments, *_flags(world, kind)])


Attempt = Callable[[Mutation, str], int]


@pytest.fixture
def attempt(
    worlds: dict[str, World],
    runs: dict[tuple[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Attempt:
    """Uses a spoiled copy, and looks at what it said and at what lies beside it."""
    outside = neighbour(tmp_path)
    before = _everything(outside)

    def attempt(mutation: Mutation, use: str) -> int:
        run = tmp_path / use
        shutil.copytree(runs[mutation.kind, mutation.state], run)
        mutation.apply(run, outside)
        capsys.readouterr()
        with _in_time():
            code = _use(use, run, mutation.kind, worlds[mutation.kind])
        error = capsys.readouterr().err
        assert code in (0, 2), (use, error)
        if code == 2:
            assert error.startswith("error: "), (use, error)
            assert error.count("\n") == 1, (use, error)
        assert _everything(outside) == before, use
        page = run / "report.html"
        if page.is_file() and not page.is_symlink():
            assert "<script" not in page.read_text(encoding="utf-8")
        assert not (run / ".lock").exists(), use
        return code

    return attempt


def sample() -> list[Mutation]:
    """Of each kind the same ones in every run of the suite."""
    draw = random.Random(10)
    return [one for kind in KINDS for one in draw.sample(list(mutations(kind)), SAMPLE)]


def test_there_are_enough() -> None:
    assert len({str(mutation) for mutation in ALL}) == len(ALL)
    for kind in KINDS:
        assert len(list(mutations(kind))) >= 150


@pytest.mark.parametrize("kind", KINDS)
def test_an_unspoiled_run_is_of_every_use(attempt: Attempt, kind: str) -> None:
    """Otherwise the rest would show nothing."""
    nothing = Mutation(kind, "done", "nothing", lambda folder, outside: None)
    assert [attempt(nothing, use) for use in USES] == [0] * 4


@pytest.mark.parametrize(
    ("mutation", "use"), [(mutation, USES[i % 4]) for i, mutation in enumerate(sample())], ids=str
)
def test_a_spoiled_run_ends_in_a_line_or_well(
    attempt: Attempt, mutation: Mutation, use: str
) -> None:
    attempt(mutation, use)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ALL, ids=str)
def test_every_use_of_a_spoiled_run_ends_in_a_line_or_well(
    attempt: Attempt, mutation: Mutation
) -> None:
    for use in USES:
        attempt(mutation, use)
