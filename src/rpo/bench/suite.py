"""Suites: subjects, rows and seeds as one TOML file, and the jobs that they make.

    subjects = "emojiland"          as `rpo evaluate --subjects` reads it; absent: given by a flag
    names = ["dog3", "teapot"]      only these of them
    development = ["dog3"]          on which settings were chosen: in no table of `rpo report`, and
                                    left out by `--held-out`
    seeds = [0, 1]
    model = "emojiland"
    images_per_prompt = 4           pictures of each test prompt
    pictures = 256                  longest side of the pictures that are kept; 0 keeps none
    keep = "report"                 of run folders: "report", "best" (and weights) or "all"
    settings.training.steps = 200   of every row that trains
    [judges]                        dino, clip, aesthetic, aesthetic_clip, as `rpo evaluate`;
                                    left empty, nothing is judged
    [rows.rpo]                      a name of letters, digits, - and _
    title = "RPO"
    method = "rpo"                  absent: the base model alone draws, or with `ip_adapter`, its
                                    file or folder; or `images` names a folder of pictures
    presets = ["lora"]
    settings.training.beta = 1
    choose = ["best", "last"]       which steps are judged
    titles.last = "to the end"      of the lines that these make
    [tables.methods]                lines of the tables of `rpo report`: title, and keys of lines
    lines = ["base", "rpo:best"]
    first = "rpo:best"              less which others stand in its differences; absent: RPO
    [small]                         what `--small` puts in their place, for tests
    seeds = [0]

A suite that was read has everything spelled out, and `to_toml` writes it so: RESULTS/suite.toml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from rpo.about import ASSETS
from rpo.bench.pieces import PIECE, Piece, read_pieces
from rpo.bench.records import Choice
from rpo.bench.suite_tables import TABLE, read_tables
from rpo.config import METHODS, Config, load_config, read_toml, values_of
from rpo.errors import UserError, near_names
from rpo.evaluation.dreambench import Entry, load_suite
from rpo.evaluation.judges import AESTHETIC_CLIP, default_judges
from rpo.models.resolve import EMBEDDED, known_presets
from rpo.reading import Shape, every, misfit, whole
from rpo.runs.resume import anchored

SUITES = ASSETS / "suites"
KEEP = ("report", "best", "all")

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SETTINGS: Shape = {}
_ROW: Shape = {
    **dict.fromkeys(("title", "method", "images", "ip_adapter"), str),
    "presets": [str],
    "settings": _SETTINGS,
    "choose": [lambda value: "" if value in ("best", "last") else "best or last"],
    "titles": every(str),
}
_SUITE: Shape = {
    **dict.fromkeys(("name", "title", "subjects", "model"), str),
    **{key: [str] for key in ("names", "development")},
    "seeds": [whole],
    "images_per_prompt": whole,
    "pictures": whole,
    "keep": lambda value: "" if value in KEEP else f"one of {', '.join(KEEP)}",
    "settings": _SETTINGS,
    "judges": every(str),
    "rows": every(_ROW),
    "tables": every(TABLE),
    "pieces": [PIECE],
    "listed": every({"noun": str, "kind": str, "photos": str}),
}


@dataclass(frozen=True)
class SuiteRow:
    """One row: how every subject is taught, or what draws it instead.

    Attributes:
        name, title: for files, and for people.
        method: "" for what is not trained: the base model, alone or with the IP-Adapter
            `ip_adapter`, or the pictures of the folder `images`.
        config: complete but for the subject and the seed.
        changes: what the suite and the row change over what suits model and method, flat.
        choose, titles: the judged steps in order, and the title of the line of each.
    """

    name: str
    title: str
    method: str
    config: Config
    images: str = ""
    ip_adapter: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    choose: tuple[Choice, ...] = ("best",)
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchSuite:
    """What is to be done; see the module. judges: by the names of `load_judges`' parameters.

    tables: as the file has them, also with lines of rows that were not asked for. pieces: in which
    it was asked for, one after the other; none where it was as a whole.
    """

    name: str
    title: str
    subjects: str
    entries: tuple[Entry, ...]
    rows: tuple[SuiteRow, ...]
    seeds: tuple[int, ...]
    model: str
    judges: Mapping[str, str]
    images_per_prompt: int = 4
    pictures: int = 256
    keep: str = "report"
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    development: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()

    @property
    def whole(self) -> Piece:
        """All of it as one piece."""
        names = (entry.name for entry in self.entries)
        rows = (row.name for row in self.rows)
        return Piece(frozenset(rows), frozenset(names), frozenset(self.seeds))

    def __len__(self) -> int:
        """How many jobs there are."""
        return sum(1 for _ in self.cells())

    def cells(self) -> Iterator[tuple[SuiteRow, Entry, int]]:
        """Every job, seed by seed: all subjects come once before one does twice.

        Given pictures have no seeds.
        """
        for seed in self.seeds:
            for entry in self.entries:
                for row in self.rows:
                    if row.images and seed != self.seeds[0]:
                        continue
                    asked = (piece.has(row.name, entry.name, seed) for piece in self.pieces)
                    if not self.pieces or any(asked):
                        yield row, entry, seed


def find_suite(name: str) -> Path:
    """A suite's file: one that ships, by its name, or a path. UserError for neither."""
    shipped = {file.stem: file for file in sorted(SUITES.glob("*.toml"))}
    if name in shipped:
        return shipped[name]
    file = Path(name).expanduser()
    if file.suffix != ".toml" and not file.exists():
        raise UserError(f"{name}: neither a suite's file nor one of {', '.join(shipped)}")
    return file


