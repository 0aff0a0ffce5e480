"""archive.py: a zip is the folder that it holds; nothing of it is trusted or unpacked to disk."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from corpus.beside import PNG, of_mode, zipped
from jobs import World, contents, make_world, results
from PIL import Image

import rpo
from rpo.cli import commands as cli
from rpo.config import PhotosConfig
from rpo.data import archive as module
from rpo.data.subject import Subject, check_folder
from rpo.errors import UserError
from rpo.events import StepDone


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def pack(folder: Path, file: Path, below: str = "") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, below + path.relative_to(folder).as_posix())
    return file


def test_a_zip_is_the_subject_that_its_folder_is(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "dog"
    folder.mkdir()
    for path in world.photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "1.txt").write_text("a {} in snow")
    (folder / "boxes.toml").write_text('"0.png" = [20, 10, 60, 50]')
    (folder / "masks").mkdir()
    mask = Image.new("L", (80, 60))
    mask.paste(255, (40, 0, 80, 60))
    for name in "012":
        mask.save(folder / "masks" / f"{name}.png")
    plain = Subject.from_folder(folder, "dog")
    for below in ("", "dog/"):
        file = pack(folder, tmp_path / "dog.zip", below)
        found = Subject.from_folder(file, "dog")
        assert (found.name, found.names, found.sha256) == ("dog", plain.names, plain.sha256)
        assert found.beside == plain.beside
        assert found.folder == str(file)
        for crop in ("centre", "subject", "none"):
            asked = PhotosConfig(crop=crop, unmasked_weight=0.5)  # type: ignore[arg-type]
            one, two = plain.arranged(asked), found.arranged(asked)
            assert torch.equal(one.tensor(32), two.tensor(32))
            assert torch.equal(one.weights(32), two.weights(32))  # type: ignore[arg-type]


def test_a_job_from_a_zip_resumes_and_writes_nothing_beside_it(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "zips"
    place.mkdir()
    file = pack(world.photos, place / "meine Höhle.zip")
    before = contents(place)
    options = {"model": str(world.model), "settings": world.settings(steps=2)}
    whole = rpo.train(Subject.from_folder(world.photos, "dog"), out=tmp_path / "a", **options)
    out = tmp_path / "b"
    events = rpo.iterate(Subject.from_folder(file, "dog"), out=out, **options)
    for event in events:
        if isinstance(event, StepDone):
            break
    events.close()
    recorded = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert recorded["subject"]["folder"] == str(file)
    flags = world.flags(steps=2)
    assert cli.run(["train", str(file), *flags, "--out", str(out), "--resume", "--quiet"]) == 0
    assert results(out) == results(whole.path)
    assert contents(place) == before
    assert cli.run(["check", str(file)]) == 0
    assert "0.png" in capsys.readouterr().out


def test_what_a_member_declares_bounds_what_is_unpacked(tmp_path: Path) -> None:
    """A member of 64 MB that says it is a kilobyte: refused, and never in memory."""
    data = zipped(("a.png", bytes(1 << 26)), ("b.png", PNG), compression=zipfile.ZIP_DEFLATED)
    size, forged = struct.pack("<I", 1 << 26), struct.pack("<I", 1024)
    assert data.count(size) == 2
    file = tmp_path / "photos.zip"
    file.write_bytes(data.replace(size, forged))
    tracemalloc.start()
    checks = check_folder(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [check.status for check in checks] == ["rejected", "warning"]  # the other is small
    assert checks[0].message.startswith("damaged in the zip (Bad CRC-32")
    assert peak < 24 << 20


def test_members_beyond_a_gigabyte_are_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", len(PNG) - 1)
    file = tmp_path / "photos.zip"
    file.write_bytes(zipped(("a.png", PNG)))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # calling it would be another message
    (check,) = check_folder(file)
    assert check.message == "over 1 GB; export it as JPEG"


def test_too_many_members_are_refused_before_they_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "photos.zip"
    file.write_bytes(zipped(*((str(k), b"") for k in range(1001))))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UserError, match=r"photos\.zip: over 1000 files"):
        check_folder(file)


def test_a_forged_count_helps_nobody(tmp_path: Path) -> None:
    data = zipped(*((str(k), b"") for k in range(1001)))
    at = data.rfind(b"PK\5\6")
    file = tmp_path / "photos.zip"
    file.write_bytes(data[: at + 8] + struct.pack("<HH", 1, 1) + data[at + 12 :])
    with pytest.raises(UserError, match="over 1000 files"):
        check_folder(file)


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    file = tmp_path / "photos.zip"
    target = str(secret).encode()
    file.write_bytes(zipped((of_mode("a.png", 0o120777), target), ("b.png", PNG)))
    with pytest.raises(UserError, match=r"photos\.zip/a\.png: a link, .* put the photo there"):
        Subject.from_folder(file, "dog")


def test_bytes_changed_at_random_are_never_a_traceback(tmp_path: Path) -> None:
    draw = random.Random(0)
    sound = zipped(("dog/a.png", PNG), ("dog/a.txt", b"a {}"), compression=zipfile.ZIP_DEFLATED)
    file = tmp_path / "photos.zip"
    ends = set()
    for _ in range(400):
        spoilt = bytearray(sound)
        for _ in range(draw.choice((1, 3))):
            at = draw.randrange(len(spoilt))
            spoilt[at : at + draw.choice((0, 1, 4))] = draw.choice(
                (bytes(4), b"\xff" * 4, draw.randbytes(draw.randrange(6)))
            )
        file.write_bytes(bytes(spoilt))
        try:
            ends |= {check.status for check in check_folder(file)}
        except UserError:
            ends.add("refused")
    assert ends >= {"warning", "rejected", "refused"}
