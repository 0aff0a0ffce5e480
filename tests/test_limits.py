"""What is too long, too large, gone or not finite: one line and exit code 2, nothing written."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, contents, make_world, results
from safetensors.torch import load_file, save_file
from toys import ToyReward

import rpo
from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import Failed
from rpo.rewards.harmonic import Scores
from rpo.runs import folder as folders

LONG = "x" * 300
PROMPT = "a [V] dog"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("limits") / "world")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of error of a command."""
    capsys.readouterr()
    assert cli.run([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (out, errors) == ("", err.splitlines()[-1:])
    assert "Traceback" not in err
    return errors[0].removeprefix("error: ")


# --- long names, large numbers -----------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("--out", LONG),
        ("--out", LONG, "--resume"),
        ("--out", "a/" * 3000),
        ("--model", LONG),
        ("--model", f"a/{LONG}"),
        ("--noun", LONG),
        ("--config", LONG),
        ("--set", f"identifier={LONG}"),
        ("--set", f"prompts={LONG}"),
        ("--set", f"reward.model={LONG}"),
    ],
    ids=lambda more: " ".join(more).partition("x")[0].partition("a/a")[0],
)
def test_long_names_for_train(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert refused(capsys, "train", world.photos, *world.flags(), *more)
    assert not any(tmp_path.iterdir())


def test_long_names_for_other_commands(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(done)
    for command, words in (
        (("generate", done, LONG), "tokens and the model reads"),
        (("generate", done, PROMPT, "--out", LONG), "File name too long; shorten it"),
        (("generate", LONG, PROMPT), "File name too long; shorten it"),
        (("export", done, "--to", "diffusers", "--out", LONG), "File name too long; shorten it"),
        (("check", LONG), LONG),
        (("check", world.photos, "--sheet", f"{LONG}.png"), "File name too long"),
    ):
        assert words in refused(capsys, *command), command
    assert contents(done) == before
    assert not any(tmp_path.iterdir())


def test_large_numbers(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (("-n", 10**9), "n must be <= 9999, not 1000000000"),
        (("--guidance", "1e300"), "guidance_scale must be <= 1000, not 1e+300"),
        (("--guidance", "1e400"), "guidance_scale must be finite, not inf"),
    ):
        assert refused(capsys, "generate", done, PROMPT, *flags) == words
    run = tmp_path / "run"
    shutil.copytree(done, run)
    file = run / "config.toml"
    file.write_text(
        re.sub(r"\nresolution = \d+", "\nresolution = 80000", file.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    told = refused(capsys, "generate", run, PROMPT)
    assert told == f"{file}: resolution must be <= 4096, not 80000"
    with pytest.raises(UserError, match="holds bytes that are not UTF-8"):
        rpo.load_run(done).generate("a [V] dog \udcff")


# --- what is gone, or cannot be written --------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is used")
def test_a_current_folder_that_is_gone(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    train = ("train", world.photos, *world.flags())
    for command in (
        train,
        (*train, "--out", "new"),
        (*train, "--resume"),
        ("generate", done, PROMPT, "--out", "new"),
        ("export", done, "--to", "diffusers", "--out", "new"),
    ):
        told = refused(capsys, *command)
        assert told == "the current folder is gone; cd to another one", command
    # what needs none works
    assert cli.run(["generate", str(done), PROMPT, "--out", str(tmp_path / "drawn")]) == 0


def test_a_link_to_nowhere(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for command in (
        ("train", world.photos, *world.flags()),
        ("train", world.photos, *world.flags(), "--resume"),
        ("generate", done, PROMPT),
        ("export", done, "--to", "diffusers"),
    ):
        told = refused(capsys, *command, "--out", link)
        assert told == f"--out {link}: a link to what is not there; name another folder"
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_run_that_cannot_be_written(
    world: World, done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is mounted for reading alone."""
    before = results(done)

    def deny(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    monkeypatch.setattr(folders.os, "replace", deny)
    command = ("train", world.photos, *world.flags(steps=8), "--out", done, "--resume")
    told = refused(capsys, *command)
    assert told.startswith(f"{done}")
    assert told.endswith("Read-only file system; name another place, or copy it to one")
    assert results(done) == before


# --- what is not finite ------------------------------------------------------------------


def broken(source: Path, target: Path, part: str) -> Path:
    """A copy of a model with NaN in all weights of one part."""
    shutil.copytree(source, target)
    for file in (target / part).glob("*.safetensors"):
        tensors = load_file(file)
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        save_file(tensors, file, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("vae", "the VAE gives pictures that are not finite (NaN); check the model's weights"),
        ("text_encoder", "the text encoder gives what is not finite (NaN); check the model's"),
        ("unet", "the denoiser gives what is not finite (NaN)"),
    ],
)
def test_models_that_are_not_finite(
    world: World,
    done: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    words: str,
) -> None:
    model = broken(world.model, tmp_path / "model", part)
    told = refused(capsys, "train", world.photos, *world.flags(), "--model", model, "--out", "new")
    assert words in told
    assert told.startswith("sampling: ")
    run = tmp_path / "run"
    shutil.copytree(done, run)
    shutil.rmtree(run / "best" / part)
    shutil.copytree(model / part, run / "best" / part)
    assert words in refused(capsys, "generate", run, PROMPT, "--out", "drawn")
    assert not (tmp_path / "drawn").exists()


def test_a_vae_that_encodes_nothing_finite(world: World, tmp_path: Path) -> None:
    from rpo.models.backbone import Backbone

    backbone = Backbone.load(broken(world.model, tmp_path / "model", "vae"), "cpu")
    side = backbone.resolution
    with pytest.raises(UserError, match="the VAE gives latents of the photos that are not finite"):
        backbone.encode_images(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize("method", ["rpo", "similarity", "disenbooth"])
def test_a_reward_model_that_is_not_finite(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    model = broken(world.reward, tmp_path / "reward", ".")
    flags = world.flags(**{"reward.model": model})
    told = refused(capsys, "train", world.photos, *flags, "--method", method, "--out", "new")
    assert "reward/reward" in told or str(model) in told or "reward.model" in told
    assert "features that are not finite (NaN); check its weights" in told
    assert not (tmp_path / "new").exists()  # found as it was loaded


class Breaking(ToyReward):
    """A reward of one's own that breaks at its k-th use."""

    def __init__(self, uses: int) -> None:
        self.uses = uses

    def score(self, images: Any, texts: Any) -> Scores:
        scores = super().score(images, texts)
        self.uses -= 1
        return scores if self.uses >= 0 else Scores(scores.image * math.nan, scores.text)


def failed_job(world: World, out: Path, method: str, reward: Any = None, **more: Any) -> Failed:
    """The last event of a job that ends in a UserError."""
    subject = rpo.Subject.from_folder(world.photos, "dog")
    given: dict[str, Any] = {"model": str(world.model), "out": out, "method": method}
    seen: list[Any] = []
    with pytest.raises(UserError) as error:
        seen.extend(rpo.iterate(subject, **given, reward=reward, settings=world.settings(**more)))
    assert isinstance(seen[-1], Failed)
    assert seen[-1].message == str(error.value)
    assert "\n" not in str(error.value)
    return seen[-1]


def test_labels_of_a_reward_that_is_not_finite(world: World, tmp_path: Path) -> None:
    class Nothing(ToyReward):
        def score_pairs(self, images: Any, texts: Any, *rest: Any) -> Any:
            return torch.full((3, len(images)), math.nan), torch.zeros(len(images))

    failed = failed_job(world, tmp_path / "run", "rpo", Nothing())
    assert failed.message.startswith("labelling: the reward (Nothing) of some pictures is not")


def test_a_reward_that_breaks_in_the_middle(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    failed = failed_job(world, out, "similarity", Breaking(1))
    assert failed.message == (
        "step 2, validation: the reward (Breaking) became nan; check what it returns, or the "
        "weights of reward.model"
    )
    assert rpo.load_run(out).best_step == 0  # the best so far is kept, and draws
    assert len(rpo.load_run(out).generate(PROMPT)) == 1


@pytest.mark.parametrize(
    "method", ["rpo", "similarity", pytest.param("disenbooth", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("every", [1, 4])
def test_a_training_that_bursts_keeps_the_best(
    world: World, tmp_path: Path, method: str, every: int
) -> None:
    """With a learning rate of 1e30 the weights overflow in the first steps."""
    out = tmp_path / "run"
    more = {"training.learning_rate": 1e30, "every": every}
    failed = failed_job(world, out, method, **more)
    assert re.search(r"step \d", failed.message)
    assert "learning_rate" in failed.message
    run = rpo.load_run(out)
    assert next(point.step for point in run.history) == run.best_step == 0
    assert len(run.generate(PROMPT)) == 1
