"""The second world of evidence: five drawn subjects as photos that `rpo` takes as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import second_world
from emojiland.art import CLASS_ICONS
from rpo.data.subject import Subject


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second") / "five subjects"
    assert second_world.main([str(folder)]) == 0
    return folder


def test_photos_are_ordinary_ones(folder: Path) -> None:
    assert len(second_world.SUBJECTS) == 5
    for name, (noun, _) in second_world.SUBJECTS.items():
        assert noun in CLASS_ICONS
        subject = Subject.from_folder(folder / name, noun=noun)
        assert len(subject.images) == 5
        sizes = {image.size for image in subject.images}
        assert sizes == set(second_world.SIZES)
        assert all(64 <= side <= 512 for size in sizes for side in size)


def test_another_view_and_place_in_each(folder: Path) -> None:
    """As thumbnails no two photos of a subject are nearly alike."""
    for name in second_world.SUBJECTS:
        files = sorted((folder / name).iterdir())
        small = [np.asarray(Image.open(f).convert("RGB").resize((16, 16)), float) for f in files]
        gaps = [np.abs(a - b).mean() for k, a in enumerate(small) for b in small[:k]]
        assert min(gaps) > 12, name


def test_the_same_picture_every_time() -> None:
    first, again = (second_world.photograph("robot", 4) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != second_world.photograph("spotted_dog", 4).tobytes()


def test_nothing_is_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "robot/0.jpg").read_bytes()
    assert second_world.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"error: {folder / 'robot'}: exists already; name another folder, or delete it\n"
    )
    assert (folder / "robot/0.jpg").read_bytes() == before
