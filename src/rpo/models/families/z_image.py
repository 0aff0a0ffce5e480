"""Z-Image: a language model's states, one stream of a transformer's tokens, rectified flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.config.presets import Preset
from rpo.errors import UserError
from rpo.models.families.facts import QKV, VAE, Header, Place, Told
from rpo.models.families.family import (
    FLOW_SCHEDULERS,
    Family,
    per_row,
    rectified_flow,
    shift_for,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess

LATENT_SIDE = 128  # 1024 pixels; the model's files do not say
TOKENS = 512  # as many as diffusers' pipeline reads, the chat's words around the prompt included
TURBO_SHIFT = 3.0  # of the distilled model's schedule; the base model's is 6
_BLOCK = {
    "attention.to_q": Place("attention.qkv", 0, QKV),
    "attention.to_k": Place("attention.qkv", 1, QKV),
    "attention.to_v": Place("attention.qkv", 2, QKV),
    "attention.to_out.0": Place("attention.out"),
    "feed_forward.w1": Place("feed_forward.w1"),
    "feed_forward.w2": Place("feed_forward.w2"),
    "feed_forward.w3": Place("feed_forward.w3"),
    "adaLN_modulation.0": Place("adaLN_modulation.0"),
}


class ZImage(Family):
    """diffusers' ZImagePipeline: Z-Image and Z-Image-Turbo (arXiv 2511.22699).

    A prompt is what a user says in a chat with the language model; the denoiser reads the states of
    its words alone, as many as they are, in rows of `Conditions` that say their lengths. Time runs
    from noise at 0 to the picture at 1 there, so the answer is the negative of the velocity.
    """

    title = "Z-Image"
    denoiser_name = "transformer"
    text_encoders = ("text_encoder",)
    unused = ()
    schedulers = FLOW_SCHEDULERS
    latent_scale = 0.3611  # FLUX.1's autoencoder
    tiny_decoder = "madebyollin/taef1"
    unguided = 0.0
    patch = 2
    presets: ClassVar = {
        "z-image": Preset(
            "as paper, with the guidance and steps customary for Z-Image",
            {"sampling": {"guidance_scale": 4.0}, "validation": {"guidance_scale": 4.0}},
        ),
        "z-image-turbo": Preset(
            "as paper, unguided and in 8 steps, for Z-Image-Turbo",
            {
                "sampling": {"steps": 8, "guidance_scale": 0.0},
                "validation": {"steps": 8, "guidance_scale": 0.0},
            },
        ),
    }
    # A file's language model, where it has one, is not read: no name begins with one of none.
    file_parts: ClassVar = {"vae": VAE, "text_encoder": ()}
    file_doubt = (
        "a Z-Image file does not tell whether it is the base model or the distilled Turbo",
        ("Tongyi-MAI/Z-Image", "Tongyi-MAI/Z-Image-Turbo"),
    )
    lora_blocks: ClassVar = {
        folder: (folder, _BLOCK) for folder in ("layers", "noise_refiner", "context_refiner")
    }

    def sample_size(self) -> int:
        return LATENT_SIDE

    def largest_size(self) -> int | None:
        return min(self.denoiser_config.axes_lens[1:]) * self.patch

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        from rpo.models.conditions import Conditions

        tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        limit = min(TOKENS, tokenizer.model_max_length)
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for text in texts
        ]
        for text, ids in zip(texts, tokenizer(chats, verbose=False).input_ids, strict=True):
            if len(ids) > limit:
                raise UserError(
                    f"prompt '{text}' has {len(ids)} tokens and the model reads {limit}; shorten it"
                )
        read = tokenizer(chats, padding="max_length", max_length=limit, return_tensors="pt")
        read = read.to(text_encoder.device)
        mask = read.attention_mask.bool()
        states = text_encoder(
            input_ids=read.input_ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states[-2]
        lengths, tokens = mask.sum(1).cpu(), states.new_zeros(states.shape)
        for row, length in enumerate(lengths.tolist()):
            tokens[row, :length] = states[row, mask[row]]  # on whichever side the padding is
        return Conditions(tokens, lengths=lengths)

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        import torch

        assert conditions.lengths is not None
        lengths = conditions.lengths.tolist()
        answers = denoiser(
            list(noisy.unsqueeze(2)),  # (C, 1, h, w) each: one frame
            (1000 - per_row(timesteps, len(noisy))) / 1000,
            [row[:length] for row, length in zip(conditions.tokens, lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(answers).squeeze(2)

    def set_timesteps(self, solver: Any, steps: int, image_tokens: int, device: Any) -> None:
        import numpy as np

        sigmas = np.linspace(1.0, 1 / steps, steps)  # before the shift; the last step ends at zero
        solver.set_timesteps(sigmas=sigmas, device=device, **shift_for(solver, image_tokens))

    @classmethod
    def preset(cls, configuration: Callable[[str], Mapping[str, Any]]) -> str:
        turbo = configuration("scheduler").get("shift") == TURBO_SHIFT
        return "z-image-turbo" if turbo else "z-image"

    @classmethod
    def tokens(
        cls, text_encoder: str, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int
    ) -> int:
        return min(TOKENS, limit)

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        tokens = cls.tokens("text_encoder", texts, denoiser, limit)
        return Told(tokens, denoiser["cap_feat_dim"], varies=True)

    @classmethod
    def claims(cls, header: Header) -> bool:
        names = ("noise_refiner.0.attention.qkv.weight", "cap_pad_token")
        return all(name in header.inner for name in names)

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
        return "z_image"

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        return "z-image", "diffusers"
