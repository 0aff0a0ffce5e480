"""keeping.py and background.py: what is saved while the training goes on, and when."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_backbone
from torch import Tensor

from rpo.config import load_config
from rpo.errors import UserError
from rpo.events import Validated
from rpo.learners.full import Full
from rpo.learners.sharing import snapshot_of
from rpo.models.backbone import Backbone
from rpo.runs import keeping
from rpo.runs.background import Background
from rpo.runs.folder import RunFolder
from rpo.runs.keeping import Keeper
from rpo.training.stopping import KeepBest

BEST = Validated(40, 0.5, 0.5, 0.5, True, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ("a dog",))


def test_background_work_runs_beside_the_caller_and_in_turn() -> None:
    background, go, order = Background(), threading.Event(), []

    def first() -> None:
        go.wait(10)
        order.append("first")

    background.wait()  # nothing is under way
    background.start(first)
    order.append("caller")
    go.set()
    background.start(lambda: order.append("second"))
    background.wait()
    assert order == ["caller", "first", "second"]


def test_what_the_work_raises_reaches_the_caller_once() -> None:
    background = Background()

    def fail() -> None:
        raise UserError("the disk is full")

    background.start(fail)
    with pytest.raises(UserError, match="the disk is full"):
        background.start(lambda: None)
    background.wait()


def test_a_snapshot_keeps_what_learns_and_shares_the_rest() -> None:
    denoiser = tiny_backbone().trainable_copy()
    denoiser.conv_in.requires_grad_(False)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    kept = snapshot_of(denoiser)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(1)
    after = kept.state_dict()
    for name, value in before.items():
        expected = value + 1 if name.startswith("conv_in.") else value
        assert torch.equal(after[name], expected), name
    assert kept.conv_in.weight is denoiser.conv_in.weight
    assert not kept.conv_in.weight.requires_grad
    assert all(p.grad is None for p in kept.parameters())


class StandIn:
    """A trainer that has a learner and learns by a word."""

    def __init__(self, backbone: Backbone) -> None:
        self.config, self.step = load_config(noun="dog"), 40
        self.backbone, self.learner = backbone, Full(backbone, self.config)
        self.averaged = nullcontext
        self.stopping = KeepBest(0, "best")

    def state_dict(self) -> dict[str, Tensor]:
        return {"step": torch.tensor(self.step)}


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    trainer: Any = StandIn(tiny_backbone())
    return Keeper(RunFolder(tmp_path), trainer)


def test_best_is_the_model_as_it_was_though_the_training_goes_on(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, save = threading.Event(), keeper.trainer.backbone.save

    def slow(denoiser: Any, folder: Path) -> None:
        go.wait(10)
        save(denoiser, folder)

    monkeypatch.setattr(keeper.trainer.backbone, "save", slow)
    expected = {
        k: p.detach().clone() for k, p in keeper.trainer.learner.denoiser.named_parameters()
    }
    keeper.keep_best(BEST)
    with torch.no_grad():
        for parameter in keeper.trainer.learner.denoiser.parameters():
            parameter.zero_()
    assert not (keeper.folder.path / "best").exists()
    go.set()
    keeper.checkpoint()  # waits: what --resume goes on from is never ahead of best/
    (file,) = (keeper.folder.path / "best" / "unet").glob("*.safetensors")
    saved = load_file(file)
    assert all(torch.equal(saved[name], value) for name, value in expected.items())
    card = keeper.folder.best_card()
    assert card is not None
    assert (card["step"], card["subject"], card["scheduler"]) == (40, "[V] dog", "dpm++")


def test_what_goes_wrong_in_saving_stops_the_training(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeper.trainer.backbone, "save", fail)
    keeper.keep_best(BEST)
    with pytest.raises(UserError, match="best: the disk is full"):
        keeper.checkpoint()
    assert keeper.folder.load_last() is None


def test_checkpoints_take_a_tenth_of_the_time_at_most(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, took, written = 0.0, 1.0, []

    def save(state: Any, summary: Any) -> None:
        nonlocal now
        now += took
        written.append(now)

    monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: now))
    folder: Any = SimpleNamespace(save_last=save)
    keeper = Keeper(folder, keeper.trainer)
    for second in range(0, 121, 10):
        now = max(now, second)
        keeper.checkpoint_if_due()
    assert written == [61]  # 60 s after the start; the next is due at 61 + 60
    took = 20.0
    now = 121.0
    keeper.checkpoint_if_due()
    assert written == [61, 141]
    now = 141 + 179.0
    keeper.checkpoint_if_due()
    assert len(written) == 2
    now = 141 + 180.0
    keeper.checkpoint_if_due()
    assert written == [61, 141, 341]
