"""The files of a new token, by the names that diffusers gives them, and a pipeline with it.

A token's vectors are {token: (K, D)}, one file a text encoder (`load_textual_inversion`). Keys and
values of cross-attention beside it are one file more (`load_attn_procs`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_FILE = "pytorch_custom_diffusion_weights.safetensors"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")  # that diffusers can teach a token


def token_file(text_encoder: str) -> str:
    """ "learned_embeds.safetensors"; of the second text encoder "learned_embeds_2.safetensors"."""
    return f"learned_embeds{text_encoder.removeprefix('text_encoder')}.safetensors"


def tokenizer_of(text_encoder: str) -> str:
    """The pipeline's name of the tokenizer that belongs to a text encoder, by the latter's name."""
    return text_encoder.replace("text_encoder", "tokenizer")


def token_names(placeholder: str, vectors: int) -> list[str]:
    """The tokens that a placeholder of so many vectors stands for, as diffusers names them."""
    return [placeholder, *(f"{placeholder}_{number}" for number in range(1, vectors))]


def find_token(folder: Path) -> str:
    """The name of the token that was saved in a folder, "" where there is none.

    Raises UserError for a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / token_file(TEXT_ENCODERS[0])
    if not file.is_file():
        return ""
    try:
        with safe_open(str(file), framework="numpy") as opened:
            (name,) = opened.keys()
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(file, error) from error
    return name


def damaged(file: Path, error: Exception) -> UserError:
    """What to say of a saved file that cannot be read."""
    reason = " ".join(str(error).split())
    return UserError(f"{file}: cannot be read ({reason}); finish the run with --resume")


def loading_lines(folder: Path, place: str) -> list[str]:
    """Python that brings what was saved in `folder` into `pipeline`; place: how it says `folder`"""
    lines = []
    for name in TEXT_ENCODERS:
        if not (folder / token_file(name)).is_file():
            continue
        if name == TEXT_ENCODERS[0]:
            lines.append(f"pipeline.load_textual_inversion({place!r})")
        else:
            lines += [
                "pipeline.load_textual_inversion(",
                f"    {place!r},",
                f'    weight_name="{token_file(name)}",',
                f"    tokenizer=pipeline.{tokenizer_of(name)},",
                f"    text_encoder=pipeline.{name},",
                ")",
            ]
    if (folder / ATTENTION_FILE).is_file():
        # diffusers 0.42 reads the file and drops it where it is not told the pipeline
        lines += [
            "pipeline.unet.load_attn_procs(",
            f'    {place!r}, weight_name="{ATTENTION_FILE}", _pipeline=pipeline',
            ")",
        ]
    return lines


def projection_of(key: str) -> str:
    """The U-Net's weight that one of the tensors in `ATTENTION_FILE` stands for."""
    return key.replace(".processor.", ".").replace("_custom_diffusion", "")


def key_of(projection: str) -> str:
    """The inverse of `projection_of`: …attn2.processor.to_k_custom_diffusion.weight."""
    layer, name, weight = projection.rsplit(".", 2)
    return f"{layer}.processor.{name}_custom_diffusion.{weight}"


def read_attention(folder: Path) -> dict[str, Tensor]:
    """By the U-Net's names, the weights in `ATTENTION_FILE`. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(str(folder / ATTENTION_FILE))
    except (OSError, SafetensorError) as error:
        raise damaged(folder / ATTENTION_FILE, error) from error
    return {projection_of(key): tensor for key, tensor in tensors.items() if tensor.numel()}


def insert_token(pipeline: Any, folder: Path) -> None:
    """Adds the token in `folder` to the tokenizers and text encoders of a diffusers pipeline.

    Keys and values that were taught with it replace the denoiser's own.
    """
    from rpo.quiet import quiet

    with quiet():
        for name in TEXT_ENCODERS:
            if (folder / token_file(name)).is_file():
                pipeline.load_textual_inversion(
                    str(folder),
                    weight_name=token_file(name),
                    tokenizer=getattr(pipeline, tokenizer_of(name)),
                    text_encoder=getattr(pipeline, name),
                    local_files_only=True,
                )
    if (folder / ATTENTION_FILE).is_file():
        weights = dict(pipeline.unet.named_parameters())
        for name, tensor in read_attention(folder).items():
            weights[name].data.copy_(tensor)
