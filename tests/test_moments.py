"""What an optimizer goes on from: its own moments, no others; and a gradient that is not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, break_off
from looping import make_config, make_trainer, weights
from torch import nn

from rpo.cli import commands as cli
from rpo.config import TrainingConfig
from rpo.errors import UserError
from rpo.events import StepDone, Validated
from rpo.methods.method import Terms
from rpo.models.backbone import Backbone
from rpo.runs.fitting import moments_fit, refuse_unfit_state
from rpo.runs.result import load_run
from rpo.training.loop import make_optimizer


def stepped(optimizer: str, side: int) -> tuple[nn.Parameter, dict[str, Any]]:
    """A parameter, and what the real optimizer keeps of it after a step."""
    pytest.importorskip("bitsandbytes" if optimizer == "adamw8bit" else "torch")
    parameter = nn.Parameter(torch.ones(side, side))
    parameter.grad = torch.full_like(parameter, 0.1)
    optimiser = make_optimizer([parameter], TrainingConfig(optimizer=optimizer))  # type: ignore[arg-type]
    optimiser.step()
    return parameter, dict(optimiser.state[parameter])


@pytest.mark.parametrize(("optimizer", "side"), [("adamw", 7), ("adamw8bit", 7), ("adamw8bit", 65)])
def test_an_optimizers_own_moments_fit_and_no_others(optimizer: str, side: int) -> None:
    """bitsandbytes keeps 4096 numbers and more in 8 bits: those of 65 x 65, not of 7 x 7."""
    parameter, own = stepped(optimizer, side)
    assert len(own) == (7 if side == 65 else 3)
    assert moments_fit(own, parameter, optimizer)
    assert moments_fit({}, parameter, optimizer)
    for key, value in own.items():
        others: list[Any] = [None, "x", [1.0], torch.zeros(3, 2), torch.zeros(0)]
        if isinstance(value, torch.Tensor):
            others += [value.reshape(-1)[:-1], value.to(torch.complex64), value[None], value.long()]
        for other in others:
            assert not moments_fit({**own, key: other}, parameter, optimizer), (key, other)
        assert not moments_fit({k: v for k, v in own.items() if k != key}, parameter, optimizer)
    assert not moments_fit({**own, "more": torch.zeros(2)}, parameter, optimizer)
    assert not moments_fit(list(own.values()), parameter, optimizer)
    other = "adamw" if optimizer != "adamw" else "adamw8bit"
    assert not moments_fit(own, parameter, other)


def test_moments_that_do_not_fit_are_refused(epsilon: Backbone) -> None:
    """PyTorch's fused step would read beyond their end, and did: a segmentation fault."""
    trainer = make_trainer(epsilon, make_config(steps=2))
    list(trainer.run(until=1))
    state = trainer.state_dict()
    moments = state["moments"]
    shorter = {name: {**m, "exp_avg": m["exp_avg"].new_zeros(0)} for name, m in moments.items()}
    how: Any = (trainer.parameters, "adamw", Path("trainer.safetensors"))
    refuse_unfit_state(state, *how)
    wrong: list[Any] = [{"moments": shorter}, {"step": -1}, {"validated": 2}, {"validated": -2}]
    wrong += [{"step": "x"}, {"step": float("nan")}, {"moments": []}, {"moments": {}}]
    for change in wrong:
        with pytest.raises(UserError, match="^trainer.safetensors: not a training state of this"):
            refuse_unfit_state({**state, **change}, *how)
    for nothing in (None, [], {}, "x"):
        with pytest.raises(UserError, match="not a training state"):
            refuse_unfit_state(nothing, *how)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_follow(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root at 0 is 0, and its slope without end: the loss alone would tell nothing."""
    trainer = make_trainer(epsilon, make_config(steps=3, every=4))
    loss = trainer.method.loss

    def steep(*arguments: Any) -> Terms:
        terms = loss(*arguments)
        if trainer.step < 1:
            return terms
        first = next(iter(trainer.parameters.values()))
        return replace(terms, loss=terms.loss + (first - first.detach()).sum().sqrt())

    monkeypatch.setattr(trainer.method, "loss", steep)
    events = trainer.run()
    assert isinstance(next(event for event in events if isinstance(event, StepDone)), StepDone)
    before = weights(trainer)
    told = r"^step 2, training: the gradient became (nan|inf), most likely"
    with pytest.raises(UserError, match=told):
        list(events)
    after = weights(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_generate_decodes_in_the_batches_of_its_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"steps": 1, "every": 1, "sampling.batch_size": 3}
    break_off(world, tmp_path / "run", Validated, 1, **more)
    sizes: list[int] = []
    decoded = Backbone._decoded
    monkeypatch.setattr(
        Backbone, "_decoded", lambda self, rows: (sizes.append(len(rows)), decoded(self, rows))[1]
    )
    assert len(load_run(tmp_path / "run").generate("a [V] dog", n=7)) == 7
    assert sizes == [3, 3, 1]


def test_data_of_another_shape_is_one_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from forgeries import DATA, forge_data

    break_off(world, tmp_path / "run", Validated, 1, steps=2, every=1)
    forge_data(DATA["one wider"], tmp_path / "run", tmp_path)
    arguments = ["train", str(world.photos), *world.flags(steps=2, every=1), "--quiet"]
    assert cli.run([*arguments, "--resume", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "data.safetensors" in error
