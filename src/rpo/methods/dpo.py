"""Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908) on RPO's pairs: no similarity loss.

    L = -E[y log σ(β (Δ(x_ref) - Δ(x_gen))) + (1 - y) log σ(-β (Δ(x_ref) - Δ(x_gen)))]

Its Eq. 14 is the term of y = 1, with β T ω(λ_t) written as one β. The row "DPO" of Table 7 of
arXiv 2407.12164: preferences alone say which picture is better, not what the subject looks like.
"""

from __future__ import annotations

from rpo.learners.learner import Learner
from rpo.methods.method import Terms
from rpo.methods.rpo import RPO, LabelledPairs, Pairs


class DPO(RPO):
    """L_pref alone, on the same pairs and labels as RPO's."""

    def loss(self, learner: Learner, data: LabelledPairs, batch: Pairs) -> Terms:
        _, preference = self.compare(learner, data, batch)
        figures = {"margin": preference.margin, "label_mean": batch.labels.mean()}
        return Terms(preference.loss, {"preference": preference.loss.detach(), **figures})
