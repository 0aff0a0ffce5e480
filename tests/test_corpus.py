"""Every kind of photo and folder of tests/corpus: used rightly, or refused or remarked upon."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from corpus import CASES, PAGE, page
from corpus.case import Case, quarters

from rpo.cli import commands as cli
from rpo.data.photo import RejectedPhoto, read_photo
from rpo.data.subject import PhotoCheck, check_folder
from rpo.errors import UserError

TOLERANCE = 8  # of 255


def test_the_corpus_is_large_and_its_page_is_up_to_date() -> None:
    assert len(CASES) >= 200
    assert len({case.id for case in CASES}) == len(CASES)
    assert PAGE.read_text(encoding="utf-8") == page()


def says(case: Case, message: str) -> bool:
    return all(piece in message for piece in case.says.removesuffix("…").split(" … "))


def check_of(case: Case, folder: Path) -> PhotoCheck | None:
    """The check of the case's file among those of the folder."""
    checks = check_folder(folder, small_below=32)
    named = [check for check in checks if case.file in (check.path.name, check.path.stem)]
    assert len(named) <= 1
    return named[0] if named else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.id))
def test_case(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    try:
        case.make(folder)
    except (ImportError, AttributeError, OSError) as error:
        if sys.platform == "linux" and not isinstance(error, ImportError):
            raise
        pytest.skip(f"cannot be made here: {error}")
    given = folder / case.given if case.given else folder

    if case.status == "folder refused":
        with pytest.raises(UserError) as refusal:
            check_folder(given)
        assert says(case, str(refusal.value))
    else:
        check = check_of(case, given)
        if case.status == "passed over":
            assert check is None
        else:
            assert check is not None
            status = "ok" if case.status == "unseen" else case.status
            assert (check.status, check.size) == (status, case.size or check.size)
            assert says(case, check.message)
            assert bool(check.message) == (status != "ok")
            if case.colours is not None and case.status in ("ok", "warning"):
                assert check.preview is not None
                found = quarters(check.preview)
                assert np.abs(found - case.colours).max() <= TOLERANCE, found.round()

    code = cli.run(["check", str(given), "--sheet", str(tmp_path / "sheet.png")])
    out, err = capsys.readouterr()
    assert code in (0, cli.WRONG_INPUT)
    assert err.count("\n") == (code != 0)
    assert err.startswith("error: " if code else "")
    kinds = {unicodedata.category(letter) for letter in out.replace("\n", "") + err[:-1]}
    assert kinds.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    if case.status == "folder refused":
        assert code == cli.WRONG_INPUT
        assert says(case, err)


def test_spoilt_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    """Bytes changed, lost and put in, most of them near the head, where the formats' rules are."""
    draw = random.Random(0)
    sound: list[tuple[str, bytes]] = []
    for index, case in enumerate(CASES):
        if case.group in ("formats", "colours", "depth", "transparency") and index % 4 == 0:
            folder = tmp_path / str(index)
            folder.mkdir()
            case.make(folder)
            sound += [(path.suffix, path.read_bytes()) for path in folder.iterdir()]
    assert len({suffix for suffix, _ in sound}) >= 6
    verdicts = set()
    for _ in range(600):
        suffix, data = draw.choice(sound)
        spoilt = bytearray(data)
        for _ in range(draw.choice((1, 3, 20))):
            at = min(int(draw.expovariate(1 / 200)), len(spoilt) - 8)
            spoilt[at : at + draw.choice((0, 1, 4))] = draw.choice(
                (bytes(4), b"\xff" * 4, draw.randbytes(draw.randrange(20)))
            )
        path = tmp_path / f"spoilt{suffix}"
        path.write_bytes(bytes(spoilt))
        try:
            photo = read_photo(path)
            assert photo.image.mode == "RGB"
            verdicts.add("noted" if photo.notes else "read")
        except RejectedPhoto:
            verdicts.add("rejected")
    assert verdicts == {"read", "noted", "rejected"}
