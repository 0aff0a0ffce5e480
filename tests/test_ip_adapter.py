"""IP-Adapter: diffusers' own pictures, a base model left as it was, no pickle read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from ip_adapters import adapter_weights, save_adapter, save_vision
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import KINDS, LATENT_SHAPE, save_tiny

from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import NumberedPrompt, Reference
from rpo.evaluation.untrained import Untrained, draw_untrained, open_untrained
from rpo.models.ip_adapter import find_ip_adapter
from rpo.models.loading import pipeline_class
from rpo.models.sampling import initial_noise
from rpo.quiet import quiet
from rpo.seeds import derive_seed

PROMPTS = [NumberedPrompt(1, "a {} in snow", "other"), NumberedPrompt(2, "a red {}", "colour")]
TEXTS = ["a dog in snow", "a dog in snow", "a red dog", "a red dog"]
STEPS, GUIDANCE = 3, 4.0
SETTINGS = [f"sampling.steps={STEPS}", f"sampling.guidance_scale={GUIDANCE}"]
SETTINGS += ["sampling.scheduler=dpm++", "sampling.batch_size=3"]


def photos(seed: int = 0, count: int = 3) -> tuple[Image.Image, ...]:
    """Random pictures of 16 pixels, smooth enough for two patches to tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(256, (count, 2, 2, 3), generator=generator, dtype=torch.uint8)
    return tuple(Image.fromarray(c.numpy()).resize((16, 16), Image.Resampling.BOX) for c in cells)


def subject(seed: int = 0) -> Reference:
    return Reference("rex", "dog", "live", photos(seed))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("kleine Modelle")
    return {kind: save_tiny(root / kind, kind) for kind in ("epsilon", "sdxl", "sd3")}


def opened(model: Path, adapter: Path | None, scale: float | None = None) -> Untrained:
    return open_untrained(str(model), SETTINGS, "cpu", adapter, scale)


def drawn(model: Untrained, seed: int = 0, with_photos: bool = True) -> Drawn:
    return draw_untrained(model, subject(seed), PROMPTS, 2, with_photos=with_photos)


def pixels(pictures: Any) -> torch.Tensor:
    shape = (len(pictures), 16, 16, 3)
    flat = torch.frombuffer(bytearray(b"".join(p.tobytes() for p in pictures)), dtype=torch.uint8)
    return flat.view(shape).float()


def by_diffusers(kind: str, model: Path, adapter: Path, scale: float) -> list[Image.Image]:
    """The same pictures by nothing but diffusers' own calls, as its guide has them."""
    with quiet():
        pipeline = pipeline_class(KINDS[kind][0]).from_pretrained(model)
        pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name)
    pipeline.set_ip_adapter_scale(scale)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++"
    )
    return pipeline(
        TEXTS,
        ip_adapter_image=[list(photos())],
        latents=initial_noise(LATENT_SHAPE, [derive_seed(0, "test", k) for k in range(4)]),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
    ).images


@pytest.mark.parametrize(
    ("kind", "form"), [("epsilon", "plain"), ("epsilon", "plus"), ("sdxl", "plain")]
)
def test_pictures_are_those_of_diffusers(
    kind: str, form: str, models: dict[str, Path], tmp_path: Path
) -> None:
    adapter = save_adapter(tmp_path, kind, form)
    model = opened(models[kind], adapter, 0.7)
    found = pixels(drawn(model).images)
    expected = pixels(by_diffusers(kind, models[kind], adapter, 0.7))
    assert (found - expected).abs().max() <= 1  # a rounding
    # and all that they should depend on does something
    for other in (
        drawn(opened(models[kind], adapter, 0.1)),
        drawn(model, seed=9),
        drawn(model, with_photos=False),
    ):
        assert (pixels(other.images) - found).abs().max() > 8


def test_the_base_model_is_left_as_it_was(models: dict[str, Path], tmp_path: Path) -> None:
    plain = drawn(opened(models["epsilon"], None), with_photos=False).images
    model = opened(models["epsilon"], save_adapter(tmp_path))
    first = drawn(model).images
    base = drawn(model, with_photos=False).images
    assert [p.tobytes() for p in base] == [p.tobytes() for p in plain]
    assert [p.tobytes() for p in drawn(model).images] == [p.tobytes() for p in first]
    assert model.adapter is not None
    assert model.adapter.scale == 0.5


def test_pictures_and_photos_stand_where_they_belong(
    models: dict[str, Path], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    model = opened(models["epsilon"], save_adapter(tmp_path))
    found = draw_untrained(
        model, subject(), PROMPTS, 2, lambda *told: seen.append(told), with_photos=True
    )
    assert [(p.number, k) for p, k in zip(found.prompts, found.numbers, strict=True)] == [
        *((1, 1), (1, 2), (2, 1), (2, 2)),
    ]
    assert seen == [(0, 4), (3, 4), (4, 4)]  # by batches of three
    assert (found.class_tuned, found.class_base) == ((), ())
    # the photos' order changes nothing: the U-Net attends to all their tokens at once
    turned = Reference("rex", "dog", "live", photos()[::-1])
    again = draw_untrained(model, turned, PROMPTS, 2, with_photos=True)
    assert (pixels(again.images) - pixels(found.images)).abs().max() <= 1


def test_half_precision_draws_nearly_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path)
    exact = drawn(opened(models["epsilon"], adapter))
    half = open_untrained(str(models["epsilon"]), [*SETTINGS, "precision=bf16"], "cpu", adapter)
    difference = pixels(drawn(half).images) - pixels(exact.images)
    assert 0 < difference.abs().mean() < 4


def test_offloading_changes_nothing(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path)
    model = open_untrained(str(models["epsilon"]), [*SETTINGS, "offload=true"], "cpu", adapter)
    expected = drawn(opened(models["epsilon"], adapter)).images
    assert [p.tobytes() for p in drawn(model).images] == [p.tobytes() for p in expected]


# --- files -------------------------------------------------------------------------------


def test_a_folder_or_its_file(tmp_path: Path) -> None:
    file = save_adapter(tmp_path / "mit Leerzeichen", form="plus")
    found = find_ip_adapter(file.parent)
    assert found == find_ip_adapter(file)
    assert (found.weights, found.encoder) == (file, file.parent / "image_encoder")
    assert (found.width, found.projected) == (12, False)
    plain = find_ip_adapter(save_adapter(tmp_path / "plain"))
    assert (plain.width, plain.projected) == (8, True)
    save_file({"a": torch.ones(1)}, file.parent / "another.safetensors")
    with pytest.raises(
        UserError, match=r"holds 2 adapters; .*another.safetensors, ip-adapter-plus"
    ):
        find_ip_adapter(file.parent)
    assert find_ip_adapter(file) == found


def test_a_pickle_is_refused_and_the_advice_converts_it(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_adapter(tmp_path)
    state: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(file).items():
        part, _, rest = name.partition(".")
        state.setdefault(part, {})[rest] = tensor
    file.unlink()
    pickled = tmp_path / "ip-adapter_sd15.bin"
    torch.save(state, pickled)
    for place in (tmp_path, pickled):
        with pytest.raises(UserError, match="pickled files are refused") as refused:
            find_ip_adapter(place)
    advice = re.search(r"convert it: (.*)", str(refused.value))
    assert advice
    scope = {"torch": torch, "save_file": save_file, "FILE": pickled, "NEW": file}
    exec(advice[1], scope)  # the words of the message themselves
    assert load_file(file).keys() == adapter_weights().keys()
    pickled.unlink()
    assert len(drawn(opened(models["epsilon"], tmp_path)).images) == 4


def face_id() -> dict[str, torch.Tensor]:
    state = {"image_proj.proj.0.weight": torch.ones(4, 2), "image_proj.norm.weight": torch.ones(4)}
    return state | {"ip_adapter.1.to_k_ip.weight": torch.ones(4, 4)}


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder; `hf download h94/IP-Adapter "):
        find_ip_adapter(tmp_path / "gone")
    with pytest.raises(UserError, match="holds no .safetensors file of an adapter"):
        find_ip_adapter(tmp_path)
    file = tmp_path / "x.safetensors"
    for state, said in (
        ({"lora_unet_a.alpha": torch.ones(1)}, "no IP-Adapter's weights"),
        ({"image_proj.proj.weight": torch.ones(4, 2)}, "no IP-Adapter's weights"),
        (face_id(), "a FaceID adapter"),
    ):
        save_file(state, file)
        with pytest.raises(UserError, match=said):
            find_ip_adapter(file)
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not readable as safetensors"):
        find_ip_adapter(file)


def test_encoders_that_are_missing_pickled_or_of_another_adapter(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    file = save_adapter(tmp_path)
    encoder = tmp_path / "image_encoder"
    save_vision(encoder, projected=6)
    with pytest.raises(UserError, match=r"gives 6 numbers a picture where .* reads 8"):
        opened(models["epsilon"], file)
    weights = load_file(encoder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be loaded .*visual_projection.weight"):
        opened(models["epsilon"], file)
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no config.json and .safetensors .*pickled .bin"):
        find_ip_adapter(file)
    (encoder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"no config.json and .safetensors .* trained with$"):
        find_ip_adapter(file)


def test_models_that_it_does_not_fit(tmp_path: Path, models: dict[str, Path]) -> None:
    file = save_adapter(tmp_path)
    with pytest.raises(
        UserError, match=r"not for this model .*; give the adapter of a Stable .*XL"
    ):
        opened(models["sdxl"], file)
    with pytest.raises(UserError, match="the model is a Stable Diffusion 3 or 3.5; IP-Adapter is"):
        opened(models["sd3"], file)
    with pytest.raises(UserError, match="--ip-adapter-scale must be between 0 and 1, not 1.5"):
        opened(models["epsilon"], file, 1.5)
    with pytest.raises(UserError, match="--ip-adapter-scale is of --ip-adapter"):
        opened(models["epsilon"], None, 0.5)
    quantised = [*SETTINGS, "training.weights=lora", "quantize=nf4"]
    with pytest.raises(UserError, match="--ip-adapter: not on a model in 8 or 4 bits"):
        open_untrained(str(models["epsilon"]), quantised, "cpu", file)
