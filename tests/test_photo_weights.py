"""What a photo's weights and caption do to each method's loss, row by row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from teaching import PHOTOS, make_config, make_task
from tiny import RESOLUTION, tiny_backbone
from torch import Tensor

from rpo.config import DreamBoothConfig
from rpo.errors import UserError
from rpo.learners import learner_class
from rpo.methods import method_class
from rpo.methods.method import Method, Task, Terms
from rpo.methods.similarity import Similarity
from rpo.models.backbone import Backbone

CELL = 2 ** (len(tiny_backbone().vae.config.block_out_channels) - 1)
SIDE = RESOLUTION // CELL
CAPTIONS = ("a photo of [V] dog at sea", "", "a blue [V] dog")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone("epsilon")


def pixel_weights() -> Tensor:
    """(3, 1, H, W): each cell of the latents is of one weight, all cells' weights are different."""
    cells = torch.arange(1, PHOTOS * SIDE * SIDE + 1).float().view(PHOTOS, 1, SIDE, SIDE) / 1000
    return cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)


def test_the_error_is_the_mean_weighted_by_cells(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual = torch.zeros(2, 3, 2, 2)
    residual[0, :, 0, 0] = torch.tensor([1.0, 2.0, 2.0])  # squares 1, 4, 4: mean 3
    residual[0, :, 1, 1] = 4.0  # 16
    residual[1] = 5.0
    monkeypatch.setattr(Backbone, "add_noise", lambda self, *_: residual)
    monkeypatch.setattr(Backbone, "predict", lambda self, *_: torch.zeros_like(residual))
    monkeypatch.setattr(Backbone, "target", lambda self, *_: residual)
    weights = torch.tensor([[[[0.5, 1.0], [0.0, 0.25]]], [[[0.1, 0.1], [0.1, 0.0]]]])

    def error(weights: Tensor | None) -> list[float]:
        nothing: Any = None
        return backbone.denoising_error(
            nothing, residual, residual, nothing, nothing, weights
        ).tolist()

    # (0.5 * 3 + 0.25 * 16) / (0.5 + 1 + 0.25) = 5.5 / 1.75; weights of a row are relative
    assert error(weights) == pytest.approx([5.5 / 1.75, 25.0])
    assert error(None) == pytest.approx([(3 + 16) / 4, 25.0])
    assert error(torch.full((2, 1, 2, 2), 0.3)) == pytest.approx(error(None))


def loss_of(
    backbone: Backbone, name: str, changes: dict[str, Any], **sections: Any
) -> tuple[Terms, Any, list[tuple[Any, ...]]]:
    """The loss of a step, the data, and each call of denoising_error with its arguments."""
    training = {"photos": 2, **sections.pop("training", {})}
    config = make_config(
        name, dreambooth=DreamBoothConfig(class_images=2), training=training, **sections
    )
    weights = {"textual_inversion": "token", "custom_diffusion": "cross-attention"}
    if name in weights:
        config = replace(config, training=replace(config.training, weights=weights[name]))
    task = make_task(backbone, config)
    task.subject.images = range(PHOTOS)
    task.reward.references = torch.nn.functional.normalize(torch.eye(PHOTOS, 8) + 0.1)
    task.reward.score_pixels = None
    method = method_class(config)(replace(task, **changes))
    events = method.prepare()
    while True:
        try:
            next(events)
        except StopIteration as end:
            data = end.value
            break
    learner = learner_class(config.training.weights)(backbone, config)
    calls: list[tuple[Any, ...]] = []
    whole = Backbone.denoising_error

    def watched(self: Backbone, denoiser: Any, *rest: Any) -> Tensor:
        calls.append(rest)
        return whole(self, denoiser, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "denoising_error", watched)
        terms = method.loss(learner, data, method.batch(data, 2))
    return terms, data, calls


METHODS = (
    "rpo",
    "dpo",
    "similarity",
    "dreambooth",
    "disenbooth",
    "online",
    "textual_inversion",
    "custom_diffusion",
)


@pytest.mark.parametrize(("name", "flip"), [("rpo", False), *((name, True) for name in METHODS)])
def test_each_row_of_a_photo_has_its_weights_and_its_caption(
    backbone: Backbone, name: str, flip: bool
) -> None:
    given = {"photo_weights": pixel_weights(), "photo_prompts": CAPTIONS}
    _, data, calls = loss_of(backbone, name, given, training={"flip": flip})
    cells = pixel_weights()[:, :, ::CELL, ::CELL]
    if flip:
        cells = torch.cat([cells, cells.flip(-1)])
    latents = data.reference_latents
    assert len(latents) == len(cells)
    texts = [caption or "a photo of [V] dog" for caption in CAPTIONS]
    told = backbone.encode_prompts(texts).tokens
    rows = photos = 0
    for noisy, _, _, conditions, weights in calls:
        assert weights.shape == (len(noisy), 1, SIDE, SIDE)
        for row, latent in enumerate(noisy):
            at = [k for k, photo in enumerate(latents) if torch.equal(photo, latent)]
            rows += 1
            photos += len(at)
            expected = cells[at[0]] if at else torch.ones(1, SIDE, SIDE)
            torch.testing.assert_close(weights[row], expected)
            if at and name in ("rpo", "dpo", "similarity", "dreambooth", "online"):
                torch.testing.assert_close(conditions.tokens[row], told[at[0] % PHOTOS])
    assert photos >= 4  # two of the batch, and two further ones
    paired = ("rpo", "dpo", "online", "dreambooth", "custom_diffusion")
    assert (rows > photos) == (name in paired)


@pytest.mark.parametrize("name", ["rpo", "similarity"])
def test_equal_weights_are_no_weights(backbone: Backbone, name: str) -> None:
    plain = loss_of(backbone, name, {})[0].loss
    weights = torch.full((PHOTOS, 1, RESOLUTION, RESOLUTION), 0.5)
    torch.testing.assert_close(loss_of(backbone, name, {"photo_weights": weights})[0].loss, plain)
    other = loss_of(backbone, name, {"photo_weights": pixel_weights()})[0].loss
    assert not torch.equal(other, plain)


def test_only_a_photo_without_a_caption_has_textual_inversions_sentences(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpo.learners.token import Token
    from rpo.methods.textual_inversion import TEMPLATES

    said: list[str] = []
    encode = Token.encode
    monkeypatch.setattr(
        Token, "encode", lambda self, texts: said.extend(texts) or encode(self, texts)
    )
    _, data, calls = loss_of(
        backbone, "textual_inversion", {"photo_prompts": CAPTIONS}, training={"photos": 8}
    )
    sentences = {template.replace("{}", "[V] dog") for template in TEMPLATES}
    kinds = set()
    for latent, text in zip(calls[0][0], said[-len(calls[0][0]) :], strict=True):
        photo = next(k for k, own in enumerate(data.reference_latents) if torch.equal(own, latent))
        assert text == CAPTIONS[photo] if CAPTIONS[photo] else text in sentences
        kinds.add(photo)
    assert kinds == {0, 1, 2}


def test_a_method_that_knows_nothing_of_them_is_refused(backbone: Backbone) -> None:
    class Own(Similarity):
        heeds_photos = False

    task: Task = make_task(backbone, make_config("similarity"))
    assert isinstance(Own(task), Method)
    for given in ({"photo_prompts": CAPTIONS}, {"photo_weights": pixel_weights()}):
        with pytest.raises(UserError, match=r"method Own: .* set photos.captions=false"):
            Own(replace(task, **given))
