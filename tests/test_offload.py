"""Networks come to the device to compute, and go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobs import make_world, save_reward
from tiny import RESOLUTION, tiny_backbone
from torch import nn

from rpo.api import train
from rpo.data.subject import Subject
from rpo.models import encoders
from rpo.models.backbone import Backbone
from rpo.models.encoders import load_encoder
from rpo.models.offload import awake


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


def test_the_denoiser_comes_when_the_prompts_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable Diffusion 3's and FLUX's text encoders are larger than many a card's rest."""
    texts = ["a [V] dog", "a [V] dog at sea"]
    plain, backbone = tiny_backbone("sd3"), tiny_backbone("sd3", offload=True)
    expected = plain.encode_prompts(texts[::-1]).tensors(), plain.unconditional().tensors()
    backbone.remember_prompts(texts)
    assert not backbone._arrived

    def too_late(*_: object) -> None:
        raise AssertionError("the text encoders would be beside the denoiser")

    monkeypatch.setattr(backbone.family, "encode", too_late)
    monkeypatch.setattr(backbone.family, "unconditional", too_late)
    assert backbone.denoiser is backbone._denoiser
    assert backbone._arrived
    assert plain._arrived
    found = backbone.encode_prompts(texts[::-1]).tensors(), backbone.unconditional().tensors()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name])
    with pytest.raises(AssertionError, match="would be beside"):
        backbone.encode_prompts(["another prompt"])


def test_a_job_that_offloads_encodes_before_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, arrived = make_world(tmp_path, "sd3"), []
    awake_before = Backbone._awake

    def noted(self: Backbone, *modules: nn.Module):
        if set(modules) & set(self._texts):
            arrived.append(self._arrived)
        return awake_before(self, *modules)

    monkeypatch.setattr(Backbone, "_awake", noted)
    subject = Subject.from_folder(world.photos, noun="dog")
    settings = world.settings(2, 2, resolution=RESOLUTION, offload="true")
    run = train(subject, str(world.model), out=tmp_path / "run", settings=settings)
    drawn = len(arrived)
    run.generate("a [V] dog", steps=2)
    assert 0 < drawn < len(arrived)
    assert not any(arrived)


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
