"""folder.py, checkpoint.py and result.py: what is written, replaced, kept and refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from rpo.config import Config
from rpo.errors import UserError
from rpo.events import StepDone, Validated, to_record
from rpo.runs.checkpoint import load_state, save_state
from rpo.runs.environment import file_hash, model_files
from rpo.runs.folder import (
    RunFolder,
    check_free,
    check_writable,
    data_from,
    expanded,
    next_free,
)
from rpo.runs.meter import Meter
from rpo.runs.pictures import save_generated, save_png, slug
from rpo.runs.result import load_run

ENVIRONMENT = {"subject": {"photos": [], "folder": "photos"}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "läuft gut", Config(noun="dog", seed=7), ENVIRONMENT)


class FakePipeline:
    """Writes what a pipeline's save_pretrained would, or fails half-way."""

    def __init__(self, content: str, fail: bool = False) -> None:
        self.content, self.fail = content, fail

    def save_pretrained(self, path: Path) -> None:
        (path / "unet").mkdir(parents=True)
        (path / "unet" / "config.json").write_text(self.content)
        if self.fail:
            raise OSError("no more")
        (path / "model_index.json").write_text(self.content)


def test_create_makes_a_replayable_folder(folder: RunFolder) -> None:
    assert folder.config() == Config(noun="dog", seed=7)
    assert folder.environment() == ENVIRONMENT
    assert load_run(folder.path).config.seed == 7
    assert sorted(os.listdir(folder.path)) == ["config.toml", "environment.json"]


def test_create_refuses_what_holds_something(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(folder.path, Config(noun="dog"), ENVIRONMENT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        RunFolder.create(tmp_path / "other", Config(noun="dog"), ENVIRONMENT)
    with pytest.raises(UserError, match="is a file"):
        check_free(tmp_path / "other" / "thesis.txt")
    with pytest.raises(UserError, match="cannot be written"):
        check_free(tmp_path / "other" / "thesis.txt" / "run")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty")


def test_open_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        load_run(tmp_path)


def test_next_free_counts_on(tmp_path: Path) -> None:
    assert next_free(tmp_path, "dog").name == "dog-1"
    (tmp_path / "dog-1").mkdir()
    (tmp_path / "dog-3").mkdir()
    assert next_free(tmp_path, "dog").name == "dog-2"


def test_slug_keeps_letters_and_digits() -> None:
    assert slug("a [V] dog/..\\on the Moon!") == "a-v-dog-on-the-moon"
    assert slug("ein Hündchen 2") == "ein-hündchen-2"
    assert slug("…") == "image"
    assert len(slug("very " * 50)) <= 60


def test_a_record_has_files_in_place_of_tensors() -> None:
    event = Validated(
        40, 0.5, 0.4, 0.6, True, torch.zeros(1, 3, 2, 2), ("a dog",), files=("images/1.png",)
    )
    assert to_record(event) == {
        "event": "validated",
        "step": 40,
        "reward": 0.5,
        "image_alignment": 0.4,
        "text_alignment": 0.6,
        "improved": True,
        "prompts": ["a dog"],
        "images": ["images/1.png"],
        "run": "",
        "number": -1,
        "time": 0.0,
    }
    assert to_record(StepDone(1, 1.0, 2.0))["event"] == "step"


def test_rewind_forgets_what_will_be_run_again(folder: RunFolder) -> None:
    for record in (
        {"event": "labelled", "pairs": 3},
        {"event": "validated", "step": 0},
        {"event": "step", "step": 1},
        {"event": "step", "step": 2},
        {"event": "validated", "step": 2},
        {"event": "step", "step": 3},
        {"event": "interrupted", "step": 3},
        {"event": "failed", "message": "no more"},
        {"event": "phase", "phase": "training"},
    ):
        folder.record(record)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')  # the power failed here
    folder.rewind(step=2, validated=0)
    kept = [(record["event"], record.get("step")) for record in folder.records()]
    assert kept == [
        ("labelled", None),
        ("validated", 0),
        ("step", 1),
        ("step", 2),
        ("phase", None),
    ]


def test_rewind_to_before_the_first_checkpoint(folder: RunFolder) -> None:
    for record in (
        {"event": "started", "steps": 4},
        {"event": "labelled", "pairs": 3},
        {"event": "validated", "step": 0},
        {"event": "step", "step": 1},
    ):
        folder.record(record)
    folder.rewind()
    assert [record["event"] for record in folder.records()] == ["started", "labelled"]
    folder.rewind(labelled=False)
    assert [record["event"] for record in folder.records()] == ["started"]


# What a full disk raises: Python itself, a quota, and the writer of safetensors.
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["disk", "quota", "safetensors"])
def test_a_full_disk_is_named_with_the_remedy(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    folder.save_best(FakePipeline("old").save_pretrained, {"step": 40})
    folder.save_last({"step": 1}, {"step": 1})
    monkeypatch.setattr("rpo.runs.checkpoint.save_file", full)
    with pytest.raises(UserError, match=r"trainer\.safetensors: the disk is full; .*--resume"):
        folder.save_last({"step": 2}, {"step": 2})
    assert (folder.load_last() or {})["step"] == 1
    monkeypatch.setattr(FakePipeline, "save_pretrained", full)
    with pytest.raises(UserError, match=r"best: the disk is full; .*--resume"):
        folder.save_best(FakePipeline("new").save_pretrained, {"step": 80})
    assert folder.best_card()["step"] == 40  # type: ignore[index]
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"metrics\.jsonl: the disk is full; .*--resume"):
        folder.record({"event": "step"})
    assert not [name for name in os.listdir(folder.path) if "part" in name or ".new" in name]


def test_a_full_disk_leaves_no_half_picture_and_no_advice_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise FULL[0]

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="0001-x.png: the disk is full") as raised:
        save_generated([Image.new("RGB", (4, 4))], tmp_path, "x", [{}])
    assert "--resume" not in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written to"):
        check_writable(tmp_path / "file" / "folder")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written to; name another"):
        check_writable(tmp_path / "new")


