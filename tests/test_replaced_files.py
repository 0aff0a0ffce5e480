"""Files outside a run are replaced as its own are: the class pictures' cache, judged drawings."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from jobs import World, make_world
from PIL import Image

import rpo
from rpo.config import Config
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn, save_drawn
from rpo.evaluation.dreambench import Reference
from rpo.events import Finished, Notice
from rpo.models import class_pictures
from rpo.models.class_pictures import cache_folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("kleine Welt"))


def train(world: World, out: Path) -> list[Any]:
    subject = Subject.from_folder(world.photos, "dog")
    settings = [*world.settings(steps=1, every=1), "dreambooth.class_images=2"]
    return list(
        rpo.iterate(
            subject, model=str(world.model), out=out, method="dreambooth", settings=settings
        )
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_full_disk_under_the_cache_is_a_notice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(class_pictures, "save_file", fill)
    events = train(world, tmp_path / "run")
    (message,) = (event.message for event in events if isinstance(event, Notice))
    assert message.startswith(str(cache_folder()))
    assert "the disk is full; free some space, or name another folder by RPO_CACHE" in message
    assert message.endswith("the next run draws its class pictures again")
    assert isinstance(events[-1], Finished)
    assert names(cache_folder()) == []


def test_the_cache_is_on_the_disk_before_it_has_its_name(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(
        "rpo.replacing.flush", lambda path: flushed.append((path, names(cache_folder())))
    )
    train(world, tmp_path / "run")
    place = cache_folder() / "class-pictures"
    (file,) = names(cache_folder())
    (temporary, before), (folder, after) = [
        one for one in flushed if place in (one[0], *one[0].parents)
    ]
    assert (temporary.parent, before) == (place, [temporary.name])
    assert temporary.name.startswith(f".{file}.")
    assert (folder, after) == (place, [file])


def test_a_folder_in_the_place_of_the_cache_is_a_notice(world: World, tmp_path: Path) -> None:
    train(world, tmp_path / "first")
    (file,) = cache_folder().rglob("*.safetensors")
    file.unlink()
    (file / "mine").mkdir(parents=True)
    events = train(world, tmp_path / "second")
    (message,) = (event.message for event in events if isinstance(event, Notice))
    assert "a folder where a file belongs; move it away" in message
    assert (file / "mine").is_dir()


def test_a_drawing_that_cannot_be_written_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(picture: Image.Image, path: Path, texts: Any) -> None:
        if picture.getpixel((0, 0)) == (0, 0, 255):
            path.write_bytes(b"\x89PNG")
            raise OSError(errno.ENOSPC, "No space left on device")
        picture.save(path, format="PNG")

    monkeypatch.setattr("rpo.evaluation.drawn.save_png", half)
    photos = tuple(Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    subject = Reference("dog1", Config().noun, "live", photos)
    drawn = Drawn(subject, (), (), (), class_tuned=photos)
    with pytest.raises(UserError, match=r"02\.png: the disk is full; free some space, or name"):
        save_drawn(drawn, tmp_path, "ours")
    assert names(tmp_path) == ["01.png"]
