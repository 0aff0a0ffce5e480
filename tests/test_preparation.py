"""Drawing and labelling the training pictures, and the validator, with the real reward."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from tiny import RESOLUTION, tiny_backbone
from torch import Tensor

from rpo.config import Config, RewardConfig, SamplingConfig, TrainingConfig, ValidationConfig
from rpo.data.prompts import Prompt
from rpo.events import Drawn, Labelled, Progress, Validated
from rpo.learners.full import Full
from rpo.methods.method import Task
from rpo.methods.rpo import RPO, LabelledPairs
from rpo.models.backbone import Backbone
from rpo.models.sampling import sample
from rpo.rewards.alignment import AlignmentReward
from rpo.seeds import derive_seed
from rpo.training.loop import Trainer
from rpo.training.validation import Validator

PHOTOS = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture(scope="module")
def epsilon() -> Backbone:
    return tiny_backbone()


class PixelEncoder:
    """Features are the pixels themselves; a text's are drawn from a seed made of its letters."""

    name, has_text = "pixels", True

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def encode_images(self, images) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1) - 0.5, dim=1)

    def encode_texts(self, texts) -> Tensor:
        self.texts.update(texts)
        seeds = [int(hashlib.md5(text.encode()).hexdigest()[:8], 16) for text in texts]
        return torch.cat(
            [
                torch.nn.functional.normalize(normal(1, 3 * RESOLUTION**2, seed=seed), dim=1)
                for seed in seeds
            ]
        )


class Photos:
    noun = "dog"

    def tensor(self, size: int) -> Tensor:
        return normal(PHOTOS, 3, size, size, seed=9).clamp(-1, 1)


TRAINING = [Prompt.from_template(t, "dog", "[V]") for t in ("a {} on the Moon", "a green {}")]


@dataclasses.dataclass
class Prepared:
    """What RPO prepares, and what it drew for that."""

    data: LabelledPairs
    images: Tensor
    prompts: tuple[str, ...]


def prepared(backbone: Backbone, encoder: PixelEncoder, **reward) -> tuple[Prepared, list, Config]:
    config = Config(
        noun="dog",
        seed=4,
        sampling=SamplingConfig(
            steps=4, guidance_scale=3, images_per_prompt=3, batch_size=4, scheduler="ddim"
        ),
        reward=RewardConfig(**reward),
    )
    references = Photos().tensor(RESOLUTION) / 2 + 0.5
    scorer = AlignmentReward(encoder, references)
    task = Task(backbone, config, Photos(), TRAINING, scorer)  # type: ignore[arg-type]
    events, work = [], RPO(task).prepare()
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            drawn = next(event for event in events if isinstance(event, Drawn))
            return Prepared(end.value, drawn.images, drawn.prompts), events, config


@pytest.mark.parametrize("lam", [0.0, 0.4])
def test_a_pairs_label_belongs_to_its_own_picture_and_prompt(backbone: Backbone, lam: float):
    encoder = PixelEncoder()
    result, events, _ = prepared(backbone, encoder, lambda_train=lam, temperature=0.05)
    data, plain = result.data, [p.plain for p in TRAINING for _ in range(3)]
    assert encoder.texts == {"a dog on the Moon", "a green dog"}  # no identifier anywhere
    assert result.prompts == ("a [V] dog on the Moon",) * 3 + ("a green [V] dog",) * 3

    references = (Photos().tensor(RESOLUTION) / 2 + 0.5).double().flatten(1).numpy() - 0.5
    pictures = backbone.decode(data.generated_latents).double().flatten(1).numpy() - 0.5
    texts = encoder.encode_texts(plain).double().numpy()

    def alignment(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / np.linalg.norm(a) / np.linalg.norm(b) + 1) / 2

    def score(picture: np.ndarray, text: np.ndarray) -> float:
        s_image = np.mean([alignment(picture, photo) for photo in references])
        return 1 / (lam / s_image + (1 - lam) / alignment(picture, text))

    gaps = np.array(
        [
            [score(photo, texts[j]) - score(pictures[j], texts[j]) for j in range(6)]
            for photo in references
        ]
    )
    expected = 1 / (1 + np.exp(-gaps / 0.05))
    assert np.unique(expected.round(4)).size == PHOTOS * 6  # no two pairs could be confused
    torch.testing.assert_close(
        data.probabilities.double(), torch.from_numpy(expected), rtol=0, atol=1e-4
    )
    labelled = next(event for event in events if isinstance(event, Labelled))
    assert labelled.pairs == PHOTOS * 6
    assert labelled.mean_gap == pytest.approx(gaps.mean(), abs=1e-5)
    assert labelled.mean_probability == pytest.approx(expected.mean(), abs=1e-4)
    flips = np.where(gaps > 0, 1 - expected, expected)
    assert labelled.flip_rate == pytest.approx(flips.mean(), abs=1e-4)


