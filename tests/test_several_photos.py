"""training.photos and training.flip: several photos a step, mirrored photos."""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
from teaching import (
    PHOTOS,
    make_config,
    make_task,
    make_trainer,
    rpo_config,
    similarity_config,
    squared_error,
    steps_of,
)
from tiny import RESOLUTION

from rpo.config import METHODS, RewardConfig
from rpo.models.backbone import Backbone

# --- training.photos ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["similarity", "rpo"])
def test_several_photos_by_an_independent_float64_computation(
    backbone: Backbone, method: str
) -> None:
    """L_sim is the mean over all of them; L_pref knows only the first of each pair."""
    make = similarity_config if method == "similarity" else rpo_config
    trainer = make_trainer(backbone, make(photos=3))
    data, kind = trainer.data, backbone.prediction_type
    tokens = backbone.encode_prompts(["a photo of [V] dog"]).tokens
    base = copy.deepcopy(backbone.denoiser).double()
    for step in range(2):
        model = copy.deepcopy(trainer.denoiser).double()
        batch = trainer.method.batch(data, step)
        index, timesteps, noise = batch.more
        assert (len(batch.photos), len(index)) == (2, 4)
        assert not torch.equal(noise[:2], batch.noise[0])
        with torch.no_grad():
            rows = (
                data.reference_latents[torch.cat([batch.photos, index])],
                tokens,
                torch.cat([batch.timesteps[0], timesteps]),
                torch.cat([batch.noise[0], noise]),
            )
            error = squared_error(model, kind, *rows)
            loss = error.mean()
            if method == "rpo":
                delta_ref = squared_error(base, kind, *rows)[:2] - error[:2]
                delta_gen = []
                for row in range(2):
                    one = (
                        data.generated_latents[batch.generated[row]][None],
                        data.generated_conditions[[int(batch.generated[row])]].tokens,
                        batch.timesteps[1][[row]],
                        batch.noise[1][[row]],
                    )
                    difference = squared_error(base, kind, *one) - squared_error(model, kind, *one)
                    delta_gen.append(difference)
                margin = delta_ref - torch.cat(delta_gen)
                wins, y = torch.sigmoid(margin), batch.labels.double()
                loss = loss - (y * wins.log() + (1 - y) * (1 - wins).log()).mean()
        trainer._advance()
        (done,) = trainer.unreported()
        assert done.figures["similarity"] == pytest.approx(error.mean().item(), rel=1e-4)
        assert done.loss == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["similarity", "rpo"])
def test_several_photos_accumulated_are_the_same_step(epsilon: Backbone, method: str) -> None:
    make = similarity_config if method == "similarity" else rpo_config
    whole = make_trainer(epsilon, make(photos=3, batch_size=4, steps=1))
    parts = make_trainer(epsilon, make(photos=3, batch_size=1, accumulate=4, steps=1))
    (a,), (b,) = (steps_of(trainer.run()) for trainer in (whole, parts))
    assert b.loss == pytest.approx(a.loss, rel=1e-5)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)


def test_further_photos_leave_the_pairs_as_they_are(epsilon: Backbone) -> None:
    one, three = (make_trainer(epsilon, rpo_config(photos=photos)) for photos in (1, 3))
    for step in range(3):
        a, b = (trainer.method.batch(trainer.data, step) for trainer in (one, three))
        for name in ("photos", "labels", "generated"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.noise[0], b.noise[0])
        assert a.more == ()
    rows: list[int] = []
    hook = three.denoiser.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    three._advance()
    hook.remove()
    assert rows == [2 * METHODS[three.config.method].passes(three.config).learning]


def test_all_photos_are_seen_equally(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, similarity_config(photos=3))
    batches = [trainer.method.batch(trainer.data, step) for step in range(200)]
    seen = Counter(index for batch in batches for index in batch.more[0].tolist())
    assert all(abs(seen[photo] - 800 / PHOTOS) < 5 * 13.4 for photo in range(PHOTOS))  # 5 sigma


# --- training.flip ------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [1, 2])
def test_mirrored_photos_are_seen_half_of_the_time(epsilon: Backbone, photos: int) -> None:
    trainer = make_trainer(epsilon, rpo_config(flip=True, photos=photos))
    plain = make_trainer(epsilon, rpo_config(photos=photos))
    pixels = make_task(epsilon, trainer.config).subject.tensor(RESOLUTION)
    latents = trainer.data.reference_latents
    assert len(latents) == 2 * PHOTOS
    assert torch.equal(latents[:PHOTOS], plain.data.reference_latents)
    mirrored = epsilon.encode_images(pixels.flip(-1))
    assert torch.equal(latents[PHOTOS:], mirrored)
    assert not torch.allclose(mirrored, latents[:PHOTOS])
    flips = []
    for step in range(300):
        a, b = (one.method.batch(one.data, step) for one in (trainer, plain))
        # The same photos, labels and noise as without; only the side changes.
        assert torch.equal(a.photos % PHOTOS, b.photos)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.noise[0], b.noise[0])
        flips += (a.photos >= PHOTOS).tolist()
        if photos > 1:
            assert torch.equal(a.more[0] % PHOTOS, b.more[0])
            assert torch.equal(a.more[2], b.more[2])
            flips += (a.more[0] >= PHOTOS).tolist()
    assert abs(sum(flips) - len(flips) / 2) < 5 * math.sqrt(len(flips)) / 2  # 5 sigma


def test_a_mirrored_photo_has_its_photos_labels(epsilon: Backbone) -> None:
    config = rpo_config(flip=True)
    expected = make_config(
        "rpo",
        training={"flip": True},
        sampling=config.sampling,
        reward=RewardConfig(labels="expected"),
    )
    trainer = make_trainer(epsilon, expected)
    pictures = len(trainer.data.generated_latents)
    # What make_task's reward gives: photo i, picture j have a gap of their own.
    gaps = torch.linspace(-3, 3, PHOTOS * pictures).view(PHOTOS, pictures)
    for step in range(50):
        batch = trainer.method.batch(trainer.data, step)
        wanted = torch.sigmoid(gaps)[batch.photos % PHOTOS, batch.generated]
        torch.testing.assert_close(batch.labels, wanted)


def test_the_mirrored_latents_reach_the_loss(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, similarity_config(flip=True, steps=20))
    tokens = epsilon.encode_prompts(["a photo of [V] dog"]).tokens
    found = 0
    for step in range(20):
        batch = trainer.method.batch(trainer.data, step)
        model = copy.deepcopy(trainer.denoiser).double()
        pixels = make_task(epsilon, trainer.config).subject.tensor(RESOLUTION)
        shown = torch.stack(
            [pixels[i % PHOTOS].flip(-1) if i >= PHOTOS else pixels[i] for i in batch.photos]
        )
        with torch.no_grad():
            error = squared_error(
                model,
                "epsilon",
                epsilon.encode_images(shown),
                tokens,
                batch.timesteps[0],
                batch.noise[0],
            )
        trainer._advance()
        (done,) = trainer.unreported()
        assert done.loss == pytest.approx(error.mean().item(), rel=1e-4)
        found += int((batch.photos >= PHOTOS).sum())
    assert 0 < found < 40
