"""What goes wrong for a newcomer on the page: each is one clear line, and nothing is begun."""

from __future__ import annotations

import errno
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from app_home import PORT, ask
from PIL import Image

pytest.importorskip("gradio")

import gradio as gr

from rpo.app.desk import Desk, told
from rpo.app.home import Home, write_table
from rpo.app.jobs import Queue
from rpo.app.models import Models
from rpo.app.photos import Collection
from rpo.app.plans import Answer, Plans
from rpo.app.safety import Gate
from rpo.app.teach import Teach
from rpo.errors import UserError

FITS = {"peak": 2e9, "fits": True, "seconds": 90.0, "settings": {}, "missing": 0}
LACKS = {"peak": 12e9, "fits": False, "seconds": 0.0, "settings": {}, "missing": 4e9}


class Known(Plans):
    """Plans whose answers are there at once."""

    def __init__(self, record: dict[str, Any] | None) -> None:
        super().__init__()
        self.record, self.asked = record, []

    def ask(self, words: Sequence[str]) -> Answer | None:
        self.asked.append(words[words.index("--model") + 1])
        return Answer(self.record)


@pytest.fixture
def teach(tmp_path: Path) -> Iterator[Teach]:
    """The first tab, over a queue that starts nothing."""
    home = Home.at(tmp_path / "runs")
    desk = Desk(home, Queue(home, devices=()), plans=Known(FITS))
    desk.queue.tick = lambda: None  # type: ignore[method-assign]
    with gr.Blocks(analytics_enabled=False):
        yield Teach(desk)
    desk.close()


def upload(home: Home, name: str, data: bytes) -> str:
    """A file as Gradio leaves it."""
    folder = home.uploads / f"{len(list(home.uploads.iterdir())):064d}"
    folder.mkdir()
    (folder / name).write_bytes(data)
    return str(folder / name)


def photo(shade: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture = Image.effect_noise((320, 300), 90).convert("RGB")
    picture.paste((shade, 90, 150), (shade, 20, shade + 90, 200))
    picture.save(file, kind)
    return file.getvalue()


def begin(teach: Teach, name: str = "", noun: str = "dog", **given: Any) -> str:
    """What the page says to Teach it."""
    fields = [given.get(key) for key in teach.form.keys]
    model, other = given.get("model", "emojiland"), given.get("other", "")
    said, _ = teach.begin(name, noun, model, other, "rpo", [], *fields)
    return re.sub(r"<[^>]*>", "", said)


def taught(teach: Teach) -> list[str]:
    return teach.desk.queue.waiting()


def with_photos(teach: Teach, count: int = 4) -> str:
    files = [upload(teach.desk.home, f"{k}.png", photo(40 * k)) for k in range(count)]
    return teach.take(files, "", "emojiland")[0]


def test_what_is_missing_is_named(teach: Teach) -> None:
    assert begin(teach) == "Drop some photos first, or take an example"
    name = with_photos(teach)
    assert begin(teach, name, noun=" ").startswith("Say in a word what the photos show")
    assert taught(teach) == []
    assert begin(teach, name) == ""
    assert taught(teach) == ["dog-1"]


def test_only_a_broken_photo(teach: Teach) -> None:
    broken = photo(9, "JPEG")[:4000]
    shown = teach.take([upload(teach.desk.home, "broken.jpg", broken)], "", "emojiland")
    assert shown[1].count("<li") == 1
    assert "broken.jpg" in shown[1]
    assert "photo" in begin(teach, shown[0])
    assert taught(teach) == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])  # as Linux and as macOS spell a name
def test_a_name_with_umlauts(teach: Teach, form: Any) -> None:
    name = unicodedata.normalize(form, "Größe übt – süß.png")
    files = [upload(teach.desk.home, f"{k} {name}", photo(40 * k)) for k in range(4)]
    shown = teach.take(files, "", "emojiland")
    assert shown[1].count('class="good"') + shown[1].count('class="look"') == 4
    assert begin(teach, shown[0], noun="Küchenuhr") == ""
    assert len(taught(teach)) == 1
    given = [path for path in teach.desk.home.photos.iterdir() if path.name != shown[0]]
    assert [len(list(folder.iterdir())) for folder in given] == [4]


