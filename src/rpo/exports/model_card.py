"""What an exported model says of itself: its README.md and the metadata inside its file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpo.about import __version__
from rpo.config import FLOW_SOLVER, METHODS
from rpo.data.prompts import Prompt, photo_texts
from rpo.exports.lora_file import Adapter
from rpo.models.families import FAMILIES, Family
from rpo.models.resolve import EMBEDDED
from rpo.runs.result import Run, quantisation_remark

METHOD = (
    "Reward Preference Optimization (RPO, [arXiv 2407.12164](https://arxiv.org/abs/2407.12164))"
)
# [how pictures are drawn here] -> diffusers' class with its argument, A1111's name, ComfyUI's name
_SAMPLERS = {
    "ddim": ("DDIMScheduler", "clip_sample=False", "DDIM", "ddim"),
    "dpm++": (
        "DPMSolverMultistepScheduler",
        'algorithm_type="dpmsolver++"',
        "DPM++ 2M",
        "dpmpp_2m",
    ),
    FLOW_SOLVER: ("", "", "Euler", "euler"),  # the pipeline has it already
}


@dataclass(frozen=True)
class Base:
    """The base model, as its folder tells, or its single file and what completes that.

    pipeline: its class; denoiser, scheduler: their configurations; card: the front matter of its
    README.md, empty without one, and for a single file; absent: parts that such pipelines have and
    this one does without; hub_id: its name on the hub, None for what lies on this machine, and for
    Emojiland.
    """

    path: Path
    name: str
    pipeline: str
    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    card: Mapping[str, Any]
    absent: Sequence[str] = ()

    @property
    def hub_id(self) -> str | None:
        local = self.name == EMBEDDED or Path(self.name).expanduser().exists()
        return None if local else self.name

    @property
    def title(self) -> str:
        """Its name without the places on this machine."""
        return self.hub_id or Path(self.name).name

    @property
    def family(self) -> type[Family]:
        """What is particular to models of its kind."""
        return FAMILIES[self.pipeline]

    @property
    def is_unet(self) -> bool:
        """Whether A1111 and kohya's layout serve it as they serve Stable Diffusion 1 to XL."""
        return self.family.denoiser_name == "unet"

    @property
    def version(self) -> str | None:
        """Kohya's ss_base_model_version; None for a model that no other tool knows."""
        return self.family.kohya_version(self.denoiser, self.scheduler)

    @property
    def predicts_v(self) -> bool:
        """Whether the denoiser says v and not the noise."""
        return self.scheduler.get("prediction_type") == "v_prediction"

    def weights(self, files: Mapping[str, str]) -> dict[str, str]:
        """Of a run's record of its base model, {name: hash}, the files with the denoiser."""
        if self.path.is_file():
            return {name: digest for name, digest in files.items() if name == self.path.name}
        folder = f"{FAMILIES[self.pipeline].denoiser_name}/"
        return {
            name: digest
            for name, digest in files.items()
            if name.startswith(folder) and name.endswith(".safetensors")
        }


@dataclass(frozen=True)
class Export:
    """One export: of which run, in which format and precision.

    file: the name of the LoRA's file, empty for a whole pipeline; adapter: None for a full run;
    token: the name of the token that was taught, empty where none was.
    """

    run: Run
    base: Base
    to: str
    dtype: str
    file: str
    adapter: Adapter | None
    token: str = ""

    @property
    def identifier(self) -> str:
        """The word that names the subject: the new token, where there is one."""
        return self.token or self.run.config.identifier

    @property
    def subject(self) -> str:
        """What the prompt calls the subject."""
        return f"{self.identifier} {self.run.config.noun}"

    @property
    def prompt(self) -> str:
        """The prompt of the photos in training."""
        return Prompt.reference(self.run.config.noun, self.identifier).conditioning

    @property
    def card(self) -> dict[str, Any]:
        """best/rpo.json."""
        return self.run.folder.best_card() or {}


# --- inside the file ---------------------------------------------------------------------


