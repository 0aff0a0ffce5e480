"""The result of a job: `Run` reads a run folder and draws with its chosen weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo import __version__
from rpo.config import FLOW_SOLVER, Config
from rpo.errors import UserError
from rpo.run import REPORT, RunFolder, as_pictures

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Validation:
    """One validation: mean λ-harmonic reward and its two parts over the validation prompts."""

    step: int
    reward: float
    image_alignment: float
    text_alignment: float
    chosen: bool


@dataclass
class Run:
    """A finished or interrupted run, read from its folder."""

    path: Path
    _device: str | None = field(default=None, repr=False)

    @property
    def folder(self) -> RunFolder:
        """The run's files."""
        return RunFolder(self.path)

    @cached_property
    def config(self) -> Config:
        """Its settings."""
        return self.folder.config()

    @property
    def best_step(self) -> int | None:
        """The gradient step that best/ comes from: 0 is the base model, None if none is saved."""
        card = self.folder.best_card()
        return None if card is None else int(card["step"])

    @property
    def finished(self) -> bool:
        """False for a run that --resume would continue."""
        return bool(self.folder.summary().get("finished"))

    @property
    def history(self) -> tuple[Validation, ...]:
        """All validations in order, the chosen one marked."""
        best = self.best_step
        return tuple(
            Validation(
                record["step"],
                record["reward"],
                record["image_alignment"],
                record["text_alignment"],
                record["step"] == best,
            )
            for record in self.folder.records()
            if record["event"] == "validated"
        )

    @property
    def report(self) -> Path:
        """Where report.html is."""
        return self.path / REPORT

    @property
    def best(self) -> Path:
        """The fine-tuned pipeline: `DiffusionPipeline.from_pretrained(run.best)` loads it."""
        return self.path / "best"

    @cached_property
    def _backbone(self) -> Any:
        from rpo.backbone import Backbone

        if not (self.best / "model_index.json").is_file():
            raise UserError(f"{self.path}: has no best/ yet; finish it with --resume")
        return Backbone.load(
            self.best,
            device=self._device or self.config.device,
            resolution=self.config.resolution,
        )

    def settings(
        self, prompt: str, seed: int, steps: int | None = None, guidance_scale: float | None = None
    ) -> dict[str, Any]:
        """All that decides one picture, as kept in its PNG."""
        sampling, card = self.config.sampling, self.folder.best_card() or {}
        own = card.get("scheduler") == FLOW_SOLVER  # of a flow-matching model, which has no other
        return {
            "prompt": prompt,
            "seed": seed,
            "steps": sampling.steps if steps is None else steps,
            "guidance_scale": sampling.guidance_scale if guidance_scale is None else guidance_scale,
            "scheduler": FLOW_SOLVER if own else sampling.scheduler,
            "model": self.config.model,
            "training_step": self.best_step,
            "software": f"rpo {__version__}",
        }

    def generate(
        self,
        prompt: str,
        n: int = 1,
        seed: int = 0,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        on_step: Callable[..., None] | None = None,
    ) -> list[Image.Image]:
        """Draws n pictures with seeds seed, seed + 1 … The picture of a seed is always the same.

        prompt: with the identifier, as "a [V] dog on the Moon". Raises UserError for n < 1,
        steps < 1, a negative seed or an unfinished run without best/.
        """
        from rpo.sampling import sample

        for name, value, least in (("n", n, 1), ("seed", seed, 0), ("steps", steps, 1)):
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, not {value}")
        chosen = self.settings(prompt, seed, steps, guidance_scale)
        backbone = self._backbone
        latents = sample(
            backbone,
            backbone.denoiser,
            backbone.encode_prompts([prompt] * n),
            range(seed, seed + n),
            steps=chosen["steps"],
            guidance_scale=chosen["guidance_scale"],
            batch_size=self.config.sampling.batch_size,
            scheduler=chosen["scheduler"],
            on_step=on_step,
        )
        return as_pictures(backbone.decode(latents))


def load_run(path: str | os.PathLike[str]) -> Run:
    """Opens a run folder. Raises UserError for a path that is none."""
    return Run(RunFolder.open(Path(path)).path)
