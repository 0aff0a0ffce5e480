"""Pictures that are to be judged: a run's own drawings, or any system's from a folder.

In a folder they are named SUBJECT/PROMPTNUMBER-K.png: the prompt's number in the subject's list,
from 1, and which picture of it, from 1. Leading zeros make no difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from rpo.data.photo import RejectedPhoto, read_photo
from rpo.data.prompts import Prompt
from rpo.errors import UserError, printable
from rpo.evaluation.dreambench import NumberedPrompt, Reference, Suite
from rpo.replacing import ELSEWHERE, replacing
from rpo.runs.folder import save_png
from rpo.runs.result import Run
from rpo.seeds import derive_seed

CLASS_PICTURES = 16  # of "a dog", by the tuned and by the base model
_NAME = re.compile(r"0*([1-9]\d*)-0*([1-9]\d*)\.png", re.I)
_PASSED_OVER = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Drawn:
    """One system's pictures of one subject, in the order of prompts and numbers.

    prompts, numbers: of each picture, which prompt and which picture of it, from 1. class_tuned,
    class_base: pictures of the class alone, pair by pair from the same first noise.
    """

    subject: Reference
    images: tuple[Image.Image, ...]
    prompts: tuple[NumberedPrompt, ...]
    numbers: tuple[int, ...]
    class_tuned: tuple[Image.Image, ...] = ()
    class_base: tuple[Image.Image, ...] = ()


# --- a run -------------------------------------------------------------------------------


def class_prompt(noun: str) -> str:
    """The prompt of the pictures of the class, which drift where it is forgotten."""
    return f"a {noun}"


def draw_run(
    run: Run,
    subject: Reference,
    prompts: Sequence[NumberedPrompt],
    images_per_prompt: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Drawn:
    """The run's result draws its test prompts, and the class beside its base model.

    The first noise of picture k in all is of the stream (seed, "test", k), that of pair k of the
    class of (seed, "test class", k): methods with one seed begin from the same noises.
    """
    config = run.config
    listed = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    texts = [
        Prompt.from_template(p.template, config.noun, config.identifier).conditioning
        for p in listed
    ]
    seeds = [derive_seed(config.seed, "test", k) for k in range(len(listed))]
    of_class = [class_prompt(config.noun)] * CLASS_PICTURES
    their_seeds = [derive_seed(config.seed, "test class", k) for k in range(CLASS_PICTURES)]
    images = run.draw(texts, seeds, on_step=on_step)
    tuned = run.draw(of_class, their_seeds)
    # anew, so that the two models are not in memory together
    base = replace(run).draw(of_class, their_seeds, base=True)
    numbers = [k % images_per_prompt + 1 for k in range(len(listed))]
    return Drawn(subject, tuple(images), tuple(listed), tuple(numbers), tuple(tuned), tuple(base))


def read_run_subject(run: Run) -> Reference:
    """The subject of a run, by the squares of its photos that the run keeps. Raises UserError."""
    config, folder = run.config, run.path / "images" / "photos"
    try:
        photos = tuple(read_photo(path).image for path in sorted(folder.glob("*.png")))
    except RejectedPhoto as reason:
        raise UserError(f"{folder}: {reason}") from None
    if len(photos) < 2:
        raise UserError(f"{folder}: the run's photos are gone; copy them back, or train anew")
    name = run.folder.environment()["subject"]["name"]
    return Reference(name, config.noun, config.subject_kind, photos)  # type: ignore[arg-type]


def save_drawn(drawn: Drawn, folder: Path, name: str) -> None:
    """Writes a system's pictures as this module names them, into pictures/`name` of the folder.

    Those of the class go into class/`name`.
    """
    place = folder / "pictures" / name / drawn.subject.name
    named = [
        (place / f"{prompt.number:02d}-{number}.png", image)
        for prompt, number, image in zip(drawn.prompts, drawn.numbers, drawn.images, strict=True)
    ]
    for who, images in (("tuned", drawn.class_tuned), ("base", drawn.class_base)):
        place = folder / "class" / name / who
        named += [(place / f"{k:02d}.png", image) for k, image in enumerate(images, 1)]
    for path, image in named:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, ELSEWHERE) as temporary:
            save_png(image, temporary, {})


# --- a folder ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureFolder:
    """What of a folder can be judged, by subject: (prompt, number, file); and what is amiss.

    size: the (width, height) that most pictures have.
    """

    path: Path
    files: Mapping[str, tuple[tuple[NumberedPrompt, int, Path], ...]]
    size: tuple[int, int]
    amiss: list[str]
    per_prompt: int

    def read(self, references: Sequence[Reference], suite: Suite) -> Iterator[Drawn]:
        """Subject by subject; adds to `amiss` what cannot be read, and what is missing then.

        Raises UserError where no picture of any subject can be read.
        """
        absent, any_read = [], False
        for subject in references:
            rows: list[tuple[NumberedPrompt, int, Image.Image]] = []
            for prompt, number, path in self.files.get(subject.name, ()):
                try:
                    rows.append((prompt, number, read_photo(path).image))
                except RejectedPhoto as reason:
                    self.amiss.append(f"{subject.name}/{printable(path.name)}: {reason}")
            if not rows:
                absent.append(subject.name)
                continue
            any_read = True
            found = Counter(prompt.number for prompt, _, _ in rows)
            lacking = [
                f"{p.number} ({self.per_prompt - found[p.number]} of {self.per_prompt})"
                for p in suite.numbered(subject.kind)
                if found[p.number] < self.per_prompt
            ]
            if lacking:
                self.amiss.append(
                    f"{subject.name}: pictures missing of prompt {', '.join(lacking)}"
                )
            yield Drawn(
                subject,
                tuple(image for _, _, image in rows),
                tuple(prompt for prompt, _, _ in rows),
                tuple(number for _, number, _ in rows),
            )
        if not any_read:
            raise UserError("--images: not one of its pictures can be read; " + self.amiss[0])
        if absent:
            count = f"{len(absent)} of {len(references)} subjects"
            self.amiss.append(f"{count} without any picture: {', '.join(absent)}")


def open_folder(folder: Path, suite: Suite, images_per_prompt: int | None = None) -> PictureFolder:
    """Lists the pictures of a folder; they are read later, subject by subject.

    images_per_prompt: how many there should be; by default the highest number in the names.
    UserError for a folder that is missing or without one picture of the suite's subjects.
    """
    where = printable(folder)
    amiss: list[str] = []
    if not folder.is_dir():
        raise UserError(f"--images {where}: no such folder; name the one with the pictures")
    try:
        named = list(_named(folder, suite, images_per_prompt, amiss))
    except OSError as error:
        raise UserError(f"--images {where}: cannot be read ({error.strerror})") from None
    if not named:
        raise UserError(
            f"--images {where}: holds no SUBJECT/PROMPTNUMBER-K.png of {suite.name}, whose first "
            f"subject is {suite.entries[0].name}; name the pictures so"
        )
    sizes = {path: _size(path) for _, _, _, path in named}
    counted = Counter(size for size in sizes.values() if size)
    if not counted:
        raise UserError(f"--images {where}: not one of its pictures can be read; draw them anew")
    usual = max(counted, key=lambda size: (counted[size], size))
    files: dict[str, list[tuple[NumberedPrompt, int, Path]]] = {}
    for subject, prompt, number, path in named:
        size = sizes[path]
        if size and size != usual:
            amiss.append(
                f"{subject}/{printable(path.name)}: not judged, {size[0]} x {size[1]} pixels where "
                f"most are {usual[0]} x {usual[1]}"
            )
        else:  # one without a size cannot be read, which will be told when it is
            files.setdefault(subject, []).append((prompt, number, path))
    ordered = {
        name: tuple(sorted(rows, key=lambda row: (row[0].number, row[1])))
        for name, rows in files.items()
    }
    expected = images_per_prompt or max(number for _, _, number, _ in named)
    return PictureFolder(folder, ordered, usual, amiss, expected)


def _named(
    folder: Path, suite: Suite, most: int | None, amiss: list[str]
) -> Iterator[tuple[str, NumberedPrompt, int, Path]]:
    """The files that are named as pictures of the suite; adds all others to `amiss`."""
    entries = {entry.name: entry for entry in suite.entries}
    for place in _entries(folder):
        if not place.is_dir() or place.name not in entries:
            what = "no subject of the suite" if place.is_dir() else "not in a subject's folder"
            amiss.append(f"{printable(place.name)}: not judged, {what}")
            continue
        prompts = {p.number: p for p in suite.numbered(entries[place.name].kind)}
        taken: dict[tuple[int, int], str] = {}
        for path in _entries(place):
            match = _NAME.fullmatch(path.name)
            prompt, number = (int(match[1]), int(match[2])) if match else (0, 0)
            if not match or path.is_dir():
                reason = "its name is not PROMPTNUMBER-K.png"
            elif prompt not in prompts:
                reason = f"there are {len(prompts)} prompts"
            elif most and number > most:
                reason = f"beyond {most} pictures a prompt"
            elif taken.setdefault((prompt, number), path.name) != path.name:
                reason = f"the same number as {taken[prompt, number]}"
            else:
                yield place.name, prompts[prompt], number, path
                continue
            amiss.append(f"{place.name}/{printable(path.name)}: not judged, {reason}")


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name, less what systems put there."""
    found = sorted(folder.iterdir())
    return [p for p in found if p.name[0] != "." and p.name.lower() not in _PASSED_OVER]


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height) by the file's head, None where that cannot be read."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            return image.size
    except Exception:  # damaged files make decoders raise nearly anything
        return None
