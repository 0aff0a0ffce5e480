"""Real jobs on a tiny model: judged steps, kept pictures, going on, and failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import World, make_world, save_photos
from PIL import ImageChops
from safetensors.torch import load_file
from test_bench_runner import Inline

import rpo
from rpo.bench.executors.executor import StopWork
from rpo.bench.order import Order, make_orders
from rpo.bench.records import lines, read_result, read_results
from rpo.bench.session import run_suite
from rpo.bench.suite import BenchSuite, read_suite
from rpo.bench.work import do_job
from rpo.cli import commands
from rpo.data.photo import read_photo
from rpo.data.prompts import load_prompt_set
from rpo.errors import UserError
from rpo.evaluation.drawn import draw_run
from rpo.evaluation.dreambench import Reference, numbered_prompts
from rpo.events import Event, StepDone
from rpo.runs.locking import locked

SUITE = """
subjects = "subjects"
images_per_prompt = 2
judges = {dino = "emojiland", clip = "emojiland"}
[rows.base]
[rows.rpo]
method = "rpo"
choose = ["best", "last"]
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two subjects of an own suite, of which one is the world's."""
    made = make_world(tmp_path_factory.mktemp("bench"))
    subjects = made.root / "subjects"
    save_photos(subjects / "rex")
    save_photos(subjects / "cup", 2)
    (subjects / "subjects.toml").write_text('[rex]\nnoun = "dog"\n[cup]\nnoun = "cup"\n')
    (subjects / "prompts.toml").write_text(made.prompts.read_text(), encoding="utf-8")
    return made


def tiny_suite(world: World, **more: object) -> BenchSuite:
    file = world.root / "suite.toml"
    file.write_text(SUITE.replace('"subjects"', json.dumps(str(world.root / "subjects"))))
    settings = world.settings(**more)  # type: ignore[arg-type]
    return read_suite(file, model=str(world.model), settings=settings)


def nothing(*_: object) -> None: ...


@pytest.fixture(scope="module")
def results(world: World) -> Path:
    """The suite's results, of run folders all that there is."""
    place = world.root / "results"
    suite = replace(tiny_suite(world), keep="all")
    tally = run_suite(suite, place, lambda: Inline(do_job), nothing)
    assert (tally.done, tally.failed) == (4, 0)
    return place


def test_a_training_gives_a_line_for_each_judged_step(results: Path) -> None:
    found = {(line.key, line.result.job.subject): line for line in lines(read_results(results))}
    assert sorted(found) == [
        (key, subject) for key in ("base", "rpo:best", "rpo:last") for subject in ("cup", "rex")
    ]
    line = found["rpo:last", "rex"]
    assert (line.judged.step, line.result.steps, line.result.trained_parameters > 0) == (4, 4, True)
    assert [point[0] for point in line.result.curve] == [0, 2, 4]
    best = max(line.result.curve, key=lambda point: point[1])
    assert found["rpo:best", "rex"].judged.step == best[0]
    assert [(p.prompt, p.number) for p in line.judged.pictures[:2]] == [(1, 1), (1, 2)]
    assert {"dino", "clip_t", "class_drift"} <= set(line.judged.summary)
    assert {"loading", "training", "judging", "total"} <= set(line.result.seconds)
    assert line.result.provenance["hardware"]["threads"] >= 1
    assert len(list((results / line.judged.folder).glob("*.png"))) == 2


def test_the_last_steps_pictures_are_those_of_training_without_selection(
    world: World, results: Path, tmp_path: Path
) -> None:
    """`validation.keep=last` makes best/ of the last step: the same weights by another way."""
    settings = world.settings(**{"validation.keep": "last"})
    subject = rpo.Subject.from_folder(world.root / "subjects" / "rex", "dog")
    run = rpo.train(subject, str(world.model), out=tmp_path / "run", settings=settings)
    assert run.best_step == 4
    prompts = numbered_prompts(load_prompt_set(world.prompts), "live")
    drawn = draw_run(run, Reference("rex", "dog", "live", ()), prompts, 2)
    for number, picture in enumerate(drawn.images, 1):
        kept = read_photo(results / "pictures" / "rpo-last" / "seed-0" / "rex" / f"01-{number}.png")
        assert ImageChops.difference(kept.image, picture).getbbox() is None
    other = results / "pictures" / "rpo-best" / "seed-0" / "rex" / "01-1.png"
    first = read_result(results / "jobs" / "rpo.rex.0.json").judged[0].step
    same = ImageChops.difference(read_photo(other).image, drawn.images[0]).getbbox() is None
    assert same == (first == 4)


