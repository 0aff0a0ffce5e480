"""New tokens of the text encoders (Gal et al. 2022, arXiv 2208.01618): their vectors learn alone.

The tokens live in copies of the tokenizers and text encoders, around the base's own tensors, so the
base model reads every prompt as before. What is saved is the vectors, in the files that diffusers'
`load_textual_inversion` reads.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from rpo.config import Config
from rpo.data.prompts import Prompt
from rpo.errors import UserError
from rpo.exports.token_files import damaged, token_file, token_names, tokenizer_of
from rpo.learners.learner import Learner
from rpo.learners.sharing import sharing_copy
from rpo.models.backbone import Backbone, encode_once
from rpo.models.conditions import Conditions
from rpo.models.families.family import clip_limit
from rpo.quiet import quiet

CLIPS = (CLIPTextModel, CLIPTextModelWithProjection)


class ExtendedEmbedding(nn.Module):
    """An embedding whose last rows are parameters of their own.

    base: the frozen one, looked up for every number below `first`; rows: (K, D), those of the
    numbers `first` to `first` + K - 1, float32.
    """

    def __init__(self, base: nn.Module, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.base, self.rows, self.first = base, rows, first

    def forward(self, numbers: Tensor) -> Tensor:
        """(...,) token numbers -> (..., D), in the base's precision."""
        new = numbers >= self.first
        known = self.base(numbers.masked_fill(new, 0))
        rows = self.rows[(numbers - self.first).clamp(min=0)].to(known.dtype)
        return torch.where(new[..., None], rows, known)


# --- names -------------------------------------------------------------------------------


def find_placeholder(identifier: str, tokenizers: Sequence[Any]) -> str:
    """ "<v>" for "[V]": a name that no tokenizer has, as diffusers demands of a new token.

    In small letters, as CLIP's tokenizers read: only so does diffusers find it in a prompt again to
    put all of its vectors there.
    """
    known = {word.lower() for tokenizer in tokenizers for word in tokenizer.get_vocab()}
    stem = identifier.strip("[](){}<>").lower() or "token"
    placeholder, number = f"<{stem}>", 1
    while any(word.startswith(placeholder) for word in known):
        number += 1
        placeholder = f"<{stem}-{number}>"
    return placeholder


# --- files -------------------------------------------------------------------------------


def save_tokens(placeholder: str, rows: Mapping[str, Tensor], folder: Path) -> None:
    """Writes {placeholder: (K, D)} for each text encoder, as `load_textual_inversion` reads it."""
    for name, vectors in rows.items():
        save_file({placeholder: vectors}, str(folder / token_file(name)), {"format": "pt"})


