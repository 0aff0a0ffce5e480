"""DisenBooth: its terms by hand, its adapter, and its life in a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jobs import World, make_world, results
from safetensors import safe_open
from tiny import LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor

import rpo
from rpo.config import METHODS, Config, DisenBoothConfig, TrainingConfig, load_config
from rpo.errors import UserError
from rpo.events import StepDone, Validated
from rpo.learners import learner_class
from rpo.methods.disenbooth import DisenBooth, ImageAdapter
from rpo.methods.method import Task
from rpo.models.backbone import Backbone
from rpo.runs.checkpoint import load_state

PHOTOS, FEATURES = 3, 8


def make_method(backbone: Backbone, width: int = FEATURES, **more: Any) -> DisenBooth:
    """For three random photos and features of that width."""
    generator = torch.Generator().manual_seed(5)
    pictures = torch.rand(PHOTOS, 3, RESOLUTION, RESOLUTION, generator=generator) * 2 - 1
    features = torch.randn(PHOTOS, width, generator=generator)
    subject: Any = SimpleNamespace(images=[None] * PHOTOS, tensor=lambda _: pictures)
    reward: Any = SimpleNamespace(references=features / features.norm(dim=1, keepdim=True))
    config = Config(method="disenbooth", noun="dog", **more)
    return DisenBooth(Task(backbone, config, subject, (), reward))


def prepared(method: DisenBooth) -> Any:
    steps = method.prepare()
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


def terms_of(method: DisenBooth, step: int = 0) -> tuple[Any, Any, Any, Any]:
    """The learner, the data, a batch and what the method says of it."""
    learner = learner_class(method.config.training.weights)(method.backbone, method.config)
    data = prepared(method)
    batch = method.batch(data, step)
    return learner, data, batch, method.loss(learner, data, batch)


# --- the adapter -------------------------------------------------------------------------


def test_the_adapter_is_the_authors_where_the_widths_agree() -> None:
    torch.manual_seed(0)
    adapter = ImageAdapter(FEATURES, FEATURES).double()
    with torch.no_grad():
        adapter.mask.normal_()
    feature = torch.randn(2, FEATURES, dtype=torch.float64)
    first, last = adapter.mlp[0], adapter.mlp[2]
    # disen_net.py: adapter(sigmoid(mask) * f) + sigmoid(mask) * f, f of elements around one
    masked = feature * math.sqrt(FEATURES) / (1 + torch.exp(-adapter.mask))
    hidden = (masked @ first.weight.T + first.bias).clamp_min(0)
    expected = hidden @ last.weight.T + last.bias + masked
    torch.testing.assert_close(adapter(feature), expected)
    assert {name for name, _ in adapter.named_parameters()} == {
        "mask",
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.2.weight",
        "mlp.2.bias",
    }


def test_other_widths_take_a_linear_map() -> None:
    adapter = ImageAdapter(4, 6)
    feature = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
    # a mask of 0 lets half of the feature through; 4 elements of a unit vector, times two
    masked = feature / 2 * 2
    expected = masked @ adapter.skip.weight.T + adapter.mlp(masked)
    torch.testing.assert_close(adapter(feature), expected)
    assert adapter(feature).shape == (1, 6)


def test_the_adapter_is_a_function_of_the_seed_alone() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = make_method(backbone).adapter.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = make_method(backbone).adapter, make_method(backbone, seed=1).adapter
    assert all(torch.equal(value, first[name]) for name, value in again.state_dict().items())
    assert not torch.equal(other.mlp[0].weight, first["mlp.0.weight"])


# --- the loss ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sdxl", "sd3", "flux-dev"])
def test_the_three_terms_against_a_computation_by_hand(kind: str) -> None:
    backbone = tiny_backbone(kind)
    weights = DisenBoothConfig(weak_weight=0.3, disentangle_weight=0.7)
    training = TrainingConfig(batch_size=2, photos=2, weights="lora")
    method = make_method(backbone, training=training, disenbooth=weights)
    with torch.no_grad():  # two of the photos' conditions differ well
        method.adapter.mask.copy_(torch.linspace(-3, 3, FEATURES))
    learner, data, batch, terms = terms_of(method)

    family, denoiser = backbone.family, learner.denoiser
    text = data.reference_conditions
    photos = [*batch.photos.tolist(), *batch.more[0].tolist()]
    timesteps = [*batch.timesteps[0].tolist(), *batch.more[1].tolist()]
    noises = [*batch.noise[0], *batch.more[2]]
    assert len(photos) == 4
    both, alone, cosines = [], [], []
    for photo, timestep, noise in zip(photos, timesteps, noises, strict=True):
        with torch.no_grad():
            own = method.adapter(method.features[photo][None])[0].double()
        latent, t = data.reference_latents[photo][None], torch.tensor([timestep])
        noisy = backbone.add_noise(latent, noise[None], t)
        target = backbone.target(latent, noise[None], t).double()
        for added, errors in ((own, both), (torch.zeros_like(own), alone)):
            # each token's state gets the photo's vector; the pooled vector stays
            tokens = torch.stack([state.double() + added for state in text.tokens[0]])[None]
            told = replace(text, tokens=tokens.float())
            with torch.no_grad():
                answer = family.predict(denoiser, noisy, t, told, 1.0).double()
            errors.append(float(((answer - target) ** 2).mean()))
        mean = torch.stack([state.double() for state in text.tokens[0]]).mean(0)
        cosines.append(float(mean @ own / math.sqrt(float(mean @ mean) * float(own @ own))))
    expected = {
        "similarity": sum(both) / 4,
        "weak": sum(alone) / 4,
        "cosine": sum(cosines) / 4,
    }
    figures = {name: value.item() for name, value in terms.figures.items()}
    assert figures == pytest.approx(expected, rel=1e-4)
    total = expected["similarity"] + 0.3 * expected["weak"] + 0.7 * expected["cosine"]
    assert terms.loss.item() == pytest.approx(total, rel=1e-4)
    assert both != pytest.approx(alone, rel=1e-4)


def silence(adapter: ImageAdapter) -> None:
    """Makes it say zero whatever it is shown."""
    with torch.no_grad():
        adapter.mask.fill_(-math.inf)
        for layer in (adapter.mlp[0], adapter.mlp[2]):
            layer.bias.zero_()


def test_a_silent_adapter_and_equal_weights_are_twice_the_similarity_loss() -> None:
    weights = DisenBoothConfig(weak_weight=1.0, disentangle_weight=0.0)
    method = make_method(tiny_backbone(), disenbooth=weights)
    silence(method.adapter)
    learner, data, batch, terms = terms_of(method)
    plain = super(DisenBooth, method).loss(learner, data, batch)
    assert terms.loss.item() == pytest.approx(2 * plain.loss.item(), rel=1e-6)
    assert plain.loss.item() > 0


def test_without_weak_denoising_there_is_one_row_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    whole = Backbone.denoising_error

    def spy(self: Backbone, denoiser: Any, latents: Tensor, *rest: Any) -> Tensor:
        rows.append(len(latents))
        return whole(self, denoiser, latents, *rest)

    monkeypatch.setattr(Backbone, "denoising_error", spy)
    for weak in (0.01, 0.0):
        method = make_method(
            tiny_backbone(),
            training=TrainingConfig(batch_size=2, photos=2),
            disenbooth=DisenBoothConfig(weak_weight=weak),
        )
        *_, terms = terms_of(method)
        assert ("weak" in terms.figures) == (weak > 0)
        assert rows.pop() == 2 * METHODS["disenbooth"].passes(method.config).learning


@pytest.mark.parametrize("kind", ["epsilon", "sd3", "flux-schnell"])
@pytest.mark.parametrize("width", [FEATURES, 16])  # 16 is the width of epsilon's states
def test_gradients_reach_all_of_the_adapter_from_the_denoising_alone(kind: str, width: int) -> None:
    weights = DisenBoothConfig(disentangle_weight=0.0)
    method = make_method(tiny_backbone(kind), width, disenbooth=weights)
    learner, _, _, terms = terms_of(method)
    terms.loss.backward()
    for name, parameter in method.adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert any(p.grad is not None for p in learner.parameters().values())
    has_map = isinstance(method.adapter.skip, torch.nn.Linear)
    assert has_map == (width != prepared(method).reference_conditions.tokens.shape[-1])


def test_in_bfloat16_the_adapter_stays_in_single_precision() -> None:
    method = make_method(tiny_backbone(precision="bf16"), precision="bf16")
    *_, terms = terms_of(method)
    terms.loss.backward()
    assert {p.dtype for p in method.adapter.parameters()} == {torch.float32}
    assert terms.loss.dtype == torch.float32
    assert method.adapter.mask.grad is not None


def test_a_mirrored_photo_has_the_features_of_its_original() -> None:
    method = make_method(tiny_backbone(), training=TrainingConfig(flip=True))
    data = prepared(method)
    assert data.features.shape == (2 * PHOTOS, FEATURES)
    assert torch.equal(data.features[:PHOTOS], data.features[PHOTOS:])
    assert data.reference_latents.shape == (2 * PHOTOS, *LATENT_SHAPE)


@pytest.mark.parametrize(
    "reward",
    [SimpleNamespace(), SimpleNamespace(references=torch.eye(4))],
    ids=["without", "of other photos"],
)
def test_a_reward_without_the_photos_features_is_refused(reward: Any) -> None:
    task = make_method(tiny_backbone()).task
    with pytest.raises(UserError, match=r"SimpleNamespace has no `references` of these 3 photos"):
        DisenBooth(replace(task, reward=reward))


def test_its_settings() -> None:
    config = load_config(method="disenbooth", noun="dog")
    assert config.training.weights == "lora"
    assert (config.disenbooth.weak_weight, config.disenbooth.disentangle_weight) == (0.01, 0.001)
    assert load_config(method="disenbooth", overrides=["training.weights=full"]).training.weights
    with pytest.raises(UserError, match=r"disenbooth.weak_weight must be >= 0"):
        load_config(overrides=["disenbooth.weak_weight=-1"])


# --- runs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    kinds = ("epsilon", "sd3", "flux-dev")
    return {kind: make_world(tmp_path_factory.mktemp(kind) / "world", kind) for kind in kinds}


def events_of(world: World, out: Path, resume: bool = False, **more: Any) -> Iterator[rpo.Event]:
    more = {"resolution": RESOLUTION, **more}  # FLUX's own is another
    return rpo.iterate(
        rpo.Subject.from_folder(world.photos, "dog"),
        model=str(world.model),
        method="disenbooth",
        out=out,
        resume=resume,
        settings=world.settings(**more),
    )


@pytest.mark.parametrize("kind", ["epsilon", "sd3", "flux-dev"])
@pytest.mark.parametrize("weights", ["full", "lora", "dora"])
def test_a_run_with_each_learner(
    worlds: dict[str, World], tmp_path: Path, kind: str, weights: str
) -> None:
    out = tmp_path / "run"
    chosen = {"training.weights": weights, "validation.keep": "last"}
    steps = [e for e in events_of(worlds[kind], out, **chosen) if isinstance(e, StepDone)]
    assert [set(step.figures) for step in steps] == [{"similarity", "weak", "cosine"}] * 4
    state = load_state(out / "last" / "trainer.safetensors")
    adapter = {name for name in state["weights"] if name.startswith("image_adapter.")}
    assert {"image_adapter.mask", "image_adapter.mlp.2.bias"} <= adapter
    assert state["weights"]["image_adapter.mask"].abs().max() > 0  # it began at zero and learned
    for file in (out / "best").rglob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            assert not [name for name in tensors.keys() if "image_adapter" in name]  # noqa: SIM118
    assert len(rpo.load_run(out).generate("a [V] dog")) == 1


@pytest.mark.parametrize(("at", "step"), [(StepDone, 3), (Validated, 2)])
@pytest.mark.parametrize("more", [{}, {"training.ema": 0.9, "offload": True}], ids=["", "ema"])
def test_resumed_equals_uninterrupted(
    worlds: dict[str, World], tmp_path: Path, at: type, step: int, more: dict[str, Any]
) -> None:
    world = worlds["epsilon"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert list(events_of(world, whole, **more))
    events = events_of(world, out, **more)
    for event in events:
        if isinstance(event, at) and getattr(event, "step", None) == step:
            break
    events.close()  # type: ignore[attr-defined]
    assert list(events_of(world, out, resume=True, **more))
    assert results(out) == results(whole)
