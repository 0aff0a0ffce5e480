"""`rpo evaluate MODEL`: the rows of a base model and of IP-Adapter, alone and beside runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from evaluating import evaluated, pixels
from ip_adapters import save_adapter
from jobs import World, contents, finished_run, make_world
from PIL import Image, ImageOps
from tiny import save_tiny

import rpo
from rpo.cli import commands as cli
from rpo.evaluation import systems
from rpo.evaluation.dreambench import load_suite
from rpo.seeds import derive_seed

EACH = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("Grundmodell"))


@pytest.fixture(scope="module")
def done(world: World) -> Path:
    return finished_run(world)


@pytest.fixture(scope="module")
def suite(world: World) -> Path:
    """Two dogs and a cup, with two prompts for dogs and one for things."""
    root = world.root / "suite"
    nouns = {"waldi": "dog", "cup": "cup", "rex": "dog"}
    for turns, name in enumerate(nouns):
        (root / name).mkdir(parents=True)
        for file in world.photos.iterdir():
            photo = Image.open(file).rotate(90 * turns)
            (ImageOps.invert(photo) if turns == 1 else photo).save(root / name / file.name)
    text = "".join(f'[{name}]\nnoun = "{noun}"\n' for name, noun in nouns.items())
    (root / "subjects.toml").write_text(text, encoding="utf-8")
    lists = '[test]\nlive = ["a red {}", "a {} in my den"]\nobject = ["a red {}"]\n'
    (root / "prompts.toml").write_text(lists, encoding="utf-8")
    return root


@pytest.fixture
def judges(world: World) -> list[str]:
    return ["--dino", str(world.reward), "--clip", str(world.reward)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(world: World) -> list[str]:
    """As the run's, so that the model draws as its base model does."""
    return [word for text in world.settings() if "sampling" in text for word in ("--set", text)]


