"""The methods there are: a literal table that can be read without loading any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodFacts:
    """What is known of a method before it is loaded.

    Attributes:
        place: module and class.
        title, paper: what it is called, and where it was published.
        learns: what it is for, in a sentence.
        learners: which values of `training.weights` it can teach; the first is its own choice.
        settings: over the base model's preset, what suits the method.
        emojiland: over both, what suits it in the small built-in world.
    """

    place: str
    title: str
    paper: str
    learns: str
    learners: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    emojiland: Mapping[str, Any] = field(default_factory=dict)


DENOISER = ("full", "lora", "dora")  # the learners that any method on the denoiser can teach

METHODS: dict[str, MethodFacts] = {
    "rpo": MethodFacts(
        "rpo.methods.rpo:RPO",
        "Reward Preference Optimization",
        "arXiv 2407.12164",
        "the photos, held back by preferences over the base model's own pictures",
        DENOISER,
    ),
    "similarity": MethodFacts(
        "rpo.methods.similarity:Similarity",
        "Similarity loss alone",
        "arXiv 2407.12164, Table 2",
        "the photos and nothing else; draws and labels nothing",
        DENOISER,
    ),
    "dpo": MethodFacts(
        "rpo.methods.dpo:DPO",
        "Diffusion-DPO",
        "arXiv 2311.12908",
        "preferences alone, without the similarity loss",
        DENOISER,
    ),
    "dreambooth": MethodFacts(
        "rpo.methods.dreambooth:DreamBooth",
        "DreamBooth",
        "arXiv 2208.12242",
        "the photos, beside the base model's own pictures of the class",
        DENOISER,
        {"training.steps": 1000},  # the paper's, as the learning rate is
        {"training.steps": 400, "dreambooth.class_images": 64},
    ),
    "textual_inversion": MethodFacts(
        "rpo.methods.textual_inversion:TextualInversion",
        "Textual inversion",
        "arXiv 2208.01618",
        "a word for the subject; the model itself stays as it is",
        ("token",),
        # The paper's rate is 0.005 for each picture of a batch.
        {"training.learning_rate": 5e-3, "training.steps": 5000, "validation.every": 250},
        {"training.learning_rate": 2e-2, "training.steps": 200, "validation.every": 40},
    ),
    "custom_diffusion": MethodFacts(
        "rpo.methods.custom_diffusion:CustomDiffusion",
        "Custom Diffusion",
        "arXiv 2212.04488",
        "a word and how the pictures attend to it, beside the class",
        ("cross-attention",),
        # The paper's rate, steps and batch; the token begins as a rare one of CLIP's.
        {
            "training.learning_rate": 8e-5,
            "training.steps": 250,
            "training.accumulate": 8,
            "dreambooth.class_images": 200,
            "textual_inversion.initializer": "ktn",
        },
        {
            "training.learning_rate": 1e-3,
            "training.steps": 200,
            "training.accumulate": 1,
            "dreambooth.class_images": 64,
            "textual_inversion.initializer": "[V]",
        },
    ),
    "online": MethodFacts(
        "rpo.methods.online:Online",
        "Online RPO",
        "this project; after arXiv 2304.05977 and 2309.17400",
        "the photos, and the reward of its own drawings while it learns",
        DENOISER,
        {"training": {"preference_weight": 0.0}},
    ),
    "disenbooth": MethodFacts(
        "rpo.methods.disenbooth:DisenBooth",
        "DisenBooth",
        "arXiv 2305.03374",
        "the photos, with what is a single photo's own told apart by a second condition",
        ("lora", "full", "dora"),
        {"training.learning_rate": 1e-4, "training.steps": 2000},  # the authors' command
        {"training.learning_rate": 1e-3, "training.steps": 400},
    ),
}
