"""Suites: what they ask for, what is spelled out, and mistakes in them, each told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpo.bench.batch import batch_suite
from rpo.bench.order import job_id, make_orders
from rpo.bench.suite import SUITES, BenchSuite, find_suite, read_suite, to_toml
from rpo.bench.union import union
from rpo.config import METHODS, from_toml, load_config, read_toml
from rpo.errors import UserError

TINY = """
subjects = "emojiland"
names = ["dog3", "teapot"]
seeds = [0, 3]
settings.training.steps = 8
[rows.base]
[rows.rpo]
title = "RPO"
method = "rpo"
presets = ["lora"]
choose = ["best", "last"]
titles.last = "to the end"
settings.training.steps = 4
[rows.given]
images = "pictures"
[tables.all]
title = "All"
lines = ["base", "rpo:best", "rpo:last", "given"]
[small]
seeds = [1]
settings.validation.every = 2
"""


def written(folder: Path, text: str = TINY) -> Path:
    file = folder / "tiny.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_job_once_and_given_pictures_have_no_seeds(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path))
    orders = list(make_orders(suite, tmp_path))
    assert [order.job.id for order in orders] == [
        *("base.dog3.0", "rpo.dog3.0", "given.dog3.0"),
        *("base.teapot.0", "rpo.teapot.0", "given.teapot.0"),
        *("base.dog3.3", "rpo.dog3.3", "base.teapot.3", "rpo.teapot.3"),
    ]
    assert len(suite) == len(orders) == 10
    assert orders[2].images == str(tmp_path / "pictures")  # beside the suite's file


def test_an_order_has_the_whole_settings(tmp_path: Path) -> None:
    """Suite below row below --set; the rate is the preset lora's, β Emojiland's."""
    suite = read_suite(written(tmp_path), settings=["training.batch_size=2"])
    order = next(o for o in make_orders(suite, tmp_path) if o.job.id == "rpo.teapot.3")
    config = from_toml(order.config)
    assert (config.noun, config.subject_kind, config.seed) == ("teapot", "object", 3)
    training = config.training
    assert (training.steps, training.batch_size, training.weights) == (4, 2, "lora")
    assert (training.learning_rate, training.beta) == (1e-4, 0.1)
    assert order.job.settings == {
        "training.steps": 4,
        "training.batch_size": 2,
        "training.weights": "lora",
        "training.learning_rate": 1e-4,
    }
    assert (order.job.choose, dict(order.titles)) == (("best", "last"), {"last": "to the end"})


def test_what_is_spelled_out_is_the_same_suite(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path), settings=["training.flip=true"])
    again = tmp_path / "again.toml"
    again.write_text(to_toml(suite), encoding="utf-8")
    assert read_suite(again) == suite
    small = read_suite(written(tmp_path), small=True)
    assert (small.seeds, small.rows[1].config.validation.every) == ((1,), 2)
    assert small.rows[1].config.training.steps == 4


def test_only_some(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path), rows=["rpo"], names=["teapot"])
    assert [order.job.id for order in make_orders(suite, tmp_path)] == [
        "rpo.teapot.0",
        "rpo.teapot.3",
    ]
    assert suite.tables["all"]["lines"] == ["base", "rpo:best", "rpo:last", "given"]  # later, too


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('method = "rpo"', 'method = "rop"', "rows.rpo: unknown method 'rop'; did you mean rpo"),
        ("seeds = [0, 3]", "seed = [0]", r"unknown key seed; did you mean seeds"),
        ("seeds = [0, 3]", "seeds = [-1]", r"seeds\[0\] must be a whole number"),
        ("seeds = [0, 3]", "seeds = []", "seeds must hold at least 1"),
        ("seeds = [0, 3]", "images_per_prompt = 0", "images_per_prompt must hold at least 1"),
        ("seeds = [0, 3]", 'keep = "some"', "keep must be one of report, best, all"),
        ('titles.last = "to the end"', "titels = 1", "unknown key rows.rpo.titels"),
        ('"best", "last"', '"first"', r"rows.rpo.choose\[0\] must be best or last"),
        ('"dog3", "teapot"', '"dgo3"', "names: no subject 'dgo3'; did you mean dog3"),
        ('names = ["dog3", "teapot"]', "names = []", "names is empty"),
        ("[rows.base]", '[rows.base]\nchoose = ["best"]', "without a method nothing is chosen"),
        ("[rows.base]", '[rows."a b"]', "rows.a b: name it by letters"),
        ('images = "pictures"', 'images = "p"\nmethod = "rpo"', "exclude each other"),
        ("training.steps = 4", "validation.patience = 3", "patience ends before the last step"),
        ("training.steps = 4", "training.stps = 3", "rows.rpo: unknown setting 'training.stps'"),
        ('"rpo:last"', '"rpo:lats"', "tables.all: no row makes the line 'rpo:lats'"),
        ('subjects = "emojiland"', "", "give their folder by --subjects"),
        ("[rows.base]", "[judges]\ndion = 'a'\n[rows.base]", "unknown key judges.dion"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    names = old.startswith("subjects")
    text = TINY.replace('names = ["dog3", "teapot"]', "") if names else TINY
    assert old in text
    with pytest.raises(UserError, match=told) as error:
        read_suite(written(tmp_path, text.replace(old, new, 1)))
    assert "tiny.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path))
    other = read_suite(written(tmp_path), settings=["training.beta=3"])
    with pytest.raises(UserError, match=r"row base was made with another training.beta"):
        union(suite, other, tmp_path)
    text = TINY.replace("seeds", "images_per_prompt = 2\nseeds", 1)
    more = read_suite(written(tmp_path, text))
    with pytest.raises(UserError, match="made with another images_per_prompt"):
        union(suite, more, tmp_path)


def test_a_folder_is_completed_by_more_rows_subjects_and_seeds(tmp_path: Path) -> None:
    first = read_suite(written(tmp_path), rows=["base"], names=["dog3"])
    more = read_suite(written(tmp_path, TINY.replace("[0, 3]", "[5]")), rows=["rpo"])
    both = union(first, more, tmp_path)
    assert [row.name for row in both.rows] == ["base", "rpo"]
    assert [entry.name for entry in both.entries] == ["dog3", "teapot"]
    assert both.seeds == (0, 3, 5)


@pytest.mark.parametrize("name", sorted(file.stem for file in SUITES.glob("*.toml")))
@pytest.mark.parametrize("small", [False, True])
def test_shipped_suites(name: str, small: bool, tmp_path: Path) -> None:
    subjects = None if name != "dreambench" else "emojiland"
    suite = read_suite(find_suite(name), small=small, subjects=subjects)
    assert len(list(make_orders(suite, tmp_path))) == len(suite)
    assert {line for table in suite.tables.values() for line in table["lines"]} <= {
        f"{row.name}:{choice}" if row.method else row.name
        for row in suite.rows
        for choice in row.choose
    }
    expected = {"emojiland": (540, 18), "dreambench": (150, 10), "methods": (27, 9)}[name]
    assert len(suite) == expected[small]


def test_every_method_is_in_its_suite() -> None:
    rows = read_toml(find_suite("methods"))["rows"]
    assert {row.get("method", "base") for row in rows.values()} == {"base", *METHODS}
    (table,) = read_suite(find_suite("methods")).tables.values()
    assert {line.partition(":")[0] for line in table["lines"]} == {"base", *METHODS}


def test_an_unknown_suite_names_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of dreambench, emojiland, methods"):
        find_suite("emoji")
    assert find_suite(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"


def test_names_that_no_file_can_have() -> None:
    assert job_id("rpo", "dog_2-x", 0) == "rpo.dog_2-x.0"
    first, second = job_id("rpo", "a/b", 0), job_id("rpo", "a b", 0)
    assert first != second
    assert "/" not in first


# --- batches -----------------------------------------------------------------------------


def folders(root: Path) -> Path:
    for name in ("rex", "ähm", ".hidden"):
        (root / "all" / name).mkdir(parents=True)
    return root / "all"


def batch(root: Path, nouns: str = "", noun: str = "") -> BenchSuite:
    file = root / "nouns.toml"
    file.write_text(nouns, encoding="utf-8")
    config = load_config("lora", None, ["training.steps=7"])
    return batch_suite(folders(root), config, noun, file)


def test_a_batch_is_a_suite_of_one_row(tmp_path: Path) -> None:
    suite = batch(tmp_path, '"ähm" = "cat"\n[rex]\nnoun = "dog"\nkind = "object"')
    assert [(e.name, e.noun, e.kind) for e in suite.entries] == [
        ("rex", "dog", "object"),
        ("ähm", "cat", "live"),
    ]
    again = tmp_path / "suite.toml"
    again.write_text(to_toml(suite), encoding="utf-8")
    assert read_suite(again) == suite
    orders = list(make_orders(suite, tmp_path))
    assert [order.job.choose for order in orders] == [(), ()]
    assert from_toml(orders[0].config).training.steps == 7


def test_what_a_file_does_not_name_shows_the_noun_of_all(tmp_path: Path) -> None:
    suite = batch(tmp_path, 'rex = "dog"', noun="cup")
    assert [entry.noun for entry in suite.entries] == ["dog", "cup"]


@pytest.mark.parametrize(
    ("nouns", "told"),
    [
        ('rex = "dog"', "ähm: what it shows is not said; add it to --noun-file"),
        ('rxe = "dog"', "rxe: no such folder in .*; did you mean rex"),
        ("rex = 1", 'rex: write it as rex = "dog"'),
        ('rex = {noun = "dog", kind = "pet"}', "rex: subject_kind must be auto, live or object"),
    ],
)
def test_a_wrong_noun_file_is_told(tmp_path: Path, nouns: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        batch(tmp_path, nouns)


def test_a_folder_without_folders_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no folders"):
        batch_suite(tmp_path, load_config(), "dog")
    with pytest.raises(UserError, match="no such folder"):
        batch_suite(tmp_path / "x", load_config(), "dog")
