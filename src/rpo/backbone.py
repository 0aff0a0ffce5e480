"""A pretrained latent text-to-image model: encode, add noise, target, per-sample denoising error.

One class serves every model that `diffusers.StableDiffusionPipeline` can load (the embedded small
world, Stable Diffusion 1.x and 2.x), from a folder or from the hub's local cache.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler
from torch import Tensor, nn

from rpo.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction")


@contextmanager
def quiet() -> Iterator[None]:
    """Mute the libraries' advice and loading bars, and put their settings back afterwards."""
    logs = [library.utils.logging for library in (diffusers, transformers)]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, (verbosity, bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


with quiet():  # it would advise to install torchvision
    from diffusers import StableDiffusionPipeline


def resolve_device(name: str = "auto") -> torch.device:
    """ "auto" is the GPU if there is one, else the CPU. Raises UserError for one that is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device '{name}' is not usable here; use auto, cpu, mps or cuda"
        ) from error
    return device


class Backbone:
    """A frozen pretrained model and the arithmetic of its diffusion.

    Attributes:
        denoiser: the base U-Net, frozen, in evaluation mode.
        vae, text_encoder, tokenizer, scheduler: the pipeline's other parts, frozen as well.
        noise_schedule: (T,) cumulative signal power, alpha-bar_t of DDPM (arXiv 2006.11239).
        prediction_type: "epsilon" or "v_prediction".
        resolution: side of the square pictures, in pixels.
        latent_shape: (C, h, w) of one picture's latent.
        device: where all of it lives; everything is float32.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, device: str = "auto", resolution: int = 0
    ) -> None:
        self.device = resolve_device(device)
        parts: Any = pipeline  # its attributes are only known at run time
        self.denoiser = parts.unet
        self.vae, self.text_encoder = parts.vae, parts.text_encoder
        self.tokenizer, self.scheduler = parts.tokenizer, parts.scheduler
        with quiet():
            for module in (self.denoiser, self.vae, self.text_encoder):
                module.to(self.device, torch.float32).eval().requires_grad_(False)

        channels = self.vae.config.latent_channels
        if self.denoiser.config.in_channels != channels:
            raise UserError(
                f"model: its denoiser reads {self.denoiser.config.in_channels} channels, its "
                f"pictures have {channels}; use a plain text-to-image model, not an inpainting one"
            )
        self.prediction_type: str = self.scheduler.config.get("prediction_type", "epsilon")
        diffuses = "beta_start" in self.scheduler.config  # a flow-matching model has no betas
        if self.prediction_type not in PREDICTION_TYPES or not diffuses:
            raise UserError(
                f"model: its scheduler predicts '{self.prediction_type}' "
                f"({type(self.scheduler).__name__}); supported are {' and '.join(PREDICTION_TYPES)}"
            )
        with quiet():
            ddpm = DDPMScheduler.from_config(self.scheduler.config)
        self.noise_schedule: Tensor = ddpm.alphas_cumprod.to(self.device)

        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # pixels per latent cell
        self.resolution = resolution or self.denoiser.config.sample_size * factor
        if self.resolution < factor or self.resolution % factor:
            raise UserError(f"resolution must be a multiple of {factor}, not {self.resolution}")
        self.latent_shape = (channels, self.resolution // factor, self.resolution // factor)

    @classmethod
    def load(cls, path_or_id: str | Path, device: str = "auto", resolution: int = 0) -> Backbone:
        """Load a diffusers folder, or a hub id that lies in the local cache; nothing is downloaded.

        Only safetensors are read, half-precision ones as float32. Raises UserError where the model
        is absent, is of another family or has its weights in pickles only.
        """
        name = str(path_or_id)
        weights = [file.name for file in Path(name).glob("unet/*.safetensors")]
        half_only = bool(weights) and all(".fp16" in file for file in weights)
        try:
            with quiet():
                index = StableDiffusionPipeline.load_config(name, local_files_only=True)
                if index.get("_class_name") != "StableDiffusionPipeline":
                    raise UserError(
                        f"model '{name}' is a {index.get('_class_name')}; use a "
                        "StableDiffusionPipeline (Stable Diffusion 1.x or 2.x)"
                    )
                pipeline = StableDiffusionPipeline.from_pretrained(
                    name,
                    torch_dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    variant="fp16" if half_only else None,
                    safety_checker=None,
                    feature_extractor=None,
                    image_encoder=None,
                    requires_safety_checker=False,
                )
        except (OSError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise UserError(
                f"model '{name}' cannot be loaded ({reason}); name a complete diffusers folder "
                "with safetensors weights, or fetch a hub model first with `hf download`"
            ) from error
        return cls(pipeline, device, resolution)

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """(N, L, D) text embeddings. Raises UserError for a prompt that the model would cut off."""
        limit = min(
            self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings
        )
        unpadded = self.tokenizer(list(texts), verbose=False).input_ids
        for text, ids in zip(texts, unpadded, strict=True):
            if len(ids) > limit:
                raise UserError(
                    f"prompt '{text}' has {len(ids)} tokens and the model reads {limit}; shorten it"
                )
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=limit, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.device))[0]

    @torch.no_grad()
    def encode_images(
        self, images: Tensor, generator: torch.Generator | None = None, batch_size: int = 8
    ) -> Tensor:
        """(N, 3, H, W) pictures in [-1, 1] -> (N, C, h, w) latents at the denoiser's scale.

        The posterior's mode; a draw from it where a (CPU) generator is given.
        """
        latents = []
        for chunk in images.split(batch_size):
            posterior = self.vae.encode(chunk.to(self.device)).latent_dist
            latents.append(posterior.sample(generator) if generator else posterior.mode())
        return torch.cat(latents) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor, batch_size: int = 8) -> Tensor:
        """(N, C, h, w) latents -> (N, 3, H, W) pictures in [0, 1]."""
        chunks = (latents / self.vae.config.scaling_factor).split(batch_size)
        images = torch.cat([self.vae.decode(chunk, return_dict=False)[0] for chunk in chunks])
        return images.mul(0.5).add(0.5).clamp(0, 1)

    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        power = self.noise_schedule[timesteps].view(-1, 1, 1, 1)
        return power.sqrt(), (1 - power).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; (B, C, h, w), timesteps (B,) integers."""
        signal, sigma = self._signal_and_noise(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should say: eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.

        (B, C, h, w). v-prediction: arXiv 2202.00512, section 4.
        """
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._signal_and_noise(timesteps)
        return signal * noise - sigma * latents

    def denoising_error(
        self,
        denoiser: nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        embeddings: Tensor,
    ) -> Tensor:
        """err(x) of Eq. 7 to 9: (B,), mean over elements of (target - prediction)^2.

        latents, noise (B, C, h, w); timesteps (B,); embeddings (B, L, D).
        """
        prediction = denoiser(
            self.add_noise(latents, noise, timesteps),
            timesteps,
            encoder_hidden_states=embeddings,
            return_dict=False,
        )[0]
        residual = self.target(latents, noise, timesteps) - prediction
        return residual.square().flatten(1).mean(1)

    def trainable_copy(self) -> nn.Module:
        """A copy of the base denoiser that learns, float32 as the base is.

        It stays in evaluation mode: dropout would make Delta noisy, and differ from zero untrained.
        """
        return copy.deepcopy(self.denoiser).eval().requires_grad_(True)

    def pipeline(self, denoiser: nn.Module) -> StableDiffusionPipeline:
        """The ordinary diffusers pipeline around `denoiser`, for saving; parts are shared."""
        parts: dict[str, Any] = {
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "scheduler": self.scheduler,
        }
        with quiet():
            return StableDiffusionPipeline(
                unet=denoiser,
                **parts,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
