"""Elastic Weight Consolidation: the importance is the diagonal of the Fisher information."""

from __future__ import annotations

from course_utils.methods.fisher import LABELS, fisher_diagonal
from course_utils.methods.quadratic import Quadratic


class EWC(Quadratic):
    """Weights that the old tasks' predictions depend on are held, the others are free.

    Args:
        strength: lambda; it does not depend on the batch size.
        online: one running Fisher around the latest weights (Schwarz et al. 2018) instead of one per task.
        decay: of the running Fisher.
        labels: "sampled", "all" or "empirical", see `fisher_diagonal`.
        samples: images per task that the Fisher is measured on; None uses all.

    Source: Kirkpatrick et al. 2017; Huszár 2018 on the sum of terms. Built in lesson 03.
    """

    name = "ewc"
    settings = (*Quadratic.settings, "labels", "samples")

    def __init__(self, strength=1.0, online=False, decay=1.0, labels="sampled", samples=1000):
        if labels not in LABELS:
            raise ValueError(f"labels={labels!r} is unknown; choose one of {', '.join(LABELS)}")
        super().__init__(strength, online, decay)
        self.labels, self.samples = labels, samples

    def importance(self, learner, task, data):
        return fisher_diagonal(learner, data, self.labels, self.samples)
