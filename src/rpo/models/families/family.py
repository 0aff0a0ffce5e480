"""What differs from one model family to the next, and the steps that several share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from rpo.errors import UserError
from rpo.models.conditions import Conditions
from rpo.models.noise import (
    NoiseProcess,
    RectifiedFlow,
    VariancePreserving,
    dynamic_shift,
    flow_location,
)

# Solvers of diffusers whose configuration tells the discrete noise that a model was trained on. Not
# among them: those of distilled few-step models (LCM, TCD) and of continuous noise levels (EDM).
DISCRETE_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)


class Family(ABC):
    """The text and denoiser sides of one pipeline; `Backbone` does what is common to all.

    Attributes:
        pipeline: the diffusers pipeline, read for its parts by their names.
        denoiser_name: which part is trained.
        text_encoders: the parts that read prompts.
        unused: parts that are neither loaded nor saved.
        optional: parts that the model can do without, null in model_index.json.
        classifier_free: guidance compares with an empty prompt; otherwise the denoiser, if it can
            be guided at all, is told the scale.
        schedulers: diffusers' schedulers that describe the noise of such a model.
        latent_scale: the scaling_factor of the family's published VAE.
        patch: side of the square of latent cells that is one token of the denoiser.
        packed: how many latent channels one input channel group of the denoiser holds.
    """

    denoiser_name: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]]
    unused: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    optional: ClassVar[tuple[str, ...]] = ()
    classifier_free: ClassVar[bool] = True
    schedulers: ClassVar[tuple[str, ...]]
    latent_scale: ClassVar[float]
    patch: ClassVar[int] = 1
    packed: ClassVar[int] = 1

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    @property
    def denoiser_config(self) -> Any:
        """The base denoiser's settings; a copy of it may be wrapped and have none."""
        return getattr(self.pipeline, self.denoiser_name).config

    def sample_size(self) -> int:
        """Side of the latents that the model was made for."""
        return self.denoiser_config.sample_size

    def largest_size(self) -> int | None:
        """Side of the largest latents that it can read, None if there is no limit."""
        return None

    def settings(self) -> dict[str, Any]:
        """What the pipeline's constructor takes besides its parts."""
        return {}

    @abstractmethod
    def process(self, image_tokens: int) -> NoiseProcess:
        """The noise process of the model's scheduler, on the CPU. UserError for another kind.

        image_tokens: what one picture is to the denoiser, (h / patch) * (w / patch).
        """

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Conditions:
        """Raises UserError for a prompt that would be cut off."""

    def unconditional(self) -> Conditions:
        """(1 row) what classifier-free guidance is guided away from."""
        return self.encode([""])

    @abstractmethod
    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        """The denoiser's answer, (B, C, h, w) as `noisy`; timesteps (B,) or a scalar."""

    def set_timesteps(self, solver: Any, steps: int, image_tokens: int, device: Any) -> None:
        """Starts `solver` anew, for pictures of so many tokens."""
        solver.set_timesteps(steps, device=device)


def variance_preserving(scheduler: Any) -> VariancePreserving:
    """From a diffusers scheduler of any solver. UserError for what is no such model's."""
    from diffusers import DDPMScheduler

    prediction = scheduler.config.get("prediction_type", "epsilon")
    known = VariancePreserving.PREDICTION_TYPES
    if prediction not in known or "beta_start" not in scheduler.config:  # a flow has no betas
        raise UserError(
            f"model: its scheduler predicts '{prediction}' ({type(scheduler).__name__}); "
            f"supported for this family are {' and '.join(known)}"
        )
    ddpm = DDPMScheduler.from_config(scheduler.config)
    return VariancePreserving(ddpm.alphas_cumprod, prediction)


def rectified_flow(scheduler: Any, image_tokens: int) -> RectifiedFlow:
    """From a flow-matching scheduler of diffusers. UserError for another one."""
    if not {"shift", "use_dynamic_shifting"} <= scheduler.config.keys():
        raise UserError(
            f"model: its scheduler is a {type(scheduler).__name__}; "
            "this family needs a FlowMatchEulerDiscreteScheduler"
        )
    location = flow_location(scheduler.config, image_tokens)
    return RectifiedFlow(location, scheduler.config.num_train_timesteps)


def shift_for(solver: Any, image_tokens: int) -> dict[str, float]:
    """The argument of a flow solver's `set_timesteps` that its dynamic shift asks for, if any."""
    if not solver.config.use_dynamic_shifting:
        return {}
    return {"mu": dynamic_shift(solver.config, image_tokens)}


def token_ids(tokenizer: Any, texts: Sequence[str], limit: int, refuse: bool = True) -> Tensor:
    """(N, limit) token numbers, padded. Raises UserError for a longer prompt, or cuts it off."""
    if refuse:
        unpadded: Mapping[str, Any] = tokenizer(list(texts), verbose=False)
        for text, ids in zip(texts, unpadded["input_ids"], strict=True):
            if len(ids) > limit:
                raise UserError(
                    f"prompt '{text}' has {len(ids)} tokens and the model reads {limit}; shorten it"
                )
    return tokenizer(
        list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids


def clip_limit(tokenizer: Any, text_encoder: Any) -> int:
    """How many tokens a CLIP text encoder reads."""
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)


def clip_states(
    tokenizer: Any, text_encoder: Any, texts: Sequence[str], refuse: bool = True
) -> tuple[Tensor, Tensor]:
    """(N, L, D) states before the last layer and (N, P) projected ends, as SDXL and SD 3 read."""
    ids = token_ids(tokenizer, texts, clip_limit(tokenizer, text_encoder), refuse)
    output = text_encoder(ids.to(text_encoder.device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def t5_states(tokenizer: Any, text_encoder: Any, texts: Sequence[str], limit: int) -> Tensor:
    """(N, L, D) last states of T5, padding included, as these models were trained."""
    ids = token_ids(tokenizer, texts, limit)
    return text_encoder(ids.to(text_encoder.device))[0]


def per_row(timesteps: Tensor, rows: int) -> Tensor:
    """(rows,) timesteps from as many or from a single one."""
    return timesteps.expand(rows) if timesteps.ndim == 0 else timesteps