def test_each_training_picture_is_the_base_models_for_its_prompt(epsilon: Backbone) -> None:
    result, events, _ = prepared(epsilon, PixelEncoder())
    assert result.images.shape == (6, 3, RESOLUTION, RESOLUTION)
    assert result.images.dtype == torch.uint8
    for j, prompt in enumerate(p for p in TRAINING for _ in range(3)):
        conditions = epsilon.encode_prompts([prompt.conditioning])
        torch.testing.assert_close(
            result.data.generated_conditions.tokens[j : j + 1], conditions.tokens
        )
        seed = derive_seed(4, "training image", j)
        latent = sample(
            epsilon,
            epsilon.denoiser,
            conditions,
            [seed],
            steps=4,
            guidance_scale=3,
            scheduler="ddim",
        )
        torch.testing.assert_close(
            result.data.generated_latents[j : j + 1], latent, rtol=0, atol=1e-4
        )
        picture = epsilon.decode(latent)[0].mul(255)
        assert (result.images[j] - picture).abs().max() < 0.6
    assert len({tuple(image.flatten().tolist()) for image in result.images}) == 6
    progress = [(e.done, e.total) for e in events if e.__class__ is Progress][:3]
    assert progress == [(0, 6), (4, 6), (6, 6)]
    expected = epsilon.encode_prompts(["a photo of [V] dog"])
    torch.testing.assert_close(result.data.reference_conditions.tokens, expected.tokens)
    expected = epsilon.encode_images(Photos().tensor(RESOLUTION))
    torch.testing.assert_close(result.data.reference_latents, expected)


def test_validation_is_the_same_every_time(epsilon: Backbone) -> None:
    encoder = PixelEncoder()
    reward = AlignmentReward(encoder, Photos().tensor(RESOLUTION) / 2 + 0.5)
    config = Config(validation=ValidationConfig(steps=3, images_per_prompt=2, batch_size=3))
    validator = Validator(epsilon, reward, TRAINING, config)
    learner = Full(epsilon, config)
    scores, images = validator(learner)
    again, pictures = Validator(epsilon, reward, TRAINING, config)(learner)
    assert torch.equal(images, pictures)
    assert torch.equal(scores.text, again.text)
    assert images.shape == (4, 3, RESOLUTION, RESOLUTION)
    assert images.dtype == torch.uint8
    assert validator.prompts == ("a [V] dog on the Moon",) * 2 + ("a green [V] dog",) * 2
    assert encoder.texts == {"a dog on the Moon", "a green dog"}
    progress = [(event.done, event.total) for event in validator.run(learner)]
    assert progress == [(0, 4), (3, 4), (4, 4)]
    expected = reward.score(images / 255, ["a dog on the Moon"] * 2 + ["a green dog"] * 2)
    torch.testing.assert_close(scores.text, expected.text, rtol=0, atol=1e-3)
    torch.testing.assert_close(scores.image, expected.image, rtol=0, atol=1e-3)
    small = Validator(
        epsilon, reward, TRAINING, dataclasses.replace(config, validation=ValidationConfig(steps=3))
    )
    assert small.seeds == validator.seeds[:2]


def test_training_and_validation_end_to_end(epsilon: Backbone) -> None:
    """The real parts together: the validator's reward is the event's, by the configured mean."""
    result, _, _ = prepared(epsilon, PixelEncoder())
    reward = AlignmentReward(PixelEncoder(), Photos().tensor(RESOLUTION) / 2 + 0.5)
    config = Config(
        training=TrainingConfig(steps=2, learning_rate=1e-3),
        reward=RewardConfig(lambda_val=0.3),
        validation=ValidationConfig(every=1, steps=2),
    )
    validator = Validator(epsilon, reward, TRAINING, config)
    method = RPO(Task(epsilon, config, Photos(), TRAINING, reward))  # type: ignore[arg-type]
    trainer = Trainer(Full(epsilon, config), method, result.data, config, validator)
    for event in trainer.run():
        if isinstance(event, Validated):
            scores, images = validator(trainer.learner)
            expected = (1 / (0.3 / scores.image + 0.7 / scores.text)).mean().item()
            assert event.reward == pytest.approx(expected, rel=1e-5)
            assert event.text_alignment == pytest.approx(scores.text.mean().item())
            assert event.image_alignment == pytest.approx(scores.image.mean().item())
            assert torch.equal(event.images, images)
            assert event.prompts == validator.prompts
    assert trainer.step == 2
