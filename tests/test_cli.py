"""The `rpo` command from end to end, on a world of tiny real models (see jobs.py)."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, make_world, save_photos
from PIL import Image
from safetensors.torch import load_file

import rpo
from rpo import bundled, cli, console, job, models
from rpo.errors import UserError
from rpo.events import StepDone, Validated
from rpo.result import load_run
from rpo.subject import Subject


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("kleine Welt"))


@pytest.fixture(scope="module")
def done(world: World) -> Path:
    """A finished run of 4 steps, validated at 0, 2 and 4."""
    out = world.root / "done"
    assert cli.run(["train", str(world.photos), *world.flags(), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own: what is written by default lands there."""
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative name."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def results(run: Path) -> dict[str, bytes]:
    """What must be the same byte for byte: weights, training state and pictures."""
    parts = ("best", "images", "last")
    return {f"{part}/{name}": data for part in parts for name, data in contents(run / part).items()}


def measured(run: Path) -> list[dict[str, Any]]:
    """The metrics without times and places."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [r for r in records if r["event"] not in ("started", "phase", "interrupted")]


def break_off(world: World, out: Path, at: type, step: int, **more: Any) -> None:
    """Runs a job and leaves its loop at the event of that kind and step."""
    events = job.iterate(
        Subject.from_folder(world.photos, "dog"),
        model=str(world.model),
        out=out,
        settings=world.settings(**more),
    )
    for event in events:
        if isinstance(event, at) and getattr(event, "step", step) == step:
            break
    events.close()


# --- the whole job -----------------------------------------------------------------------


def test_train_leaves_a_complete_run(done: Path) -> None:
    names = set(contents(done))
    assert {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "best/model_index.json",
        "best/unet/diffusion_pytorch_model.safetensors",
        "last/trainer.safetensors",
        "last/state.json",
        "images/photos/01-0.png",
        "images/training/04-a-green-v-dog.png",
        "images/validation/step-00004/02-a-blue-v-dog.png",
    } <= names
    assert not any(name.startswith(".") or ".part" in name for name in os.listdir(done))
    run = load_run(done)
    assert run.finished
    assert [point.step for point in run.history] == [0, 2, 4]
    best = max(run.history, key=lambda point: point.reward)
    assert [point.step for point in run.history if point.chosen] == [best.step]
    assert run.best_step == best.step
    environment = json.loads((done / "environment.json").read_text(encoding="utf-8"))
    assert len(environment["subject"]["photos"]) == 3
    assert "unet/diffusion_pytorch_model.safetensors" in environment["models"]["pipeline"]["files"]
    phases = {r["phase"] for r in run.folder.records() if r["event"] == "phase"}
    assert {"loading", "sampling", "labelling", "training", "validation", "saving"} == phases


def test_best_is_an_ordinary_pipeline_with_the_chosen_weights(world: World, done: Path) -> None:
    from rpo.backbone import quiet

    with quiet():
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(done / "best")
    base = load_file(world.model / "unet" / "diffusion_pytorch_model.safetensors")
    weights = pipeline.unet.state_dict()
    moved = any(not torch.equal(weights[name], base[name]) for name in base)
    assert moved == (load_run(done).best_step != 0)


def test_same_seed_same_bytes_another_seed_not(world: World, done: Path, tmp_path: Path) -> None:
    arguments = ["train", str(world.photos), *world.flags(), "--quiet", "--out"]
    assert cli.run([*arguments, str(tmp_path / "again")]) == 0
    assert results(tmp_path / "again") == results(done)
    assert measured(tmp_path / "again") == measured(done)
    assert cli.run([*arguments, str(tmp_path / "other"), "--seed", "1"]) == 0
    assert measured(tmp_path / "other") != measured(done)


def test_config_of_a_run_replays_it(world: World, done: Path, tmp_path: Path) -> None:
    arguments = ["train", str(world.photos), "--config", str(done / "config.toml"), "--quiet"]
    assert cli.run([*arguments, "--out", str(tmp_path / "again")]) == 0
    assert results(tmp_path / "again") == results(done)
    assert (tmp_path / "again" / "config.toml").read_text() == (done / "config.toml").read_text()


def test_api_is_the_same_job(world: World, done: Path, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    seen: list[str] = []
    run = rpo.train(
        subject,
        model=str(world.model),
        out=tmp_path / "api",
        on_event=lambda event: seen.append(type(event).__name__),
        prompts=str(world.prompts),
        reward={"model": str(world.reward)},
        training={"steps": 4, "learning_rate": 1e-2},
        sampling={"steps": 2, "images_per_prompt": 2},
        validation={"every": 2, "steps": 2},
    )
    assert results(run.path) == results(done)
    assert (seen[0], seen[-1]) == ("Started", "Finished")
    again = rpo.train(subject, out=tmp_path / "config", config=run.config)
    assert results(again.path) == results(done)


# --- resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "step"),
    [(StepDone, 1), (StepDone, 2), (Validated, 2), (Validated, 0)],
    ids=["between", "before a validation", "after a validation", "before the first step"],
)
def test_resumed_equals_uninterrupted(
    world: World, done: Path, tmp_path: Path, at: type, step: int
) -> None:
    out = tmp_path / "cut"
    break_off(world, out, at, step)
    assert not load_run(out).finished
    command = ["train", str(world.photos), *world.flags(), "--out", str(out), "--quiet"]
    assert cli.run([*command, "--resume"]) == 0
    assert results(out) == results(done)
    assert measured(out) == measured(done)
    assert "interrupted" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_run_cut_while_drawing_starts_that_again(
    world: World, done: Path, tmp_path: Path
) -> None:
    from rpo.events import Progress

    break_off(world, tmp_path / "cut", Progress, 0)
    assert load_run(tmp_path / "cut").history == ()
    command = ["train", str(world.photos), "--noun", "dog", "--out", str(tmp_path / "cut")]
    assert cli.run([*command, "--resume", "--quiet"]) == 0
    assert results(tmp_path / "cut") == results(done)


def test_more_steps_continue_a_finished_run(world: World, tmp_path: Path) -> None:
    command = ["train", str(world.photos), "--quiet", "--out"]
    assert cli.run([*command, str(tmp_path / "six"), *world.flags(steps=6)]) == 0
    assert cli.run([*command, str(tmp_path / "two"), *world.flags(steps=2)]) == 0
    more = ["--noun", "dog", "--resume", "--set", "training.steps=6"]
    assert cli.run([*command, str(tmp_path / "two"), *more]) == 0
    assert results(tmp_path / "two") == results(tmp_path / "six")
    fewer = [*more[:-1], "training.steps=5"]
    assert cli.run([*command, str(tmp_path / "two"), *fewer]) == cli.WRONG_INPUT


def test_resume_of_a_finished_run_changes_nothing(
    world: World, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(done)
    command = ["train", str(world.photos), "--noun", "dog", "--out", str(done), "--resume"]
    assert cli.run(command) == 0
    assert contents(done) == before
    assert "chosen" in capsys.readouterr().out


def test_resume_finds_the_newest_unfinished_run(world: World, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number, steps in ((2, 2), (10, 1)):
        break_off(world, runs / f"{world.photos.name}-{number}", StepDone, steps)
    assert cli.run(["train", str(world.photos), "--noun", "dog", "--resume", "--quiet"]) == 0
    assert load_run(runs / f"{world.photos.name}-10").finished
    assert not load_run(runs / f"{world.photos.name}-2").finished


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--noun", "cat"], "noun = 'dog'"),
        (["--noun", "dog", "--seed", "5"], "seed = 0, not 5"),
        (["--noun", "dog", "--set", "training.beta=2"], "training.beta = 1.0, not 2.0"),
    ],
)
def test_resume_refuses_other_settings(
    world: World,
    done: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    code = cli.run(["train", str(world.photos), *flags, "--out", str(done), "--resume"])
    assert code == cli.WRONG_INPUT
    assert words in capsys.readouterr().err


def test_resume_refuses_other_photos(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path / "photos", count=2)
    command = ["train", str(tmp_path / "photos"), "--noun", "dog", "--out", str(done), "--resume"]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "photos are not those" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(
    world: World,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def press(self: object, event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(console.Quiet, "__call__", press)
        command = ["train", str(world.photos), *world.flags(), "--out", str(tmp_path / "cut")]
        assert cli.run([*command, "--quiet"]) == cli.INTERRUPTED == 130
    assert signal.getsignal(number) is before
    message = capsys.readouterr().err
    assert json.loads((tmp_path / "cut" / "last" / "state.json").read_text())["step"] == 3
    command = shlex.split(message[message.index("rpo train") :])
    assert cli.run([*command[1:], "--quiet"]) == 0
    assert results(tmp_path / "cut") == results(done)


def test_second_signal_stops_at_once() -> None:
    with console.StopOnSignal(lambda: None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# --- what is printed ---------------------------------------------------------------------


def test_plain_output(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(world.photos), *world.flags()]) == 0
    out, err = capsys.readouterr()
    run = Path("runs") / f"{world.photos.name}-1"
    assert str(run / "report.html") in out
    assert out.count("chosen") == 1
    for words in ("reward", "image alignment", "text alignment", "rpo generate"):
        assert words in out
    assert "training prompts: a [V] dog in snow; a green [V] dog" in err
    assert "best so far" in err
    assert "Writing model shards" not in err
    assert run.is_dir()


def test_bars_on_a_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.run(["train", str(world.photos), *world.flags()]) == 0
    err = capsys.readouterr().err
    for phase in ("sampling", "labelling", "training", "validation"):
        assert phase in err


def test_json_is_one_event_a_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(world.photos), *world.flags(), "--json", "--out", str(tmp_path / "j")]
    assert cli.run(command) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1] == {
        "event": "finished",
        "path": str(tmp_path / "j"),
        "best_step": load_run(tmp_path / "j").best_step,
        "report": str(tmp_path / "j" / "report.html"),
    }
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert {"progress", "labelled", "validated", "stopped", "phase"} <= {e["event"] for e in events}
    assert err == ""


def test_quiet_prints_the_folder_alone(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):  # the default folder is never one that exists
        assert cli.run(["train", str(world.photos), *world.flags(), "-q"]) == 0
        out, err = capsys.readouterr()
        assert (out, err) == (f"{Path('runs') / f'{world.photos.name}-{number}'}\n", "")


def test_tensorboard_gets_the_curves(world: World, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    command = ["train", str(world.photos), *world.flags(), "--out", str(out), "--tensorboard", "-q"]
    assert cli.run(command) == 0
    log = EventAccumulator(str(out / "tensorboard"))
    log.Reload()
    reward = log.Scalars("validated/reward")
    assert [point.step for point in reward] == [0, 2, 4]
    expected = [point.reward for point in load_run(out).history]
    assert [point.value for point in reward] == pytest.approx(expected)


def test_demo(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assets = tmp_path / "assets" / "emojiland"
    for part, source in (("pipeline", world.model), ("reward", world.reward)):
        assets.mkdir(parents=True, exist_ok=True)
        (assets / part).symlink_to(source)
    (assets / "subjects").mkdir()
    (assets / "subjects" / "rex").symlink_to(world.photos)
    table = '[subjects.rex]\nnoun = "dog"\nkind = "live"\n'
    (assets / "subjects.toml").write_text(table, encoding="utf-8")
    monkeypatch.setattr(models, "_ASSETS", assets.parent)
    monkeypatch.setattr(bundled, "_FOLDER", assets)

    assert bundled.bundled_names() == ("rex",)
    settings = [flag for s in world.settings() for flag in ("--set", s) if "reward.model" not in s]
    assert cli.run(["demo", "--seed", "3", "--out", "demo", *_pairs(settings)]) == 0
    assert "demo/report.html" in capsys.readouterr().out.replace("\\", "/")
    config = load_run(Path("demo")).config
    assert (config.model, config.seed, config.noun) == ("emojiland", 3, "dog")
    assert cli.run(["demo", "--subject", "rax"]) == cli.WRONG_INPUT
    assert "did you mean rex?" in capsys.readouterr().err
    (assets / "subjects.toml").unlink()
    with pytest.raises(UserError, match="lacks the bundled subjects"):
        bundled.bundled_names()


def _pairs(flags: list[str]) -> list[str]:
    """Drops a --set that has lost its value."""
    kept = [flag for flag in flags if flag != "--set"]
    return [part for value in kept for part in ("--set", value)]


# --- generate, check, info ---------------------------------------------------------------


def test_generate_numbers_on_and_repeats_a_seed(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(done), "a [V] dog in snow", "--out", str(tmp_path / "out dir")]
    assert cli.run([*command, "-n", "3", "--seed", "5", "--guidance", "2"]) == 0
    first = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name[:4] for path in first] == ["0001", "0002", "0003"]
    assert cli.run([*command, "--seed", "6", "--guidance", "2"]) == 0
    (second,) = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert second.name == "0004-a-v-dog-in-snow.png"
    with Image.open(first[1]) as a, Image.open(second) as b:
        assert a.info == b.info
        assert a.info["seed"] == "6"
        assert a.info["guidance_scale"] == "2.0"
        assert a.info["prompt"] == "a [V] dog in snow"
        # batches of another size may round differently in the last bit, no more
        difference = [abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)]
        assert max(difference) <= 1
    assert first[0].read_bytes() != first[1].read_bytes()


def test_generate_from_python(done: Path) -> None:
    pictures = load_run(done).generate("a [V] dog", n=2, seed=1)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    for wrong in ({"n": 0}, {"seed": -1}, {"steps": 0}):
        with pytest.raises(UserError, match="must be at least"):
            load_run(done).generate("a [V] dog", **wrong)


def test_generate_default_folder_and_note(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    break_off(world, run, Validated, 0)
    assert cli.run(["generate", str(run), "a dog"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "images" / "generated" / "0001-a-dog.png")
    assert "does not hold" in err


def test_check(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.png"]) == 0
    assert "0.png" in capsys.readouterr().out
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 160
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.png"]) == cli.WRONG_INPUT
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.txt"]) == cli.WRONG_INPUT
    assert cli.run(["check", str(world.photos), "--sheet", "no/sheet.png"]) == cli.WRONG_INPUT
    save_photos(tmp_path / "photos")
    (tmp_path / "photos" / "bad.jpg").write_text("just words")
    capsys.readouterr()
    assert cli.run(["check", str(tmp_path / "photos")]) == cli.WRONG_INPUT
    out, err = capsys.readouterr()
    assert "rejected" in out
    assert "1 of 4 photos" in err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info"]) == 0
    assert f"torch             {torch.__version__}" in capsys.readouterr().out
    assert cli.run(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["rpo"] == rpo.__version__
    assert set(found) == {"versions", "hardware", "models", "cache"}


# --- wrong input -------------------------------------------------------------------------


def _cases(world: World, place: Path) -> dict[str, list[str]]:
    """Command lines that must be refused, by what is wrong with them."""
    good = str(world.photos)
    flags = world.flags()
    for name, count in (("empty", 0), ("single", 1), ("words", 2), ("cut", 2)):
        save_photos(place / name, count)
    (place / "words" / "text.jpg").write_text("not a picture")
    Image.effect_noise((90, 90), 80).save(place / "cut" / "cut.jpg")
    whole = (place / "cut" / "cut.jpg").read_bytes()
    (place / "cut" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (place / "holds").mkdir()
    (place / "holds" / "thesis.txt").write_text("years of work")
    (place / "bad.toml").write_text("[training]\nstepz = 3\n")
    return {
        "missing folder": ["train", str(place / "nowhere"), *flags],
        "empty folder": ["train", str(place / "empty"), *flags],
        "one photo": ["train", str(place / "single"), *flags],
        "text named .jpg": ["train", str(place / "words"), *flags],
        "truncated JPEG": ["train", str(place / "cut"), *flags],
        "unknown setting": ["train", good, *flags, "--set", "training.stepz=3"],
        "unknown key in a file": ["train", good, *flags, "--config", str(place / "bad.toml")],
        "misspelt preset": ["train", good, *flags, "--preset", "papr"],
        "not a model": ["train", good, *flags, "--model", str(place / "holds")],
        "no such model": ["train", good, *flags, "--model", "./nothing"],
        "not a reward model": ["train", good, *flags, "--set", f"reward.model={place / 'holds'}"],
        "out holds other things": ["train", good, *flags, "--out", str(place / "holds")],
        "out is a file": ["train", good, *flags, "--out", str(place / "bad.toml")],
        "no noun": ["train", good, "--model", str(world.model)],
        "bad value": ["train", good, *flags, "--set", "training.steps=many"],
        "nothing to resume": ["train", good, *flags, "--resume"],
        "no such prompts": ["train", good, *flags, "--set", "prompts=mine.toml"],
        "both outputs": ["train", good, *flags, "--json", "--quiet"],
        "unknown flag": ["train", good, "--noum", "dog"],
        "no photos": ["train"],
        "not a run": ["generate", str(place / "holds"), "a [V] dog"],
        "check of nothing": ["check", str(place / "empty")],
    }


CASES = (
    "missing folder",
    "empty folder",
    "one photo",
    "text named .jpg",
    "truncated JPEG",
    "unknown setting",
    "unknown key in a file",
    "misspelt preset",
    "not a model",
    "no such model",
    "not a reward model",
    "out holds other things",
    "out is a file",
    "no noun",
    "bad value",
    "nothing to resume",
    "no such prompts",
    "both outputs",
    "unknown flag",
    "no photos",
    "not a run",
    "check of nothing",
)


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_line_and_nothing_is_written(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    command = _cases(world, tmp_path)[case]
    before = contents(tmp_path)
    assert cli.run(command) == cli.WRONG_INPUT == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_every_case_is_run(world: World, tmp_path: Path) -> None:
    assert tuple(_cases(world, tmp_path)) == CASES


# --- the package and the program ---------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "train", "generate", "check", "info"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert f"rpo {command}" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"rpo {rpo.__version__}\n"


def test_package_and_help_do_not_load_torch() -> None:
    code = (
        "import sys, rpo; from rpo import cli; cli.run(['train', '--help']); rpo.UserError;"
        "assert 'torch' not in sys.modules; rpo.Config; assert 'torch' not in sys.modules;"
        "print(sorted(rpo.__all__) == dir(rpo))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("True\n")


def test_public_names_exist() -> None:
    for name in rpo.__all__:
        assert getattr(rpo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rpo.nonsense


def test_python_dash_m(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rpo", "check", str(tmp_path / "nö")]
    out = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert out.returncode == cli.WRONG_INPUT
    assert out.stderr.startswith("error: ")
