"""`rpo evaluate` on a world of tiny models: what it draws, writes, prints and refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from evaluating import evaluated, pixels
from jobs import World, contents, make_world
from judging import save_dino
from PIL import Image, ImageDraw
from tiny import RESOLUTION

import rpo
from rpo.about import ASSETS
from rpo.cli import commands as cli
from rpo.evaluation.drawn import CLASS_PICTURES
from rpo.models.backbone import Backbone
from rpo.models.sampling import sample
from rpo.runs.folder import as_pictures
from rpo.seeds import derive_seed

EACH = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("kleine Welt"))
    save_dino(world.root / "dino")
    text = world.prompts.read_text(encoding="utf-8")
    two = text.replace('["a red {}"]', '["a red {}", "a {} in my den"]')
    world.prompts.write_text(two, encoding="utf-8")
    return world


@pytest.fixture(scope="module")
def cat(world: World) -> Path:
    """An adapter for another subject."""
    photos, out = world.root / "cats", world.root / "cat run"
    photos.mkdir()
    for index in range(3):
        photo = Image.new("RGB", (60, 60), (20, 40 * index, 90))
        ImageDraw.Draw(photo).rectangle((10 + 8 * index, 5, 50, 40), fill=(250, 250, 60))
        photo.save(photos / f"{index}.png")
    flags = world.flags(**{"training.weights": "lora"})
    flags[flags.index("dog")] = "cat"
    assert cli.run(["train", str(photos), *flags, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture
def judges(world: World) -> list[str]:
    return ["--dino", str(world.root / "dino"), "--clip", str(world.reward)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_drawn_judged_and_left_as_it_was(
    done: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(done)
    out, folder, data = evaluated(capsys, done, *judges, "--images-per-prompt", EACH)
    assert contents(done) == before
    assert folder == Path("evaluations") / "done-1"
    (system,) = data["systems"]
    assert (system["method"], system["weights"], system["noun"]) == ("rpo", "full", "dog")
    figures = system["overall"]
    assert set(figures) == {"dino", "clip_i", "clip_t", "harmonic", "diversity", "class_drift"}
    assert all(told["low"] <= told["mean"] <= told["high"] for told in figures.values())
    assert (figures["dino"]["n"], figures["class_drift"]["n"]) == (2, CLASS_PICTURES)
    assert set(system["skills"]) == {"colour", "other"}
    assert set(system["prompts"]) == {"a red {}", "a {} in my den"}
    assert set(system["photos"]) == {"dino", "clip_i"}
    assert len(system["pictures"]) == 2 * EACH + CLASS_PICTURES
    for said in (
        *(
            "DINO",
            "CLIP-T",
            "λ-harmonic",
            "real photos",
            "rpo (full), step",
            f"{RESOLUTION} pixels",
        ),
        data["judges"]["dino"]["sha256"]["model.safetensors"][:10],
        data["judges"]["clip"]["sha256"]["model.safetensors"][:10],
        'drawn by "a red [V] dog", judged by "a red dog"',
        *("16 x 16", "seed 0", "2 pictures a prompt", "bootstrap", "prompts of this one subject"),
    ):
        assert said in out, said
    assert not re.search(r"\.774|\.668|\.803", out)  # no published figure stands beside measured


def test_the_pictures_are_those_of_their_seeds(
    done: Path, judges: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = evaluated(capsys, done, *judges, "--images-per-prompt", EACH, "--out", "e")
    run = rpo.load_run(done)
    for place, name in enumerate(("01-1", "01-2", "02-1", "02-2")):
        prompt = ("a red [V] dog", "a [V] dog in my den")[place // EACH]
        (drawn,) = run.generate(prompt, seed=derive_seed(0, "test", place))
        saved = folder / "pictures" / "done" / world.photos.name / f"{name}.png"
        assert pixels(saved) == drawn.tobytes()
    # the class, by the base model itself
    backbone = Backbone.load(world.model, device="cpu")
    latents = sample(
        backbone,
        backbone.denoiser,
        backbone.encode_prompts(["a dog"]),
        [derive_seed(0, "test class", 3)],
        steps=run.config.sampling.steps,
        guidance_scale=run.config.sampling.guidance_scale,
        scheduler=run.config.sampling.scheduler,
    )
    (expected,) = as_pictures(backbone.decode(latents))
    assert pixels(folder / "class" / "done" / "base" / "04.png") == expected.tobytes()
    tuned = pixels(folder / "class" / "done" / "tuned" / "04.png")
    assert (tuned == expected.tobytes()) == (run.best_step == 0)


def suite_of(world: World, root: Path) -> Path:
    """The run's own subject and another dog, with the run's prompts."""
    root.mkdir()
    shutil.copytree(world.photos, root / world.photos.name)
    shutil.copytree(world.root / "cats", root / "waldi")
    table = f'["{world.photos.name}"]\nnoun = "dog"\n[waldi]\nnoun = "dog"\n'
    (root / "subjects.toml").write_text(table, encoding="utf-8")
    shutil.copy(world.prompts, root / "prompts.toml")
    return root


def test_a_folder_of_the_same_pictures_has_the_same_figures(
    done: Path,
    cat: Path,
    judges: list[str],
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    suite = suite_of(world, tmp_path / "suite")
    words = (*judges, "--subjects", suite, "--images-per-prompt", EACH)
    _, folder, run = evaluated(capsys, done, *words)
    pictures = folder / "pictures" / "done"
    out, _, found = evaluated(capsys, "--images", pictures, *words)
    expected = dict(run["systems"][0]["overall"])
    del expected["class_drift"]  # of which a folder knows nothing
    assert found["systems"][0]["overall"] == expected
    assert {"identity_rank", "identity_rank_in_class"} <= set(expected)
    assert run["gallery"] == sorted(found["gallery"], key=lambda entry: entry["name"] == "waldi")
    assert found["systems"][0]["missing"] == ["1 of 2 subjects without any picture: waldi"]
    assert "missing or left out: 1 of 2 subjects without any picture: waldi" in out
    assert "seeds          not known" in out


def test_several_runs_stand_together_and_are_compared(
    done: Path, cat: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path("copy of the same")
    shutil.copytree(done, copy)
    out, folder, data = evaluated(capsys, done, cat, copy, *judges, "--images-per-prompt", 1)
    names = [system["name"] for system in data["systems"]]
    assert names == ["done", "cat run", "copy of the same"]
    assert [entry["noun"] for entry in data["gallery"]] == ["dog", "cat"]  # one dog, twice drawn
    first, second, third = (system["overall"] for system in data["systems"])
    assert first == third
    assert first != second
    assert {"identity_rank"} == set(first) & {"identity_rank", "identity_rank_in_class"}
    assert (
        data["together"] == []
    )  # a full model and an adapter are two methods, of one subject each
    assert data["differences"] == []  # which they do not share
    assert sorted(f.name for f in (folder / "pictures").iterdir()) == sorted(names)
    # by themselves the copies are compared prompt by prompt
    out, _, data = evaluated(capsys, done, copy, *judges, "--images-per-prompt", 1)
    (difference,) = data["differences"]
    assert (difference["first"], difference["second"]) == ("done", "copy of the same")
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert difference["metrics"]["clip_t"] == zero
    assert "done − copy of the same" in out


def test_runs_of_one_method_are_one_system_over_subjects(
    done: Path, cat: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path("other")
    shutil.copytree(cat, other)
    config = other / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('noun = "cat"', 'noun = "dog"'), encoding="utf-8")
    for file in (other / "images" / "photos").iterdir():  # another subject than the cat's
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file)
    _, _, data = evaluated(capsys, cat, other, *judges, "--images-per-prompt", 1)
    (together,) = data["together"]
    assert together["runs"] == ["cat run", "other"]
    own = [system["overall"]["clip_i"]["mean"] for system in data["systems"]]
    expected = {"mean": sum(own) / 2, "low": min(own), "high": max(own), "n": 2}
    assert together["overall"]["clip_i"] == pytest.approx(expected, abs=2e-6)


def test_a_new_token_leaves_its_class_as_it_was(
    done: Path, judges: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(world.photos), *world.flags(), "--method", "textual_inversion", "--quiet"]
    assert cli.run(["train", *words, "--out", "token"]) == 0
    capsys.readouterr()
    out, folder, data = evaluated(capsys, "token", done, *judges, "--images-per-prompt", 1)
    token, whole = data["systems"]
    assert token["weights"] == "token"
    assert token["overall"]["class_drift"]["mean"] == pytest.approx(0, abs=1e-6)
    assert whole["overall"]["class_drift"]["mean"] > 1e-4
    base = contents(folder / "class" / "token" / "base")
    assert base == contents(folder / "class" / "token" / "tuned")
    assert base == contents(folder / "class" / "done" / "base")
    assert base != contents(folder / "class" / "done" / "tuned")
    (difference,) = data["differences"]  # of one subject, prompt by prompt
    assert difference["first"].startswith("textual_inversion (token) on ")
    assert "no identity rank without other subjects, which --subjects names" in out


def test_json_is_what_is_written(
    done: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(done), *judges, "--images-per-prompt", "1", "--json", "--out", "here"]
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        Path("here/evaluation.json").read_text()
    )


def test_from_python(done: Path, world: World) -> None:
    seen: list[tuple[str, int, int]] = []
    found = rpo.evaluate(
        rpo.load_run(done),
        dino=str(world.root / "dino"),
        clip=str(world.reward),
        images_per_prompt=1,
        on_progress=lambda *told: seen.append(told),
    )
    assert found.data == json.loads((found.path / "evaluation.json").read_text(encoding="utf-8"))
    assert found.data["systems"][0]["name"] == "done"
    assert {label for label, _, _ in seen} == {"drawing done"}
    assert seen[-1][1] == seen[-1][2]


def test_what_is_wrong_is_one_line_and_writes_nothing(
    done: Path,
    judges: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(done, unfinished)
    shutil.rmtree(unfinished / "best")
    mixed = tmp_path / "mixed"
    shutil.copytree(done, mixed)
    text = (done / "config.toml").read_text(encoding="utf-8")
    text = re.sub(r'^model = ".*"$', 'model = "emojiland"', text, flags=re.M)
    (mixed / "config.toml").write_text(text, encoding="utf-8")
    before = contents(tmp_path)
    for words, said in (
        ([], "one or more RUN folders, or --images"),
        ([done, "--images", tmp_path], "not both"),
        ([tmp_path / "gone"], "not a run folder"),
        ([unfinished], "best/"),
        ([done, mixed], "name --dino and --clip"),
        ([done, "--images-per-prompt", 0], "--images-per-prompt must be at least 1"),
        ([done, *judges, "--out", tmp_path / "taken"], "holds other files"),
        ([done, *judges, "--subjects", tmp_path / "gone"], "--subjects .*gone: no such folder"),
        ([done, *judges, "--aesthetic", tmp_path / "gone"], "--aesthetic .*gone: no such file"),
        ([done], "hf download facebook/dino-vits16 .*hf download openai/clip-vit-base-patch32"),
        (["--images", tmp_path], "--subjects is missing"),
        (["--images", tmp_path, "--subjects", "emojiland"], "no SUBJECT/PROMPTNUMBER-K.png"),
    ):
        code = cli.run(["evaluate", *map(str, words)])
        out, err = capsys.readouterr()
        assert (code, out) == (cli.WRONG_INPUT, ""), words
        assert err.count("\n") == 1
        assert re.search(said, err), err
    assert contents(tmp_path) == before


def test_emojilands_pictures_by_its_own_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # two subjects' own photos as if they were drawings of the first prompts
    subjects = ASSETS / "emojiland" / "subjects"
    for name in ("cat", "dog"):
        (tmp_path / "drawn" / name).mkdir(parents=True)
        for k, photo in enumerate(sorted((subjects / name).iterdir())[:3], 1):
            shutil.copy(photo, tmp_path / "drawn" / name / f"{k}-1.png")
    words = ("--images", tmp_path / "drawn", "--subjects", "emojiland")
    _, _, data = evaluated(capsys, *words)
    (system,) = data["systems"]
    assert len(data["gallery"]) == 30
    assert data["judges"]["dino"]["name"] == "emojiland/judge-dino"
    assert system["overall"]["dino"]["mean"] > 0.8
    assert system["overall"]["identity_rank"]["mean"] > 0.9
    assert system["missing"][-1].startswith("28 of 30 subjects without any picture: backpack,")
    lacking = ", ".join(f"{number} (1 of 1)" for number in range(4, 26))
    assert f"cat: pictures missing of prompt {lacking}" in system["missing"]