def file_metadata(export: Export) -> dict[str, str]:
    """Kohya's ss_ keys and ModelSpec's, as A1111, Forge and ComfyUI show them; all text."""
    adapter, base, card = export.adapter, export.base, export.card
    assert adapter is not None
    environment = export.run.folder.environment()
    side = environment["resolution"]
    architecture, implementation = base.family.modelspec(base.denoiser, base.scheduler)
    metadata = {
        "format": "pt",
        "ss_output_name": Path(export.file).stem,
        "ss_sd_model_name": base.title,
        "ss_v2": str((base.version or "").startswith("sd_v2")),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.rank),
        "ss_network_alpha": f"{adapter.alpha:g}",
        "ss_steps": str(card["step"]),
        "ss_resolution": f"({side}, {side})",
        "ss_num_train_images": str(len(environment["subject"]["photos"])),
        # the trigger words that A1111 and ComfyUI's managers offer
        "ss_tag_frequency": json.dumps({"photos": _told(export)}, ensure_ascii=False),
        "ss_training_comment": f"rpo {__version__}, reward {card['reward']:.4f}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": f"{export.subject} ({Path(export.file).stem})",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": export.subject,
        "modelspec.usage_hint": f"prompt: {export.prompt}; {_drawing(card)}",
        "modelspec.tags": "rpo, lora",
    }
    if base.version:
        metadata["ss_base_model_version"] = base.version
    if base.is_unet:
        metadata["modelspec.prediction_type"] = "v" if base.predicts_v else "epsilon"
    if license := base.card.get("license_name") or base.card.get("license"):
        metadata["modelspec.license"] = str(license)
    return metadata


def _told(export: Export) -> dict[str, int]:
    """How many photos were told by each prompt, those with a caption by their own."""
    folder = export.run.folder
    photos = len(folder.environment()["subject"]["photos"])
    captions = folder.started().get("photo_prompts") or [""] * photos
    return dict(Counter(photo_texts(captions, export.prompt)))


# --- README.md ---------------------------------------------------------------------------


def model_card(export: Export) -> str:
    """README.md of an export: front matter for the hub, then how to draw with it."""
    card, subject = export.card, export.subject
    kind = "The whole pipeline" if not export.file else f"A {_network(export.adapter)}"
    sections = [
        f"---\n{_front_matter(export)}\n---",
        f"# {subject} on {export.base.title}",
        f"{kind} that draws one {export.run.config.noun}, called `{subject}`, learned from "
        f"{len(export.run.folder.environment()['subject']['photos'])} photos by "
        f"{_method(export.run.config.method)}.",
        _facts(export),
        "## How to draw",
        f"Name the subject as `{subject}`: `{export.prompt}`. {_drawing(card).capitalize()} are "
        "what its pictures were judged with while it learned.",
        *_usage(export),
        "## Licence",
        _licence(export.base),
    ]
    if remark := quantisation_remark(export.run.config):
        sections.insert(4, remark)
    if card["step"] == 0:
        sections.insert(
            3, "No step of this run scored above the base model: this *is* the base model."
        )
    return "\n\n".join(sections) + "\n"


def _front_matter(export: Export) -> str:
    from huggingface_hub import ModelCardData

    base = export.base
    tags = ["text-to-image", "diffusers", "rpo"]
    if export.file:
        tags += ["lora", "template:sd-lora"]
    more: dict[str, Any] = {"instance_prompt": export.prompt}
    if base.hub_id:
        more |= {
            "base_model": base.hub_id,
            "base_model_relation": "adapter" if export.file else "finetune",
        }
    more |= {
        key: base.card[key]
        for key in ("license", "license_name", "license_link")
        if key in base.card
    }
    data = ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags, **more)
    return data.to_yaml(line_break="\n")


def _network(adapter: Adapter | None) -> str:
    return "DoRA" if adapter is not None and adapter.is_dora else "LoRA"


def _method(name: str) -> str:
    """What the subject was taught by, with its paper."""
    if name == "rpo" or name not in METHODS:
        return METHOD if name == "rpo" else f"the method {name}"
    facts = METHODS[name]
    number = facts.paper.split()[1].strip(",")
    return f"{facts.title} ([arXiv {number}](https://arxiv.org/abs/{number}))"


def _drawing(card: Mapping[str, Any]) -> str:
    """ "ddim, 50 steps, guidance 7.5, seed 0"."""
    return (
        f"{card['scheduler']}, {card['steps']} steps, guidance {card['guidance_scale']:g}, seed 0"
    )


def _facts(export: Export) -> str:
    card, base = export.card, export.base
    environment = export.run.folder.environment()
    recorded = base.weights(environment["models"]["pipeline"]["files"])
    hashes = [f"`{name}` sha256 `{digest}`" for name, digest in recorded.items()]
    rows = [
        ("subject", f"`{export.subject}`: the noun {export.run.config.noun}, the identifier "
         f"`{export.identifier}`"),
        ("base model", f"{base.title} ({base.pipeline})"),
        ("its denoiser", "<br>".join(hashes) or "unknown"),
        ("kept step", f"{card['step']}, λ-harmonic reward {card['reward']:.4f}"),
        ("resolution", f"{environment['resolution']} pixels"),
        ("precision", export.dtype),
        ("made by", f"rpo {environment['versions'].get('rpo', __version__)}"),
    ]  # fmt: skip
    if export.adapter is not None:
        numbers = f"rank {export.adapter.rank}, alpha {export.adapter.alpha:g}"
        verb = "" if export.file else ", merged into the denoiser"
        rows.insert(3, (_network(export.adapter), numbers + verb))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _licence(base: Base) -> str:
    if "license" in base.card:
        name = base.card.get("license_name") or base.card["license"]
        return f"As a derivative of {base.title}, this falls under its licence: {name}."
    what = "file" if base.path.is_file() else "folder of"
    return (
        f"The {what} {base.title} does not say under which licence it is. As a derivative, this "
        "falls under that licence; look it up before you share this."
    )