def read_suite(
    file: Path,
    *,
    small: bool = False,
    subjects: str | None = None,
    model: str | None = None,
    rows: Sequence[str] = (),
    names: Sequence[str] = (),
    seeds: Sequence[int] = (),
    held_out: bool = False,
    settings: Sequence[str] = (),
) -> BenchSuite:
    """The suite of a file, or its `small` version; the rest takes the place of what it says.

    rows, names: only these. held_out: without the subjects of `development`. settings:
    "training.steps=200" and the like, of every row that trains. UserError for a mistake in it, in
    one line that names the file.
    """
    table = read_toml(file)
    less = table.pop("small", {})
    for where, part in (("", table), ("small: ", less)):
        if wrong := misfit(part, _SUITE):
            raise UserError(f"{file}: {where}{wrong}; correct it")
    if small and not less:
        raise UserError(f"{file}: has no table [small]; leave out --small")
    _refuse_unknown(file, "", {**table, **less}, _SUITE)
    if small:
        table = _merged(table, less)
    given: dict[str, Any] = {"subjects": subjects, "model": model}
    given |= {"names": list(names) or None, "seeds": list(seeds) or None}
    table |= {key: value for key, value in given.items() if value is not None}
    table.setdefault("model", EMBEDDED)
    entries = _entries(file, table, held_out)
    listed = table.get("rows", {})
    if unknown := [name for name in rows if name not in listed]:
        raise UserError(f"--row {unknown[0]}: no such row; {near_names(unknown[0], listed)}")
    if not listed:
        raise UserError(f"{file}: has no [rows.NAME]; add one for each method")
    found = tuple(
        _row(file, name, row, table, settings)
        for name, row in listed.items()
        if not rows or name in rows
    )
    seeds = tuple(dict.fromkeys(table.get("seeds", [0])))
    count = table.get("images_per_prompt", 4)
    if not seeds or count < 1:
        raise UserError(f"{file}: {'images_per_prompt' if seeds else 'seeds'} must hold at least 1")
    return BenchSuite(
        name=table.get("name", file.stem),
        title=table.get("title", file.stem),
        subjects=_placed(table.get("subjects", "")),
        entries=entries,
        rows=found,
        seeds=seeds,
        model=table["model"],
        judges=_judges(file, table),
        images_per_prompt=count,
        pictures=table.get("pictures", 256),
        keep=table.get("keep", "report"),
        tables=read_tables(file, table),
        development=tuple(table.get("development", ())),
        pieces=read_pieces(table.get("pieces", ())),
    )


def to_toml(suite: BenchSuite) -> str:
    """The suite spelled out; `read_suite` of it gives an equal one. settings: in each row."""
    rows = {
        row.name: {
            "title": row.title,
            **({"method": row.method, "choose": list(row.choose)} if row.method else {}),
            **({"images": row.images} if row.images else {}),
            **({"ip_adapter": row.ip_adapter} if row.ip_adapter else {}),
            **({"titles": dict(row.titles)} if row.titles else {}),
            "settings": dict(row.changes),
        }
        for row in suite.rows
    }
    plain = ("name", "title", "subjects", "model", "images_per_prompt", "pictures", "keep")
    listed = {
        e.name: {"noun": e.noun, "kind": e.kind, "photos": str(e.folder)} for e in suite.entries
    }
    return tomli_w.dumps(
        {
            **{key: getattr(suite, key) for key in plain},
            "seeds": list(suite.seeds),
            "development": list(suite.development),
            "pieces": [piece.to_table() for piece in suite.pieces],
            "judges": dict(suite.judges),
            "rows": rows,
            "tables": {name: dict(table) for name, table in suite.tables.items()},
            "listed": listed,
        }
    )


# --- parts -------------------------------------------------------------------------------


def _refuse_unknown(file: Path, where: str, table: Mapping[str, Any], shape: Shape) -> None:
    for key in table:
        if key not in shape:
            raise UserError(f"{file}: unknown key {where}{key}; {near_names(key, shape)}")
    for name, row in table.get("rows", {}).items() if not where else ():
        if not _NAME.fullmatch(name):
            raise UserError(f"{file}: rows.{name}: name it by letters, digits, - and _ alone")
        _refuse_unknown(file, f"rows.{name}.", row, _ROW)
    for name, entry in table.get("tables", {}).items() if not where else ():
        _refuse_unknown(file, f"tables.{name}.", entry, TABLE)


