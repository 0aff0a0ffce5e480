"""Suites of subjects and prompts, and folders of pictures drawn for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import save_photos
from judging import DREAMBENCH, own_suite, pictures, save_drawings
from PIL import Image

from rpo.data.prompts import BUILT_IN, SPLITS, load_prompt_set, skill_of
from rpo.errors import UserError
from rpo.evaluation.drawn import open_folder
from rpo.evaluation.dreambench import load_suite


def test_every_built_in_prompt_has_one_skill() -> None:
    lists = [getattr(load_prompt_set(name), split) for name in BUILT_IN for split in SPLITS]
    templates = {t for by_kind in lists for kind in by_kind.values() for t in kind}
    assert {skill_of(template) for template in templates} == {
        *("recontextualisation", "accessory", "colour", "property", "style"),
    }
    assert skill_of("a {} of my own") == "other"
    assert skill_of("A red  {}") == "colour"


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "meine")
    assert [(e.name, e.noun, e.kind) for e in suite.entries] == [
        ("bello", "dog", "live"),
        ("cup", "cup", "object"),
        ("rex", "dog", "live"),
    ]
    assert [p.plain("dog") for p in suite.numbered("live")] == ["a dog in snow", "a red dog"]
    read = suite.read(24)
    assert [len(r.photos) for r in read] == [3, 3, 3]
    assert {photo.size for r in read for photo in r.photos} == {(24, 24)}
    # without a list of its own it is DreamBench's
    (tmp_path / "meine" / "prompts.toml").unlink()
    assert load_suite(tmp_path / "meine").prompts.test == load_prompt_set("paper").test


def test_suites_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_suite(tmp_path / "gone")
    with pytest.raises(UserError, match=r"neither prompts_and_classes.txt nor subjects.toml"):
        load_suite(tmp_path)
    own_suite(tmp_path / "s")
    (tmp_path / "s" / "rex").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder rex with its photos"):
        load_suite(tmp_path / "s")
    table = tmp_path / "s" / "subjects.toml"
    for text, said in (("[rex]\n", "noun"), ("[", "TOML"), ("", "no subject")):
        table.write_text(text)
        with pytest.raises(UserError, match=said):
            load_suite(tmp_path / "s")


def test_dreambenchs_file_is_read(tmp_path: Path) -> None:
    name = "{0} {1}'.format(unique_token, class_token)"
    (tmp_path / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nrex,dog\nbear_plushie,stuffed animal\n\nPrompts\n\n"
        f"Object Prompts\n\nprompt_list = [\n'a {name},\n'a red {name}\n]\n\n"
        f"Live Subject Prompts\n\nprompt_list = [\n'a wet {name}\n]\n"
    )
    for subject in ("rex", "bear_plushie"):
        save_photos(tmp_path / subject)
    suite = load_suite(tmp_path)
    assert [(e.name, e.noun, e.kind) for e in suite.entries] == [
        ("bear_plushie", "stuffed animal", "object"),
        ("rex", "dog", "live"),
    ]
    assert suite.prompts.test == {"object": ("a {}", "a red {}"), "live": ("a wet {}",)}
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\n")
    with pytest.raises(UserError, match="not DreamBench's list"):
        load_suite(tmp_path)


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="DreamBench's photos are not here")
def test_dreambench_itself() -> None:
    suite = load_suite(DREAMBENCH)
    assert len(suite.entries) == 30
    assert sum(entry.kind == "live" for entry in suite.entries) == 9
    assert suite.prompts.test == load_prompt_set("paper").test
    assert len({entry.noun for entry in suite.entries}) == 15


def test_emojilands_thirty() -> None:
    suite = load_suite("emojiland")
    assert len(suite.entries) == 30
    assert len(suite.numbered("live")) == len(suite.numbered("object")) == 25


def test_a_whole_folder_has_nothing_amiss(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    save_drawings(tmp_path / "drawn")
    found = open_folder(tmp_path / "drawn", suite)
    drawn = list(found.read(suite.read(16), suite))
    assert (found.size, found.per_prompt, found.amiss) == ((16, 16), 2, [])
    assert [(d.subject.name, len(d.images)) for d in drawn] == [
        ("bello", 4),
        ("cup", 2),
        ("rex", 4),
    ]
    assert [(p.number, k) for p, k in zip(drawn[0].prompts, drawn[0].numbers, strict=True)] == [
        *((1, 1), (1, 2), (2, 1), (2, 2)),
    ]
    assert drawn[0].images[3].tobytes() == pictures(4, 1)[3].tobytes()
    assert found.amiss == []


def test_all_that_is_wrong_is_named_and_the_rest_read(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    folder = tmp_path / "drawn"
    save_drawings(folder)
    for name in ("01-1.png", "01-2.png"):
        (folder / "bello" / name).unlink()  # a missing prompt
    (folder / "cup" / "01-2.png").write_bytes((folder / "cup" / "01-1.png").read_bytes()[:300])
    Image.new("RGB", (24, 16)).save(folder / "rex" / "02-2.png")  # a wrong size
    (folder / "rex" / "notes.txt").write_text("mine")
    (folder / "rex" / "3-1.png").write_bytes((folder / "rex" / "01-1.png").read_bytes())
    (folder / "rex" / "1-01.png").write_bytes((folder / "rex" / "01-1.png").read_bytes())
    (folder / "rex" / ".DS_Store").write_text("the system's")
    (folder / "waldi").mkdir()
    (folder / "readme.md").write_text("mine")
    found = open_folder(folder, suite)
    drawn = {d.subject.name: d for d in found.read(suite.read(16), suite)}
    assert {name: len(d.images) for name, d in drawn.items()} == {"bello": 2, "cup": 1, "rex": 3}
    assert [prompt.number for prompt in drawn["rex"].prompts] == [1, 1, 2]
    told = "\n".join(found.amiss)
    for said in (
        "readme.md: not judged, not in a subject's folder",
        "waldi: not judged, no subject of the suite",
        "rex/3-1.png: not judged, there are 2 prompts",
        "rex/notes.txt: not judged, its name is not PROMPTNUMBER-K.png",
        "rex/1-01.png: not judged, the same number as 01-1.png",
        "rex/02-2.png: not judged, 24 x 16 pixels where most are 16 x 16",
        "bello: pictures missing of prompt 1 (2 of 2)",
        "rex: pictures missing of prompt 2 (1 of 2)",
        "cup/01-2.png: damaged",
        "cup: pictures missing of prompt 1 (1 of 2)",
    ):
        assert said in told
    assert len(found.amiss) == 10


def test_subjects_without_pictures_and_more_pictures_than_asked_for(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    save_drawings(tmp_path / "drawn", each=3)
    for file in (tmp_path / "drawn" / "cup").iterdir():
        file.unlink()
    found = open_folder(tmp_path / "drawn", suite, images_per_prompt=2)
    assert [len(d.images) for d in found.read(suite.read(16), suite)] == [4, 4]
    assert found.amiss[-1] == "1 of 3 subjects without any picture: cup"
    assert sum("beyond 2 pictures a prompt" in line for line in found.amiss) == 4


def test_folders_that_hold_nothing_to_judge(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    with pytest.raises(UserError, match="no such folder"):
        open_folder(tmp_path / "gone", suite)
    (tmp_path / "drawn" / "rex").mkdir(parents=True)
    with pytest.raises(UserError, match="whose first subject is bello"):
        open_folder(tmp_path / "drawn", suite)
    (tmp_path / "drawn" / "rex" / "1-1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not one of its pictures can be read"):
        open_folder(tmp_path / "drawn", suite)
