"""A subject: its photos, noun, kind and name, from a folder and from pictures in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import BLUE, RED, WHITE, assert_quarters, flat, quarters
from PIL import Image

from rpo.data import photo as photo_module
from rpo.data import subject as subject_module
from rpo.data.subject import LIVE_NOUNS, Subject, check_folder
from rpo.errors import UserError
from rpo.runs.environment import fingerprints

pytestmark = pytest.mark.usefixtures("no_remarks_on_content")


DREAMBENCH = Path(__file__).resolve().parents[2] / "shared" / "dreambench"


# The subject


def test_from_folder(folder: Path) -> None:
    quarters(400, 300).save(folder / "2.png")
    flat(BLUE).save(folder / "10.png")
    subject = Subject.from_folder(str(folder), "  corgi   dog ")
    assert (subject.noun, subject.kind, subject.name) == ("corgi dog", "live", "Süße Hündin, 2")
    assert subject.paths == (folder / "2.png", folder / "10.png")
    assert [image.size for image in subject.images] == [(400, 300), (300, 300)]
    assert {image.mode for image in subject.images} == {"RGB"}
    assert_quarters(subject.images[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.noun = "cat"  # type: ignore[misc]


def test_a_large_photo_is_kept_reduced_but_reported_as_it_is(folder: Path) -> None:
    quarters(4096, 2560).save(folder / "1.bmp")  # nothing to compress: fast
    quarters(2048, 2100).save(folder / "2.bmp")
    assert [check.size for check in check_folder(folder)] == [(4096, 2560), (2048, 2100)]
    first, second = Subject.from_folder(folder, "dog").images
    assert first.size == (3277, 2048)  # 4096 * 2048 / 2560 = 3276.8
    assert_quarters(first)
    assert second.size == (2048, 2100)
    # Lanczos, unlike box and bilinear filters, overshoots beside an edge: red on white dips.
    dark = Image.new("L", (4096, 4096), 64)
    dark.paste(192, (0, 0, 2047, 4096))
    kept = np.asarray(photo_module._reduced(dark))[0].astype(int)
    assert len(kept) == 2048
    assert kept.min() < 64
    assert kept.max() > 192


def test_photos_in_full_size_are_let_go_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_module, "KEPT_SIDE", 200)
    for index in range(4):
        flat((index, 0, 0)).save(folder / f"{index}.png")
    to_srgb, read, alive = photo_module.to_srgb, [], []

    def watched(image: Image.Image, *arguments: object) -> Image.Image:
        alive.append(sum(reference() is not None for reference in read))
        image = to_srgb(image, *arguments)
        read.append(weakref.ref(image))
        return image

    monkeypatch.setattr(photo_module, "to_srgb", watched)
    images = Subject.from_folder(folder, "dog").images
    assert alive == [0, 0, 0, 0]
    assert {image.size for image in images} == {(200, 200)}


def test_more_than_forty_photos(folder: Path) -> None:
    for index in range(41):
        flat((index, 0, 0), (32, 32)).save(folder / f"{index}.png")
    images = Subject.from_folder(folder, "vase").images
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(41))


def test_the_first_rejected_photo_is_named_and_the_others_counted(folder: Path) -> None:
    flat(RED).save(folder / "1.png")
    flat(BLUE).save(folder / "2.png")
    (folder / "9.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        Subject.from_folder(folder, "dog")
    assert str(error.value) == f"{folder / '9.jpg'}: empty; copy it again"
    (folder / "10.jpg").write_text("x")
    (folder / "11.jpg").write_text("x")
    with pytest.raises(UserError) as error:
        Subject.from_folder(folder, "dog")
    assert str(error.value) == f"{folder / '9.jpg'}: empty; copy it again (and 2 more rejected)"


def test_one_photo_is_too_few(folder: Path) -> None:
    flat(RED).save(folder / "1.png")
    with pytest.raises(UserError, match="only 1 photo; add more"):
        Subject.from_folder(folder, "dog")


@pytest.mark.parametrize("noun", ["", "  \n"])
def test_the_noun_must_be_given(tmp_path: Path, noun: str) -> None:
    with pytest.raises(UserError, match="noun is empty"):
        Subject.from_folder(tmp_path, noun)


@pytest.mark.parametrize(
    ("noun", "kind"),
    [
        ("dog", "live"),
        ("Golden Retriever", "live"),
        ("person", "live"),
        ("polar bear", "live"),
        ("teddy bear", "object"),
        ("stuffed animal", "object"),
        ("dog bowl", "object"),
        ("vase", "object"),
    ],
)
def test_kind_auto_is_decided_by_the_noun(folder: Path, noun: str, kind: str) -> None:
    flat(RED).save(folder / "1.png")
    flat(BLUE).save(folder / "2.png")
    assert Subject.from_folder(folder, noun).kind == kind
    assert Subject.from_folder(folder, noun, "object").kind == "object"
    assert Subject.from_folder(folder, noun, "live").kind == "live"


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="subject_kind must be auto, live or object"):
        Subject.from_folder(folder, "dog", "alive")  # type: ignore[arg-type]


def test_the_classes_of_dreambench_have_its_kinds() -> None:
    objects = "backpack bowl can candle clock sneaker toy boot glasses cartoon teapot vase"
    classes = ["cat", "dog", "stuffed animal", *objects.split()]
    live = {name for name in classes if subject_module.checked_noun(name, "auto")[1] == "live"}
    assert len(classes) == 15
    assert live == {"cat", "dog"}
    assert all(noun == noun.lower() and " " not in noun for noun in LIVE_NOUNS)


# Pictures in memory


def test_from_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = quarters(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo.transpose(Image.Transpose.ROTATE_90)
    stored.info["exif"] = exif.tobytes()
    clear = Image.new("RGBA", (40, 40), (9, 9, 9, 0))
    subject = Subject.from_images([stored, clear], "corgi  dog", name="my dog")
    assert (subject.noun, subject.kind, subject.name) == ("corgi dog", "live", "my dog")
    assert (subject.paths, subject.names, subject.folder) == ((), ("1", "2"), "")
    assert_quarters(subject.images[0])
    assert subject.images[0].size == (60, 40)
    assert subject.images[1].getpixel((3, 3)) == WHITE
    pixels = hashlib.sha256(b"(60, 40)" + photo.tobytes()).hexdigest()
    assert fingerprints(subject)[0] == {"name": "1", "sha256": pixels}


def test_from_tensors() -> None:
    pixels = np.stack([np.asarray(quarters(40, 40)), np.asarray(flat(BLUE, (40, 40)))])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for given in (tensor, list(tensor), tensor.half()):
        subject = Subject.from_images(given, "vase", kind="live")
        assert subject.kind == "live"
        assert_quarters(subject.images[0])
        torch.testing.assert_close(subject.tensor(40), tensor * 2 - 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "only 0; add more"),
        ([quarters()], "only 1; add more"),
        ([quarters(), quarters()], "image 2: the same as image 1"),
        ([quarters(), "a.png"], "image 2: neither a PIL image nor a tensor, but str"),
        ([quarters(), flat(RED, (31, 99))], "image 2: smaller than 32 pixels"),
        (torch.rand(2, 64, 64), r"image 1: a tensor must be \(3, H, W\), not \(64, 64\)"),
        (torch.rand(2, 4, 64, 64), r"image 1: a tensor must be \(3, H, W\)"),
        (torch.rand(2, 3, 0, 64), r"image 1: a tensor must be \(3, H, W\)"),
        (torch.rand(2, 3, 64, 64) * 255, "floats from 0 to 1; divide by 255"),
        (torch.rand(2, 3, 64, 64) - 0.5, "floats from 0 to 1"),
        (torch.full((2, 3, 64, 64), math.nan), "floats from 0 to 1"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "floats from 0 to 1"),
    ],
)
def test_pictures_in_memory_that_are_refused(images: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Subject.from_images(images, "dog")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a\nb", "x" * 61])
def test_the_name_of_pictures_in_memory_must_name_a_folder(name: str) -> None:
    with pytest.raises(UserError, match="name .* give one that can name a folder"):
        Subject.from_images([quarters(), flat(RED)], "dog", name=name)


# The whole


def test_importing_the_module_registers_nothing() -> None:
    code = "import rpo.data.subject, sys; sys.exit('pillow_heif' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="the DreamBench photos are not here")
def test_real_photos() -> None:
    subject = Subject.from_folder(DREAMBENCH / "dog", "dog")
    assert 4 <= len(subject.images) <= 6
    assert subject.kind == "live"
    tensor = subject.tensor(64)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert tensor.std(dim=(1, 2, 3)).min() > 0.1
