"""What differs from one model family to the next, and the steps that several share.

A family's file holds all that is particular to it: how it computes, and the facts that presets,
single files, plans and exports need. The facts are read where PyTorch must not be loaded (by
`rpo train --help`), so the families' modules import it, and what imports it, where it computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.config.presets import Preset
from rpo.errors import UserError
from rpo.models.families.facts import Header, Place, Told

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess, RectifiedFlow, VariancePreserving

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
        title: what its models are called, for messages.
        pipeline_type: its class, where that is none of diffusers' own.
        denoiser_name: which part is trained.
        text_encoders: the parts that read prompts.
        unused: parts that are neither loaded nor saved.
        optional: parts that the model can do without, null in model_index.json.
        without_optional: what a message about a missing one advises, if anything.
        classifier_free: guidance compares with an empty prompt; otherwise the denoiser, if it can
            be guided at all, is told the scale.
        unguided: the classifier-free guidance scale at which the prompt alone speaks: 1 by
            arXiv 2207.12598, 0 where the pipeline counts only what guidance adds.
        schedulers: diffusers' schedulers that describe the noise of such a model.
        latent_scale: the scaling_factor of the family's published VAE.
        tiny_decoder: the hub id of a tiny autoencoder of the family's latents; none: "".
        patch: side of the square of latent cells that is one token of the denoiser.
        packed: how many latent channels one input channel group of the denoiser holds.
        presets: the guidance and the steps that the publishers use, by name; none: "paper".
        shapes: the published models whose shapes are in assets/architectures, by their file names.
        file_parts: the names under which a single file holds the parts besides the denoiser, by
            diffusers' names for them; none: such files are not known.
        file_ends: the names there of the denoiser's first and last weights.
        file_doubt: what a file may not tell, and the repositories that it then may be of.
        lora_blocks: [folder of blocks in diffusers] -> its name elsewhere, and its layers' places.
    """

    title: ClassVar[str] = "a model of your own"
    pipeline_type: ClassVar[Any] = None
    denoiser_name: ClassVar[str]
    text_encoders: ClassVar[tuple[str, ...]]
    unused: ClassVar[tuple[str, ...]] = ("image_encoder", "feature_extractor")
    optional: ClassVar[tuple[str, ...]] = ()
    without_optional: ClassVar[str] = ""
    classifier_free: ClassVar[bool] = True
    unguided: ClassVar[float] = 1.0
    schedulers: ClassVar[tuple[str, ...]]
    latent_scale: ClassVar[float]
    tiny_decoder: ClassVar[str] = ""
    patch: ClassVar[int] = 1
    packed: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Preset]] = {}
    shapes: ClassVar[tuple[str, ...]] = ()
    file_parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    file_ends: ClassVar[tuple[str, str]] = ("", "")
    file_doubt: ClassVar[tuple[str, tuple[str, ...]]] = ("", ())
    lora_blocks: ClassVar[Mapping[str, tuple[str, Mapping[str, Place]]]] = {}

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

    # --- facts, of no model in particular ------------------------------------------------------

    @classmethod
    def preset(cls, configuration: Callable[[str], Mapping[str, Any]]) -> str:
        """The name of the preset that suits a model; configuration: of a part, by its name."""
        return next(iter(cls.presets), "paper")

    @classmethod
    def tokens(
        cls, text_encoder: str, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int
    ) -> int:
        """How many tokens a prompt is to one of the text encoders, padding included.

        texts: their configurations by name, of those that are there; denoiser: its configuration;
        limit: of the tokenizers, at most. Here as CLIP.
        """
        return min(texts[text_encoder]["max_position_embeddings"], limit)

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        """What the denoiser is told of a prompt; arguments as of `tokens`."""
        raise UserError(f"rpo plan does not know what a {cls.__name__} is told of a prompt")

    @classmethod
    def claims(cls, header: Header) -> bool:
        """Whether a single file is a model of this family.

        UserError for a model that is related to the family and cannot be used.
        """
        return False

    @classmethod
    def file_config(cls, header: Header) -> Mapping[str, Any]:
        """What a file's weights tell of the denoiser's configuration, for `preset`."""
        return {}

    @classmethod
    def reference(cls, header: Header) -> str | None:
        """The repository that has the configurations of a file, if its weights tell which."""
        return None

    @classmethod
    def place(cls, layer: str, layers_per_block: int) -> Place | None:
        """Where a layer lies in the model as kohya's tools know it; see `place_of`."""
        folder, number, rest = [*layer.split(".", 2), "", ""][:3]
        other, layers = cls.lora_blocks.get(folder, ("", {}))
        if rest not in layers:
            return None
        place = layers[rest]
        return Place(f"{other}.{number}.{place.name}", place.block, place.sizes)

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
        """Kohya's ss_base_model_version by the configurations; None for one that it has not."""
        return None

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        """The architecture by ModelSpec's name, and the publication's implementation."""
        return cls.__name__, "diffusers"


def variance_preserving(scheduler: Any) -> VariancePreserving:
    """From a diffusers scheduler of any solver. UserError for what is no such model's."""
    from diffusers import DDPMScheduler

    from rpo.models.noise import VariancePreserving

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
    from rpo.models.noise import RectifiedFlow, flow_location

    if not {"shift", "use_dynamic_shifting"} <= scheduler.config.keys():
        raise UserError(
            f"model: its scheduler is a {type(scheduler).__name__}; "
            "this family needs a FlowMatchEulerDiscreteScheduler"
        )
    location = flow_location(scheduler.config, image_tokens)
    return RectifiedFlow(location, scheduler.config.num_train_timesteps)


def shift_for(solver: Any, image_tokens: int) -> dict[str, float]:
    """The argument of a flow solver's `set_timesteps` that its dynamic shift asks for, if any."""
    from rpo.models.noise import dynamic_shift

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
