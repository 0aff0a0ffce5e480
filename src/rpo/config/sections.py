"""Every setting of a run: one typed, validated source for the CLI, the files and the docs.

A setting is a dataclass field whose metadata holds its help sentence and its limits. `SETTINGS`
lists them under their dotted names ("training.steps"), the names that TOML files, `--set` and
error messages use. Defaults are the paper's (Table 4 of arXiv 2407.12164); `presets.PRESETS`
change them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rpo.config.settings import Section, Setting
from rpo.errors import UserError

FLOW_SOLVER = "flow-euler"  # the solver of flow-matching models, which have no other
TIMESTEPS = 1000  # of the diffusion that the models learned; no solver can take more


def _field(default: Any, help: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class PhotosConfig(Section):
    """What is taken of the photos, and of the captions, masks and boxes beside them."""

    _prefix: ClassVar[str] = "photos."
    crop: Literal["centre", "subject", "none"] = _field(
        "centre",
        "The square that is learned from: a photo's middle, the one around its mask or box, or the "
        "whole photo on plain ground, which does not teach.",
    )
    unmasked_weight: float = _field(
        1.0,
        "Weight in a photo's loss of what its mask leaves out; 1 is without masks.",
        at_least=0,
        at_most=1,
    )
    captions: bool = _field(
        True, "Take NAME.txt beside a photo as its prompt; {} in it stands for the subject."
    )


@dataclass(frozen=True)
class SamplingConfig(Section):
    """How the base model draws the training images."""

    _prefix: ClassVar[str] = "sampling."
    steps: int = _field(50, "Solver steps for each training image.", at_least=1, at_most=TIMESTEPS)
    guidance_scale: float = _field(
        7.5, "Classifier-free guidance of the base model.", at_least=0, at_most=1000
    )
    images_per_prompt: int = _field(
        4, "Images that the base model draws for each training prompt.", at_least=1
    )
    batch_size: int = _field(8, "Images drawn at once; lower it to save memory.", at_least=1)
    scheduler: Literal["dpm++", "ddim"] = _field(
        "ddim", "The solver that draws them; flow-matching models use their own."
    )


@dataclass(frozen=True)
class TrainingConfig(Section):
    """The optimisation (Eq. 7 to 9, Table 4)."""

    _prefix: ClassVar[str] = "training."
    steps: int = _field(400, "Gradient steps.", at_least=1)
    learning_rate: float = _field(5e-6, "Learning rate of AdamW, at its highest.", above=0)
    schedule: Literal["constant", "linear", "cosine"] = _field(
        "constant", "The learning rate after warm-up: as it is, or falling to 0 at the last step."
    )
    warmup: int = _field(0, "Steps in which the learning rate rises from 0.", at_least=0)
    ema: float = _field(
        0.0,
        "Decay of an average of the weights, which is then what is judged and kept; 0 is none.",
        at_least=0,
        at_most=0.99999,
    )
    photos: int = _field(1, "Photos that each pair's similarity loss sees.", at_least=1)
    flip: bool = _field(False, "Mirror the photos at random; not for what has a left and a right.")
    weight_decay: float = _field(1e-2, "Weight decay of AdamW.", at_least=0)
    max_grad_norm: float = _field(1.0, "The gradient's norm is clipped to this.", above=0)
    beta: float = _field(1.0, "Strength of the preference, the beta of Eq. 9.", at_least=0)
    batch_size: int = _field(1, "Pairs of a photo and a drawn image at once.", at_least=1)
    accumulate: int = _field(
        1, "Batches whose gradients are added up to one step; saves memory.", at_least=1
    )
    optimizer: Literal["adamw", "adamw8bit"] = _field(
        "adamw", "AdamW, or bitsandbytes' one that keeps its moments in 8 bits."
    )
    weights: Literal["full", "lora", "dora", "token", "cross-attention"] = _field(
        "full",
        "What learns: the whole denoiser (the paper), a low-rank adapter of it, a new token of the "
        "text encoders, or that and how the denoiser attends to the prompt.",
    )
    checkpointing: bool = _field(
        False, "Compute activations twice instead of keeping them: a third slower, far less memory."
    )
    similarity_weight: float = _field(
        1.0, "Weight of the similarity loss; 0 is Diffusion-DPO alone (Table 7).", at_least=0
    )
    preference_weight: float = _field(
        1.0, "Weight of the preference loss; 0 is the similarity loss alone (Table 2).", at_least=0
    )
    independent_noise: bool = _field(
        False, "Give the halves of a pair noise and timesteps of their own, as official train.py."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similarity_weight == self.preference_weight == 0:
            raise UserError(
                "training.similarity_weight and training.preference_weight are both 0, "
                "which trains nothing; set at least one above 0"
            )


@dataclass(frozen=True)
class LoraConfig(Section):
    """The adapter, where training.weights is lora (arXiv 2106.09685) or dora (arXiv 2402.09353)."""

    _prefix: ClassVar[str] = "lora."
    rank: int = _field(16, "Rank of the adapter's matrices.", at_least=1)
    alpha: float = _field(16.0, "The adapter is scaled by alpha / rank.", above=0)
    targets: str = _field(
        "auto",
        "Layers that get one, by the ends of their names (to_q,to_k); auto is all attention.",
        form=(r"[\w.]+(\s*,\s*[\w.]+)*", "auto, or names with commas between them"),
    )


@dataclass(frozen=True)
class RewardConfig(Section):
    """The lambda-harmonic reward (Eq. 5) and the preference labels (Eq. 6)."""

    _prefix: ClassVar[str] = "reward."
    model: str = _field(
        "auto",
        "Reward model: a folder, a hub id or auto.",
        form=(r".+", "a folder, hub id or auto"),
    )
    mean: Literal["harmonic", "arithmetic"] = _field(
        "harmonic", "How image and text alignment are averaged (Table 6)."
    )
    lambda_train: float = _field(
        0.0, "Weight of image alignment in the labels; 0 is text alone.", at_least=0, at_most=1
    )
    lambda_val: float = _field(
        0.5, "Weight of image alignment in validation.", at_least=0, at_most=1
    )
    temperature: float = _field(1.0, "Divides the gap of the rewards in Eq. 6.", above=0)
    labels: Literal["drawn", "expected"] = _field(
        "drawn", "Draw a pair's label by its probability (Eq. 6), or let that be the label."
    )


@dataclass(frozen=True)
class ValidationConfig(Section):
    """When and how a checkpoint is judged; the best one is kept."""

    _prefix: ClassVar[str] = "validation."
    every: int = _field(40, "Gradient steps from one validation to the next.", at_least=1)
    images_per_prompt: int = _field(1, "Images drawn for each validation prompt.", at_least=1)
    steps: int = _field(
        20, "Solver steps for each validation image.", at_least=1, at_most=TIMESTEPS
    )
    guidance_scale: float = _field(
        7.5, "Classifier-free guidance in validation.", at_least=0, at_most=1000
    )
    batch_size: int = _field(8, "Images drawn at once; lower it to save memory.", at_least=1)
    scheduler: Literal["dpm++", "ddim"] = _field(
        "dpm++", "The solver that draws them; flow-matching models use their own."
    )
    keep: Literal["best", "last"] = _field(
        "best", "Which validated step is the result; last is training without selection (Table 2)."
    )
    patience: int = _field(
        0, "Stop after this many validations without a new best; 0 runs all steps.", at_least=0
    )


@dataclass(frozen=True)
class DreamBoothConfig(Section):
    """Prior preservation, where method is dreambooth (arXiv 2208.12242) or custom_diffusion."""

    _prefix: ClassVar[str] = "dreambooth."
    class_images: int = _field(
        1000, "Images of the class that the base model draws, once for all runs.", at_least=1
    )
    prior_weight: float = _field(
        1.0, "Weight of the loss on them; 0 is the similarity loss alone.", at_least=0
    )


@dataclass(frozen=True)
class TextualInversionConfig(Section):
    """The new token, where training.weights is token or cross-attention (arXiv 2208.01618)."""

    _prefix: ClassVar[str] = "textual_inversion."
    vectors: int = _field(
        1, "Vectors that the identifier stands for, a token each.", at_least=1, at_most=64
    )
    initializer: str = _field(
        "noun",
        "Word whose first token's vector all of them begin as; noun is the subject's.",
        form=(r"\S+", "one word"),
    )


@dataclass(frozen=True)
class OnlineConfig(Section):
    """The reward of the present model's own drawings, where method is online."""

    _prefix: ClassVar[str] = "online."
    weight: float = _field(1.0, "Weight of the reward; 0 is without it.", at_least=0)
    lambda_online: float = _field(
        0.5, "Weight of image alignment in the reward of drawings.", at_least=0, at_most=1
    )
    start: int = _field(100, "The first step that rewards drawings.", at_least=0)
    every: int = _field(2, "Steps from one that rewards drawings to the next.", at_least=1)
    pictures: int = _field(4, "Drawings that such a step rewards.", at_least=1)
    steps: int = _field(10, "Solver steps of each drawing.", at_least=1, at_most=TIMESTEPS)
    late: int = _field(
        3, "The gradient goes through one of this many last solver steps, at random.", at_least=1
    )
    depth: int = _field(1, "Solver steps that it goes through, that one the last.", at_least=1)
    decoder: str = _field(
        "own",
        "What decodes the drawings for the gradient: own, tiny (the family's TAESD, in far less "
        "memory), or a tiny autoencoder's folder or hub id.",
        form=(r".+", "own, tiny, a folder or a hub id"),
    )
    shift: float = _field(
        0.0625,
        "What the reward model sees is shifted by up to this share of the side.",
        at_least=0,
        at_most=0.5,
    )