def _merged(table: Mapping[str, Any], less: Mapping[str, Any]) -> dict[str, Any]:
    """`less` over `table`; tables within are merged as well, but rows as a whole are replaced."""
    found = dict(table)
    for key, value in less.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _merged(found[key], value) if both else value
    return found


def _placed(name: str) -> str:
    """A folder or a file by its absolute path, so that it is found from anywhere."""
    place = Path(name).expanduser()
    return str(place.resolve()) if name not in ("", EMBEDDED) and place.exists() else name


def _entries(file: Path, table: Mapping[str, Any], held_out: bool) -> tuple[Entry, ...]:
    """The subjects by name, in the suite's order."""
    development = table.get("development", [])
    if held_out and not development:
        raise UserError(f"--held-out: {file} has no list `development`; leave the flag out")
    if listed := table.get("listed"):
        for name, e in listed.items():
            if lacking := {"noun", "kind", "photos"} - e.keys():
                raise UserError(f"{file}: listed.{name} lacks {min(lacking)}; add it")
        found = {
            name: Entry(name, e["noun"], e["kind"], Path(e["photos"])) for name, e in listed.items()
        }
    elif not table.get("subjects"):
        raise UserError(f"{file}: names no subjects; give their folder by --subjects")
    else:
        found = {entry.name: entry for entry in load_suite(table["subjects"]).entries}
    names = list(dict.fromkeys(table.get("names", found)))
    for name in names:
        if name not in found:
            raise UserError(f"{file}: names: no subject {name!r}; {near_names(name, found)}")
    if not names:
        raise UserError(f"{file}: names is empty; leave it out for all subjects")
    if held_out:
        names = [name for name in names if name not in development]
    if not names:
        raise UserError("--held-out: settings were chosen on all these subjects; name others")
    return tuple(found[name] for name in names)


def _row(
    file: Path,
    name: str,
    row: Mapping[str, Any],
    table: Mapping[str, Any],
    overrides: Sequence[str],
) -> SuiteRow:
    method, images, adapter = (row.get(key, "") for key in ("method", "images", "ip_adapter"))
    if len([given for given in (method, images, adapter) if given]) > 1:
        raise UserError(
            f"{file}: rows.{name}: method, images and ip_adapter exclude each other; take one"
        )
    if not method and ("choose" in row or "titles" in row):
        raise UserError(f"{file}: rows.{name}: without a method nothing is chosen; add method")
    if method and method not in METHODS:
        raise UserError(
            f"{file}: rows.{name}: unknown method {method!r}; {near_names(method, METHODS)}"
        )
    facts = {"model": table["model"], **({"method": method} if method else {})}
    changes = {**_flat(table.get("settings", {})), **_flat(row.get("settings", {}))}
    presets = tuple(row.get("presets", ())) or None
    try:
        config = load_config(
            presets, None, overrides, known=known_presets(), **{**changes, **facts}
        )
    except UserError as error:
        raise UserError(f"{file}: rows.{name}: {error}") from None
    config = anchored(config)
    choose = tuple(dict.fromkeys(row.get("choose", ["best"]))) if method else ("untrained",)
    if "last" in choose and config.validation.patience:
        raise UserError(
            f"{file}: rows.{name}: validation.patience ends before the last step, which choose "
            "asks for; leave out one of the two"
        )
    title = row.get("title", METHODS[method].title if method else name)
    if images:
        images = str((file.parent / Path(images).expanduser()).resolve())
    adapter = _placed(adapter)
    titles = dict(row.get("titles", {}))
    changes = changes_of(config)
    return SuiteRow(name, title, method, config, images, adapter, changes, choose, titles)


def changes_of(config: Config) -> dict[str, Any]:
    """What the settings change over those that suit their model and method, flat.

    But for what is a job's own: noun, kind and seed.
    """
    known = known_presets()
    suitable = values_of(load_config(known=known, model=config.model, method=config.method))
    own = ("noun", "subject_kind", "seed", "model", "method")
    told = values_of(config)
    return {key: told[key] for key in told if told[key] != suitable[key] and key not in own}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


def _judges(file: Path, table: Mapping[str, Any]) -> dict[str, str]:
    dino, clip = default_judges(table["model"])
    known = {"dino": dino, "clip": clip, "aesthetic": "", "aesthetic_clip": AESTHETIC_CLIP}
    own = table.get("judges")
    if own == {}:
        return {}
    for key in own or ():
        if key not in known:
            raise UserError(f"{file}: unknown key judges.{key}; {near_names(key, known)}")
    return {key: _placed(value) for key, value in {**known, **(own or {})}.items()}
