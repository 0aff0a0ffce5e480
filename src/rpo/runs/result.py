"""The result of a job: `Run` reads a run folder and draws with its chosen weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.about import __version__
from rpo.config import FLOW_SOLVER, SETTINGS, Config
from rpo.errors import UserError, brief
from rpo.models.resolve import resolve_model
from rpo.runs.folder import REPORT, RunFolder, check_unicode
from rpo.runs.lost import require_best
from rpo.runs.meter import naming_exhausted_memory
from rpo.runs.pictures import as_pictures

if TYPE_CHECKING:
    from PIL import Image

    from rpo.learners.learner import Learner
    from rpo.models.backbone import Backbone


@dataclass(frozen=True)
class Validation:
    """One validation: mean λ-harmonic reward and its two parts over the validation prompts."""

    step: int
    reward: float
    image_alignment: float
    text_alignment: float
    chosen: bool


LAST_SEED = 2**63 - 1  # of torch's generators
MOST_PICTURES = 9999  # of one call: file names count with four digits


def drawing(config: Config) -> dict[str, Any]:
    """How pictures are drawn with a run's result, unless its user says otherwise."""
    sampling = config.sampling
    return {
        "steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "scheduler": sampling.scheduler,
    }


def quantisation_remark(config: Config) -> str:
    """What to know of an adapter that learned on a quantised base; empty for all else."""
    if config.quantize == "no":
        return ""
    return (
        f"It learned on the base model held in {config.quantize}, with which all pictures and "
        "rewards of its run were made. On the base model's own weights, where exports and other "
        "programs put it, the same seeds draw visibly different pictures: "
        "rpo generate --unquantised shows them."
    )


@dataclass
class Run:
    """A finished or interrupted run, read from its folder."""

    path: Path
    _device: str | None = field(default=None, repr=False)
    _unquantised: bool = field(default=False, repr=False)  # draw as exports do

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
        """The gradient step that best/ comes from: 0 is the base model.

        None if there is none, or its card is damaged; `require_best` says which.
        """
        try:
            card = self.folder.best_card()
            return None if card is None else int(card["step"])
        except UserError:
            return None

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
        """The fine-tuned pipeline: `DiffusionPipeline.from_pretrained(run.best)` loads it.

        Of a LoRA it holds the adapter alone: `load_lora_weights(run.best)` on the base pipeline,
        and of a new token its vectors: `load_textual_inversion(run.best)`.
        """
        return self.path / "best"

    @property
    def _learns(self) -> type[Learner]:
        from rpo.learners import learner_class

        return learner_class(self.config.training.weights)

    @cached_property
    def _backbone(self) -> Backbone:
        require_best(self.folder)
        return self._load(self.best if self._learns.whole else resolve_model(self.config.model))

    @cached_property
    def _base(self) -> Backbone:
        """The base model, untouched: an adapter would be put onto the other one's denoiser."""
        return self._load(resolve_model(self.config.model))

    def _load(self, model: Path) -> Backbone:
        from rpo.models.backbone import Backbone

        config, plain = self.config, self._learns.whole or self._unquantised
        return Backbone.load(
            model,
            device=self._device or config.device,
            resolution=config.resolution,
            precision=config.precision,
            quantize="no" if plain else config.quantize,
            offload=config.offload,
        )

    @cached_property
    def _learner(self) -> Learner:
        return self._learns(self._backbone, self.config, self.best)

    def settings(
        self, prompt: str, seed: int, steps: int | None = None, guidance_scale: float | None = None
    ) -> dict[str, Any]:
        """All that decides one picture, as kept in its PNG."""
        card = self.folder.best_card() or {}
        own = card.get("scheduler") == FLOW_SOLVER  # of a flow-matching model, which has no other
        given = {"steps": steps, "guidance_scale": guidance_scale}
        return {
            "prompt": prompt,
            "seed": seed,
            **drawing(self.config),
            **({"scheduler": FLOW_SOLVER} if own else {}),
            **{name: value for name, value in given.items() if value is not None},
            "model": self.config.model,
            "training_step": self.best_step,
            **({"quantize": "no"} if self._unquantised else {}),
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

        prompt: with the identifier, as "a [V] dog on the Moon". Raises UserError for n, seed, steps
        or guidance_scale out of range, and for an unfinished run without best/.
        """
        for name, value in (("steps", steps), ("guidance_scale", guidance_scale)):
            if value is not None:
                replace(SETTINGS[f"sampling.{name}"], key=name).check(value)
        if not 1 <= n <= MOST_PICTURES:
            limit = ">= 1" if n < 1 else f"<= {MOST_PICTURES}"
            raise UserError(f"n must be {limit}, not {n}")
        check_unicode(prompt, f"prompt {brief(prompt)}")
        if not 0 <= seed <= LAST_SEED + 1 - n:
            raise UserError(f"seed must be between 0 and {LAST_SEED + 1 - n}, not {seed}")
        chosen = self.settings(prompt, seed, steps, guidance_scale)
        return self._drawn([prompt] * n, range(seed, seed + n), chosen, on_step)

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        base: bool = False,
        steps: int | None = None,
        guidance_scale: float | None = None,
        on_step: Callable[..., None] | None = None,
    ) -> list[Image.Image]:
        """One picture for each prompt and its seed, by the run's result or by its base model.

        Raises UserError for an unfinished run without best/.
        """
        chosen = self.settings(prompts[0], seeds[0], steps, guidance_scale)
        return self._drawn(prompts, seeds, chosen, on_step, base)

    def _drawn(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        chosen: Mapping[str, Any],
        on_step: Callable[..., None] | None,
        base: bool = False,
    ) -> list[Image.Image]:
        import torch

        from rpo.models.sampling import sample

        backbone = self._base if base else self._backbone
        with naming_exhausted_memory(), torch.no_grad():
            if self.config.offload:  # before the denoiser is there
                backbone.remember_prompts(list(dict.fromkeys(prompts)))
            learner = None if base else self._learner
            latents = sample(
                backbone,
                learner.denoiser if learner else backbone.denoiser,
                (learner.encode if learner else backbone.encode_prompts)(prompts),
                seeds,
                steps=chosen["steps"],
                guidance_scale=chosen["guidance_scale"],
                batch_size=self.config.sampling.batch_size,
                scheduler=chosen["scheduler"],
                on_step=on_step,
            )
            return as_pictures(backbone.decode(latents, self.config.sampling.batch_size))


def load_run(path: str | os.PathLike[str], device: str | None = None) -> Run:
    """Opens a run folder. Raises UserError for a path that is none.

    device: where it draws; by default where its settings say.
    """
    return Run(RunFolder.open(Path(path)).path, device)
