"""How a job ends, in its last event and in its files; and events as records and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, make_world, results
from torch import Tensor
from toys import (
    Latents,
    ToyMethod,
    assert_numbered,
    break_at,
    events_of,
    failing,
    records_of,
    until_raised,
)

import rpo
from rpo import events
from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import Failed, Finished, Interrupted, Started, StepDone, Stopped, Validated
from rpo.training.loop import Trainer
from rpo.training.schedule import learning_rate

# --- how a job ends ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("events") / "world")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (UserError("the photos\nare odd"), "wrong input"),
        (RuntimeError("a bug"), "RuntimeError"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
    ids=["UserError", "RuntimeError", "without words"],
)
def test_failed_is_the_last_event(
    world: World, tmp_path: Path, raised: Exception, kind: str
) -> None:
    out = tmp_path / "run"
    seen, error = until_raised(events_of(world, out, method=failing(1, raised), tensorboard=True))
    assert error is raised
    failed = seen[-1]
    assert isinstance(failed, Failed)
    assert [event for event in seen if isinstance(event, Failed | Finished)] == [failed]
    assert failed.kind == kind
    assert failed.message == " ".join(str(raised).split())
    last = records_of(out)[-1]
    assert last == events.to_record(failed)
    assert_numbered(records_of(out), seen, "run")
    assert "phase" in {record["event"] for record in records_of(out)}
    assert list(events_of(world, out, resume=True, method=ToyMethod))[-1].best_step >= 0


def test_failed_before_anything_is_written(world: World, tmp_path: Path) -> None:
    class Refusing(ToyMethod):
        def __init__(self, task: Any) -> None:
            raise UserError("no such task")

    seen, error = until_raised(events_of(world, tmp_path / "run", method=Refusing))
    assert str(error) == "no such task"
    assert [type(event).__name__ for event in seen] == ["Started", "Failed"]
    assert [event.number for event in seen] == [0, 1]
    assert not (tmp_path / "run").exists()


def test_failed_while_preparing_and_in_a_judge(world: World, tmp_path: Path) -> None:
    class Unprepared(ToyMethod):
        def prepare(self) -> Generator[rpo.Event, None, Latents]:
            yield from super().prepare()
            raise RuntimeError("no data")

    def broken(pictures: Tensor, prompts: Sequence[str]) -> float:
        raise RuntimeError("no opinion")

    for number, (part, message) in enumerate(
        [({"method": Unprepared}, "no data"), ({"judges": {"broken": broken}}, "no opinion")]
    ):
        out = tmp_path / str(number)
        seen, error = until_raised(events_of(world, out, **part))
        assert isinstance(error, RuntimeError)
        assert isinstance(seen[-1], Failed)
        assert seen[-1].message == message
        assert records_of(out)[-1]["event"] == "failed"


def test_an_error_of_the_caller_is_no_failure_and_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    out, seen = tmp_path / "run", []

    def listen(event: rpo.Event) -> None:
        seen.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            raise RuntimeError("the caller's own")

    whole = rpo.train(
        rpo.Subject.from_folder(world.photos, "dog"),
        str(world.model),
        out=tmp_path / "whole",
        method=ToyMethod,
        settings=world.settings(6),
    )
    with pytest.raises(RuntimeError, match="the caller's own"):
        rpo.train(
            rpo.Subject.from_folder(world.photos, "dog"),
            str(world.model),
            out=out,
            method=ToyMethod,
            settings=world.settings(6),
            on_event=listen,
        )
    assert not [event for event in seen if isinstance(event, Failed)]
    written = records_of(out)
    assert {"failed", "interrupted"} & {record["event"] for record in written} == {"interrupted"}
    assert (written[-1]["event"], written[-1]["step"]) == ("interrupted", 3)
    assert rpo.load_run(out).folder.summary()["step"] == 3
    list(events_of(world, out, resume=True, method=ToyMethod))
    assert results(out) == results(whole.path)


@pytest.mark.parametrize("done", [0, 3])
def test_an_interrupt_within_a_step_saves_the_steps_before(
    world: World, tmp_path: Path, done: int
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    list(events_of(world, whole, method=ToyMethod))
    seen, error = until_raised(events_of(world, out, method=failing(done, KeyboardInterrupt())))
    assert isinstance(error, KeyboardInterrupt)
    assert [event.step for event in seen if isinstance(event, StepDone)] == [*range(1, done + 1)]
    assert not [event for event in seen if isinstance(event, Failed)]
    assert (records_of(out)[-1]["event"], records_of(out)[-1]["step"]) == ("interrupted", done)
    assert rpo.load_run(out).folder.summary()["step"] == done
    list(events_of(world, out, resume=True, method=ToyMethod))
    assert results(out) == results(whole)


def test_an_interrupts_event_comes_before_what_was_raised(world: World, tmp_path: Path) -> None:
    """Thrown in from outside, as a first Ctrl-C is; before anything is written, too."""
    for number, (kind, step) in enumerate([(Started, 0), (StepDone, 1)]):
        out = tmp_path / f"run {number}"
        job = events_of(world, out, method=ToyMethod)
        while not isinstance(next(job), kind):
            pass
        event = job.throw(KeyboardInterrupt())
        assert isinstance(event, Interrupted)
        assert event.step == step
        assert event.number > 0
        if step:
            assert records_of(out)[-1] == events.to_record(event)
        with pytest.raises(KeyboardInterrupt):
            next(job)
        assert out.exists() == bool(step)


@pytest.mark.parametrize("where", ["waiting for the device", "before the weights change"])
def test_an_interrupt_beside_the_figures_of_a_step_reports_what_was_done(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    out, left = tmp_path / "run", [KeyboardInterrupt()]
    waiting = where == "waiting for the device"
    initialise, cat = Trainer.__init__, torch.cat

    def as_on_a_gpu(self: Trainer, *arguments: Any) -> None:
        initialise(self, *arguments)
        self.report_every = 10

    def interrupted(rows: Any, *more: Any, **named: Any) -> Tensor:
        if [row.shape for row in rows] == [(4,)] * 2 and left:  # two steps' norm, loss, figures
            raise left.pop()
        return cat(rows, *more, **named)

    def rate(step: int, settings: Any) -> float:
        if step == 2 and left:
            raise left.pop()
        return learning_rate(step, settings)

    with monkeypatch.context() as patch:
        if waiting:
            patch.setattr(Trainer, "__init__", as_on_a_gpu)
            patch.setattr("rpo.training.loop.torch.cat", interrupted)
        else:
            patch.setattr("rpo.training.loop.learning_rate", rate)
        _, error = until_raised(events_of(world, out, method=ToyMethod))
    assert isinstance(error, KeyboardInterrupt)
    written = records_of(out)
    assert [record["step"] for record in written if record["event"] == "step"] == [1, 2]
    assert (written[-1]["event"], written[-1]["step"]) == ("interrupted", 2)


def test_an_interrupt_while_the_weights_change_keeps_the_last_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    list(events_of(world, whole, method=ToyMethod))
    break_at(events_of(world, out, method=ToyMethod), StepDone, 1)
    kept = (out / "last" / "trainer.safetensors").read_bytes()
    step, calls = torch.optim.AdamW.step, []

    def halfway(self: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(step(self, *arguments, **more))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", halfway)
        _, error = until_raised(events_of(world, out, resume=True, method=ToyMethod))
    assert isinstance(error, KeyboardInterrupt)
    assert (out / "last" / "trainer.safetensors").read_bytes() == kept
    assert (records_of(out)[-1]["event"], records_of(out)[-1]["step"]) == ("interrupted", 1)
    list(events_of(world, out, resume=True, method=ToyMethod))
    assert results(out) == results(whole)


def test_an_interrupt_of_a_resumed_run_that_is_still_loading_names_its_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    break_at(events_of(world, out, method=ToyMethod), StepDone, 3)
    with monkeypatch.context() as patch:
        patch.setattr("rpo.training.loop.Trainer.load_state_dict", interrupt)
        until_raised(events_of(world, out, resume=True, method=ToyMethod))
    last = records_of(out)[-1]
    assert (last["event"], last["step"]) == (Interrupted.__name__.lower(), 3)


# --- events as records -------------------------------------------------------------------

STAMP = {"run": "dog-1", "number": 7, "time": 1.8e9 + 0.25}
EXAMPLES: dict[str, rpo.Event] = {
    "started": events.Started(
        *(Path("/runs/dog-1"), "[V] dog", "live", 4, "emojiland", "emojiland", 400, "best", None),
        *("a photo of [V] dog", ("a [V] dog in snow", "ein grüner [V] dog"), ("a [V] dog",)),
        "dpo",
        **STAMP,
    ),
    "progress": events.Progress("labelling", 3, 8, **STAMP),
    "notice": events.Notice('out of "memory": halved', **STAMP),
    "labelled": events.Labelled(0.5, 0.25, -0.125, 128, "expected", **STAMP),
    "drawn": events.Drawn(None, ("a dog", "a dog"), ("a/01.png", "a/02.png"), **STAMP),
    "step": StepDone(3, 0.5, 1.5, {"similarity": 0.25, "margin": -0.5}, **STAMP),
    "validated": Validated(
        40, 0.5, 0.25, 0.75, False, None, ("a [V] dog",), {"sharp": 2.0}, ("b/01.png",), **STAMP
    ),
    "redrawn": events.Redrawn(40, 0.5, None, ("a [V] dog",), ("c/01.png",), **STAMP),
    "stopped": Stopped(40, 0, "patience", **STAMP),
    "phase": events.PhaseDone("loading", 1.5, 320.0, None, **STAMP),
    "finished": Finished(Path("/runs/dog-1"), 40, Path("/runs/dog-1/report.html"), **STAMP),
    "interrupted": Interrupted(12, **STAMP),
    "failed": Failed("the disk is full", "OSError", **STAMP),
}


def test_every_class_of_events_has_an_example() -> None:
    assert EXAMPLES.keys() == events.KINDS.keys()
    assert {type(event) for event in EXAMPLES.values()} == set(events.Event.__subclasses__())
    for name, event in EXAMPLES.items():
        assert type(event) is events.KINDS[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_event_survives_json(name: str) -> None:
    event = EXAMPLES[name]
    record = json.loads(json.dumps(events.to_record(event), allow_nan=False))
    assert record["event"] == name
    assert {key: record[key] for key in STAMP} == STAMP
    assert events.from_record(record) == event


def test_pictures_stay_in_the_process() -> None:
    pictures = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for name in ("drawn", "validated", "redrawn"):
        event: Any = dataclasses.replace(EXAMPLES[name], images=pictures)  # type: ignore[call-arg]
        back: Any = events.from_record(json.loads(json.dumps(events.to_record(event))))
        assert back.images is None
        assert back == EXAMPLES[name]


@pytest.mark.parametrize("record", [{}, {"event": "party"}, {"event": "step", "loss": 1.0}])
def test_what_is_no_record_of_an_event(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no kind of event|an incomplete record of 'step'"):
        events.from_record(record)


def test_json_lines_are_the_events_and_say_where_pictures_are(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [*world.flags(steps=2), "--out", str(out), "--json"]
    assert cli.run(["train", str(world.photos), *flags]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [events.from_record(record) for record in records]
    assert [events.to_record(event) for event in told] == records
    assert (records[0]["event"], records[-1]["event"]) == ("started", "finished")
    assert_numbered(records_of(out), told, "run")
    with_pictures = [record for record in records if record["event"] in ("drawn", "validated")]
    assert [record["event"] for record in with_pictures] == ["drawn", "validated", "validated"]
    for record in with_pictures:
        assert len(record["images"]) == len(record["prompts"]) > 0
        for file in record["images"]:
            assert (out / file).read_bytes().startswith(b"\x89PNG")
    assert len({file for record in with_pictures for file in record["images"]}) == 4 + 2 + 2
    assert all(math.isfinite(record["time"]) for record in records)


def test_json_lines_end_with_the_failure(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*world.flags(), "--out", str(tmp_path / "run"), "--json"]
    flags += ["--set", "training.learning_rate=1e30"]
    assert cli.run(["train", str(world.photos), *flags]) == cli.WRONG_INPUT
    output = capsys.readouterr()
    last = json.loads(output.out.splitlines()[-1])
    assert (last["event"], last["kind"]) == ("failed", "wrong input")
    assert output.err == f"error: {last['message']}\n"
