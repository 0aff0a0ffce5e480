"""The pages against the code: places, settings, links, credits; and no trace of a workplace."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from rpo.config import SETTINGS
from rpo.config.presets import PRESETS
from rpo.data.prompts import load_prompt_set

ROOT = Path(__file__).parent.parent
METHOD = ROOT / "docs" / "method.md"
DIFFERENCES = ROOT / "docs" / "differences.md"
CREDITS = ROOT / "src" / "rpo" / "assets" / "emojiland" / "CREDITS.md"

PATH = r"(?:src/rpo|emojiland|benchmarks|tests)/[\w/]+\.py"
PLACE = re.compile(rf"`({PATH})(?::([\w.]+))?`")
NAME_IN_FILE = re.compile(rf"`([A-Za-z_][\w.]*)`\s+(?:of|in)\s+`({PATH})`")
FILE = re.compile(r"`([\w/.-]+\.py)`")
DOTTED = re.compile(r"`(rpo(?:\.\w+)+)`")
ROW = re.compile(r"^\| *(.+?) *\|$", re.M)


@cache
def project_files() -> tuple[Path, ...]:
    """What git tracks or would track; without git all but hidden folders and run folders."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        away = {"runs", "build", "dist", "__pycache__"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(p in away or p[0] == "." for p in path.relative_to(ROOT).parts)
        ]
    return tuple(sorted(path for path in paths if path.is_file()))


def pages() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".md"]


