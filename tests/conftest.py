"""What every test runs under: nothing goes online, whatever the environment says."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

# With these set the libraries would refuse by themselves, and hide a call that goes online without
# them. They are read when the libraries are imported, which is after this.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.pop(_name, None)


def _refuse(*arguments: Any, **_: Any) -> NoReturn:
    # its exception is no Exception, so that no library can swallow it
    pytest.fail(f"the test would go online: {arguments!r}")


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    """`connect` of a socket, for the sockets that do not leave this machine."""

    def guard(self: socket.socket, *arguments: Any) -> Any:
        if self.family == getattr(socket, "AF_UNIX", None):
            return connect(self, *arguments)
        return _refuse(*arguments)

    return guard


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that looks up a host or connects to one."""
    monkeypatch.setattr(socket, "getaddrinfo", _refuse)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, nor another test's."""
    cache: Path = tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex  # made when needed
    monkeypatch.setenv("RPO_CACHE", str(cache))
