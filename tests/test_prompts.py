"""prompts.py: the two wordings, the shipped lists and what a user's file may hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rpo.data.prompts import KINDS, SPLITS, Prompt, PromptSet, load_prompt_set
from rpo.errors import UserError

# SHA-256 of the 25 templates joined by newlines, taken from DreamBench's own
# prompts_and_classes.txt with "{0} {1}" replaced by "{}".
DREAMBENCH = {
    "object": "351df13940ddefc3193cfa8490079cc968387fa106d5e545f899aa2217d58c11",
    "live": "4ba00988f0dc5dfbef75592a37ef12b570521098bea589a7d9b35b9dd8fcfa71",
}


def test_both_wordings_come_from_the_template() -> None:
    assert Prompt.from_template("a {} on the Moon", "dog", "[V]") == Prompt(
        conditioning="a [V] dog on the Moon", plain="a dog on the Moon"
    )
    assert Prompt.reference("dog", "[V]") == Prompt("a photo of [V] dog", "a photo of dog")


@pytest.mark.parametrize("identifier", ["[V]", "sks", "<*>", "\\d+", "{0}"])
def test_plain_never_holds_the_identifier(identifier: str) -> None:
    prompt = Prompt.from_template("a wet {} in {brackets}", "stuffed animal", identifier)
    assert prompt.plain == "a wet stuffed animal in {brackets}"
    assert prompt.conditioning == f"a wet {identifier} stuffed animal in {{brackets}}"


@pytest.mark.parametrize(
    ("template", "noun", "identifier", "message"),
    [
        ("a dog", "dog", "[V]", "exactly one {}"),
        ("a {} and a {}", "dog", "[V]", "exactly one {}"),
        ("a {}", "  ", "[V]", "noun is empty"),
        ("a {}", "dog", "", "identifier is empty"),
        ("a {}", "[V] dog", "[V]", "already stands"),
        ("a [V] {}", "dog", "[V]", "already stands"),
    ],
)
def test_bad_parts_are_refused(template: str, noun: str, identifier: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("{}", r"\{\}")):
        Prompt.from_template(template, noun, identifier)


def test_paper_lists_have_the_paper_s_sizes() -> None:
    paper = load_prompt_set("paper")
    for kind in KINDS:
        sizes = [len(paper.prompts(split, kind, "dog", "[V]")) for split in SPLITS]
        assert sizes == [8, 8, 25]


@pytest.mark.parametrize("kind", KINDS)
def test_paper_test_prompts_are_dreambench_word_for_word(kind: str) -> None:
    text = "\n".join(load_prompt_set("paper").test[kind])
    assert hashlib.sha256(text.encode()).hexdigest() == DREAMBENCH[kind]


@pytest.mark.parametrize(
    ("kind", "fragments"),
    [
        ("object", "Gogh;Moon;green;Great Wall;roof;Liberty;volcano;subway"),
        ("live", "green outfit;Gogh;Great Wall;pool;subway;Liberty;Moon;a green {}"),
    ],
)
def test_paper_training_prompts_are_the_listed_modifications(kind: str, fragments: str) -> None:
    templates = load_prompt_set("paper").training[kind]
    for fragment in fragments.split(";"):
        assert sum(fragment in template for template in templates) >= 1, fragment


def write(folder: Path, text: str) -> Path:
    path = folder / "meine Wünsche.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_user_s_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[training]\nlive = ["ein {} im Wald"]\n')
    loaded = load_prompt_set(path)
    assert loaded.prompts("training", "live", "Fuchs", "[V]") == [
        Prompt("ein [V] Fuchs im Wald", "ein Fuchs im Wald")
    ]
    with pytest.raises(UserError, match="no validation prompts"):
        loaded.prompts("validation", "live", "Fuchs", "[V]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training", "not valid TOML"),
        ('[training]\nlive = "a {}"', "must be a list"),
        ("[training]\nlive = [1]", "must be a list"),
        ("training = 3", "must be a table"),
        ('[trainig]\nlive = ["a {}"]', "unknown table"),
        ('[training]\nliving = ["a {}"]', "unknown subject kind"),
        ('[training]\nlive = ["a dog"]', "exactly one"),
        ('[training]\nlive = ["a {}", "A  {}"]', "twice"),
        ('[training]\nlive = ["a {}"]\n[test]\nlive = ["a {}"]', "training and a test"),
        ('[training]\nlive = ["a {}"]\n[validation]\nobject = ["A {}"]', "disjoint"),
        ('[validation]\nlive = ["a {}"]\n[test]\nlive = ["a {}"]', "validation and a test"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prompt_set(write(tmp_path, text))
    assert "meine Wünsche.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_names_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="latin.toml"):
        load_prompt_set(tmp_path / "latin.toml")
    with pytest.raises(UserError, match="neither a built-in list"):
        load_prompt_set("papr")
    with pytest.raises(UserError, match="cannot be read|not UTF-8 text"):
        load_prompt_set(tmp_path)


def test_kinds_may_share_a_template_within_one_list() -> None:
    same = {"live": ("a {}",), "object": ("a {}",)}
    assert len(PromptSet(same, {}, {}).prompts("training", "object", "vase", "[V]")) == 1
