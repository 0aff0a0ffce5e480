"""The files of a new token, by the names that diffusers gives them, and a pipeline with it.

A token's vectors are {token: (K, D)}, one file a text encoder (`load_textual_inversion`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    """The name of the token that was saved in a folder, "" where there is none."""
    from safetensors import safe_open

    file = folder / token_file(TEXT_ENCODERS[0])
    if not file.is_file():
        return ""
    with safe_open(str(file), framework="numpy") as opened:
        (name,) = opened.keys()
    return name


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
    return lines


def insert_token(pipeline: Any, folder: Path) -> None:
    """Adds the token in `folder` to the tokenizers and text encoders of a diffusers pipeline."""
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
