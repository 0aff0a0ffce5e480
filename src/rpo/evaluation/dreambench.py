"""Suites of subjects: DreamBench's folder, Emojiland's thirty, or a folder of one's own.

DreamBench (arXiv 2208.12242, github.com/google/dreambooth) is a folder of photos for each subject
beside prompts_and_classes.txt, which holds the class nouns and the two lists of prompts.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path

from PIL import Image

from rpo.about import ASSETS
from rpo.config import read_toml
from rpo.data.nouns import Kind, checked_noun
from rpo.data.prompts import PromptSet, load_prompt_set, skill_of
from rpo.data.subject import Subject
from rpo.errors import UserError, printable
from rpo.models.resolve import EMBEDDED
from rpo.runs.folder import as_pictures

DREAMBENCH_FILE = "prompts_and_classes.txt"
TABLE = "subjects.toml"
PROMPTS = "prompts.toml"


@dataclass(frozen=True)
class Reference:
    """The real photos of one subject, as judges see them; `name` is unique in a suite."""

    name: str
    noun: str
    kind: Kind
    photos: tuple[Image.Image, ...]


@dataclass(frozen=True)
class NumberedPrompt:
    """One test prompt: its number from 1 in its list, and what skill it asks for."""

    number: int
    template: str
    skill: str

    def plain(self, noun: str) -> str:
        """The prompt without the identifier: "a dog on the beach"."""
        return self.template.replace("{}", noun)


@dataclass(frozen=True)
class Entry:
    """One subject of a suite, its photos not read yet."""

    name: str
    noun: str
    kind: Kind
    folder: Path


@dataclass(frozen=True)
class Suite:
    """Subjects, and the prompts that all of them are drawn with."""

    name: str
    entries: tuple[Entry, ...]
    prompts: PromptSet

    def read(self, side: int) -> list[Reference]:
        """All photos as centre squares of `side` pixels, what a model at that size learns from.

        Raises UserError for photos that `Subject.from_folder` refuses.
        """
        return [
            reference(e.name, Subject.from_folder(e.folder, e.noun, e.kind), side)
            for e in self.entries
        ]

    def numbered(self, kind: str) -> list[NumberedPrompt]:
        """The test prompts of one kind of subject."""
        return numbered_prompts(self.prompts, kind)


def reference(name: str, subject: Subject, side: int) -> Reference:
    """A subject's photos as centre squares of `side` pixels."""
    squares = as_pictures(subject.tensor(side).add(1).div(2))
    return Reference(name, subject.noun, subject.kind, tuple(squares))


def numbered_prompts(prompts: PromptSet, kind: str) -> list[NumberedPrompt]:
    """The test prompts of one kind of subject. UserError if there are none."""
    templates = prompts.test.get(kind, ())
    if not templates:
        raise UserError(f'{prompts.source}: no test prompts; add "{kind} = [...]" to [test]')
    numbered = enumerate(templates, 1)
    return [NumberedPrompt(number, text, skill_of(text)) for number, text in numbered]


def load_suite(name: str | Path) -> Suite:
    """ "emojiland", DreamBench's folder, or a folder with a subjects.toml.

    subjects.toml has a table for each subject, with its `noun` and, if need be, its `kind` (live or
    object); the photos lie in subjects/NAME or NAME beside it. A prompts.toml there has the test
    prompts, in the form that `load_prompt_set` reads; else they are DreamBench's. UserError names
    what is missing.
    """
    embedded = str(name) == EMBEDDED
    folder = ASSETS / EMBEDDED if embedded else Path(expanduser(name))
    where = printable(str(name))
    if not folder.is_dir():
        raise UserError(f"--subjects {where}: no such folder; name emojiland or a suite's folder")
    own: PromptSet | None = None
    if (folder / DREAMBENCH_FILE).is_file():
        nouns, own = _read_dreambench(folder / DREAMBENCH_FILE)
        kinds = dict.fromkeys(nouns, "auto")
    elif (folder / TABLE).is_file():
        nouns, kinds = _read_table(folder / TABLE)
    else:
        raise UserError(
            f"--subjects {where}: neither {DREAMBENCH_FILE} nor {TABLE} in it; "
            "name DreamBench's folder, or write the nouns of your subjects into the latter"
        )
    entries = []
    for subject in sorted(nouns):
        places = [folder / "subjects" / subject, folder / subject]
        place = next((path for path in places if path.is_dir()), None)
        if place is None:
            raise UserError(
                f"--subjects {where}: no folder {printable(subject)} with its photos; "
                "add it, or take the subject off the list"
            )
        noun, kind = checked_noun(nouns[subject], kinds[subject])  # type: ignore[arg-type]
        entries.append(Entry(subject, noun, kind, place))
    if own is None:
        lists = folder / PROMPTS
        own = load_prompt_set(EMBEDDED if embedded else lists if lists.is_file() else "paper")
    return Suite(str(name), tuple(entries), own)


def _read_table(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Noun and kind by name."""
    table = read_toml(file)
    try:
        nouns = {name: str(entry["noun"]) for name, entry in table.items()}
        kinds = {name: str(entry.get("kind", "auto")) for name, entry in table.items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f'{file}: each subject needs a table with its noun, noun = "dog"') from None
    if not nouns:
        raise UserError(f"{file}: lists no subject; add a table for each")
    return nouns, kinds


_CLASS = re.compile(r"^([\w-]+),([\w -]+?)\s*$", re.M)
_LISTS = re.compile(r"(Object|Live Subject) Prompts\s+prompt_list = \[(.*?)\n?\]", re.S)
_PROMPT = re.compile(r"""^\s*(['"].*['"])\.format\(""", re.M)


def _read_dreambench(file: Path) -> tuple[dict[str, str], PromptSet]:
    """The nouns by name, and the prompts as templates. UserError for anything else."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    nouns = dict(_CLASS.findall(text.partition("Prompts")[0]))
    nouns.pop("subject_name", None)
    test = {
        "live" if kind.startswith("Live") else "object": tuple(
            ast.literal_eval(prompt).replace("{0} {1}", "{}") for prompt in _PROMPT.findall(body)
        )
        for kind, body in _LISTS.findall(text)
    }
    if not nouns or set(test) != {"live", "object"} or not all(test.values()):
        raise UserError(f"{file}: not DreamBench's list of classes and prompts; fetch it again")
    return nouns, PromptSet({}, {}, test, source=str(file))
