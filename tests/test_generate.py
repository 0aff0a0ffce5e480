"""`rpo generate` and `Run.generate`: numbers, seeds, resolution, folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jobs import (
    World,
    break_off,
)
from PIL import Image

from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import Validated
from rpo.runs.result import load_run

pytestmark = pytest.mark.usefixtures("elsewhere")


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
    for wrong, words in (
        ({"n": 0}, "n must be >= 1, not 0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"seed": 2**63}, "seed must be between 0 and"),
        ({"seed": 2**63 - 1, "n": 2}, "seed must be between 0 and 9223372036854775806,"),
        ({"steps": 0}, "steps must be >= 1, not 0"),
        ({"steps": 1001}, "steps must be <= 1000, not 1001"),
        ({"guidance_scale": -1.0}, "guidance_scale must be >= 0, not -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
    ):
        with pytest.raises(UserError, match=words):
            load_run(done).generate("a [V] dog", **wrong)
    assert len(load_run(done).generate("a [V] dog", seed=2**63 - 1)) == 1


def test_generate_draws_at_the_resolution_of_the_run(world: World, tmp_path: Path) -> None:
    break_off(world, tmp_path / "run", Validated, 0, resolution=32)
    (picture,) = load_run(tmp_path / "run").generate("a [V] dog")
    assert picture.size == (32, 32)


def test_generate_looks_at_the_folder_before_it_draws(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(*_: Any, **__: Any) -> None:
        raise AssertionError("drew")

    monkeypatch.setattr("rpo.models.sampling.sample", draw)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "pictures", tmp_path / "file", "~nobody-of-that-name/x"):
        assert cli.run(["generate", str(done), "a [V] dog", "--out", str(out)]) == cli.WRONG_INPUT
        assert capsys.readouterr().err.startswith(f"error: --out {out}: ")
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    command = ["generate", str(done), "a [V] dog", "--out", str(tmp_path / "shut")]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "cannot be written to" in capsys.readouterr().err


def test_generate_default_folder_and_note(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    break_off(world, run, Validated, 0)
    assert cli.run(["generate", str(run), "a dog"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "images" / "generated" / "0001-a-dog.png")
    assert "does not hold" in err
