"""remarks.py: what is said of blur, exposure and sameness, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus.case import noise, scene
from PIL import Image, ImageEnhance, ImageFilter

from rpo.about import ASSETS
from rpo.data.remarks import blur, nearly_same, remark_on, remark_on_all, signature
from rpo.data.subject import check_folder

DREAMBENCH = Path(__file__).resolve().parents[2] / "shared" / "dreambench"


def detailed(seed: int = 0) -> Image.Image:
    image = scene(width=512, height=384)
    image.paste(noise(seed), (40, 40))
    return image


def test_blur_of_a_step_worked_by_hand() -> None:
    """One step of height 1 in a row: the box of 3 makes three steps of 1/3 of it.

    Differences before: 1 at one place. After: 1/3 there and at its neighbours. What blurring took
    away is 1 - 1/3 of a sum of 1, so 1/3 is left.
    """
    row = np.array([0.0] * 10 + [1.0] * 10)
    step = np.tile(row, (12, 1))
    assert blur(step, size=3) == pytest.approx(1 / 3)
    assert blur(step.T, size=3) == pytest.approx(1 / 3)
    assert blur(np.zeros((20, 20))) == 0


def test_blur_is_that_of_the_paper() -> None:
    """Crete et al. 2007, equations 1 to 7, pixel by pixel in plain loops."""
    row = np.random.default_rng(0).uniform(0, 255, 30)
    blurred = [np.mean([row[min(max(x + k, 0), 29)] for k in range(-5, 6)]) for x in range(30)]
    total = left = 0.0
    for x in range(1, 30):
        before, after = abs(row[x] - row[x - 1]), abs(blurred[x] - blurred[x - 1])
        total += before
        left += max(0.0, before - after)
    picture = np.tile(row, (40, 1))  # nothing changes from row to row
    assert blur(picture) == pytest.approx((total - left) / total)
    assert blur(picture.T) == pytest.approx((total - left) / total)


@pytest.mark.parametrize("radius", [0, 3, 6])
def test_blurred(radius: int) -> None:
    picture = detailed().filter(ImageFilter.GaussianBlur(radius)) if radius else detailed()
    assert ("blurred" in remark_on(picture)) == (radius > 0)
    large = picture.resize((2048, 1536))  # judged at the size that a model sees
    assert ("blurred" in remark_on(large)) == (radius > 0)


def test_exposure() -> None:
    assert remark_on(detailed()) == ""
    assert "very dark" in remark_on(ImageEnhance.Brightness(detailed()).enhance(0.12))
    assert remark_on(ImageEnhance.Brightness(detailed()).enhance(0.5)) == ""
    on_white = Image.new("RGB", (400, 400), "white")
    on_white.paste(noise(), (150, 150))
    assert remark_on(on_white) == ""  # a product photo


def test_nearly_the_same() -> None:
    first = signature(detailed())
    assert nearly_same(first, signature(detailed().resize((300, 225))))
    assert nearly_same(first, signature(detailed().filter(ImageFilter.GaussianBlur(1))))
    assert not nearly_same(first, signature(detailed().transpose(Image.Transpose.ROTATE_180)))


def test_too_little_variety() -> None:
    # 8 of 255 brighter each time: more than nearly the same, less than another photo
    alike = [Image.new("RGB", (64, 64), (60 + 8 * step,) * 3) for step in range(3)]
    assert "much alike" in remark_on_all([signature(image) for image in alike])
    assert remark_on_all([signature(image) for image in alike[:2]]) == ""
    apart = [Image.new("RGB", (64, 64), (60 + 30 * step,) * 3) for step in range(3)]
    assert remark_on_all([signature(image) for image in apart]) == ""


def test_the_bundled_subjects_get_no_remark_but_their_size() -> None:
    folders = sorted((ASSETS / "emojiland" / "subjects").iterdir())
    assert len(folders) >= 30
    for folder in folders:
        assert {check.message for check in check_folder(folder, 64)} == {""}


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="the DreamBench photos are not here")
def test_no_real_photo_gets_a_remark() -> None:
    for folder in sorted(path for path in DREAMBENCH.iterdir() if path.is_dir()):
        assert {check.message for check in check_folder(folder)} == {""}