def test_a_base_model_draws_the_suite_with_the_plain_noun(
    world: World,
    done: Path,
    suite: Path,
    judges: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn, draw = [], systems.draw_untrained

    def counting(model: Any, subject: Any, *more: Any, **how: Any) -> Any:
        drawn.append(subject.noun)
        return draw(model, subject, *more, **how)

    monkeypatch.setattr(systems, "draw_untrained", counting)
    words = ("--subjects", suite, *judges, *settings(world), "--images-per-prompt", EACH)
    out, folder, data = evaluated(capsys, world.model, *words)
    assert folder == Path("evaluations") / "model-1"
    (system,) = data["systems"]
    assert (system["name"], system["method"], system["model"]) == ("base", "base", str(world.model))
    assert "step" not in system
    assert {len(digest) for digest in system["model_sha256"].values()} == {64}
    assert len(system["pictures"]) == EACH * (2 + 2 + 1)
    assert set(system["subjects"]) == {"cup", "rex", "waldi"}
    assert {"identity_rank", "identity_rank_in_class"} <= set(system["overall"])
    assert "class_drift" not in system["overall"]  # it is the class as it is
    assert 'drawn and judged by "a red cup"' in out
    assert f"{world.model}; nothing learned; " in out
    assert "base: 3 subjects, 10 pictures" in out
    # dogs that it was never shown are one to it
    assert drawn == ["cup", "dog"]
    pictures = folder / "pictures" / "base"
    assert contents(pictures / "rex") == contents(pictures / "waldi")
    # they are those of a run's base model, from the noises that the run begins from
    prompts = ["a red dog"] * EACH + ["a dog in my den"] * EACH
    seeds = [derive_seed(0, "test", k) for k in range(2 * EACH)]
    expected = rpo.load_run(done).draw(prompts, seeds, base=True)
    names = ("01-1.png", "01-2.png", "02-1.png", "02-2.png")
    for name, picture in zip(names, expected, strict=True):
        assert pixels(pictures / "rex" / name) == picture.tobytes()
    # and the folder is one that --images reads, with the same figures
    _, _, again = evaluated(capsys, "--images", pictures, "--subjects", suite, *judges)
    assert again["systems"][0]["overall"] == system["overall"]
    assert again["systems"][0]["missing"] == []


def test_beside_runs_it_draws_their_subjects(
    world: World, done: Path, suite: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*judges, *settings(world), "--images-per-prompt", 1)
    copy = Path("copy")
    shutil.copytree(done, copy)
    out, _, data = evaluated(capsys, done, world.model, copy, "--subjects", suite, *words)
    assert [system["name"] for system in data["systems"]] == ["done", "copy", "base"]
    run, _, base = data["systems"]
    assert set(base["subjects"]) == set(run["subjects"]) == {world.photos.name}
    assert {row["template"] for row in base["pictures"]} == {"a red {}"}
    assert len(data["gallery"]) == 3  # the suite's waldi is the run's dog
    assert base["photos"] == run["photos"]
    (difference,) = data["differences"]  # the copies are of one method, and one system
    assert (difference["first"], difference["second"]) == (f"rpo (full) on {world.model}", "base")
    figures = [system["overall"]["clip_t"]["mean"] for system in (run, base)]
    found = difference["metrics"]["clip_t"]["mean"]
    assert found == pytest.approx(figures[0] - figures[1], abs=2e-6)
    assert "class_drift" not in difference["metrics"]
    assert "n: prompts of this one subject, no sample of subjects" in out


def test_ip_adapter_is_one_more_row(
    world: World, suite: Path, judges: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(world.root / "ip adapter")
    words = ("--subjects", suite, *judges, *settings(world), "--images-per-prompt", 1)
    out, folder, data = evaluated(
        capsys, world.model, *words, "--ip-adapter", adapter.parent, "--ip-adapter-scale", 0.8
    )
    shown, base = data["systems"]
    assert (base["name"], shown["name"]) == ("base", "ip-adapter")
    assert (shown["method"], shown["drawn"]) == ("ip-adapter", "a red cup")
    told = shown["adapter"]
    assert (told["name"], told["scale"]) == (adapter.name, 0.8)
    assert set(told["sha256"]) == {adapter.name, "image_encoder/model.safetensors"}
    assert f"{told['sha256'][adapter.name][:10]}" in out
    assert "scale 0.8, all photos at once" in out
    (difference,) = data["differences"]
    assert (difference["first"], difference["second"]) == ("ip-adapter", "base")
    assert difference["metrics"]["dino"]["n"] == 3
    # it sees each dog's photos, and draws another one
    pictures = folder / "pictures" / "ip-adapter"
    assert pixels(pictures / "rex" / "01-1.png") != pixels(pictures / "waldi" / "01-1.png")
    # alone the base model draws what it draws here
    _, alone, _ = evaluated(capsys, world.model, *words)
    assert contents(alone / "pictures" / "base") == contents(folder / "pictures" / "base")


def test_one_subjects_pictures_are_in_memory_at_a_time(world: World, suite: Path) -> None:
    from rpo.evaluation.untrained import open_untrained

    model = open_untrained(str(world.model), ["sampling.steps=1"], "cpu")
    read = load_suite(suite)
    (system,) = systems.model_systems(model, [], read, read.read(16), 1)
    seen: list[tuple[str, int, int]] = []
    sizes = [len(drawn.images) for drawn in system.drawn(lambda *told: seen.append(told))]
    assert sizes == [1, 2, 2]
    assert seen[-1] == ("drawing base", 3, 5)  # the second dog's are there already


def test_a_runs_model_leaves_the_memory_with_its_pictures(done: Path) -> None:
    run = rpo.load_run(done)
    (system,) = systems.run_systems([run], 1)
    (drawn,) = system.drawn(lambda *told: None)
    assert len(drawn.images) == 1
    assert not {"_backbone", "_base", "_learner"} & vars(run).keys()


def test_what_is_wrong_is_one_line_and_writes_nothing(
    world: World,
    done: Path,
    suite: Path,
    judges: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    other = save_tiny(tmp_path / "other", "sd3")
    lora = tmp_path / "lora.safetensors"
    shutil.copy(world.reward / "model.safetensors", lora)
    before = contents(tmp_path)
    with_suite = [world.model, *judges, "--subjects", suite]
    for words, said in (
        ([world.model], "--subjects is missing: the suite whose subjects MODEL draws"),
        ([world.model, "--images", tmp_path], "not both"),
        ([world.model, other, "--subjects", suite], "one MODEL at a time"),
        ([done, "emojiland"], "name --dino and --clip"),
        ([f"{tmp_path.name}/dog-9"], "no run, and as a model"),
        (["other/dog-9"], "other/dog-9: not a run folder"),
        (["runs/dog-9"], "no run, and as a model: runs/dog-9: .*`hf download runs/dog-9"),
        ([lora, "--subjects", suite], "no run, and as a model: .*no base model of a known"),
        ([suite], "not a run folder"),
        ([done, "--ip-adapter", tmp_path], "--ip-adapter and --set are for a MODEL"),
        ([done, "--ip-adapter-scale", 0.5], "--ip-adapter and --set are for a MODEL"),
        ([done, "--set", "sampling.steps=2"], "--ip-adapter and --set are for a MODEL"),
        ([*with_suite, "--set", "sampling.step=2"], "unknown setting 'sampling.step'; did you"),
        ([*with_suite, "--ip-adapter", tmp_path / "gone"], "--ip-adapter .*no such file or folder"),
        ([other, *judges, "--subjects", suite, "--ip-adapter", lora], "no IP-Adapter's weights"),
        (
            [done, world.model, *judges, "--set", "resolution=32"],
            "the runs draw 16 pixels and the model 32; .*--set resolution=N",
        ),
    ):
        code = cli.run(["evaluate", *map(str, words)])
        out, err = capsys.readouterr()
        assert (code, out) == (cli.WRONG_INPUT, ""), words
        assert err.count("\n") == 1
        assert re.search(said, err), err
    assert contents(tmp_path) == before
