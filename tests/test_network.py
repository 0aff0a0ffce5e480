"""conftest.py: the guard that every other test runs under."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants, model_info

HERE = ("127.0.0.1", 9)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: socket.create_connection(HERE, timeout=1),
        lambda: socket.socket().connect(HERE),
        lambda: socket.socket().connect_ex(HERE),
        lambda: socket.getaddrinfo("localhost", 9),
        lambda: model_info("org/model"),
    ],
)
def test_every_way_out_fails_the_test(attempt: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="would go online"):
        attempt()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_sockets_of_this_machine_work(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        name = os.path.relpath(tmp_path / "s")  # the kernel's limit is about 100 characters
        server.bind(name)
        server.listen()
        client.connect(name)


def test_the_libraries_offline_mode_is_off_whatever_the_environment_says() -> None:
    code = "import conftest, os, sys; sys.exit('HF_HUB_OFFLINE' in os.environ)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    folder = Path(__file__).parent
    assert not constants.HF_HUB_OFFLINE
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, check=False)
    assert run.returncode == 0
