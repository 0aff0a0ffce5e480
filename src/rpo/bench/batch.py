"""One model for each of many subjects: a folder of photo folders as a suite of one row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpo.bench.suite import BenchSuite, SuiteRow, changes_of
from rpo.config import Config, read_toml
from rpo.data.subject import checked_noun
from rpo.errors import UserError, near_names, printable
from rpo.evaluation.dreambench import Entry


def batch_suite(
    folder: Path,
    config: Config,
    noun: str = "",
    noun_file: Path | None = None,
    keep: str = "best",
) -> BenchSuite:
    """A job for each folder of photos in `folder`, by its name.

    noun: what all of them show. noun_file: TOML with what each shows, `rex = "dog"`, or a table
    with `noun` and `kind`; those that it does not name show `noun`. UserError where a noun is
    missing, or names no folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{printable(folder)}: no such folder; name the one with a folder a subject"
        )
    nouns = {} if noun_file is None else read_toml(noun_file)
    found = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."}
    if not found:
        raise UserError(f"{printable(folder)}: holds no folders; give each subject's photos one")
    for name in nouns:
        if name not in found:
            hint = near_names(name, found)
            raise UserError(f"{noun_file}: {name}: no such folder in {printable(folder)}; {hint}")
    entries = tuple(
        _entry(name, path.resolve(), nouns.get(name, noun), noun_file)
        for name, path in found.items()
    )
    changes = changes_of(config)
    row = SuiteRow("batch", "batch", config.method, config, changes=changes, choose=())
    return BenchSuite(
        name="batch",
        title=f"{len(entries)} subjects",
        subjects="",
        entries=entries,
        rows=(row,),
        seeds=(config.seed,),
        model=config.model,
        judges={},
        keep=keep,
    )


def _entry(name: str, photos: Path, told: Any, noun_file: Path | None) -> Entry:
    table = told if isinstance(told, Mapping) else {"noun": told}
    noun, kind = table.get("noun", ""), table.get("kind", "auto")
    where = noun_file or "--noun"
    if not isinstance(noun, str) or not isinstance(kind, str):
        raise UserError(f'{where}: {printable(name)}: write it as {name} = "dog"')
    if not noun:
        raise UserError(
            f"{printable(name)}: what it shows is not said; add it to --noun-file, or give --noun"
        )
    try:
        noun, kind = checked_noun(noun, kind)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{where}: {printable(name)}: {error}") from None
    return Entry(name, noun, kind, photos)