def read_tokens(folder: Path, text_encoders: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """The placeholder and, by text encoder, its (K, D) vectors. Raises UserError."""
    placeholder, rows = "", {}
    for name in text_encoders:
        file = folder / token_file(name)
        try:
            ((placeholder, rows[name]),) = load_file(str(file)).items()
        except (OSError, SafetensorError, ValueError) as error:
            raise damaged(file, error) from error
    return placeholder, rows


# --- the learner -------------------------------------------------------------------------


class Token(Learner):
    """The vectors of the token that the identifier stands for; the denoiser is the base's.

    Attributes:
        placeholder: the token's name in tokenizers and files.
        rows: by text encoder, the (K, D) vectors that learn.
    """

    learns_text: ClassVar[bool] = True
    placeholder: str
    rows: dict[str, nn.Parameter]

    @classmethod
    def refuse(cls, backbone: Backbone, config: Config) -> None:
        from diffusers.loaders import TextualInversionLoaderMixin

        pipeline, weights = backbone.family.pipeline, config.training.weights
        encoders = [getattr(pipeline, name) for name in backbone.family.text_encoders]
        clip = all(isinstance(encoder, CLIPS) for encoder in encoders)
        if not clip or not isinstance(pipeline, TextualInversionLoaderMixin):
            raise UserError(
                f"training.weights {weights} cannot be taught to a {type(pipeline).__name__}, for "
                "which diffusers has no textual inversion; use a Stable Diffusion 1.x, 2.x or XL"
            )
        plain, vectors = Prompt.reference(config.noun, "x").plain, config.textual_inversion.vectors
        for name, encoder in zip(backbone.family.text_encoders, encoders, strict=True):
            tokenizer = getattr(pipeline, tokenizer_of(name))
            most = clip_limit(tokenizer, encoder) - len(tokenizer(plain).input_ids)
            if vectors > most:
                raise UserError(
                    f"textual_inversion.vectors {vectors}: beside '{plain}' this model reads at "
                    f"most {most}; lower it"
                )

    def build(self) -> nn.Module:
        self._begin()
        return sharing_copy(self.backbone.denoiser)

    def _begin(self) -> None:
        """New tokens, all of whose vectors are that of the initial word."""
        family, settings = self.backbone.family, self.config.textual_inversion
        word = self.config.noun if settings.initializer == "noun" else settings.initializer
        tokenizers, rows = [], {}
        for name in family.text_encoders:
            tokenizer = getattr(family.pipeline, tokenizer_of(name))
            first = tokenizer(word, add_special_tokens=False).input_ids[0]
            vectors = getattr(family.pipeline, name).get_input_embeddings().weight[first]
            rows[name] = vectors.repeat(settings.vectors, 1)
            tokenizers.append(tokenizer)
        self._add(find_placeholder(self.config.identifier, tokenizers), rows)

    def load(self, folder: Path) -> nn.Module:
        """The base denoiser; prompts are encoded with the vectors in `folder`."""
        self._read(folder)
        return self.backbone.denoiser

    def _read(self, folder: Path) -> None:
        """The tokens that were saved, which learn no more."""
        self._add(*read_tokens(folder, self.backbone.family.text_encoders))
        for rows in self.rows.values():
            rows.requires_grad_(False)

    def _add(self, placeholder: str, rows: Mapping[str, Tensor]) -> None:
        """Makes the text side anew, with a token for each of the (K, D) rows of each encoder."""
        family, device = self.backbone.family, self.backbone.device
        view = copy.copy(family.pipeline)
        self.placeholder, self.rows = placeholder, {}
        for name, vectors in rows.items():
            tokenizer = copy.deepcopy(getattr(family.pipeline, tokenizer_of(name)))
            encoder: Any = sharing_copy(getattr(family.pipeline, name))
            tokenizer.add_tokens(token_names(placeholder, len(vectors)))
            first = tokenizer.convert_tokens_to_ids(placeholder)
            learning = nn.Parameter(vectors.detach().to(device, torch.float32))
            encoder.set_input_embeddings(
                ExtendedEmbedding(encoder.get_input_embeddings(), learning, first)
            )
            self.rows[name] = learning
            with quiet():
                setattr(view, tokenizer_of(name), tokenizer)
                setattr(view, name, encoder)
        self._family = type(family)(view)
        # Whole words only. The placeholder, too, so that what is said of the files holds here.
        names = "|".join(re.escape(name) for name in (placeholder, self.config.identifier))
        self._pattern = re.compile(rf"(?<![\w<])(?:{names})(?![\w>])")

    def parameters(self) -> dict[str, nn.Parameter]:
        tokens = {f"{name}.token": rows for name, rows in self.rows.items()}
        return {**tokens, **super().parameters()}

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """As the text encoders read them with the new tokens; gives gradients.

        Raises UserError for a prompt that the model would cut off.
        """
        # Offloaded, they come to the device and stay: gradients go through them at every step.
        for name in self.rows:
            getattr(self._family.pipeline, name).to(self.backbone.device)
        return encode_once(self._family, [self._worded(prompt) for prompt in prompts])

    def _worded(self, prompt: str) -> str:
        """The prompt with the new tokens in the identifier's place."""
        (vectors,) = {len(rows) for rows in self.rows.values()}
        tokens = " ".join(token_names(self.placeholder, vectors))
        return self._pattern.sub(lambda _: tokens, prompt)

    def snapshot(self) -> Callable[[Path], None]:
        rows = {name: rows.detach().to("cpu", copy=True) for name, rows in self.rows.items()}
        return partial(save_tokens, self.placeholder, rows)
