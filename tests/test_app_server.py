"""`rpo app` itself: its address, its link, what it needs and what it does without."""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rpo.app.home import Home
from rpo.app.safety import is_own
from rpo.app.server import _bind, address, is_of_interest, make_app, serve
from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.runs.locking import locked


def test_the_server_loads_no_model_library_and_stays_small(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    code = """
import sys
from pathlib import Path
from rpo.app.home import Home
from rpo.app.server import make_app
make_app(Home.at(sys.argv[1]), "127.0.0.1", 7860)
print(sorted({"torch", "diffusers", "transformers"} & sys.modules.keys()))
if Path("/proc/self/status").exists():
    print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""
    words = [sys.executable, "-c", code, str(tmp_path / "runs")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.startswith("[]\n")
    for size in re.findall(r"VmHWM:\s+(\d+) kB", said):
        assert int(size) < 400_000


def test_the_link_holds_the_token_and_names_a_machine() -> None:
    assert address("127.0.0.1", 7860, None) == "http://127.0.0.1:7860/"
    assert address("::1", 7860, None) == "http://[::1]:7860/"
    everywhere = address("0.0.0.0", 7860, "a b")
    assert everywhere == f"http://{socket.gethostname()}:7860/?token=a%20b"


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.9", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machines_alone(host: str, own: bool) -> None:
    assert is_own(host) is own


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:  # the tests' guard would refuse even this one
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: cannot be had.*name another"):
            _bind("127.0.0.1", port)
        monkeypatch.setattr("rpo.app.server.PORTS", range(port, port + 20))
        found = _bind("127.0.0.1", None)  # the next one that is free
        assert port < found.getsockname()[1] < port + 20
        found.close()


def test_two_servers_that_start_together_get_two_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with _bind("127.0.0.1", None) as first, _bind("127.0.0.1", None) as second:
        assert first.getsockname() != second.getsockname()


def test_an_address_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match="--host nowhere.example: no address of this machine"):
        _bind("nowhere.example", 7860)


def test_one_server_a_folder(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "runs")
    with locked(home.own), pytest.raises(UserError, match="serves it already"):
        serve(home.root)


def test_without_gradio_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *more: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'rpo-diffusion\[app\]'$"):
        make_app(Home.at(tmp_path / "runs"), "127.0.0.1", 7860)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        ("Cancel 1 running task(s), timeout graceful shutdown exceeded", None, False),
        ("Exception in ASGI application", asyncio.CancelledError(), False),
        ("Exception in ASGI application", ValueError("a real one"), True),
    ],
)
def test_the_end_with_a_page_open_is_no_error(
    words: str, error: BaseException | None, told: bool
) -> None:
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, words, (), info)
    assert is_of_interest(record) is told


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["app", "--help"]) == 0
    said = capsys.readouterr().out
    for words in ("rpo app my-runs", "--host", "--port", "--no-browser", "Examples"):
        assert words in said


def test_a_file_is_no_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.run(["app", str(tmp_path / "file"), "--no-browser"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