def test_a_model_that_is_not_there(teach: Teach) -> None:
    said = begin(teach, with_photos(teach), other="no/such-model")
    assert said.startswith("no/such-model: neither a folder nor in the model cache")
    assert taught(teach) == []


def test_a_model_that_does_not_fit(teach: Teach) -> None:
    teach.desk.plans.record = LACKS  # type: ignore[attr-defined]
    name = with_photos(teach)
    assert begin(teach, name) == (
        "Does not fit here: it needs 12.00 GB of memory, 4.00 GB more than there is. "
        "Choose another model, or settings that need less."
    )
    assert taught(teach) == []
    assert begin(teach, name, **{"training.steps": "8"}) == ""  # who knows better may try


def test_a_full_disk(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    home = teach.desk.home
    files = [upload(home, f"{k}.png", photo(40 * k)) for k in range(2)]
    real = Path.open

    def full(self: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        opened = real(self, mode, *more, **named)
        if "x" in mode:
            opened.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened

    monkeypatch.setattr(Path, "open", full)
    shown = teach.take(files, "", "emojiland")
    assert "0.png: the disk is full; free some space, then try again" in shown[4]
    assert list(Collection(home, shown[0]).folder.iterdir()) == []  # no half a photo stays


def test_a_full_disk_amid_the_queue(teach: Teach, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    name = with_photos(teach)
    monkeypatch.setattr("rpo.replacing.flush", full)
    assert "the disk is full; free some space, then try again" in begin(teach, name)
    assert taught(teach) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left"), "the disk is full; free some space, then try"),
        (ValueError("of the parser"), "the photos could not be taken in; try again"),
    ],
)
def test_an_upload_that_fails_says_why(error: Exception, said: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # as Starlette tells a failure
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise error

    gate = Gate(app, "127.0.0.1", PORT)
    reply = ask(gate, "/gradio_api/upload", "POST")
    assert reply.status == 507
    assert reply.body.decode().startswith(said)
    with pytest.raises(type(error)):  # of anything else it is told as ever
        ask(gate, "/gradio_api/queue/join", "POST")


def test_whatever_the_system_refuses_is_a_line() -> None:
    def fails(error: Exception) -> None:
        raise error

    full = OSError(errno.ENOSPC, "No space left on device")
    assert told(fails, full)[1].endswith("the disk is full; free some space, then try again")
    assert told(fails, PermissionError(errno.EACCES, "Permission denied"))[1] == "Permission denied"
    assert told(fails, UserError("dog: gone"))[1] == "dog: gone"


# --- the list of models ------------------------------------------------------------------


def test_each_model_has_its_line_and_the_chosen_one_comes_first() -> None:
    plans = Known(FITS)
    with gr.Blocks(analytics_enabled=False):
        models = Models(plans)
    models.names = ["emojiland", "a/b", "c/d"]
    choices = models.choices("c/d", "rpo", ())["choices"]
    assert plans.asked == ["c/d", "emojiland", "a/b"]
    assert [value for _, value in choices] == ["emojiland", "a/b", "c/d"]
    assert choices[1][0] == "a/b\nAbout 1 min 30 s on this machine, with 2.00 GB of memory."
    plans.record = LACKS
    assert (
        "\nDoes not fit here: it needs 12.00 GB"
        in models.choices("a/b", "rpo", ())["choices"][1][0]
    )
    plans.close()


def test_models_are_planned_for_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    going, asked = threading.Event(), []

    def slow(words: Sequence[str]) -> Answer:
        asked.append(words[0])
        assert going.wait(30)
        return Answer(FITS)

    monkeypatch.setattr("rpo.app.plans.ask", slow)
    plans = Plans()
    assert [plans.ask_in_turn([name]) for name in "abc"] == [None] * 3
    going.set()
    plans._asked["a",].result(30)
    assert [plans.ask_in_turn([name]) is None for name in "abc"] == [False, True, True]
    plans._asked["b",].result(30)
    assert asked == ["a", "b"]
    plans.close()


def test_a_small_table_of_the_pages_own_names_the_page_as_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rpo.replacing.flush", full)
    with pytest.raises(UserError, match="then try again$"):
        write_table(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []
