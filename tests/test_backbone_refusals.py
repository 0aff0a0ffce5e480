"""Models, schedulers, resolutions, prompts and solvers that do not fit are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    AutoPipelineForText2Image,
    FlowMatchEulerDiscreteScheduler,
)
from families import backbone_of
from tiny import RESOLUTION, tiny_pipeline

from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.sampling import FLOW_SOLVER, make_solver, sample
from rpo.quiet import quiet


def refused(message: str, pipeline: Any, resolution: int = RESOLUTION) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Backbone(pipeline, "cpu", resolution)
    assert "\n" not in str(caught.value)


def test_models_for_something_else_are_refused() -> None:
    pipeline = tiny_pipeline("sdxl")
    pipeline.unet.register_to_config(in_channels=9)
    refused("reads 9 channels, its pictures have 4; .*not an inpainting one", pipeline)
    pipeline = tiny_pipeline("sdxl")
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    refused("latent consistency model", pipeline)
    pipeline = tiny_pipeline("flux-dev")
    pipeline.transformer.register_to_config(in_channels=96)
    refused("reads 96 channels, its pictures have 16", pipeline)

    with quiet():
        from diffusers import FluxFillPipeline, StableDiffusionXLImg2ImgPipeline

        flux, sdxl = tiny_pipeline("flux-dev"), tiny_pipeline("sdxl")
        parts = {k: part for k, part in flux.components.items() if part is not None}
        fill = FluxFillPipeline(**parts)
        image_to_image = StableDiffusionXLImg2ImgPipeline.from_pipe(sdxl)
    refused("is a FluxFillPipeline; use a plain text-to-image model", fill)
    refused("is a StableDiffusionXLImg2ImgPipeline", image_to_image)
    assert type(AutoPipelineForText2Image.from_pipe(image_to_image)) is type(sdxl)


def test_schedulers_of_another_kind_are_refused() -> None:
    flow, diffusion = tiny_pipeline("sd3"), tiny_pipeline("sdxl")
    flow.scheduler, diffusion.scheduler = diffusion.scheduler, flow.scheduler
    refused("a EulerDiscreteScheduler; this family needs a FlowMatchEulerDiscreteScheduler", flow)
    refused("FlowMatchEulerDiscreteScheduler.*epsilon and v_prediction", diffusion)


def test_resolutions_that_the_transformers_cannot_read_are_refused() -> None:
    for kind in ("sd3", "flux-dev", "z-image"):  # 2 pixels a latent cell, 2 cells a token
        refused("resolution must be a multiple of 4, not 18", tiny_pipeline(kind), 18)
    refused("resolution must be at most 32 for this model, not 36", tiny_pipeline("sd3"), 36)
    assert Backbone(tiny_pipeline("sd3"), "cpu", 32).latent_shape == (4, 16, 16)
    assert Backbone(tiny_pipeline("sd3"), "cpu").resolution == RESOLUTION
    # FLUX's files name no size: 128 latent cells, 1024 pixels with the real autoencoder.
    assert Backbone(tiny_pipeline("flux-dev"), "cpu").latent_shape == (4, 128, 128)
    refused("resolution must be at most 512 for this model, not 516", tiny_pipeline("z-image"), 516)


def test_long_prompts() -> None:
    too_long = "x" * 60  # CLIP and T5 read 40 here
    for kind in ("sdxl", "sd3", "flux-dev"):  # 60 letters, and 2 marks or a space and 1 mark
        with pytest.raises(UserError, match="has 62 tokens and the model reads 40"):
            backbone_of(kind).encode_prompts(["a dog", too_long])
    for kind, tokenizer in (("sd3", "tokenizer_3"), ("flux-dev", "tokenizer_2")):
        pipeline = tiny_pipeline(kind)
        getattr(pipeline, tokenizer).model_max_length = 64  # T5 reads more, CLIP still 40
        conditions = Backbone(pipeline, "cpu", RESOLUTION).encode_prompts([too_long, "x" * 61])
        assert not torch.equal(conditions.tokens[0], conditions.tokens[1])
        assert torch.equal(conditions.pooled[0], conditions.pooled[1])
    with pytest.raises(UserError, match="has 41 tokens and the model reads 40"):
        backbone_of("sd3-without-t5").encode_prompts(["x" * 39])
    with pytest.raises(UserError, match="has 41 tokens and the model reads 40"):
        backbone_of("z-image").encode_prompts(["a dog", "x" * 38])  # and 3 marks


def test_solvers_of_another_process_are_refused() -> None:
    for kind in ("sdxl", "sd3"):
        with pytest.raises(UserError, match=r"one of dpm\+\+, ddim, not 'euler'"):
            make_solver(backbone_of(kind), "euler")
    with pytest.raises(UserError, match="not 'flow-euler'"):
        make_solver(backbone_of("sdxl"), FLOW_SOLVER)
    for name in ("ddim", FLOW_SOLVER):
        assert type(make_solver(backbone_of("sd3"), name)) is FlowMatchEulerDiscreteScheduler


def test_flux_has_no_negative_prompt() -> None:
    backbone = backbone_of("flux-dev")
    conditions = backbone.encode_prompts(["a dog", "ugly"])
    with pytest.raises(UserError, match="no classifier-free guidance"):
        sample(
            backbone,
            backbone.denoiser,
            conditions[:1],
            [0],
            steps=1,
            guidance_scale=3,
            negative=conditions[1:],
        )