@dataclass(frozen=True)
class DisenBoothConfig(Section):
    """The two conditions, where method is disenbooth (arXiv 2305.03374)."""

    _prefix: ClassVar[str] = "disenbooth."
    weak_weight: float = _field(
        0.01, "Weight of denoising the photos by the text alone, its lambda_2.", at_least=0
    )
    disentangle_weight: float = _field(
        0.001, "Weight of the cosine of text and photo conditions, its lambda_3.", at_least=0
    )


SECTIONS: dict[str, Any] = {
    "photos": PhotosConfig,
    "sampling": SamplingConfig,
    "training": TrainingConfig,
    "lora": LoraConfig,
    "reward": RewardConfig,
    "validation": ValidationConfig,
    "dreambooth": DreamBoothConfig,
    "textual_inversion": TextualInversionConfig,
    "online": OnlineConfig,
    "disenbooth": DisenBoothConfig,
}


@dataclass(frozen=True)
class Config(Section):
    """A whole run. Raises UserError, naming the setting, where a value is invalid."""

    model: str = _field(
        "emojiland",
        "Base model: emojiland, a folder, a .safetensors file or a hub id.",
        form=(r".+", "a folder, file or hub id"),
    )
    method: str = _field(
        "rpo", "How it is taught; `rpo methods` lists them.", form=(r"[\w-]+", "a method's name")
    )
    noun: str = _field("", "What the photos show, in a word or two, such as dog.")
    identifier: str = _field(
        "[V]", "The rare token that names the subject.", form=(r"\S+", "one word")
    )
    subject_kind: Literal["auto", "live", "object"] = _field(
        "auto", "Which list of prompts fits the subject; auto decides by the noun."
    )
    prompts: str = _field(
        "auto",
        "Prompt lists: paper, emojiland, a TOML file, or auto to suit the base model.",
        form=(r".+", "paper, emojiland, a TOML file or auto"),
    )
    seed: int = _field(0, "All randomness derives from it.", at_least=0, at_most=2**32 - 1)
    device: str = _field(
        "auto",
        "Where to compute: auto, cpu, mps, cuda, cuda:N or xpu.",
        form=(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?", "auto, cpu, mps, cuda, cuda:N or xpu"),
    )
    resolution: int = _field(
        0,
        "Side of the images in pixels; 0 is the model's own.",
        at_least=0,
        at_most=4096,
        multiple_of=8,
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = _field(
        "fp32", "Number format of all that is frozen and of the arithmetic; what learns is fp32."
    )
    quantize: Literal["no", "int8", "nf4"] = _field(
        "no", "Hold the frozen denoiser in 8 or 4 bits under a LoRA; needs bitsandbytes."
    )
    offload: bool = _field(
        False, "Keep on the GPU only what is computing: all but the denoiser come and go."
    )
    compile: bool = _field(
        False, "Compile the denoiser: minutes of waiting first, then faster steps and pictures."
    )
    photos: PhotosConfig = PhotosConfig()
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig = LoraConfig()
    reward: RewardConfig = RewardConfig()
    validation: ValidationConfig = ValidationConfig()
    dreambooth: DreamBoothConfig = DreamBoothConfig()
    textual_inversion: TextualInversionConfig = TextualInversionConfig()
    online: OnlineConfig = OnlineConfig()
    disenbooth: DisenBoothConfig = DisenBoothConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, section in SECTIONS.items():
            if not isinstance(getattr(self, name), section):
                raise UserError(f"{name} must be a {section.__name__}")


SETTINGS: Mapping[str, Setting] = {
    setting.key: setting
    for section in (Config, *SECTIONS.values())
    for setting in section.settings().values()
}
