"""What is measured of drawn pictures, as pure functions on features; `METRICS` lists it.

The features come from `rpo.models.encoders`, so nothing here needs a model. The protocol of DINO,
CLIP-I and CLIP-T is DreamBooth's (arXiv 2208.12242, section 4.1), as the RPO paper uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rpo.rewards.harmonic import Scores, image_alignment, text_alignment


def subject_similarity(generated: Tensor, photos: Tensor) -> float:
    """Mean cosine over all pairs of a generated picture and a photo: DINO, or CLIP-I.

    generated (N, D), photos (M, D). ValueError for other shapes.
    """
    return _cosines(generated, photos).mean().item()


def photo_similarity(photos: Tensor) -> float:
    """Mean cosine over all pairs of two different photos: the "real photos" row of the tables.

    photos (M, D) with M >= 2, else ValueError. A method far above this copies the photos.
    """
    count = len(photos)
    if count < 2:
        raise ValueError("the similarity among photos needs two of them")
    cosines = _cosines(photos, photos)
    return ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item()


def text_similarity(generated: Tensor, texts: Tensor) -> float:
    """Mean cosine of each picture with its own prompt: CLIP-T.

    generated (N, D), texts (N, D) of the prompts *without* the identifier. ValueError for other
    shapes.
    """
    if generated.ndim != 2 or generated.shape != texts.shape or not len(texts):
        raise ValueError(f"one text per picture: {tuple(generated.shape)}, {tuple(texts.shape)}")
    return F.cosine_similarity(generated, texts, dim=-1).mean().item()


def harmonic_reward(generated: Tensor, photos: Tensor, texts: Tensor, lam: float = 0.5) -> float:
    """Mean λ-harmonic reward of the pictures (Eq. 5) in the features of any two-tower encoder.

    generated (N, D), photos (M, D), texts (N, D). ValueError for other shapes or λ not in [0, 1].
    """
    scores = Scores(image_alignment(generated, photos), text_alignment(generated, texts))
    return scores.combine(lam).mean().item()


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), not {tuple(first.shape)}, {tuple(second.shape)}"
        )
    if not len(first) or not len(second):
        raise ValueError("no features to compare")
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T


@dataclass(frozen=True)
class Features:
    """What a metric may read: one judge's features of one subject's pictures by one system.

    Attributes:
        pictures: (N, D), of the drawn pictures.
        prompts: (N,) whole numbers, the prompt of each.
        photos: (M, D), of the subject's photos.
        texts: (N, D), of each picture's prompt without the identifier.
        gallery: (G, D), of the photos of all subjects; own, peers: (G,) bool, those of this
            subject, and those of all subjects of its class, itself included.
        class_tuned, class_base: (K, D), of pictures of "a dog", row k of the tuned and the base
            model from the same first noise.
        head: linear layers, each a (W, b), from the features to a score.
        lam: the λ of the harmonic reward.
    """

    pictures: Tensor
    prompts: Tensor
    photos: Tensor
    texts: Tensor | None = None
    gallery: Tensor | None = None
    own: Tensor | None = None
    peers: Tensor | None = None
    class_tuned: Tensor | None = None
    class_base: Tensor | None = None
    head: tuple[tuple[Tensor, Tensor], ...] | None = None
    lam: float = 0.5


@dataclass(frozen=True)
class Metric:
    """One figure of a table: `function` gives (N,), a value a picture, NaN where it has none.

    judge: whose features it reads. needs: the `Features` that may be absent, and then it is not
    measured. rows: what its values belong to, the drawn pictures or those of the class. of_photos:
    real photos have it too, each against the others. better: the direction, where there is one.
    """

    title: str
    judge: Literal["dino", "clip", "aesthetic"]
    function: Callable[[Features], Tensor]
    needs: tuple[str, ...] = ()
    rows: Literal["pictures", "class"] = "pictures"
    of_photos: bool = False
    better: Literal["higher", "lower"] = "higher"

    def values(self, features: Features) -> Tensor | None:
        """(N,) in float64, or None where the features that it needs are absent."""
        if any(getattr(features, name) is None for name in self.needs):
            return None
        return self.function(features).double()


def similarity_to_photos(features: Features) -> Tensor:
    """Each picture's mean cosine with the photos, (N,): DINO or CLIP-I."""
    return _cosines(features.pictures, features.photos).mean(dim=1)


