"""Printing ends no job: letters the output lacks, full disks, readers that left, signals."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobs import World, make_world
from PIL import Image

from rpo.cli.output import LastingOutput, print_path
from rpo.cli.signals import SIGNALS, StopOnSignal, interrupt
from rpo.config import load_config
from rpo.errors import UserError, printable
from rpo.runs.folder import RunFolder

posix = pytest.mark.skipif(os.name == "nt", reason="file names of bytes, and /dev/full")
FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def rpo(*arguments: object, **more: object) -> subprocess.CompletedProcess[bytes]:
    """The real command, its output as bytes."""
    environment = {**os.environ, **more.pop("env", {})}  # type: ignore[dict-item]
    command = [sys.executable, "-m", "rpo", *map(os.fspath, arguments)]  # type: ignore[arg-type]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(command, env=environment, timeout=300, **more)  # type: ignore


def opened(raw: io.RawIOBase, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)  # type: ignore[arg-type]


# --- the streams -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"H\\xfcndin \\u72d7 \\udcf6\n"),
        ("latin-1", b"H\xfcndin \\u72d7 \\udcf6\n"),
        ("utf-8", "Hündin 狗 \\udcf6\n".encode()),
    ],
)
def test_letters_that_an_encoding_lacks(
    encoding: str, written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", opened(raw, encoding))
        with LastingOutput() as output:
            print("Hündin 狗 \udcf6")
        assert output.lost() is None
    assert (tmp_path / "out").read_bytes() == written


@full
def test_a_full_disk_is_told_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", opened(raw))
        with LastingOutput() as output:
            for _ in range(1000):
                print("a line of some length", flush=True)
            assert output.lost() == "No space left on device"


@posix
def test_a_reader_that_has_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", opened(raw))
        with LastingOutput() as output:
            print("x" * 100_000)
            assert output.lost() is None


@posix
def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    read: list[bytes] = []

    def slowly() -> None:
        time.sleep(0.1)
        with os.fdopen(ours, "rb") as pipe:
            read.append(pipe.read())

    reader = threading.Thread(target=slowly)
    reader.start()
    with os.fdopen(theirs, "wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", opened(raw))
        with LastingOutput():
            print("x" * 1_000_000)
    reader.join()
    assert read == [b"x" * 1_000_000 + os.linesep.encode()]


@posix
def test_a_signal_may_print_while_a_line_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BufferedWriter would refuse: reentrant call."""

    class Interrupted(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            if not stop.requested:
                os.kill(os.getpid(), signal.SIGTERM)
            self.written += bytes(data)  # type: ignore[call-overload]
            return memoryview(data).nbytes  # type: ignore[arg-type]

    raw = Interrupted()
    monkeypatch.setattr(sys, "stdout", opened(raw))
    with (
        LastingOutput(),
        StopOnSignal(lambda: print("stopping", flush=True)) as stop,
    ):
        print("a line", flush=True)
    assert sorted(raw.written.splitlines()) == [b"a line", b"stopping"]


def test_streams_that_were_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with LastingOutput() as output:
        print("nobody hears")
        sys.stdout.write("nor this")
        assert output.lost() is None
    assert sys.stdout is None


@pytest.mark.parametrize("terminal", [True, False])
def test_paths_are_escaped_for_terminals_alone(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_path(Path("a\x1b[2J"))
    assert capsys.readouterr().out == ("a\\x1b[2J\n" if terminal else "a\x1b[2J\n")


# --- the command -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A folder of photos whose names no terminal should see as they are."""
    folder = os.fsencode(tmp_path_factory.mktemp("odd")) + b"/H\xf6he \x1b[31m \xe7\x8b\x97"
    os.mkdir(folder)
    for index, name in enumerate((b"\xff.png", b"\x1b]0;x\x07.png", "Süße 狗.png".encode())):
        with open(folder + b"/" + name, "wb") as file:
            Image.new("RGB", (300, 300), (80 * index, 90, 200)).save(file, format="PNG")
    return folder


@posix
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_check_of_odd_names(odd: bytes, encoding: str) -> None:
    done = rpo("check", odd, env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    for name in (b"\\udcff.png", b"\\x1b]0;x\\x07.png"):
        assert name in done.stdout
    assert {"ascii": b"S\\xfc\\xdfe \\u72d7", "latin-1": b"S\xfc\xdfe \\u72d7"}.get(
        encoding, "Süße 狗".encode()
    ) in done.stdout


@posix
def test_an_error_with_an_odd_name(odd: bytes) -> None:
    done = rpo("check", odd + b"/no", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"H\\udcf6he \\x1b[31m" in done.stderr


@full
def test_a_full_disk_under_a_short_command() -> None:
    with FULL.open("wb") as stdout:
        done = rpo("settings", stdout=stdout)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "error: what was printed could not be written (No space left on device); "
        "the work itself is done\n"
    )
    with FULL.open("wb") as stderr:  # nowhere to tell it
        assert rpo("check", "nowhere", stderr=stderr).returncode == 2


@posix
def test_a_closed_pipe_under_a_short_command() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = rpo("settings", stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("output") / "Welt")


def is_finished(run: bytes | Path) -> bool:
    with open(os.fsencode(run) + b"/last/state.json", encoding="utf-8") as file:
        return json.load(file)["finished"]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_job_of_odd_names(world: World, odd: bytes, tmp_path: Path, encoding: str) -> None:
    out = tmp_path / "Höhle \x1b[2J"
    flags = [flag if flag != "dog" else "狗" for flag in world.flags(steps=1)]
    done = rpo("train", odd, *flags, "--out", out, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"\\u72d7" in done.stderr
    assert is_finished(out)
    names = [photo["name"] for photo in RunFolder(out).environment()["subject"]["photos"]]
    assert sorted(names) == sorted(printable(os.fsdecode(name)) for name in os.listdir(odd))
    again = rpo("train", odd, *flags, "--out", out, "--resume", "--quiet")
    assert (again.returncode, again.stdout) == (0, os.fsencode(out) + b"\n")
    drawn = rpo("generate", out, "a [V] 狗 \x1b[5m", env={"PYTHONIOENCODING": encoding})
    assert drawn.returncode == 0, drawn.stderr


@posix
@full
@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--json", "--quiet", None])
def test_a_job_whose_output_fails_is_done_nevertheless(
    world: World, tmp_path: Path, flag: str | None
) -> None:
    command = ["train", world.photos, *world.flags(steps=1), *([flag] if flag else [])]
    with FULL.open("wb") as broken:
        done = rpo(*command, "--out", tmp_path / "full", stdout=broken)
    assert (done.returncode, is_finished(tmp_path / "full")) == (1, True)
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("error: what was printed could not be written (No space")
    ours, theirs = os.pipe()
    os.close(ours)
    done = rpo(*command, "--out", tmp_path / "closed", stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert (done.returncode, is_finished(tmp_path / "closed")) == (0, True)


def test_names_that_no_model_file_can_have(world: World, tmp_path: Path) -> None:
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    for key in ("model", "noun", "reward.model"):
        with pytest.raises(UserError, match=f"{key} must be Unicode text without NUL"):
            load_config(overrides=[f"{key}={bad}"])
    done = rpo("train", world.photos, *world.flags(), "--out", bad)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert b"bytes that are not UTF-8" in done.stderr
    shutil.rmtree(bad, ignore_errors=True)


# --- signals -----------------------------------------------------------------------------


@posix
def test_an_ignored_hangup_stays_ignored() -> None:
    """As nohup asks."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal(lambda: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_signal_counts() -> None:
    for number in SIGNALS:
        with StopOnSignal(lambda: None) as stop:
            os.kill(os.getpid(), number)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == number


def test_ctrl_c_outside_an_import_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGINT, None)


@posix
@pytest.mark.parametrize("module", ["typer", "torch"])
def test_ctrl_c_during_the_imports(tmp_path: Path, module: str) -> None:
    """Amid PyTorch's import a KeyboardInterrupt would be swallowed, or break NumPy's."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as a terminal's programs
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['rpo', 'info']\n"
        "from rpo.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"error: interrupted\n")


@posix
@pytest.mark.slow
def test_ctrl_c_at_any_time_of_a_short_command() -> None:
    """Whatever it interrupts: 130, or the command was done; never a traceback.

    Python's own first tenth of a second is not ours.
    """
    start = time.monotonic()
    assert rpo("info").returncode == 0
    whole = time.monotonic() - start
    for index in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "rpo", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(0.3 + index / 10 * whole)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert b"Traceback" not in said
        assert process.returncode in (0, 130, -signal.SIGINT)
