"""reading.py and replacing.py: shapes that files are checked against, and how they are replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rpo import replacing as module
from rpo.config import Config
from rpo.errors import UserError
from rpo.models.resolve import read_index
from rpo.reading import (
    as_entries,
    every,
    misfit,
    number,
    read_json,
    read_tensors,
    read_text,
    refuse_links,
    whole,
)
from rpo.replacing import flush_tree, remove_leftovers, replacing
from rpo.runs import schemas
from rpo.runs.checkpoint import load_tensors, save_tensors
from rpo.runs.folder import RunFolder
from rpo.runs.result import load_run

SHAPE = {"n": whole, "x": (number, None), "names": [str], "more": every(bool)}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({}, ""),
        ({"n": 0, "x": None, "names": [], "more": {}, "foreign": object}, ""),
        ({"n": 2**63 - 1, "x": -1e299, "names": ["a"], "more": {"a": True}}, ""),
        ([], "it must be a table of names and values"),
        ({"n": -1}, "n must be a whole number from 0"),
        ({"n": True}, "n must be a whole number from 0"),
        ({"n": 2**63}, "n must be a whole number from 0"),
        ({"n": 1.0}, "n must be a whole number from 0"),
        ({"x": float("nan")}, "x must be a finite number"),
        ({"x": 10**400}, "x must be a finite number"),
        ({"x": "1"}, "x must be a finite number"),
        ({"names": "a"}, "names must be a list"),
        ({"names": ["a", 5]}, "names[1] must be text"),
        ({"more": {"a": True, "b": 1}}, "more.b must be true or false"),
    ],
)
def test_misfit_names_the_place(value: Any, wrong: str) -> None:
    assert misfit(value, SHAPE) == wrong


def test_an_entry_that_is_missing_is_named_with_its_file() -> None:
    entries = as_entries('{"a": {"b": [{"c": 1}]}}', {}, "run/file.json", "put it back")
    assert entries == {"a": {"b": [{"c": 1}]}}
    assert entries.get("z") is None
    with pytest.raises(UserError, match=r"run/file\.json: lacks a\.d; put it back"):
        entries["a"]["d"]
    with pytest.raises(UserError, match=r"lacks a\.b\.d"):
        entries["a"]["b"][0]["d"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "not UTF-8 text"),
        (b"{", "not JSON: .* in line 1"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "4300"),
        (b'{"step": "x"}', "step must be a whole number"),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"state\.json: damaged.*{reason}.*; delete it") as raised:
        read_json(tmp_path / "state.json", schemas.STATE, "delete it")
    assert len(str(raised.value)) < 300 + len(str(tmp_path))


def test_nothing_but_plain_files_and_folders_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    run = tmp_path / "run"
    (run / "images" / "photos").mkdir(parents=True)
    (run / "images" / "photos" / "1.png").write_text("")
    refuse_links(run)
    refuse_links(run / "absent")
    (run / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="link: is a symbolic link"):
        read_text(run / "link", "put it back")
    with pytest.raises(UserError, match="link: is a symbolic link"):
        refuse_links(run)
    (run / "link").unlink()
    os.mkfifo(run / "images" / "pipe")
    with pytest.raises(UserError, match="pipe: is no plain file"):
        refuse_links(run)


@pytest.mark.parametrize(
    "path",
    [
        *("../x.png", "/x.png", "images/../../x.png", "images\\..\\x.png", "C:images/x.png"),
        *("x.png", "images/a\0.png", 5),
    ],
)
def test_pictures_of_a_record_lie_below_images(tmp_path: Path, path: Any) -> None:
    shape = schemas.RECORDS["validated"]
    assert misfit({"images": ["images/validation/step-00000/01-a.png"]}, shape) == ""
    wrong = misfit({"images": [path]}, shape)
    assert wrong == "images[0] must be the path of a file below images/"


def test_a_damaged_line_within_the_metrics_is_refused_and_at_their_end_left_out(
    tmp_path: Path,
) -> None:
    environment = {"subject": {"photos": []}}
    folder = RunFolder.create(tmp_path / "run", Config(noun="dog"), environment)
    folder.record({"event": "step", "step": 1})
    file = folder.path / "metrics.jsonl"
    good = file.read_bytes()
    file.write_bytes(good + b'5\n{"event": "st')
    assert folder.records() == [{"event": "step", "step": 1}]
    assert "line 2 is damaged (it must be a table" in folder.damaged_end()
    folder.cut_damaged_end()
    assert file.read_bytes() == good
    assert folder.damaged_end() == ""
    file.write_bytes(b"5\n" + good)
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is damaged .*; repair or delete"):
        folder.records()


# --- tensors -----------------------------------------------------------------------------


def test_tensors_are_read_whole_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.safetensors"
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(2), "c": torch.zeros(0, 3)}
    save_tensors(tensors, file)
    loaded = load_tensors(file)
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    content = bytearray(file.read_bytes())
    content[-9] ^= 1  # one bit of a number
    file.write_bytes(content)
    with pytest.raises(UserError, match="its digest is another; delete it, and --resume makes it"):
        load_tensors(file)
    save_file({"a": tensors["a"].T.contiguous()}, file)
    with pytest.raises(UserError, match="its digest is another"):
        load_tensors(file)
    file.write_bytes(content[:50])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_tensors(file, "put it back")


# --- replacing ---------------------------------------------------------------------------


def test_a_file_reaches_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(number: int) -> None:
        order.append(("fsync", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def note_replace(source: Path, target: Path) -> None:
        order.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(module.os, "fsync", note_fsync)
    monkeypatch.setattr(module.os, "replace", note_replace)
    file = tmp_path / "state.json"
    with replacing(file) as temporary:
        temporary.write_text("new")
    assert order == [
        ("fsync", str(temporary)),
        ("replace", str(file)),
        ("fsync", str(tmp_path)),
    ]
    (tmp_path / "best" / "unet").mkdir(parents=True)
    (tmp_path / "best" / "unet" / "weights").write_text("w")
    order.clear()
    flush_tree(tmp_path / "best")
    assert sorted(path for _, path in order) == [
        str(tmp_path / "best"),
        str(tmp_path / "best" / "unet"),
        str(tmp_path / "best" / "unet" / "weights"),
    ]


def test_two_writers_have_two_temporary_files_and_a_link_is_replaced_itself(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    file = tmp_path / "report.html"
    file.symlink_to(tmp_path / "mine")
    with replacing(file) as first, replacing(file) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "mine").read_text() == "years of work"
    assert not file.is_symlink()
    assert file.read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == ["mine", "report.html"]


def test_leftovers_are_removed_and_nothing_that_looks_like_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (".a.png.0123abcd.part", ".part", "a.0123abcd.part", ".a.0123abcd.parts"):
        (tmp_path / "images" / name).write_text("")
    remove_leftovers(tmp_path)
    names = sorted(os.listdir(tmp_path / "images"))
    assert names == [".a.0123abcd.parts", ".part", "a.0123abcd.part"]


# --- models ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"_class_name": []}', '{"unet": ["diffusers", 5]}', '{"vae": [{}, []]}']
)
def test_a_model_index_of_wrong_types_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(UserError, match=r"model_index\.json: damaged \(.*; fetch the model again"):
        read_index(tmp_path)


def test_a_link_within_a_run_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", Config(noun="dog"), {"subject": {"photos": []}})
    (tmp_path / "elsewhere").mkdir()
    (run.path / "best").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="best: is a symbolic link, which nothing of a run may be"):
        load_run(run.path)