def similarity_to_text(features: Features) -> Tensor:
    """Each picture's cosine with its own prompt, (N,): CLIP-T."""
    assert features.texts is not None
    return F.cosine_similarity(features.pictures, features.texts, dim=-1)


def harmonic_rewards(features: Features) -> Tensor:
    """Each picture's λ-harmonic reward (Eq. 5), (N,)."""
    assert features.texts is not None
    image = image_alignment(features.pictures, features.photos)
    return Scores(image, text_alignment(features.pictures, features.texts)).combine(features.lam)


def diversity(features: Features) -> Tensor:
    """Each picture's mean distance 1 - cosine to the others of its prompt, (N,).

    Its mean over a prompt's pictures is their mean pairwise distance. NaN for an only one.
    """
    same = features.prompts[:, None] == features.prompts[None, :]  # (N, N)
    same.fill_diagonal_(False)
    distances = _distance(_cosines(features.pictures, features.pictures)) * same
    return distances.sum(dim=1) / same.sum(dim=1)


def class_drift(features: Features) -> Tensor:
    """1 - cosine of the tuned and the base model's picture of "a dog" by one first noise, (K,).

    0 where learning the subject has left its class as it was.
    """
    assert features.class_tuned is not None
    assert features.class_base is not None
    return _distance(F.cosine_similarity(features.class_tuned, features.class_base, dim=-1))


def _distance(cosine: Tensor) -> Tensor:
    return (1 - cosine).clamp(min=0)  # of equal pictures it is 0, and not -1e-8


def identity_rank(features: Features) -> Tensor:
    """Average precision of each picture as a query for its subject's photos among all, (N,).

    After arXiv 2512.19026: similarity alone does not tell this dog from another one. NaN where
    the photos are of this subject alone.
    """
    assert features.gallery is not None
    assert features.own is not None
    return average_precision(_cosines(features.pictures, features.gallery), features.own)


def identity_rank_in_class(features: Features) -> Tensor:
    """The same among the photos of subjects of its class alone, (N,)."""
    assert features.gallery is not None
    assert features.own is not None
    assert features.peers is not None
    gallery, own = features.gallery[features.peers], features.own[features.peers]
    return average_precision(_cosines(features.pictures, gallery), own)


def average_precision(scores: Tensor, relevant: Tensor) -> Tensor:
    """Of each row's ranking of G items by scores (N, G), where (G,) bool are relevant: (N,).

    The mean over relevant items of the precision among all items that score as high or higher; so
    equal scores share a rank, whatever their order. NaN unless some are relevant and some not.
    """
    if not relevant.any() or relevant.all():
        return scores.new_full((len(scores),), torch.nan)
    reached = scores[:, None, :] >= scores[:, relevant, None]  # (N, relevant, G)
    hits = reached[:, :, relevant].sum(dim=2)
    return (hits.double() / reached.sum(dim=2)).mean(dim=1)


def aesthetic_score(features: Features) -> Tensor:
    """LAION's aesthetic score, about 1 to 10, (N,): linear layers on unit CLIP ViT-L/14 features.

    One layer is the first predictor; the "improved" one has five, without non-linearities.
    """
    assert features.head is not None
    values = F.normalize(features.pictures, dim=-1)
    for weight, bias in features.head:
        values = values @ weight.T + bias
    return values.squeeze(-1)


METRICS: dict[str, Metric] = {
    "dino": Metric("DINO", "dino", similarity_to_photos, of_photos=True),
    "clip_i": Metric("CLIP-I", "clip", similarity_to_photos, of_photos=True),
    "clip_t": Metric("CLIP-T", "clip", similarity_to_text, ("texts",)),
    "harmonic": Metric("λ-harmonic", "clip", harmonic_rewards, ("texts",)),
    "identity_rank": Metric(
        "identity rank", "dino", identity_rank, ("gallery", "own"), of_photos=True
    ),
    "identity_rank_in_class": Metric(
        "identity rank in class",
        "dino",
        identity_rank_in_class,
        ("gallery", "own", "peers"),
        of_photos=True,
    ),
    "diversity": Metric("diversity", "dino", diversity),
    "class_drift": Metric(
        "class drift",
        "clip",
        class_drift,
        ("class_tuned", "class_base"),
        rows="class",
        better="lower",
    ),
    "aesthetic": Metric("aesthetic", "aesthetic", aesthetic_score, ("head",), of_photos=True),
}