def test_given_pictures_are_judged_as_those_that_were_drawn(world: World, results: Path) -> None:
    """The base model's own, as they were kept: every figure is the same."""
    file = world.root / "given.toml"
    text = (world.root / "suite.toml").read_text().partition("[rows")[0]
    place = json.dumps(str(results / "pictures" / "base" / "seed-0"))
    file.write_text(f"{text}\n[rows.given]\nimages = {place}\n")
    suite = read_suite(file, model=str(world.model), settings=world.settings())
    run_suite(suite, results, lambda: Inline(do_job), nothing)
    found = {(line.key, line.result.job.subject): line for line in lines(read_results(results))}
    for subject in ("rex", "cup"):
        given, base = found["given", subject].judged, found["base", subject].judged
        assert given.pictures == base.pictures


def test_missing_pictures_fail_the_job(world: World, results: Path, tmp_path: Path) -> None:
    (tmp_path / "rex").mkdir()
    kept = results / "pictures" / "base" / "seed-0" / "rex" / "01-1.png"
    (tmp_path / "rex" / kept.name).write_bytes(kept.read_bytes())
    order = replace(order_of(world, tmp_path, "base.rex.0"), images=str(tmp_path))
    result = do_job(order, nothing)
    assert result.status == "failed"
    assert "rex: pictures missing of prompt 1 (1 of 2); add or mend it" in result.error


def order_of(world: World, results: Path, job: str, **more: object) -> Order:
    orders = make_orders(tiny_suite(world, **more), results)
    return next(order for order in orders if order.job.id == job)


def stop_at(step: int) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise StopWork

    return tell


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_job_that_was_stopped_ends_as_an_undisturbed_one(
    world: World, results: Path, tmp_path: Path, step: int
) -> None:
    order = replace(order_of(world, tmp_path, "rpo.rex.0"), keep="all")
    with pytest.raises(StopWork):
        do_job(order, stop_at(step))
    assert not (tmp_path / "jobs").exists()
    resumed = do_job(order, nothing)
    whole = read_result(results / "jobs" / "rpo.rex.0.json")
    assert read_result(tmp_path / "jobs" / "rpo.rex.0.json").judged == whole.judged
    assert resumed.status == "done"
    name = Path("runs", "rpo.rex.0", "last", "trainer.safetensors")
    mine, theirs = load_file(tmp_path / name), load_file(results / name)
    assert all(mine[key].equal(theirs[key]) for key in theirs)


def test_a_run_folder_cut_off_at_its_birth_is_begun_anew(world: World, tmp_path: Path) -> None:
    order = order_of(world, tmp_path, "rpo.rex.0")
    order.run.mkdir(parents=True)
    (order.run / "environment.json").write_text("{}")
    assert do_job(order, nothing).status == "done"
    assert not {"best", "last", "images"} & {path.name for path in order.run.iterdir()}


def test_a_job_that_fails_says_why_and_the_rest_is_done(world: World, tmp_path: Path) -> None:
    suite = tiny_suite(world)
    bad = replace(suite.entries[0], folder=tmp_path / "gone")
    suite = replace(suite, entries=(bad, suite.entries[1]), rows=suite.rows[1:])
    place = tmp_path / "results"
    tally = run_suite(suite, place, lambda: Inline(do_job), nothing)
    assert (tally.done, tally.failed) == (1, 1)
    failed = next(result for result in read_results(place) if result.status == "failed")
    assert str(tmp_path / "gone") in failed.error
    assert "traceback" not in failed.provenance


def test_one_runner_at_a_time(world: World, tmp_path: Path) -> None:
    with locked(tmp_path / "results"), pytest.raises(UserError, match="in use by process"):
        run_suite(tiny_suite(world), tmp_path / "results", lambda: Inline(do_job), nothing)


def test_other_files_are_left_alone(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="holds other files; name a new or an empty folder"):
        run_suite(tiny_suite(world), tmp_path, lambda: Inline(do_job), nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_commands(world: World, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """`rpo batch` in a process of its own, then again, when nothing is left to do."""
    folders = tmp_path / "customers"
    save_photos(folders / "Rex & Co")
    words = ["batch", str(folders), *world.flags(), "--out", str(tmp_path / "out"), "--quiet"]
    assert commands.run(words) == 0
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert (run / "best").is_dir()
    assert not (run / "last").exists()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert commands.run(words) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert capfd.readouterr().out == f"{tmp_path / 'out'}\n" * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bench", "nosuch"], "nosuch: neither a suite's file nor one of dreambench"),
        (["bench", "emojiland", "--row", "rop"], "--row rop: no such row; did you mean rpo"),
        (["bench", "dreambench"], "names no subjects; give their folder by --subjects"),
        (["bench", "emojiland", "--executor", "slurm"], "--executor must be local or ray"),
        (["bench", "emojiland", "--gpus", "1"], "are of --executor ray; add that"),
        (["batch", "nosuch", "--keep", "some"], "--keep must be one of report, best, all"),
        (["batch", "nosuch", "--noun", "dog"], "nosuch: no such folder"),
    ],
)
def test_mistakes_in_flags(
    words: list[str], told: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert commands.run([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
