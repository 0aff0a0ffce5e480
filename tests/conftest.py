"""What every test runs under: nothing goes online, whatever the environment says. And fixtures."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from exporting import Trained
    from jobs import World

    from rpo.evaluation.judges import Judges
    from rpo.models.backbone import Backbone

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


# What several files ask for. What it needs is imported there, after the names above are gone.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Photos, prompts, a tiny pipeline and a tiny reward model on disk."""
    from jobs import make_world

    return make_world(tmp_path_factory.mktemp("kleine Welt"))


@pytest.fixture(scope="module")
def done(world: World) -> Path:
    """A finished run, which the tests leave as it is."""
    from jobs import finished_run

    return finished_run(world)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own: what is written by default lands there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """A tiny Stable Diffusion of each noise process."""
    from tiny import tiny_backbone

    return tiny_backbone(request.param)


@pytest.fixture(scope="module")
def epsilon() -> Backbone:
    """A tiny Stable Diffusion that predicts the noise."""
    from tiny import tiny_backbone

    return tiny_backbone()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for photos."""
    path = tmp_path / "Süße Hündin, 2"
    path.mkdir()
    return path


@pytest.fixture
def no_remarks_on_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """For photos of flat colours; what is said of such has its own tests."""
    from rpo.data import subject

    monkeypatch.setattr(subject, "remark_on", lambda image: "")
    monkeypatch.setattr(subject, "nearly_same", lambda first, second: False)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """`adapter(kind, dora)`: a run that several tests read; its folder is left as it is."""
    from exporting import trained_once

    root = tmp_path_factory.mktemp("trained")
    return lambda kind="epsilon", dora=False: trained_once(root, kind, dora)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a random ViT and a random CLIP, to judge by."""
    from jobs import save_reward
    from judging import save_dino

    root = tmp_path_factory.mktemp("Richter")
    save_reward(root / "clip")
    return save_dino(root / "dino"), root / "clip"


@pytest.fixture
def judges(models: tuple[Path, Path]) -> Judges:
    """The two of `models`."""
    from rpo.evaluation.judges import load_judges

    return load_judges(*map(str, models), device="cpu")


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model of the hub is on this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