def _usage(export: Export) -> list[str]:
    """How to load it: in diffusers, and where a tool reads the file, there."""
    if export.to in ("diffusers", "lora"):
        return [f"```python\n{_code(export)}```"]
    _, _, webui, comfyui = _SAMPLERS[export.card["scheduler"]]
    name, base, adapter = Path(export.file).stem, export.base, export.adapter
    dora = adapter is not None and adapter.is_dora
    lines = [
        f"**ComfyUI**: put `{export.file}` into `models/loras` and load it by a *Load LoRA* node "
        "between the checkpoint and the sampler, strength 1; "
        f"sampler `{comfyui}`, prompt `{export.prompt}`."
    ]
    if dora:
        lines.append(
            "This is a DoRA. A1111 and older Forge take its magnitudes for those of the inputs and "
            "draw something else; diffusers does not read them from this file. Use ComfyUI, or "
            "export `--to diffusers`, which is exact everywhere."
        )
        if export.to == "kohya":
            lines.append("For ComfyUI, `--to comfyui` is the exact one of the two.")
    elif export.to == "kohya" or base.is_unet:
        # brackets weaken words there
        escaped = export.prompt.replace("[", r"\[").replace("]", r"\]")
        lines.append(
            f"**A1111, Forge**: put it into `models/Lora`; sampler {webui}, prompt "
            f"`{escaped} <lora:{name}:1>`."
            + (" Brackets would weaken a word there: keep the backslashes." * ("[" in escaped))
        )
        if base.is_unet:
            lines.append(f"**diffusers**:\n\n```python\n{_code(export)}```")
    if base.version is None:
        lines.append(
            f"{base.title} has not the shape of a published Stable Diffusion: these tools will "
            "hardly load it, diffusers does."
        )
    return lines


def _code(export: Export) -> str:
    """A program that draws the subject, run in the folder of the export."""
    card, base = export.card, export.base
    solver, argument, *_ = _SAMPLERS[card["scheduler"]]
    side = export.run.folder.environment()["resolution"]
    own = base.path.is_file() and export.to != "diffusers"  # a file in the original's names
    names = [*([] if own else ["DiffusionPipeline"]), *([solver] if solver else [])]
    lines = ["import torch"]
    if names:
        lines.append(f"from diffusers import {', '.join(sorted(names))}")
    without = "".join(f", {part}=None" for part in base.absent)  # diffusers asks to be told
    if export.to == "diffusers":
        lines += ["", f'pipeline = DiffusionPipeline.from_pretrained("."{without})  # this folder']
    else:
        opened = f'DiffusionPipeline.from_pretrained("{base.title}"{without})'
        if base.name == EMBEDDED:
            lines += ["from rpo.models.resolve import resolve_model"]
            opened = f'DiffusionPipeline.from_pretrained(resolve_model("{EMBEDDED}"))'
        elif own:  # diffusers alone would ask the hub for what the file lacks
            lines += ["from pathlib import Path", "from rpo.models.loading import load_pipeline"]
            opened = f'load_pipeline(Path("{base.title}"))'
        what = "file" if own else "folder"
        note = "" if base.hub_id or base.name == EMBEDDED else f"  # its {what} on your machine"
        weights = f', weight_name="{export.file}"' if export.to != "lora" else ""
        lines += [
            "",
            f"pipeline = {opened}{note}",
            f'pipeline.load_lora_weights("."{weights})  # this folder',
        ]
    if solver:
        lines.append(
            f"pipeline.scheduler = {solver}.from_config(pipeline.scheduler.config, {argument})"
        )
    lines += [
        "picture = pipeline(",
        f"    {json.dumps(export.prompt, ensure_ascii=False)},",
        f"    num_inference_steps={card['steps']},",
        f"    guidance_scale={card['guidance_scale']:g},",
        f"    height={side},",
        f"    width={side},",
        "    generator=torch.Generator().manual_seed(0),",
        ").images[0]",
        'picture.save("picture.png")',
    ]
    return "\n".join(lines) + "\n"
