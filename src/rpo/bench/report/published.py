"""Figures that others published, of photographs and other models: in a column of their own.

DreamBench, 30 subjects x 25 prompts x 4 pictures. Judges and backbones are their authors', so that
none can be compared with a figure measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

RPO_PAPER = "arXiv 2407.12164"


@dataclass(frozen=True)
class Published:
    """DINO, CLIP-I and CLIP-T of one method on DreamBench, with the backbone of its authors."""

    dino: float
    clip_i: float
    clip_t: float | None
    backbone: str

    def __str__(self) -> str:
        figures = (self.dino, self.clip_i, self.clip_t)
        told = " / ".join("–" if f is None else f"{f:.3f}".lstrip("0") for f in figures)
        return f"{told}, {self.backbone}" if self.backbone else told


PHOTOS = Published(0.774, 0.885, None, "")
METHOD_FIGURES: dict[str, Published] = {
    "dreambooth": Published(0.668, 0.803, 0.305, "SD 1.5"),
    "textual_inversion": Published(0.569, 0.780, 0.255, "SD"),
    "custom_diffusion": Published(0.643, 0.790, 0.305, "SD, from secondary sources"),
}
LAMBDA_FIGURES: dict[float, Published] = {  # of RPO, by its λ_val
    0.3: Published(0.581, 0.798, 0.329, "SD 2.1"),
    0.5: Published(0.652, 0.833, 0.314, "SD 2.1"),
    0.7: Published(0.679, 0.850, 0.304, "SD 2.1"),
}
