"""A gradient step against an independent computation, and what a step draws."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from looping import PHOTOS, PICTURES, drawn, make_config, make_data, make_trainer, weights
from teaching import alpha_bar, same

from rpo.events import StepDone
from rpo.models.backbone import Backbone


@pytest.mark.parametrize("independent_noise", [False, True])
def test_gradient_steps_agree_with_an_independent_float64_computation(
    backbone: Backbone, independent_noise: bool
) -> None:
    lr, decay, clip, beta, sim_weight, pref_weight = 1e-3, 0.1, 0.05, 7.0, 0.6, 1.7
    config = make_config(
        learning_rate=lr,
        weight_decay=decay,
        max_grad_norm=clip,
        beta=beta,
        similarity_weight=sim_weight,
        preference_weight=pref_weight,
        independent_noise=independent_noise,
    )
    trainer, data = make_trainer(backbone, config), make_data(backbone)
    base = copy.deepcopy(backbone.denoiser).double()
    model = copy.deepcopy(base).requires_grad_(True)
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    solid = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    power = alpha_bar(backbone.prediction_type)

    def error(denoiser, latents, embeddings, timesteps, noise):
        signal = power[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - power[timesteps]).sqrt()[:, None, None, None]
        noise = noise.double()
        truth = noise if backbone.prediction_type == "epsilon" else signal * noise - sigma * latents
        said = denoiser(signal * latents + sigma * noise, timesteps, embeddings.double()).sample
        return ((truth - said) ** 2).mean(dim=(1, 2, 3))

    events = (event for event in trainer.run() if isinstance(event, StepDone))
    for step in range(3):
        pairs = drawn(trainer, step)
        assert (pairs.noise[0] is pairs.noise[1]) is not independent_noise
        assert torch.equal(pairs.timesteps[0], pairs.timesteps[1]) is not independent_noise
        ref = (
            data.reference_latents[pairs.photos].double(),
            data.reference_conditions.tokens.repeat(2, 1, 1),
            pairs.timesteps[0],
            pairs.noise[0],
        )
        gen = (
            data.generated_latents[pairs.generated].double(),
            data.generated_conditions.tokens[pairs.generated],
            pairs.timesteps[1],
            pairs.noise[1],
        )
        with torch.no_grad():
            base_ref, base_gen = error(base, *ref), error(base, *gen)
        error_ref, error_gen = error(model, *ref), error(model, *gen)
        margin = beta * ((base_ref - error_ref) - (base_gen - error_gen))
        wins = 1 / (1 + (-margin).exp())
        y = pairs.labels.double()
        preference = -(y * wins.log() + (1 - y) * (1 - wins).log()).mean()
        loss = sim_weight * error_ref.mean() + pref_weight * preference
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum((p.grad**2).sum().item() for p in model.parameters()))
        assert norm > clip  # or the clipping would go untested

        for name, p in model.named_parameters():
            gradient = p.grad * clip / norm
            # Where the true gradient is zero, Adam blows rounding noise up to a full step.
            solid[name] &= gradient.abs() > 1e-6
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            unbiased = second[name] / (1 - 0.999 ** (step + 1))
            ratio = first[name] / (1 - 0.9 ** (step + 1)) / (unbiased.sqrt() + 1e-8)
            p.data = p.data * (1 - lr * decay) - lr * ratio

        done = next(events)
        assert done.step == step + 1
        assert done.figures["similarity"] == pytest.approx(error_ref.mean().item(), rel=1e-4)
        assert done.figures["preference"] == pytest.approx(preference.item(), rel=1e-4)
        assert done.figures["margin"] == pytest.approx(margin.mean().item(), abs=1e-4)
        assert done.loss == pytest.approx(loss.item(), rel=1e-4)
        assert done.grad_norm == pytest.approx(norm, rel=2e-3)
        assert done.figures["label_mean"] == y.mean().item()

    assert sum(mask.sum() for mask in solid.values()) > 0.7 * sum(m.numel() for m in solid.values())
    for name, p in trainer.denoiser.named_parameters():
        expected = dict(model.named_parameters())[name].data
        difference = (p.detach().double() - expected)[solid[name]].abs()
        assert difference.numel() == 0 or difference.max() < 0.02 * lr, name


def test_untouched_weights_have_delta_zero_and_loss_log_2(backbone: Backbone) -> None:
    trainer = make_trainer(backbone, make_config(beta=5.0))
    step = next(event for event in trainer.run() if isinstance(event, StepDone))
    assert step.figures["margin"] == pytest.approx(0, abs=1e-6)
    assert step.figures["preference"] == pytest.approx(math.log(2), abs=1e-6)
    assert step.loss == pytest.approx(step.figures["similarity"] + math.log(2), abs=1e-6)


def test_without_any_pull_nothing_moves(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(beta=0.0, similarity_weight=0, weight_decay=0))
    before = weights(trainer)
    steps = [event for event in trainer.run() if isinstance(event, StepDone)]
    assert len(steps) == 8
    assert all(step.grad_norm == 0 for step in steps)  # so every gradient is exactly zero
    assert same(weights(trainer), before)


def test_weight_decay_alone_shrinks(epsilon: Backbone) -> None:
    config = make_config(beta=0.0, similarity_weight=0, weight_decay=0.5, steps=1)
    trainer = make_trainer(epsilon, config)
    before = weights(trainer)
    list(trainer.run())
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, before[name] * (1 - 1e-3 * 0.5))


def test_similarity_alone_never_asks_the_base_model(epsilon: Backbone) -> None:
    rows: dict[str, list[int]] = {"base": [], "trained": []}
    trainer = make_trainer(epsilon, make_config(preference_weight=0, steps=2))
    hooks = [
        module.register_forward_pre_hook(lambda _, args, who=who: rows[who].append(len(args[0])))
        for who, module in (("base", epsilon.denoiser), ("trained", trainer.denoiser))
    ]
    alone = [event for event in trainer.run() if isinstance(event, StepDone)]
    for hook in hooks:
        hook.remove()
    assert rows == {"base": [], "trained": [2, 2]}
    assert all(step.figures == {"similarity": step.loss} for step in alone)
    # An ablation sees the very photos and noises of the full method.
    full = make_trainer(epsilon, make_config(steps=2))
    first = next(event for event in full.run() if isinstance(event, StepDone))
    assert first.figures["similarity"] == pytest.approx(alone[0].figures["similarity"], rel=1e-5)


def test_preference_alone(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(similarity_weight=0, preference_weight=2, steps=2))
    for step in (event for event in trainer.run() if isinstance(event, StepDone)):
        assert step.loss == pytest.approx(2 * step.figures["preference"])
        assert step.grad_norm > 0


def test_labels_have_their_pairs_frequency(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    seen: dict[tuple[int, int], list[float]] = {}
    for step in range(3000):
        pairs = drawn(trainer, step)
        rows = torch.stack([pairs.photos, pairs.generated, pairs.labels], dim=1)
        for i, j, label in rows.tolist():
            seen.setdefault((i, j), []).append(label)
    assert len(seen) == PHOTOS * PICTURES
    for (i, j), labels in seen.items():
        p = 0.05 + 0.9 * (i * PICTURES + j) / (PHOTOS * PICTURES - 1)
        assert set(labels) == {0.0, 1.0}
        assert abs(np.mean(labels) - p) < 4 * math.sqrt(p * (1 - p) / len(labels))


def test_all_generated_pictures_are_used_equally(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    visits = [j for step in range(50) for j in drawn(trainer, step).generated.tolist()]
    epochs = [visits[k : k + PICTURES] for k in range(0, 100, PICTURES)]
    assert all(sorted(epoch) == list(range(PICTURES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10  # shuffled anew
    photos = Counter(i for step in range(600) for i in drawn(trainer, step).photos.tolist())
    assert all(abs(photos[i] - 400) < 80 for i in range(PHOTOS))  # 5 sigma


def test_noise_and_timesteps_are_fresh_and_well_spread(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    seen = [drawn(trainer, step) for step in range(500)]
    timesteps = torch.cat([pairs.timesteps[0] for pairs in seen]).double()
    assert 0 <= timesteps.min() < 20
    assert 980 <= timesteps.max() <= 999
    assert abs(timesteps.mean() - 499.5) < 5 * 288.7 / math.sqrt(1000)
    noise = torch.cat([pairs.noise[0] for pairs in seen]).double()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert len({row[0, 0, 0].item() for row in noise}) == 1000


def test_expected_labels_are_the_pairs_own_probabilities(epsilon: Backbone) -> None:
    config = make_config()
    reward = dataclasses.replace(config.reward, labels="expected")
    trainer = make_trainer(epsilon, dataclasses.replace(config, reward=reward))
    for step in range(4):
        pairs = drawn(trainer, step)
        assert torch.equal(pairs.labels, trainer.data.probabilities[pairs.photos, pairs.generated])
