"""A pretrained latent text-to-image model: encode, add noise, target, per-sample denoising error.

One class for all model families, from a folder or from the hub's local cache. What differs between
them is in `rpo.models.families`, chosen by the pipeline's class in model_index.json.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpo.errors import UserError
from rpo.models.computing import FLOATS, TEXT_BATCH
from rpo.models.conditions import Conditions
from rpo.models.families import FAMILIES, Family
from rpo.models.loading import load_pipeline, unsupported
from rpo.models.noise import NoiseProcess
from rpo.models.offload import awake
from rpo.models.quantization import quantize as quantize_layers
from rpo.models.resolve import resolve_model
from rpo.quiet import quiet


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


def encode_once(family: Family, texts: Sequence[str]) -> Conditions:
    """What the denoiser is told, a row a text; equal texts are encoded once.

    Raises UserError for a prompt that the model would cut off.
    """
    unique = list(dict.fromkeys(texts))
    chunks = [unique[k : k + TEXT_BATCH] for k in range(0, len(unique), TEXT_BATCH)]
    encoded = Conditions.cat([family.encode(chunk) for chunk in chunks])
    if len(unique) == len(texts):
        return encoded
    row = {text: index for index, text in enumerate(unique)}
    return encoded[[row[text] for text in texts]]


class Backbone:
    """A frozen pretrained model and the arithmetic of its diffusion.

    Attributes:
        family: what is particular to models of its kind.
        vae, scheduler, tokenizer, text_encoder: parts of the pipeline (of several, the first ones).
        process: how latents turn into noise and what the denoiser should say.
        resolution: side of the square pictures, in pixels.
        latent_shape: (C, h, w) of one picture's latent.
        image_tokens: what one picture is to the denoiser, in tokens or latent cells.
        device: where it computes.
        dtype: of the frozen weights and of the arithmetic; latents are float32 always.
    """

    def __init__(
        self,
        pipeline: Any,
        device: str = "auto",
        resolution: int = 0,
        *,
        precision: str = "fp32",
        quantize: str = "no",
        offload: bool = False,
    ) -> None:
        """Raises UserError for a model or a combination of settings that cannot work.

        precision: a name in `FLOATS`; "tf32" is a switch of the whole process. quantize: "no", or
        what `rpo.models.quantization.quantize` knows, for the denoiser. offload: text encoders and
        autoencoder are on the device only while they compute, and the denoiser from its first use.
        """
        self.device, self.dtype, self.offload = resolve_device(device), FLOATS[precision], offload
        if self.dtype == torch.float16 and self.device.type == "cpu":
            raise UserError("precision fp16 needs a GPU; use fp32, or bf16")
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
        family = FAMILIES.get(type(pipeline).__name__)
        if family is None:
            raise UserError(unsupported("model", type(pipeline).__name__))
        self.family: Family = family(pipeline)
        self._denoiser = getattr(pipeline, family.denoiser_name)
        self._arrived = False  # is the denoiser where it computes?
        self.vae, self.scheduler = pipeline.vae, pipeline.scheduler
        self.tokenizer, self.text_encoder = pipeline.tokenizer, pipeline.text_encoder
        texts = [getattr(pipeline, name) for name in family.text_encoders]
        self._texts = [module for module in texts if module is not None]
        self._unconditional: Conditions | None = None
        self._remembered: dict[str, Conditions] = {}
        # Half precision's range is too small for what these autoencoders reach inside.
        vae_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        if quantize != "no":
            quantize_layers(self._denoiser, quantize, self.dtype)
        with quiet():
            self._denoiser.to(self.dtype)
            for module in self._texts:
                module.to(self._home, self.dtype)
            self.vae.to(self._home, vae_dtype)
            for module in (self._denoiser, self.vae, *self._texts):
                module.eval().requires_grad_(False)
        if not offload:
            self._bring_denoiser()

        self._refuse_other_uses()
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # pixels per latent cell
        self.resolution = resolution or self.family.sample_size() * factor
        multiple, largest = factor * family.patch, self.family.largest_size()
        if self.resolution < multiple or self.resolution % multiple:
            raise UserError(f"resolution must be a multiple of {multiple}, not {self.resolution}")
        if largest and self.resolution > largest * factor:
            raise UserError(
                f"resolution must be at most {largest * factor} for this model, "
                f"not {self.resolution}"
            )
        side = self.resolution // factor
        self.latent_shape = (self.vae.config.latent_channels, side, side)
        self.image_tokens = (side // family.patch) ** 2
        with quiet():
            self.process: NoiseProcess = self.family.process(self.image_tokens).to(self.device)

        # Latents at the denoiser's scale are (encoded - centre) / spread.
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self._centre: Any = config.get("shift_factor") or 0.0
        self._spread: Any = 1 / config.scaling_factor
        if mean is not None and std is not None:
            self._centre = torch.tensor(mean, device=self.device).view(1, -1, 1, 1)
            self._spread = torch.tensor(std, device=self.device).view(1, -1, 1, 1) * self._spread

    def _refuse_other_uses(self) -> None:
        """Raises UserError for a denoiser that reads more than a noisy picture and a prompt."""
        config = self._denoiser.config
        needed = self.vae.config.latent_channels * self.family.packed
        if config.in_channels != needed:
            # One that reads more than it answers is told more than the noisy picture.
            plain = config.in_channels == (config.get("out_channels") or config.in_channels)
            raise UserError(
                f"model: its denoiser reads {config.in_channels} channels, its pictures have "
                f"{needed}; "
                + (
                    "its VAE is another family's: put the model's own vae folder back"
                    if plain
                    else "use a plain text-to-image model, not an inpainting one"
                )
            )
        if config.get("time_cond_proj_dim"):
            raise UserError(
                "model: its denoiser is told the guidance scale (a latent consistency model); "
                "use the plain model that it was distilled from"
            )

    def _bring_denoiser(self) -> None:
        with quiet():
            self._denoiser.to(self.device)
            if self.device.type == "cuda":  # where convolutions are fastest with channels last
                self._denoiser.to(memory_format=torch.channels_last)
        self._arrived = True

    @property
    def denoiser(self) -> Any:
        """The base U-Net or transformer, frozen, in evaluation mode.

        Offloaded, it comes to the device when it is first asked for, and stays.
        """
        if not self._arrived:
            self._bring_denoiser()
        return self._denoiser

    @property
    def _home(self) -> torch.device:
        """Where the text encoders and the autoencoder wait."""
        return torch.device("cpu") if self.offload else self.device

    def _awake(self, *modules: nn.Module) -> AbstractContextManager[None]:
        return awake(modules, self.device, self._home)

    @property
    def prediction_type(self) -> str:
        """ "epsilon", "v_prediction" or "flow_prediction"."""
        return self.process.prediction_type

    @classmethod
    def load(
        cls, path_or_id: str | Path, device: str = "auto", resolution: int = 0, **how: Any
    ) -> Backbone:
        """Load what `rpo.models.resolve.resolve_model` finds under a name; nothing is downloaded.

        Only safetensors are read. how: `precision`, `quantize` and `offload`, as for the
        constructor. Raises UserError where the model is absent, incomplete, damaged, of an unknown
        family or has its weights in pickles only.
        """
        # A Path is a place, even one that is called as a model is.
        name = path_or_id.absolute() if isinstance(path_or_id, Path) else path_or_id
        pipeline = load_pipeline(resolve_model(name), FLOATS[how.get("precision", "fp32")])
        return cls(pipeline, device, resolution, **how)

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """What the denoiser is told, a row a text; equal texts are encoded once.

        Raises UserError for a prompt that the model would cut off.
        """
        if self._remembered.keys() >= set(texts):
            return Conditions.cat([self._remembered[text] for text in texts])
        with self._awake(*self._texts):
            return encode_once(self.family, texts)

    def remember_prompts(self, texts: Sequence[str]) -> None:
        """Encodes them, and the unconditional, while the denoiser is not yet on the device.

        `encode_prompts` then has them. Text encoders can be larger than the denoiser.
        """
        encoded = self.encode_prompts(texts)
        self._remembered = {text: encoded[[row]] for row, text in enumerate(texts)}
        if self.family.classifier_free:
            self.unconditional()

    @torch.no_grad()
    def unconditional(self) -> Conditions:
        """(1 row) what classifier-free guidance is guided away from by default; encoded once."""
        if self._unconditional is None:  # every batch of pictures asks for it
            with self._awake(*self._texts):
                self._unconditional = self.family.unconditional()
        return self._unconditional

    @torch.no_grad()
    def encode_images(
        self, images: Tensor, generator: torch.Generator | None = None, batch_size: int = 1
    ) -> Tensor:
        """(N, 3, H, W) pictures in [-1, 1] -> (N, C, h, w) latents at the denoiser's scale.

        The posterior's mode; a draw from it where a (CPU) generator is given. Raises UserError
        where they are not finite.
        """
        latents = []
        with self._awake(self.vae):
            for chunk in images.split(batch_size):
                posterior = self.vae.encode(chunk.to(self.device, self.vae.dtype)).latent_dist
                latents.append(posterior.sample(generator) if generator else posterior.mode())
        _refuse_non_finite(encoded := torch.cat(latents).float(), "latents of the photos")
        return (encoded - self._centre) / self._spread

    @torch.no_grad()
    def decode(self, latents: Tensor, batch_size: int = 8) -> Tensor:
        """(N, C, h, w) latents -> (N, 3, H, W) pictures in [0, 1]. UserError if not finite."""
        with self._awake(self.vae):
            chunks = self._encoded(latents).split(batch_size)
            images = torch.cat([self._decoded(chunk) for chunk in chunks])
        _refuse_non_finite(images, "pictures")
        return images.float().mul(0.5).add(0.5).clamp(0, 1)

    def decode_with_gradient(
        self, latents: Tensor, recompute: bool = False, tiny: Any = None
    ) -> Tensor:
        """As `decode`, and the pictures' gradient reaches the latents.

        recompute: one picture after the other, its activations computed twice instead of kept.
        tiny: an autoencoder as `rpo.models.tiny_decoder` loads it, in place of the model's own.
        What decodes stays on the device: its backward pass comes later.
        """
        if tiny is None:
            self.vae.to(self.device)
            decode, encoded = self._decoded, self._encoded(latents)
        else:
            decode, encoded = tiny, latents.to(tiny.dtype)
        if recompute:
            images = torch.cat(
                [checkpoint(decode, one, use_reentrant=False) for one in encoded.split(1)]
            )
        else:
            images = decode(encoded)
        return images.float().mul(0.5).add(0.5).clamp(0, 1)

    def _encoded(self, latents: Tensor) -> Tensor:
        return (latents * self._spread + self._centre).to(self.vae.dtype)

    def _decoded(self, encoded: Tensor) -> Tensor:
        return self.vae.decode(encoded, return_dict=False)[0]

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float = 1.0,
    ) -> Tensor:
        """The denoiser's answer, (B, C, h, w) in float32; timesteps (B,) or a scalar.

        guidance: what a guidance-distilled model (FLUX.1-dev) is told; no other model reads it. At
        1 it answers as an unguided model, with the velocity that flow matching's target measures.
        """
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            answer = self.family.predict(
                denoiser, noisy.to(self.dtype), timesteps, conditions.to(self.dtype), guidance
            )
        return answer.float()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of `process`: (B, C, h, w), timesteps (B,)."""
        return self.process.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should say: noise, v or the flow's velocity; (B, C, h, w)."""
        return self.process.target(latents, noise, timesteps)

    def denoising_error(
        self,
        denoiser: nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        weights: Tensor | None = None,
    ) -> Tensor:
        """err(x) of Eq. 7 to 9: (B,), mean over elements of (target - prediction)^2.

        latents, noise (B, C, h, w); timesteps (B,); conditions of B rows. weights (B, 1, h, w),
        none of them below 0 and not all of a row 0: the mean is weighted by them.
        """
        noisy = self.add_noise(latents, noise, timesteps)
        prediction = self.predict(denoiser, noisy, timesteps, conditions)
        residual = self.target(latents, noise, timesteps) - prediction
        if weights is None:
            return residual.square().flatten(1).mean(1)
        squares = residual.square().mean(1, keepdim=True) * weights
        return squares.flatten(1).sum(1) / weights.flatten(1).sum(1)

    def trainable_copy(self) -> nn.Module:
        """A copy of the base denoiser that learns, in float32 whatever the base is in.

        It stays in evaluation mode: dropout would make Delta noisy, and differ from zero untrained.
        """
        return copy.deepcopy(self.denoiser).float().eval().requires_grad_(True)

    def compile(self, denoiser: nn.Module) -> None:
        """Compiles it in place. Raises UserError on a CPU without a C++ compiler."""
        options: dict[str, Any] = {}
        if self.device.type == "cpu":
            compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
            if shutil.which(compiler) is None:
                raise UserError(
                    f"compile: {compiler} is not installed, and on a CPU a C++ compiler is needed; "
                    "install one, name yours in CXX, or leave compile false"
                )
            # Channels-last convolutions give wrong gradients below an upsampling (PyTorch 2.13).
            options["layout_optimization"] = False
        denoiser.compile(options=options)

    def save(self, denoiser: nn.Module, folder: Path) -> None:
        """Writes the whole pipeline around `denoiser`, as diffusers does."""
        with quiet():
            self.pipeline(denoiser).save_pretrained(folder, safe_serialization=True)

    def load_adapter(self, folder: Path, name: str) -> Any:
        """Puts a LoRA file of diffusers onto the base denoiser, and returns that."""
        with quiet():
            self.family.pipeline.load_lora_weights(str(folder), weight_name=name)
        self._denoiser.eval().requires_grad_(False)
        if self._arrived:
            self._denoiser.to(self.device)
        return self.denoiser

    def pipeline(self, denoiser: nn.Module) -> Any:
        """The ordinary diffusers pipeline around `denoiser`; parts are shared."""
        base = self.family.pipeline
        parts = {**base.components, self.family.denoiser_name: denoiser}
        parts.update(dict.fromkeys(self.family.unused))
        with quiet():
            return type(base)(**parts, **self.family.settings())


def _refuse_non_finite(values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise UserError(
            f"the VAE gives {what} that are not finite (NaN); check the model's weights, or set "
            "precision=fp32 where it is fp16"
        )
