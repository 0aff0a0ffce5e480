"""Every kind of photo and folder of tests/corpus: used rightly, or refused or remarked upon."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from corpus import CASES, PAGE, page
from corpus.case import Case, quarters

from rpo.cli import commands as cli
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
            assert (check.status, check.size) == (case.status, case.size or check.size)
            assert says(case, check.message)
            assert bool(check.message) == (case.status != "ok")
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