def programs() -> list[Path]:
    """Whose docstrings and comments name places; a test's own are its examples."""
    return [p for p in project_files() if p.suffix == ".py" and p.parent != ROOT / "tests"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables of a page."""
    return [[cell.strip() for cell in row.split("|")] for row in ROW.findall(text)]


# --- places ------------------------------------------------------------------------------


def missing_in_module(file: str, symbol: str) -> bool:
    """Imports a module of rpo and follows the dotted name; a field of a dataclass counts."""
    dotted = file.removeprefix("src/").removesuffix(".py").replace("/", ".")
    return is_missing(importlib.import_module(dotted.removesuffix(".__init__")), symbol.split("."))


def is_missing(found: object, names: list[str]) -> bool:
    """Whether one of the names, each an attribute or a field of the one before, is not there."""
    for name in names:
        if not hasattr(found, name):
            return name not in getattr(found, "__dataclass_fields__", {})
        found = getattr(found, name)
    return False


def missing_dotted(dotted: str) -> bool:
    """The same for "rpo.models.noise.RectifiedFlow": a module as deep as it goes, then names."""
    names = dotted.split(".")
    for count in range(len(names), 0, -1):
        with suppress(ModuleNotFoundError):
            return is_missing(importlib.import_module(".".join(names[:count])), names[count:])
    return True


def missing_in_source(file: str, symbol: str) -> bool:
    """The same for a file that cannot be imported everywhere (emojiland needs resvg)."""
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for name in symbol.split("."):
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = {leaf.id for t in targets for leaf in ast.walk(t) if isinstance(leaf, ast.Name)}
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            if name in names or name == getattr(node, "name", None):
                body = getattr(node, "body", [])
                break
        else:
            return True
    return False


def wrong_places(path: Path) -> list[str]:
    """The places named in backticks that are not there: `file`, `file:name`, `name` of `file`,
    and `rpo.module.name`.
    """
    text, wrong = path.read_text(encoding="utf-8"), []
    for file in FILE.findall(text) if path.suffix == ".py" else []:  # a page has others' files too
        around = (ROOT, ROOT / "src" / "rpo", path.parent)
        if not any((folder / file).is_file() for folder in around):
            wrong.append(file)
    for file, symbol in [*PLACE.findall(text), *((f, n) for n, f in NAME_IN_FILE.findall(text))]:
        if not (ROOT / file).is_file():
            wrong.append(file)
        elif symbol:
            missing = missing_in_module if file.startswith("src/rpo/") else missing_in_source
            if missing(file, symbol):
                wrong.append(f"{file}:{symbol}")
    data = (".json", ".toml")  # rpo.json is a file of a run
    dotted = [name for name in DOTTED.findall(text) if not name.endswith(data)]
    return wrong + [name for name in dotted if missing_dotted(name)]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_place_on_a_page_exists(page: Path) -> None:
    assert not wrong_places(page)


def test_every_place_in_a_docstring_exists() -> None:
    wrong = {name_of(path): found for path in programs() if (found := wrong_places(path))}
    assert not wrong


def test_the_method_page_names_places() -> None:
    """Guards the pattern above: a page written another way would pass unread."""
    places = PLACE.findall(METHOD.read_text(encoding="utf-8"))
    assert ("src/rpo/rewards/harmonic.py", "harmonic_mean") in places
    assert ("src/rpo/methods/losses.py", "preference_loss") in places
    assert len(places) > 40


def test_a_wrong_place_is_noticed() -> None:
    assert missing_in_module("src/rpo/rewards/alignment.py", "geometric_mean")
    assert missing_in_module("src/rpo/training/loop.py", "Trainer.walk")
    assert not missing_in_module("src/rpo/events.py", "Labelled.flip_rate")
    assert missing_in_source("emojiland/scenes.py", "Look.painter")
    assert not missing_in_source("emojiland/scenes.py", "Look.caption")
    assert not missing_in_source("emojiland/scenes.py", "Look.tint")
    assert missing_dotted("rpo.reward")
    assert missing_dotted("rpo.models.noise.rectified")
    assert not missing_dotted("rpo.models.noise.RectifiedFlow")
    assert not missing_dotted("rpo.events.Labelled.flip_rate")


def test_wrong_places_of_all_sorts_are_found(tmp_path: Path) -> None:
    page = tmp_path / "module.py"
    right = "`seeds.py`, `derive_seed` in `src/rpo/seeds.py`, `rpo.train`, `rpo.json`"
    page.write_text(f"{right}, `reward.py`, `random` of\n`src/rpo/seeds.py`, `rpo.reward.score`")
    assert wrong_places(page) == ["reward.py", "src/rpo/seeds.py:random", "rpo.reward.score"]


# --- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_settings_on_the_pages_exist_and_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = {key.split(".")[0] for key in SETTINGS if "." in key}
    named = re.findall(rf"(?<!\.)\b((?:{'|'.join(sections)})\.[a-z_]+)\b(?!\()", text)
    files = {f"{s}.{ending}" for s in sections for ending in ("py", "md", "zip")}
    assert set(named) - set(SETTINGS) - files == set()
    for key, value in re.findall(r"--set ([\w.]+)=([^\s`\"]+)", text):
        if not value.isupper():  # FOLDER and the like stand for the user's own
            SETTINGS[key].parse(value)


def test_the_table_of_settings_gives_the_defaults() -> None:
    rows = [row for row in cells(METHOD.read_text(encoding="utf-8")) if len(row) == 4]
    stated = {row[0].strip("`"): row[2] for row in rows if row[0].strip("`") in SETTINGS}
    assert {key: SETTINGS[key].parse(value) for key, value in stated.items()} == {
        key: SETTINGS[key].default for key in stated
    }
    every_training_setting = {key for key in SETTINGS if key.startswith(("training.", "reward."))}
    assert every_training_setting - set(stated) == {"training.independent_noise", "reward.model"}


def test_the_table_of_presets_is_the_emojiland_preset() -> None:
    """All that the preset changes, and nothing else, stands in the table."""
    rows = [row for row in cells(DIFFERENCES.read_text(encoding="utf-8")) if len(row) == 3]
    table = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in SETTINGS}
    preset = PRESETS["emojiland"]
    changed = {f"{part}.{name}": v for part, values in preset.items() for name, v in values.items()}
    assert {key: SETTINGS[key].parse(row[1]) for key, row in table.items()} == changed
    assert {key: SETTINGS[key].parse(row[0]) for key, row in table.items()} == {
        key: SETTINGS[key].default for key in changed
    }


def test_the_departures_give_the_defaults() -> None:
    """ "`key` (default)" in the last column of the departures with a setting."""
    rows = [row for row in cells(DIFFERENCES.read_text(encoding="utf-8")) if len(row) == 3]
    stated = re.findall(r"`([\w.]+)` \(([^):]+)", " ".join(row[2] for row in rows))
    assert len(stated) >= 6
    for key, value in stated:
        assert SETTINGS[key].parse(value) == SETTINGS[key].default, key


# --- emojiland ---------------------------------------------------------------------------


def test_the_page_lists_the_replaced_test_prompts() -> None:
    rows = cells((ROOT / "emojiland" / "README.md").read_text(encoding="utf-8"))
    stated = {tuple(row) for row in rows if len(row) == 2 and "{}" in row[0]}
    paper, small = load_prompt_set("paper"), load_prompt_set("emojiland")
    for kind in ("live", "object"):
        pairs = zip(paper.test[kind], small.test[kind], strict=True)
        assert {(theirs, ours) for theirs, ours in pairs if theirs != ours} == stated
        assert set(paper.training[kind]) == set(small.training[kind])


def value_in(file: str, name: str) -> ast.Dict:
    """The dict that a module of emojiland gives a name, unevaluated: importing it needs resvg."""
    for node in ast.parse((ROOT / "emojiland" / file).read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            assert isinstance(node.value, ast.Dict)  # type: ignore[attr-defined]
            return node.value  # type: ignore[attr-defined]
    raise AssertionError(f"{file} has no {name}")


def test_the_page_counts_rightly() -> None:
    text = " ".join((ROOT / "emojiland" / "README.md").read_text(encoding="utf-8").split())
    subjects = ast.literal_eval(value_in("subjects.py", "SUBJECTS"))
    live = [noun for noun, _, _ in subjects.values() if noun in ("cat", "dog")]
    drawings = {(noun, icon) for noun, icon, _ in subjects.values()}
    counts = {name: len(value_in(file, name).keys) for file, name in COUNTED}
    assert (len(subjects), len(live)) == (30, 9)
    assert "9 cats and dogs and 21 things" in text
    assert f"the thirty share {len(drawings)} drawings" in text
    assert f"One of {counts['CONTEXTS']} places, one of {counts['TINTS']} colours" in text
    assert f"one of {counts['OUTFITS']} outfits" in text
    assert counts["HOME"] == 8
    assert "eight places at home" in text


COUNTED = (
    ("backgrounds.py", "CONTEXTS"),
    ("home.py", "HOME"),
    ("figures.py", "TINTS"),
    ("outfits.py", "OUTFITS"),
)


def test_every_package_of_artwork_is_credited() -> None:
    packages = [
        [ast.literal_eval(argument) for argument in call.args]
        for call in value_in("art.py", "PACKAGES").values
    ]
    rows = {row[2]: row for row in cells(CREDITS.read_text(encoding="utf-8")) if len(row) == 5}
    assert len(packages) >= 5
    for name, version, licence, author in packages:
        row = rows.pop(f"`{name}@{version}`")
        assert licence in row[3]
        assert author in row[1]
    assert set(rows) <= {"package", "---"}


# --- links and leftovers -----------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    links = re.findall(r"\]\(<?([^)\s>]+)>?\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        named = not anchor or target.suffix != ".md" or anchor in anchors(target)
        if not (target.exists() and named):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_make_targets_on_the_pages_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"\bmake ([a-z][a-z-]*)(?=`|$| +#)", page.read_text("utf-8"), flags=re.M)
    assert {name for name in named if not re.search(rf"^{name}:", makefile, flags=re.M)} == set()


def test_no_file_mentions_the_place_it_was_written_at() -> None:
    """Absolute paths of a workplace help nobody elsewhere."""
    workplace = re.compile(r"(?<![\w.~-])/(?:work|root)\b")
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text
        if match := workplace.search(text):
            found.append(f"{name_of(path)}: {match.group()}")
    assert not found
