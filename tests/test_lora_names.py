"""Names of layers in other tools, against lists written from the published models' structure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_unet_lora_key,
    _maybe_map_sgm_blocks_to_diffusers,
)
from torch import nn

from rpo.errors import UserError
from rpo.exports.lora_file import Adapter, Layer
from rpo.exports.lora_names import Place, kohya_key, obstacle, place_of
from rpo.models.families.facts import QKV

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
SD3, FLUX = "StableDiffusion3Pipeline", "FluxPipeline"


@cache
def real(kind: str) -> nn.Module:
    """A published denoiser without its numbers."""
    with torch.device("meta"):
        if kind == SD:  # runwayml's 1.5
            return UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        if kind == SDXL:
            return UNet2DConditionModel(
                sample_size=128,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(320, 640, 1280),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )
        if kind == SD3:
            return SD3Transformer2DModel(
                num_layers=2, qk_norm="rms_norm", dual_attention_layers=(0,)
            )
        return FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)


def layers(kind: str, inside: str = "") -> list[str]:
    """The linear and convolutional layers whose name holds `inside`."""
    found = (nn.Linear, nn.Conv2d)
    named = real(kind).named_modules()
    return [name for name, module in named if isinstance(module, found) and inside in name]


def transformer(prefix: str, depth: int) -> set[str]:
    """The layers of one stack of transformer blocks, as sd-scripts lists them."""
    block = [f"attn{n}_to_{p}" for n in (1, 2) for p in ("q", "k", "v", "out_0")]
    block += ["ff_net_0_proj", "ff_net_2"]
    inner = [f"transformer_blocks_{i}_{part}" for i in range(depth) for part in block]
    return {f"lora_unet_{prefix}_{part}" for part in ["proj_in", "proj_out", *inner]}


def union(parts: Iterable[set[str]]) -> set[str]:
    return set().union(*parts)


def test_sd15_has_kohyas_192_names() -> None:
    places = [f"down_blocks_{b}_attentions_{a}" for b in (0, 1, 2) for a in (0, 1)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{b}_attentions_{a}" for b in (1, 2, 3) for a in (0, 1, 2)]
    expected = union(transformer(place, 1) for place in places)
    got = [kohya_key(place_of(SD, name)) for name in layers(SD, "attentions")]
    assert len(expected) == len(got) == 192  # as sd-scripts reports when it starts
    assert set(got) == expected


def test_sdxl_has_kohyas_722_names() -> None:
    depths = {f"input_blocks_{n}_1": 2 for n in (4, 5)}
    depths |= {f"input_blocks_{n}_1": 10 for n in (7, 8)} | {"middle_block_1": 10}
    depths |= {f"output_blocks_{n}_1": 10 for n in (0, 1, 2)}
    depths |= {f"output_blocks_{n}_1": 2 for n in (3, 4, 5)}
    expected = union(transformer(place, depth) for place, depth in depths.items())
    got = [kohya_key(place_of(SDXL, name)) for name in layers(SDXL, "attentions")]
    assert len(expected) == len(got) == 722
    assert set(got) == expected


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
        ("down_blocks.2.resnets.1.time_emb_proj", "input_blocks.8.0.emb_layers.1"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("up_blocks.0.resnets.2.conv2", "output_blocks.2.0.out_layers.3"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.2.conv1", "output_blocks.8.0.in_layers.2"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("conv_out", "out.2"),
    ],
)
def test_sdxl_outside_its_attention(layer: str, name: str) -> None:
    """The original checkpoint's keys."""
    assert place_of(SDXL, layer) == Place(name)
    assert layer in layers(SDXL)


def test_every_layer_of_sdxl_is_read_back_by_diffusers() -> None:
    """diffusers' own reader of kohya's SDXL files leads each name to the layer it came from."""
    for layer in layers(SDXL):
        key = f"{kohya_key(place_of(SDXL, layer))}.lora_down.weight"
        read = _maybe_map_sgm_blocks_to_diffusers({key: None}, real(SDXL).config)
        (name,) = (_convert_unet_lora_key(key) for key in read)
        name = re.sub(r"\.?_?lora\.down\.weight$", "", name.replace(".processor", ""))
        assert name == layer.replace("to_out.0", "to_out"), key


def test_sdxl_names_are_unique() -> None:
    names = [place_of(SDXL, layer).name for layer in layers(SDXL)]
    assert len(set(names)) == len(names) > 722


def test_sd3_block() -> None:
    """Stability's names of a joint block (3.5 medium has a second attention)."""
    expected = {
        "joint_blocks.0.x_block.attn.qkv": 3,
        "joint_blocks.0.x_block.attn2.qkv": 3,
        "joint_blocks.0.context_block.attn.qkv": 3,
        **{
            f"joint_blocks.0.{part}": 1
            for part in (
                "x_block.attn.proj",
                "x_block.attn2.proj",
                "context_block.attn.proj",
                "x_block.mlp.fc1",
                "x_block.mlp.fc2",
                "context_block.mlp.fc1",
                "context_block.mlp.fc2",
            )
        },
    }
    names = [name for name in layers(SD3, "transformer_blocks.0.") if "norm" not in name]
    got: dict[str, set[int]] = {}
    for layer in names:
        place = place_of(SD3, layer)
        assert len(place.sizes) == expected[place.name]
        got.setdefault(place.name, set()).add(place.block)
    assert {name: len(blocks) for name, blocks in got.items()} == expected
    assert place_of(SD3, "transformer_blocks.1.attn.to_v").block == 2
    assert place_of(SD3, "transformer_blocks.1.attn.add_k_proj").block == 1


