"""Custom Diffusion (Kumari et al., CVPR 2023, arXiv 2212.04488): a token, and keys and values.

    L = E[err_θ(x_ref)] + w E[err_θ(x_pr)]

DreamBooth's loss for a smaller learner: the photos under "a photo of [V] dog", encoded with
gradient as [V] is a token that learns, beside pictures of the class. These are the base model's own
here; the paper takes real ones, found by their captions.
"""

from __future__ import annotations

from dataclasses import replace

from rpo.learners.learner import Learner
from rpo.methods.dreambooth import DreamBooth, PhotosAndClass, PhotosBesideClass
from rpo.methods.method import Terms


class CustomDiffusion(DreamBooth):
    """DreamBooth whose prompt learns; `dreambooth.` has the settings of the class pictures."""

    def loss(self, learner: Learner, data: PhotosAndClass, batch: PhotosBesideClass) -> Terms:
        told = learner.encode(self.photo_texts)
        return super().loss(learner, replace(data, reference_conditions=told), batch)
