"""Sampling: a picture is its prompt's and its seed's alone, and the one that diffusers draws."""

from __future__ import annotations

import pytest
import torch
from tiny import LATENT_SHAPE, tiny_backbone
from torch import Tensor, nn

from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.sampling import SOLVERS, initial_noise, make_solver, sample, to_uint8
from rpo.seeds import derive_seed

PROMPTS = ["a [V] dog", "a dog on the Moon", "a green dog", "a cat", "a bowl"]
SEEDS = [11, 3, 2**62, 7, 0]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


def draw(backbone: Backbone, prompts=PROMPTS, seeds=SEEDS, **options) -> Tensor:
    options = {"steps": 6, "guidance_scale": 4.0, **options}
    return sample(backbone, backbone.denoiser, backbone.encode_prompts(prompts), seeds, **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_batch_size_and_neighbours_do_not_matter(backbone: Backbone, solver: str) -> None:
    together = draw(backbone, scheduler=solver)
    assert together.shape == (5, *LATENT_SHAPE)
    for batch_size in (1, 2, 3):
        other = draw(backbone, scheduler=solver, batch_size=batch_size)
        torch.testing.assert_close(other, together, rtol=0, atol=1e-4)
    order = [3, 1, 4, 0, 2]
    prompts, seeds = [PROMPTS[k] for k in order], [SEEDS[k] for k in order]
    shuffled = draw(backbone, prompts, seeds, scheduler=solver, batch_size=2)
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-4)
    alone = draw(backbone, PROMPTS[2:3], SEEDS[2:3], scheduler=solver)
    torch.testing.assert_close(alone[0], together[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 17])  # 17: no lower order in the last steps
@pytest.mark.parametrize("guidance_scale", [1.0, 1.5, 7.5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_agrees_with_the_stock_pipeline(
    backbone: Backbone, solver: str, guidance_scale: float, steps: int
) -> None:
    stock = backbone.pipeline(backbone.denoiser)
    stock.scheduler = make_solver(backbone, solver)
    stock.set_progress_bar_config(disable=True)
    expected = stock(
        PROMPTS[:2],
        latents=initial_noise(LATENT_SHAPE, SEEDS[:2]),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images
    drawn = draw(
        backbone,
        PROMPTS[:2],
        SEEDS[:2],
        steps=steps,
        guidance_scale=guidance_scale,
        scheduler=solver,
    )
    assert drawn.std() > 0.1
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-3)


def test_the_solver_keeps_the_models_own_schedule() -> None:
    for name, family in SOLVERS.items():
        solver = make_solver(tiny_backbone("v_prediction"), name)
        assert isinstance(solver, family[0])
        assert solver.config.prediction_type == "v_prediction"
        assert solver.config.beta_schedule == "squaredcos_cap_v2"
        solver.set_timesteps(5)
        assert solver.timesteps.tolist() == [999, 799, 599, 399, 199]  # trailing
    linear = make_solver(tiny_backbone("epsilon"), "ddim")
    assert not linear.config.clip_sample
    assert (linear.config.beta_start, linear.config.beta_end) == (0.00085, 0.012)


def test_ddim_by_hand(backbone: Backbone) -> None:
    """Two deterministic steps (eta = 0, Eq. 12 of arXiv 2010.02502) in float64."""
    prompt, (seed,) = PROMPTS[:1], SEEDS[:1]
    drawn = draw(backbone, prompt, [seed], steps=2, guidance_scale=1, scheduler="ddim")
    timesteps = [501, 1] if backbone.prediction_type == "epsilon" else [999, 499]
    power = backbone.process.signal_power.double()
    ends = [power[timesteps[0] - 500], torch.tensor(1.0)]
    x = initial_noise(LATENT_SHAPE, [seed]).double()
    embedding = backbone.encode_prompts(prompt).tokens
    for timestep, after in zip(timesteps, ends, strict=True):
        now = power[timestep]
        with torch.no_grad():
            said = backbone.denoiser(x.float(), timestep, embedding).sample.double()
        if backbone.prediction_type == "epsilon":
            noise, clean = said, (x - (1 - now).sqrt() * said) / now.sqrt()
        else:
            noise = now.sqrt() * said + (1 - now).sqrt() * x
            clean = now.sqrt() * x - (1 - now).sqrt() * said
        x = after.sqrt() * clean + (1 - after).sqrt() * noise
    torch.testing.assert_close(drawn.double(), x, rtol=1e-4, atol=1e-4)


class Counting(nn.Module):
    """Passes on to a denoiser and counts calls and rows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, []

    def forward(self, sample, *args, **kwargs):
        self.rows.append(len(sample))
        return self.inner(sample, *args, **kwargs)


def test_both_guidance_halves_share_one_call(backbone: Backbone) -> None:
    conditions = backbone.encode_prompts(PROMPTS)
    for guidance_scale, rows in ((3.0, [4, 4, 4, 4, 2, 2]), (1.0, [2, 2, 2, 2, 1, 1])):
        denoiser = Counting(backbone.denoiser)
        reports: list[tuple[int, int]] = []
        sample(
            backbone,
            denoiser,
            conditions,
            SEEDS,
            steps=2,
            guidance_scale=guidance_scale,
            batch_size=2,
            on_step=lambda *report, reports=reports: reports.append(report),
        )
        assert denoiser.rows == rows
        assert reports == [(k, 6) for k in range(1, 7)]


def test_the_negative_prompt_counts(backbone: Backbone) -> None:
    both = backbone.encode_prompts(["", "ugly"])
    empty, other = both[:1], both[1:]
    assert torch.equal(draw(backbone, negative=empty), draw(backbone))
    assert not torch.allclose(draw(backbone, negative=other), draw(backbone), atol=1e-3)


def test_pictures_that_are_not_finite_are_an_error(backbone: Backbone) -> None:
    denoiser = backbone.trainable_copy()
    denoiser.conv_out.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="learning_rate"):
        sample(backbone, denoiser, backbone.encode_prompts(["x"]), [0], steps=1, guidance_scale=1)


def test_wrong_calls(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="4 seeds for 5"):
        draw(backbone, seeds=SEEDS[:4])
    with pytest.raises(UserError, match=r"one of dpm\+\+, ddim, not 'euler'"):
        draw(backbone, scheduler="euler")


def test_nothing_drawn_needs_a_gradient_or_touches_the_global_generator(backbone) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    latents = sample(
        backbone,
        backbone.trainable_copy(),
        backbone.encode_prompts(["x"]),
        [0],
        steps=1,
        guidance_scale=2,
    )
    assert not latents.requires_grad
    assert not latents.is_inference()
    assert torch.equal(torch.get_rng_state(), state)


def test_derived_seeds_differ_by_seed_and_by_use() -> None:
    seeds = {derive_seed(s, use, k) for s in range(4) for use in ("step", "x") for k in range(50)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "step", 2) == derive_seed(1, "step", 2)


def test_to_uint8_rounds() -> None:
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0]).view(1, 1, 1, 5)
    assert to_uint8(values).flatten().tolist() == [0, 0, 1, 255, 255]
