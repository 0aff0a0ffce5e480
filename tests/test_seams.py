"""What is given from outside: a method, a reward, a judge and a stopping rule, each one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jobs import World, contents, make_world, results
from toys import (
    ToyMethod,
    ToyReward,
    ToyRule,
    assert_numbered,
    break_at,
    events_of,
    records_of,
    sharpness,
    toys,
)

import rpo
from rpo import events
from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import Finished, StepDone, Stopped, Validated

# --- a job with them ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("seams") / "world")


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    out = tmp_path_factory.mktemp("seams") / "whole"
    return out, list(events_of(world, out, tensorboard=True, **toys()))


def test_the_toys_decide_the_job(whole: tuple[Path, list[Any]]) -> None:
    out, seen = whole
    steps = [event for event in seen if isinstance(event, StepDone)]
    judged = [event for event in seen if isinstance(event, Validated)]
    (stopped,) = [event for event in seen if isinstance(event, Stopped)]
    assert (stopped.step, stopped.best_step, stopped.reason) == (4, 2, "patience")
    assert [event.improved for event in judged] == [False, True, False]
    assert [set(event.figures) for event in steps] == [{"error", "gain"}] * 4
    for event in steps:
        product = event.figures["gain"] ** 2 * event.figures["error"]
        assert event.loss == pytest.approx(product, rel=1e-5)
    assert steps[0].figures["gain"] == 1.0
    assert steps[1].figures["gain"] < 1.0  # the method's own network learns
    for event in judged:
        pictures = event.images
        assert event.figures == {"sharpness": sharpness(pictures, ["a dog at sea", "a blue dog"])}
        bright = pictures.float().div(255).mean((1, 2, 3))
        assert event.image_alignment == pytest.approx(bright.mean().item(), abs=0.01)
        assert event.text_alignment == 0.5
    run = rpo.load_run(out)
    assert (run.best_step, run.config.method, run.finished) == (2, "ToyMethod", True)
    assert seen[0].reward_model == "ToyReward"
    assert set(run.folder.environment()["models"]) == {"pipeline"}


def test_their_figures_reach_the_files(whole: tuple[Path, list[Any]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, seen = whole
    written = records_of(out)
    log = EventAccumulator(str(out / "tensorboard"))
    log.Reload()
    for kind, name, figures in (
        (StepDone, "step", ("error", "gain")),
        (Validated, "validated", ("sharpness",)),
    ):
        told = [event for event in seen if isinstance(event, kind)]
        records = [record for record in written if record["event"] == name]
        assert len(told) == len(records) > 0
        for figure in figures:
            values = [event.figures[figure] for event in told]
            assert [record[figure] for record in records] == values
            scalars = log.Scalars(f"{name}/{figure}")
            assert [scalar.step for scalar in scalars] == [event.step for event in told]
            assert [scalar.value for scalar in scalars] == pytest.approx(values)
    assert log.Tags()["scalars"].count("phase/seconds") == 1
    assert len(list((out / "tensorboard").iterdir())) == 1  # nothing is logged once it is closed


@pytest.mark.parametrize(("at", "step"), [(Validated, 0), (StepDone, 1), (Validated, 2)])
def test_resumed_with_the_same_toys_equals_uninterrupted(
    world: World, whole: tuple[Path, list[Any]], tmp_path: Path, at: type, step: int
) -> None:
    out = tmp_path / "run"
    begun = break_at(events_of(world, out, **toys()), at, step)
    resumed = list(events_of(world, out, resume=True, **toys()))
    assert results(out) == results(whole[0])
    assert_numbered(records_of(out), [*begun, *resumed], "run")


def test_numbers_rise_when_a_finished_run_gets_more_steps(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = list(events_of(world, out, method=ToyMethod, steps=2))
    more = list(events_of(world, out, resume=True, method=ToyMethod, steps=4))
    assert isinstance(first[-1], Finished)
    assert isinstance(more[-1], Finished)
    assert_numbered(records_of(out), [*first, *more], "run")


# --- the same objects are not given again ------------------------------------------------


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_a_method_not_given_again(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    break_at(events_of(world, out, method=ToyMethod), StepDone, 1)
    before = contents(out)
    with pytest.raises(UserError, match=r"the class ToyMethod; give it again: .*method=ToyMethod"):
        events_of(world, out, resume=True)
    assert (
        cli.run(["train", str(world.photos), "--noun", "dog", "--out", str(out), "--resume"]) == 2
    )
    assert "method=ToyMethod" in capsys.readouterr().err

    class Other(ToyMethod):
        pass

    with pytest.raises(UserError, match=r"was made with method = 'ToyMethod', not 'Other'"):
        events_of(world, out, resume=True, method=Other)
    assert contents(out) == before
    with pytest.raises(UserError, match=r"unknown method 'ToyMethod'"):
        events_of(world, tmp_path / "new", method="ToyMethod")


def test_generate_needs_no_toys(whole: tuple[Path, list[Any]], tmp_path: Path) -> None:
    out, _ = whole
    command = ["generate", str(out), "a [V] dog at sea", "--out", str(tmp_path / "drawn")]
    assert cli.run(command) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 1


@pytest.mark.parametrize("own", [True, False], ids=["own", "configured"])
def test_another_reward_than_before(world: World, tmp_path: Path, own: bool) -> None:
    out, given = tmp_path / "run", {"reward": ToyReward()}
    begun, then = (given, {}) if own else ({}, given)
    break_at(events_of(world, out, method=ToyMethod, **begun), StepDone, 1)
    before = contents(out)
    subject = rpo.Subject.from_folder(world.photos, "dog")
    with pytest.raises(UserError, match=r"--resume: .* was made with the reward ") as error:
        rpo.iterate(subject, out=out, resume=True, method=ToyMethod, **then)
    assert "ToyReward" in one_line(error.value)
    assert contents(out) == before


def test_a_stopping_rule_not_given_again(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_at(events_of(world, out, stopping=ToyRule()), StepDone, 1)
    with pytest.raises(UserError, match=r"another model, method, stopping rule") as error:
        list(events_of(world, out, resume=True))
    one_line(error.value)


@pytest.mark.parametrize("name", ["reward", "step", "event", "images", "number"])
def test_a_judge_with_a_name_that_is_taken(world: World, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"judges: '{name}' is a name"):
        events_of(world, tmp_path / "run", judges={name: sharpness})
    assert not (tmp_path / "run").exists()
    clash = Validated(1, 0.5, 0.5, 0.5, True, None, (), {name: 0.0})
    with pytest.raises(ValueError, match=name):
        events.to_record(clash)