def test_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert expanded("~/runs") == Path("/home/me/runs")
    assert expanded(Path("a") / "~b") == Path("a/~b")
    with pytest.raises(UserError, match="--out ~nobody-of-that-name/x: there is no such user"):
        expanded("~nobody-of-that-name/x")


def test_images_are_exact_and_carry_their_prompt(folder: RunFolder) -> None:
    pixels = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(1, 3, 4, 4)
    names = folder.save_images("validation/step-00000", pixels, ["a [V] dog"])
    assert names == ["images/validation/step-00000/01-a-v-dog.png"]
    with Image.open(folder.path / names[0]) as image:
        assert image.info["prompt"] == "a [V] dog"
        assert image.getpixel((1, 0)) == (1, 17, 33)  # channels are planes of 16 numbers
    before = (folder.path / names[0]).read_bytes()
    folder.save_images("validation/step-00000", pixels.float() / 255, ["a [V] dog"])
    assert (folder.path / names[0]).read_bytes() == before


def test_best_is_replaced_only_by_a_complete_one(folder: RunFolder) -> None:
    folder.save_best(FakePipeline("old").save_pretrained, {"step": 40})
    with pytest.raises(OSError, match="no more"):
        folder.save_best(FakePipeline("new", fail=True).save_pretrained, {"step": 80})
    assert folder.best_card()["step"] == 40  # type: ignore[index]
    assert (folder.path / "best" / "model_index.json").read_text() == "old"
    (folder.path / "best" / "notes.txt").write_text("mine")
    folder.save_best(FakePipeline("new").save_pretrained, {"step": 80})
    assert (folder.path / "best" / "unet" / "config.json").read_text() == "new"
    assert (folder.path / "best" / "notes.txt").read_text() == "mine"
    assert load_run(folder.path).best_step == 80
    assert not [name for name in os.listdir(folder.path) if name.startswith(".")]


def test_open_puts_a_swap_right_that_was_cut_short(folder: RunFolder) -> None:
    folder.save_best(FakePipeline("old").save_pretrained, {"step": 40})
    os.replace(folder.path / "best", folder.path / ".best.old")
    assert RunFolder.open(folder.path).best_card()["step"] == 40  # type: ignore[index]


