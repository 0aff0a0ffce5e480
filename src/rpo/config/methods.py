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
    "online": MethodFacts(
        "rpo.methods.online:Online",
        "Online RPO",
        "this project; after arXiv 2304.05977 and 2309.17400",
        "the photos, and the reward of its own drawings while it learns",
        DENOISER,
        {"training": {"preference_weight": 0.0}},
    ),
}
