"""The tiny backbones of all families, loaded once."""

from __future__ import annotations

from functools import cache

from tiny import tiny_backbone

backbone_of = cache(tiny_backbone)
