"""lost.py: a best/ that is gone is noticed, made again where it can be, and spoken of truly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jobs import World, break_off, contents, results

import rpo
from rpo.cli import commands as cli
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Finished, Notice, StepDone, Validated
from rpo.runs.result import load_run

LAST = {"validation.keep": "last"}  # so that the last weights are the kept ones
# no step is better than the base model
STILL = {"training.learning_rate": 1e-12}


def lasting(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without the file in which a tokenizer notes how it was used last."""
    return {name: data for name, data in files.items() if not name.endswith("/tokenizer.json")}


def job(world: World, out: Path, **more: Any) -> Any:
    subject = Subject.from_folder(world.photos, "dog")
    settings = world.settings(steps=2, every=1, **more)
    return rpo.iterate(subject, model=str(world.model), out=out, settings=settings, resume=True)


def only_at(step: int, world: World, out: Path, **more: Any) -> Path:
    """A finished run of two steps whose best is of this step, by a rule that says so."""
    list(job(world, out, **more))
    assert load_run(out).best_step == step
    return out


def lose(out: Path, how: str) -> None:
    best = out / "best"
    if how == "all":
        shutil.rmtree(best)
    elif how == "its card":
        (best / "rpo.json").unlink()
    elif how == "a damaged card":
        (best / "rpo.json").write_text('{"step": ')
    else:
        next(best.rglob("*.safetensors")).unlink()


HOW = ("all", "its card", "a damaged card", "weights")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("weights", ["full", "lora"])
def test_made_again_from_last(
    world: World, tmp_path: Path, how: str, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {**LAST, "training.weights": weights, "lora.rank": 2}
    out = only_at(2, world, tmp_path / "run", **more)
    before = lasting(results(out))
    lose(out, how)
    assert cli.run(["generate", str(out), "a [V] dog"]) == 2
    if how != "a damaged card":
        assert "--resume makes best/ again" in capsys.readouterr().err
    events = list(job(world, out, **more))
    (notice,) = (event.message for event in events if isinstance(event, Notice))
    assert str(out / "best") in notice
    assert notice.endswith("best/ is made again")
    assert isinstance(events[-1], Finished)
    assert lasting(results(out)) == before
    assert cli.run(["generate", str(out), "a [V] dog"]) == 0


def test_the_base_models_own_weights_are_made_again(world: World, tmp_path: Path) -> None:
    out = only_at(0, world, tmp_path / "run", **STILL)
    before = lasting(contents(out / "best"))
    lose(out, "all")
    events = list(job(world, out, **STILL))
    assert isinstance(events[-1], Finished)
    assert lasting(contents(out / "best")) == before


def lost_for_good(out: Path, finished: bool) -> None:
    """As if step 1 had been the best of a run that went on to step 2."""
    state = json.loads((out / "last" / "state.json").read_text())
    state |= {"best_step": 1, "finished": finished}
    (out / "last" / "state.json").write_text(json.dumps(state))
    lose(out, "all")


def test_what_cannot_be_had_again_is_said(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = only_at(2, world, tmp_path / "run", **LAST)
    lost_for_good(out, finished=True)
    gone = "the weights of step 1 cannot be had again, as last/ holds those of step 2"
    for arguments in (["generate", str(out), "a [V] dog"], ["export", str(out), "--to", "lora"]):
        assert cli.run(arguments) == 2
        assert f"{gone}; start a new run" in capsys.readouterr().err
    before = contents(out)
    with pytest.raises(UserError, match=gone):
        list(job(world, out, **LAST))
    assert contents(out) == before


def test_an_unfinished_run_goes_on_and_says_so(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_off(world, out, StepDone, 2, steps=3, every=1, **LAST)
    lost_for_good(out, finished=False)
    subject = Subject.from_folder(world.photos, "dog")
    settings = world.settings(steps=3, every=1, **LAST)
    events = list(
        rpo.iterate(subject, model=str(world.model), out=out, settings=settings, resume=True)
    )
    (notice,) = (event.message for event in events if isinstance(event, Notice))
    assert "cannot be had again" in notice
    assert "only a later step that is better makes a new best/" in notice
    assert load_run(out).best_step == 3


def test_data_and_trainer_are_made_again(world: World, tmp_path: Path) -> None:
    list(job(world, tmp_path / "whole"))
    for name in ("data", "trainer"):
        out = tmp_path / name
        break_off(world, out, Validated, 1, steps=2, every=1)
        (out / "last" / f"{name}.safetensors").unlink()
        events = list(job(world, out))
        (notice,) = (event.message for event in events if isinstance(event, Notice))
        assert f"{name}.safetensors: is gone; what it held is computed again" in notice
        assert results(out) == results(tmp_path / "whole")
        records = load_run(out).folder.records()
        assert sum(record["event"] == "labelled" for record in records) == 1


def test_a_damaged_end_of_the_metrics_is_cut_with_a_notice(world: World, tmp_path: Path) -> None:
    list(job(world, tmp_path / "whole"))
    out = tmp_path / "run"
    break_off(world, out, Validated, 1, steps=2, every=1)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write('{"event": "failed", "message": "ü'.encode()[:-1])
    events = list(job(world, out))
    (notice,) = (event.message for event in events if isinstance(event, Notice))
    assert "metrics.jsonl: line" in notice
    assert "is damaged (not UTF-8 text): it and what follows is left out" in notice
    assert results(out) == results(tmp_path / "whole")
    assert load_run(out).folder.damaged_end() == ""
