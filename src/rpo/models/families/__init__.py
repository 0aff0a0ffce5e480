"""The model families, by the class of pipeline that model_index.json names.

A family of your own may be entered at run time: `FAMILIES["MyPipeline"] = MyFamily`.
"""

from __future__ import annotations

from rpo.models.families.family import Family
from rpo.models.families.flux import Flux
from rpo.models.families.stable_diffusion import StableDiffusion
from rpo.models.families.stable_diffusion_3 import StableDiffusion3
from rpo.models.families.stable_diffusion_xl import StableDiffusionXL
from rpo.models.families.z_image import ZImage

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,  # 1.x, 2.x, and the embedded small world
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,  # 3, 3.5
    "FluxPipeline": Flux,  # FLUX.1-dev, FLUX.1-schnell
    "ZImagePipeline": ZImage,  # Z-Image, Z-Image-Turbo
}

__all__ = ["FAMILIES", "Family"]
