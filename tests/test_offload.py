"""Networks come to the device to compute, and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobs import save_reward
from tiny import tiny_backbone
from torch import nn

from rpo import encoders
from rpo.encoders import load_encoder
from rpo.offload import awake


class Recorder(nn.Module):
    """Notes where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, place: torch.device) -> None:  # type: ignore[override]
        self.places.append(str(place))


def test_they_come_and_go_whatever_happens() -> None:
    part = Recorder()
    with awake([part], torch.device("cuda"), torch.device("cpu")):
        assert part.places == ["cuda"]
    assert part.places == ["cuda", "cpu"]

    def fail() -> None:
        with awake([part], torch.device("cuda"), torch.device("cpu")):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert part.places == ["cuda", "cpu"] * 2


@pytest.mark.parametrize(("offload", "home"), [(True, "cpu"), (False, "cuda")])
def test_a_base_models_parts(offload: bool, home: str) -> None:
    backbone, part = tiny_backbone(offload=offload), Recorder()
    backbone.device = torch.device("cuda")  # only named, never used
    with backbone._awake(part):
        assert part.places == ["cuda"]
    assert part.places == ["cuda", home]


def test_a_reward_model_waits_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_reward(tmp_path / "reward")
    moves: list[tuple[str, str]] = []

    def noted(modules: list[nn.Module], device: torch.device, home: torch.device):
        moves.append((str(device), str(home)))
        return awake(modules, torch.device("cpu"), torch.device("cpu"))

    monkeypatch.setattr(encoders, "awake", noted)
    encoder = load_encoder(tmp_path / "reward", "cpu", offload=True)
    encoder.device = torch.device("cuda")  # only named, never used
    encoder.encode_texts(["a dog"])
    assert moves == [("cuda", "cpu")]