def test_state_survives_exactly_and_gives_the_same_bytes(tmp_path: Path) -> None:
    shared = torch.tensor([0.1, 0.2])
    state = {
        "step": 3,
        "rate": 0.1 + 0.2,
        "moments": {0: {"step": torch.tensor(3.0), "avg": torch.randn(2, 3)}},
        "twice": [shared, shared],
        "empty": {},
        "none": None,
        "t": "a key named like the mark",
    }
    save_state(state, tmp_path / "a")
    save_state(state, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_state(tmp_path / "a")
    assert loaded["step"] == 3
    assert loaded["rate"] == 0.1 + 0.2
    assert loaded["empty"] == {}
    assert loaded["none"] is None
    assert loaded["t"] == state["t"]
    assert torch.equal(loaded["moments"][0]["avg"], state["moments"][0]["avg"])  # type: ignore[index]
    assert loaded["moments"][0]["step"].shape == ()
    assert torch.equal(loaded["twice"][1], shared)


def test_state_refuses_objects_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path"):
        save_state({"a": tmp_path}, tmp_path / "a")
    with pytest.raises(TypeError, match="keys"):
        save_state({1.5: 1}, tmp_path / "a")
    save_state({"a": torch.zeros(100)}, tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:200])
    with pytest.raises(UserError, match=r"a: .*start a new run"):
        load_state(tmp_path / "a")
    with pytest.raises(UserError, match="start a new run"):
        load_state(tmp_path / "absent")


@dataclass(frozen=True)
class Data:
    """Stands for the training data."""

    one: torch.Tensor
    two: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"one": self.one, "two": self.two}

    @staticmethod
    def from_tensors(tensors: dict[str, torch.Tensor]) -> Data:
        return Data(**tensors)


def test_data_survives_and_another_versions_is_refused(folder: RunFolder) -> None:
    assert folder.load_data() is None
    whole = torch.randn(4, 3)
    folder.save_data(Data(whole.T, whole[:2]))  # neither contiguous nor of its own storage
    data = data_from(Data, folder.load_data() or {})
    assert torch.equal(data.one, whole.T)
    with pytest.raises(UserError, match="another method or version"):
        data_from(Data, {"one": whole})


def test_generated_pictures_never_overwrite(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    first = save_generated([picture] * 2, tmp_path / "out", "a [V] dog", [{"seed": 0}, {"seed": 1}])
    (tmp_path / "out" / "0007-mine.png").write_text("mine")
    second = save_generated([picture], tmp_path / "out", "a [V] dog", [{"seed": 0}])
    assert [path.name for path in first + second] == [
        "0001-a-v-dog.png",
        "0002-a-v-dog.png",
        "0008-a-v-dog.png",
    ]
    with Image.open(first[1]) as image:
        assert image.info["seed"] == "1"
    assert first[0].read_bytes() == second[0].read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        save_generated([picture], tmp_path / "file", "x", [{}])


def test_png_holds_no_time(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"prompt": "Hündchen"})
    assert b"tIME" not in (tmp_path / "a.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {"prompt": "Hündchen"}


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "w.safetensors").write_bytes(b"abc")
    (tmp_path / "unet" / "w.bin").write_bytes(b"never read")
    # FIPS 180-2's own example of SHA-256
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert model_files(tmp_path) == {"unet/w.safetensors": digest}
    blob = tmp_path / ("0" * 64)
    blob.write_bytes(b"abc")
    link = tmp_path / "link"
    link.symlink_to(blob)
    assert file_hash(link) == "0" * 64  # the hub's cache: named by its hash, not read


def test_meter_adds_time_and_keeps_the_peak() -> None:
    meter = Meter()
    for late in ("b", "b", "a"):
        with meter.stretch("a") as stretch:
            stretch.phase = late
    assert set(meter.costs) == {"a", "b"}
    meter.costs["a"].add(2.0, 10.0, None)
    meter.costs["a"].add(3.0, 5.0, 7.0)
    assert 5.0 < meter.costs["a"].seconds < 6.0
    assert meter.costs["a"].memory_mb is None or meter.costs["a"].memory_mb >= 10.0
    assert meter.costs["a"].gpu_memory_mb == 7.0


def test_metrics_are_one_json_object_a_line(folder: RunFolder) -> None:
    folder.record({"event": "step", "text": "two\nlines, Hündchen"})
    lines = (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["two\nlines, Hündchen"]
