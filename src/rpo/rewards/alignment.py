"""The reward model of Eq. 5: it feeds the formulas of `rpo.rewards.harmonic` with features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rpo.errors import UserError
from rpo.models.encoders import Encoder, Images, load_encoder
from rpo.rewards.harmonic import Scores, image_alignment, text_alignment

if TYPE_CHECKING:
    from rpo.data.subject import Subject
    from rpo.models.backbone import Backbone


class AlignmentReward:
    """Scores images by a two-tower encoder against fixed reference photos, Eq. 5.

    encoder: must have a text tower, else UserError. reference_images: (M, 3, H, W) in [0, 1] or
    PIL images. The references are encoded once here, each distinct text once in a lifetime.
    Texts must be the prompts *without* the identifier (``Prompt.plain``).
    """

    def __init__(self, encoder: Encoder, reference_images: Images) -> None:
        if not encoder.has_text:
            raise UserError(
                f"reward.model {encoder.name} has no text tower; choose an ALIGN or CLIP model"
            )
        self.encoder = encoder
        self.references = encoder.encode_images(reference_images)  # (M, D)
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, subject: Subject, backbone: Backbone) -> AlignmentReward:
        """The reward model in `folder`, in the backbone's precision, against a subject's photos."""
        encoder = load_encoder(folder, backbone.device, backbone.dtype, offload=backbone.offload)
        return cls(encoder, subject.tensor(backbone.resolution).add(1).div(2))

    def score(self, images: Images, texts: Sequence[str]) -> Scores:
        """S_I and S_T of N images, (N, 3, H, W) in [0, 1] or PIL, each with its own text."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images but {len(texts)} texts")
        features = self.encoder.encode_images(images)  # (N, D)
        return Scores(
            image_alignment(features, self.references),
            text_alignment(features, self._encode_texts(texts)),
        )

    def score_pixels(self, images: Tensor, texts: Sequence[str]) -> Scores:
        """As `score`, on the encoder's device and with the gradient of (N, 3, H, W) in [0, 1]."""
        features = self.encoder.encode_pixels(images)  # (N, D)
        references, told = (
            t.to(features.device) for t in (self.references, self._encode_texts(texts))
        )
        return Scores(image_alignment(features, references), text_alignment(features, told))

    def score_references(self, texts: Sequence[str]) -> Tensor:
        """S_T of each reference photo with each of T texts, (M, T)."""
        cosine = self.references @ self._encode_texts(texts).T
        return ((cosine + 1) / 2).clamp(0, 1)

    def score_pairs(
        self, images: Images, texts: Sequence[str], lam: float = 0.0, mean: str = "harmonic"
    ) -> tuple[Tensor, Tensor]:
        """Rewards of every pair (reference i, generated image j), both under text j.

        Returns r(x_i, c_j) of shape (M, N) and r(x_j, c_j) of shape (N,): their gap is the
        argument of Eq. 6. S_I of a reference counts all references, itself included; it only
        matters for lam > 0.
        """
        generated = self.score(images, texts).combine(lam, mean)
        own = image_alignment(self.references, self.references)[:, None]  # (M, 1)
        return Scores(own, self.score_references(texts)).combine(lam, mean), generated

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self.encoder.encode_texts(new), strict=True))
        return torch.stack([self._texts[text] for text in texts])
