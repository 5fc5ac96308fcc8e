"""The objective of a score: what the learner and every method of the course ask for, with a choice of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from course_utils.objectives import Regression
from course_utils.quality.losses import cosine_similarity_loss, emd_loss, fidelity_loss, plcc_loss

LOSSES = ("mse+rank", "mse", "plcc", "fidelity", "emd")
TARGETS = {"mse+rank": "score", "mse": "score", "plcc": "score", "fidelity": "spread", "emd": "distribution"}
PLCC_ANCHOR = 0.1  # of the squared error beside a correlation, which alone leaves level and scale open


class QualityObjective(Regression):
    """Scores in [0, 1]; more is better; the learner's score is Spearman's rank correlation (SRCC).

    Args:
        loss: "mse+rank", squared error plus `ranking_weight` times the pairwise ranking loss; "mse"; "plcc",
            the correlation loss plus a tenth of the squared error; "fidelity", which needs a stream with
            `targets="spread"`; "emd", which needs `targets="distribution"` and a model with `score="distribution"`.
        margin, ranking_weight: of the ranking loss.
        noise: standard deviation of the Gaussian around an output, for the Fisher information: about how far a mean
            vote is from the prediction. Its square divides every entry of the Fisher diagonal.

    Raises:
        ValueError: an unknown loss, or targets of the stream that do not fit the loss.

    Built in lesson 06.
    """

    name = "quality"

    def __init__(
        self, loss: str = "mse+rank", margin: float = 0.1, ranking_weight: float = 0.1, noise: float = 0.1
    ) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        super().__init__(noise)
        self.kind, self.margin, self.ranking_weight = loss, margin, ranking_weight

    @property
    def targets(self) -> str:
        """What `quality.streams` have to put into y: "score", "spread" or "distribution"."""
        return TARGETS[self.kind]

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Mean loss of the batch.

        Args:
            out: `(batch, 1)` scores, or `(batch, levels)` logits with "emd".
            y: `(batch,)` scores; `(batch, 2)` scores and spreads; or `(batch, levels)` histograms.
        """
        self._check(out, y)
        if self.kind == "emd":
            return emd_loss(out.softmax(dim=1), y.to(out.dtype))
        score, truth = expected_score(out), true_score(y)
        if self.kind == "fidelity":
            return fidelity_loss(score, truth, y[:, 1].to(out.dtype))
        if self.kind == "plcc":
            return plcc_loss(score, truth) + PLCC_ANCHOR * (score - truth).square().mean()
        weight = self.ranking_weight if self.kind == "mse+rank" else 0.0
        return cosine_similarity_loss(score, truth, self.margin, weight)

    def score(self, out: Tensor, y: Tensor) -> float:
        return super().score(expected_score(out), true_score(y))

    def _check(self, out: Tensor, y: Tensor) -> None:
        wanted = {
            "score": y.dim() == 1,
            "spread": y.dim() == 2 and y.shape[1] == 2,
            "distribution": y.shape == out.shape,
        }
        if not wanted[self.targets] or (self.kind != "emd" and out.shape[1] != 1):
            raise ValueError(
                f"loss={self.kind!r} got outputs {tuple(out.shape)} and targets {tuple(y.shape)}; build the stream with "
                f"targets={self.targets!r} and the model with score="
                + ("'distribution'" if self.kind == "emd" else "'cosine', 'regression' or 'both'")
            )


def expected_score(out: Tensor) -> Tensor:
    """Scores `(n,)` from outputs: the column `(n, 1)` itself, or the mean of a histogram given by logits `(n, levels)`."""
    if out.shape[1] == 1:
        return out[:, 0]
    level = torch.linspace(0, 1, out.shape[1], device=out.device, dtype=out.dtype)
    return out.softmax(dim=1) @ level


def true_score(y: Tensor) -> Tensor:
    """Mean scores `(n,)` from targets: scores `(n,)`, scores with spreads `(n, 2)`, or histograms `(n, levels)`."""
    if y.dim() == 1:
        return y
    if y.shape[1] == 2:
        return y[:, 0]
    return y @ torch.linspace(0, 1, y.shape[1], device=y.device, dtype=y.dtype)