def flux_adapter(rank: int = 2) -> Adapter:
    """A LoRA of every layer in a block of each kind, in FLUX.1's own sizes."""
    generator = torch.Generator().manual_seed(0)
    modules = dict(real(FLUX).named_modules())
    names = layers(FLUX, "transformer_blocks.0.")
    found = {}
    for name in names:
        module: Any = modules[name]
        down = torch.randn(rank, module.in_features, generator=generator)
        up = torch.randn(module.out_features, rank, generator=generator)
        found[name] = Layer(down, up, scale=0.5)
    return Adapter("transformer", found, {})


def test_flux_is_read_back_by_diffusers() -> None:
    """diffusers' own reader of kohya's FLUX files takes the stacked projections apart again."""
    adapter = flux_adapter()
    tensors = adapter.kohya(FLUX, 0)
    assert len([key for key in tensors if key.endswith("lora_up.weight")]) == 10 + 3
    assert tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (9216, 6)
    assert tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"].shape == (21504, 8)
    read = _convert_kohya_flux_lora_to_diffusers(tensors)
    assert {key.rsplit(".lora_", 1)[0] for key in read} == {
        f"transformer.{name}" for name in adapter.layers
    }
    probe = torch.Generator().manual_seed(1)
    for name, layer in adapter.layers.items():
        down, up = (read[f"transformer.{name}.lora_{x}.weight"] for x in "AB")
        x = torch.randn(layer.down.shape[1], generator=probe)
        expected = 0.5 * (layer.up @ (layer.down @ x))
        torch.testing.assert_close(up @ (down @ x), expected, rtol=1e-4, atol=1e-3)


def test_z_image_block() -> None:
    """As ComfyUI's z_image_to_diffusers (comfy/utils.py) has them."""
    ours = {
        "layers.7.attention.to_k": Place("layers.7.attention.qkv", 1, QKV),
        "noise_refiner.1.attention.to_out.0": Place("noise_refiner.1.attention.out"),
        "context_refiner.0.feed_forward.w3": Place("context_refiner.0.feed_forward.w3"),
        "layers.0.adaLN_modulation.0": Place("layers.0.adaLN_modulation.0"),
    }
    assert {layer: place_of("ZImagePipeline", layer) for layer in ours} == ours


@pytest.mark.parametrize(
    ("pipeline", "layer"),
    [
        (SDXL, "down_blocks.0.resnets.0.norm1"),
        (SDXL, "something.else"),
        (SD3, "transformer_blocks.0.norm1.linear"),
        (SD3, "context_embedder"),
        (FLUX, "x_embedder"),
        ("ZImagePipeline", "all_x_embedder.2-1"),
        ("AnotherPipeline", "layers.0.attention.to_q"),
        (FLUX, "transformer_blocks.0.attn.norm_q"),
        ("AnyPipeline", "transformer_blocks.0.attn.to_q"),
    ],
)
def test_a_layer_without_a_name_is_refused(pipeline: str, layer: str) -> None:
    with pytest.raises(UserError, match=f"{layer} has no name in this format; use --to diffusers"):
        place_of(pipeline, layer)


# --- what a format cannot hold -----------------------------------------------------------


def kohyas_loader(kind: str) -> set[str]:
    """The layers that sd-scripts' LoRANetwork looks at in diffusers' U-Net: those within its
    UNET_TARGET_REPLACE_MODULE and UNET_TARGET_REPLACE_MODULE_CONV2D_3X3, by the modules' classes.
    """
    wanted = {"Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"}
    named = real(kind).named_modules()
    roots = [f"{name}." for name, module in named if type(module).__name__ in wanted]
    return {layer for layer in layers(kind) if layer.startswith(tuple(roots))}


@pytest.mark.parametrize(("kind", "outside"), [(SD, 4), (SDXL, 6)])
def test_what_kohyas_loader_leaves_out_is_refused(kind: str, outside: int) -> None:
    read = kohyas_loader(kind)
    assert obstacle("kohya", kind, sorted(read)) == ""
    left_out = set(layers(kind)) - read
    assert len(left_out) == outside
    for layer in left_out:
        reason = obstacle("kohya", kind, [*read, layer])
        assert reason.startswith(f"kohya's loader leaves out {layer} without a word; use --to com")
    assert obstacle("comfyui", kind, layers(kind)) == ""
    assert obstacle("lora", kind, ["anything"]) == ""


def test_only_six_names_are_listed() -> None:
    names = [f"block{k}" for k in range(8)]
    listed = "block0, block1, block2, block3, block4, block5 and 2 more has no name"
    assert listed in obstacle("comfyui", FLUX, names)


def test_flux_as_dora() -> None:
    """A single block's first layer is q, k, v and its MLP in one; kohya has one magnitude a row."""
    attention = [name for name in layers(FLUX, "attn.") if "norm" not in name]
    assert obstacle("kohya", FLUX, attention) == ""
    reason = obstacle("kohya", FLUX, attention, attention)
    assert reason.startswith("single_blocks.0.linear1, single_blocks.1.linear1 is trained as DoRA")
    whole = [*attention, *layers(FLUX, "proj_mlp")]
    assert obstacle("kohya", FLUX, whole, whole) == ""
    assert obstacle("comfyui", FLUX, attention, attention) == ""


def test_the_last_layer_of_flux_has_no_name() -> None:
    named = layers(FLUX, "proj_out")
    assert len(named) == 3  # of two single blocks, and the transformer's own
    for to in ("kohya", "comfyui"):
        assert obstacle(to, FLUX, named).startswith("proj_out has no name in this format; use --to")
        assert obstacle(to, FLUX, [name for name in named if "." in name]) == ""
