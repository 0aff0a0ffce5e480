"""The methods there are: a literal table that can be read without loading any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpo.config.sections import Config


@dataclass(frozen=True)
class Passes:
    """What a method computes for one photo of a step, and before the first: `rpo plan` counts it.

    Attributes:
        learning: rows through the network that learns, forward and backward.
        base: rows of them that the frozen base answers too.
        texts: rows through the text encoders, with gradient.
        drawn: pictures that the base draws of each training prompt before training.
        class_pictures: those it draws of the class.
        rewarded: pictures of its own that the learner draws in a step that rewards them, with the
            gradient of one solver step, of the decoder and of the reward model.
        rewarding: steps of the run that do so.
    """

    learning: int = 1
    base: int = 0
    texts: int = 0
    drawn: int = 0
    class_pictures: int = 0
    rewarded: int = 0
    rewarding: int = 0


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method before it is loaded.

    Attributes:
        place: module and class.
        title, paper: what it is called, and where it was published.
        learns: what it is for, in a sentence.
        learners: which values of `training.weights` it can teach; the first is its own choice.
        passes: what a photo of a step costs with these settings.
        settings: over the base model's preset, what suits the method.
        emojiland: over both, what suits it in the small built-in world.
    """

    place: str
    title: str
    paper: str
    learns: str
    learners: tuple[str, ...]
    passes: Callable[[Config], Passes]
    settings: Mapping[str, Any] = field(default_factory=dict)
    emojiland: Mapping[str, Any] = field(default_factory=dict)


def _similarity(config: Config) -> Passes:
    return Passes(config.training.photos)


def _preferring(config: Config) -> Passes:
    """A pair is a photo and a drawn picture, both of which the base answers too."""
    if config.method == "rpo" and config.training.preference_weight == 0:
        return _similarity(config)
    return Passes(1 + config.training.photos, base=2, drawn=config.sampling.images_per_prompt)


def _dreambooth(config: Config) -> Passes:
    if config.dreambooth.prior_weight == 0:
        return _similarity(config)
    return Passes(config.training.photos + 1, class_pictures=config.dreambooth.class_images)


def _custom_diffusion(config: Config) -> Passes:
    return replace(_dreambooth(config), texts=1)


def _textual_inversion(config: Config) -> Passes:
    return Passes(config.training.photos, texts=config.training.photos)


def _disenbooth(config: Config) -> Passes:
    return Passes(config.training.photos * (2 if config.disenbooth.weak_weight else 1))


def _online(config: Config) -> Passes:
    settings = config.online
    rest = _preferring(config) if config.training.preference_weight else _similarity(config)
    if settings.weight == 0:
        return rest
    due = len(range(settings.start, config.training.steps, settings.every))
    return replace(rest, rewarded=settings.pictures, rewarding=due)


DENOISER = ("full", "lora", "dora")  # the learners that any method on the denoiser can teach

METHODS: dict[str, MethodFacts] = {
    "rpo": MethodFacts(
        "rpo.methods.rpo:RPO",
        "Reward Preference Optimization",
        "arXiv 2407.12164",
        "the photos, held back by preferences over the base model's own pictures",
        DENOISER,
        _preferring,
    ),
    "similarity": MethodFacts(
        "rpo.methods.similarity:Similarity",
        "Similarity loss alone",
        "arXiv 2407.12164, Table 2",
        "the photos and nothing else; draws and labels nothing",
        DENOISER,
        _similarity,
    ),
    "dpo": MethodFacts(
        "rpo.methods.dpo:DPO",
        "Diffusion-DPO",
        "arXiv 2311.12908",
        "preferences alone, without the similarity loss",
        DENOISER,
        _preferring,
        # Of labels near coin flips it unlearns to draw, at the rate and β that suit RPO.
        emojiland={
            "training.learning_rate": 1e-4,
            "training.beta": 1.0,
            "reward.labels": "expected",
            "reward.temperature": 0.2,
        },
    ),
    "dreambooth": MethodFacts(
        "rpo.methods.dreambooth:DreamBooth",
        "DreamBooth",
        "arXiv 2208.12242",
        "the photos, beside the base model's own pictures of the class",
        DENOISER,
        _dreambooth,
        {"training.steps": 1000},  # the paper's, as the learning rate is
        {"training.steps": 400, "dreambooth.class_images": 64},
    ),
    "textual_inversion": MethodFacts(
        "rpo.methods.textual_inversion:TextualInversion",
        "Textual inversion",
        "arXiv 2208.01618",
        "a word for the subject; the model itself stays as it is",
        ("token",),
        _textual_inversion,
        # The paper's rate is 0.005 for each picture of a batch.
        {"training.learning_rate": 5e-3, "training.steps": 5000, "validation.every": 250},
        {
            "training.learning_rate": 2e-2,
            "training.steps": 200,
            "training.photos": 4,
            "validation.every": 40,
            "textual_inversion.vectors": 4,
            "textual_inversion.initializer": "[V]",
        },
    ),
    "custom_diffusion": MethodFacts(
        "rpo.methods.custom_diffusion:CustomDiffusion",
        "Custom Diffusion",
        "arXiv 2212.04488",
        "a word and how the pictures attend to it, beside the class",
        ("cross-attention",),
        _custom_diffusion,
        # The paper's rate, steps and batch; the token begins as a rare one of CLIP's.
        {
            "training.learning_rate": 8e-5,
            "training.steps": 250,
            "training.accumulate": 8,
            "dreambooth.class_images": 200,
            "textual_inversion.initializer": "ktn",
        },
        {
            "training.learning_rate": 2e-3,
            "training.steps": 200,
            "training.accumulate": 1,
            "training.photos": 4,
            "dreambooth.class_images": 64,
            "textual_inversion.vectors": 4,
            "textual_inversion.initializer": "[V]",
        },
    ),
    "online": MethodFacts(
        "rpo.methods.online:Online",
        "Online RPO",
        "this project; after arXiv 2304.05977 and 2309.17400",
        "the photos, and the reward of its own drawings while it learns",
        DENOISER,
        _online,
        {"training": {"preference_weight": 0.0}},
    ),
    "disenbooth": MethodFacts(
        "rpo.methods.disenbooth:DisenBooth",
        "DisenBooth",
        "arXiv 2305.03374",
        "the photos, with what is a single photo's own told apart by a second condition",
        ("lora", "full", "dora"),
        _disenbooth,
        {"training.learning_rate": 1e-4, "training.steps": 2000},  # the authors' command
        {"training.learning_rate": 1e-3, "training.steps": 400},
    ),
}
