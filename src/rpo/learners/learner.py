"""The seam between what learns and the rest: its parameters, its prompts, its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from rpo.config import Config
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions


class Learner(ABC):
    """A model that learns, beside the frozen base it began from.

    Attributes:
        denoiser: predicts with what was learned.
        whole: `save` writes a complete pipeline, which is loaded in the base model's place.
        learns_text: prompts are encoded by what learns, so `encode` gives gradients.
    """

    whole: ClassVar[bool] = False
    learns_text: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, config: Config, folder: Path | None = None) -> None:
        """A new one, or what `snapshot` wrote into `folder`, to draw with.

        Raises UserError for a model that it cannot be made of.
        """
        self.backbone, self.config = backbone, config
        self.denoiser: Any
        if folder is not None:
            self.denoiser = self.load(folder)
            return
        self.denoiser = self.build()
        if config.training.checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        if config.compile:
            backbone.compile(self.denoiser)

    @classmethod
    def refuse(cls, backbone: Backbone, config: Config) -> None:
        """Raises UserError, before anything is drawn, for a model that it cannot be made of."""
        return

    @classmethod
    def remarks(cls, backbone: Backbone, config: Config) -> list[str]:
        """What a person should know before this learner is taught, a sentence each."""
        return []

    @abstractmethod
    def build(self) -> nn.Module:
        """The denoiser that predicts, at first exactly as the base does."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, float32, by name."""
        return {name: p for name, p in self.denoiser.named_parameters() if p.requires_grad}

    def encode(self, prompts: Sequence[str]) -> Conditions:
        """What the denoiser is told of the prompts."""
        return self.backbone.encode_prompts(prompts)

    @abstractmethod
    def snapshot(self) -> Callable[[Path], None]:
        """Copies what was learned, and returns what writes that copy into a folder later."""

    @abstractmethod
    def load(self, folder: Path) -> nn.Module:
        """The denoiser that predicts with what `snapshot` wrote."""
