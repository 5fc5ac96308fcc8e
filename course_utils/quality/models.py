"""A quality scorer: a light backbone, a projection to the unit sphere, and a direction on it that means "good"."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.models import HeadedModel

BACKBONES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")
SCORES = ("cosine", "regression", "both", "distribution")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels; what pretrained weights expect
MOMENTUM = 0.1


class Scores(NamedTuple):
    """What a scorer says of images, each `(n,)` in about [0, 1]; None where the model has no such head."""

    cosine: Tensor | None
    regression: Tensor | None


class QualityHead(nn.Module):
    """Scores from unit vectors: the cosine with a learned direction, mapped to [0, 1], a linear read-out, or both.

    Attributes:
        positive_vector: `(1, dim)`, the direction of good pictures; its length does not count.
        weight, bias: `(outputs, dim)` and `(outputs,)` of the linear read-out.
    """

    def __init__(self, dim: int, score: str, levels: int = 10) -> None:
        super().__init__()
        self.score, self.num_features = score, dim
        outputs = levels if score == "distribution" else 1
        if score in ("cosine", "both"):
            self.positive_vector = nn.Parameter(torch.randn(1, dim))
        if score != "cosine":
            layer = nn.Linear(dim, outputs)
            self.weight, self.bias = layer.weight, layer.bias
            if outputs == 1:
                nn.init.constant_(self.bias, 0.5)  # the middle of the scale
        self.num_outputs = outputs

    def forward(self, embedding: Tensor) -> Tensor:  # (batch, dim) of length 1 -> (batch, outputs)
        if self.score == "distribution":
            return F.linear(embedding, self.weight, self.bias)
        scores = [score for score in self.scores(embedding) if score is not None]
        return torch.stack(scores, dim=1).mean(dim=1, keepdim=True)

    def scores(self, embedding: Tensor) -> Scores:
        """Both scores on their own; the model's output is their mean."""
        cosine = regression = None
        if self.score in ("cosine", "both"):
            cosine = (1 + embedding @ F.normalize(self.positive_vector[0], dim=0)) / 2
        if self.score in ("regression", "both"):
            regression = F.linear(embedding, self.weight, self.bias)[:, 0]
        return Scores(cosine, regression)

    def grow(self, num_outputs: int, generator: torch.Generator) -> None:
        """A score has as many outputs for ten tasks as for one.

        Raises:
            ValueError: the stream wants another number of outputs.
        """
        if num_outputs != self.num_outputs:
            raise ValueError(
                f"the scorer has {self.num_outputs} outputs, the stream wants {num_outputs}; score={self.score!r} goes "
                f"with streams of targets={'distribution' if self.score == 'distribution' else 'score'!r}"
            )


class QualityModel(HeadedModel):
    """Images `(batch, 3, height, width)` in [0, 1] -> scores `(batch, 1)`, or logits of a histogram `(batch, levels)`.

    Channels are normalised with fixed numbers. Bringing every image to mean 0 and deviation 1 would be usual for small
    networks and wrong here: it removes the contrast, which is part of the quality.

    torchvision's networks are changed in three ways: their classifiers are cut off; EfficientNet's stochastic depth is
    off, because it draws from the global random state and a resumed run would differ; BatchNorm's momentum is 0.1 in all
    of them. MobileNetV3's own 0.01 is for runs of 100,000 steps: after a hundred, its running statistics would still be
    37 % of what they were initialised with, and the network would score badly in eval mode only.

    Args:
        backbone: "resnet18", "mobilenet_v3_small" or "efficientnet_b0".
        dim: of the embedding.
        score: "cosine", "regression", "both" (their mean) or "distribution".
        weights: None for random ones; a name of torchvision's weights, such as "IMAGENET1K_V1" or "DEFAULT"; or the path
            of a state dict.
        levels: of a distribution.

    Raises:
        ValueError: an unknown backbone, score or name of weights, or a state dict that does not fit.
        FileNotFoundError: weights that are not on disk and may not (COURSE_OFFLINE) or cannot be downloaded.

    Built in lesson 06.
    """

    head: Any
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "mobilenet_v3_small",
        dim: int = 64,
        score: str = "cosine",
        weights: str | Path | None = None,
        levels: int = 10,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone={backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")
        if score not in SCORES:
            raise ValueError(f"score={score!r} is unknown; choose one of {', '.join(SCORES)}")
        self.backbone_name = backbone
        self.body, width = _body(backbone, weights)
        self.project = nn.Linear(width, dim)
        self.head = QualityHead(dim, score, levels)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        self.to(memory_format=torch.channels_last)  # the same numbers, and faster on a CPU

    def features(self, x: Tensor) -> Tensor:
        """Embeddings of length 1: `(batch, 3, height, width)` -> `(batch, dim)`."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.project(self.body(x).mean(dim=(2, 3))), dim=1)

    def scores(self, x: Tensor) -> Scores:
        """Cosine score and regression score apart, of images in [0, 1]."""
        return self.head.scores(self.features(x))


def build_scorer(backbone: str = "mobilenet_v3_small", seed: int = 0, **options: Any) -> QualityModel:
    """A `QualityModel` whose random weights come from `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return QualityModel(backbone, **options)


def _body(backbone: str, weights: str | Path | None) -> tuple[nn.Module, int]:
    """The convolutions of a torchvision network, and the number of channels that leave them."""
    from torchvision import models  # here: torchvision takes a second to load

    options = {"stochastic_depth_prob": 0.0} if backbone == "efficientnet_b0" else {}
    network = getattr(models, backbone)(weights=None, **options)
    if weights is not None:
        _load(network, backbone, weights)
    if backbone == "resnet18":
        return nn.Sequential(*list(network.children())[:-2]), 512  # without pooling and classifier
    return network.features, {"mobilenet_v3_small": 576, "efficientnet_b0": 1280}[backbone]


def _load(network: nn.Module, backbone: str, weights: str | Path) -> None:
    state = _state(backbone, weights)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights={str(weights)!r} do not fit torchvision's {backbone}: {str(error)[:300]}") from error


def _state(backbone: str, weights: str | Path) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    path = Path(weights)
    if path.suffix in (".pt", ".pth"):
        if not path.is_file():
            raise FileNotFoundError(f"weights={str(path)!r}: there is no such file; give the path of a state dict")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    known: Any = get_model_weights(backbone)
    if str(weights) not in [*(entry.name for entry in known), "DEFAULT"]:
        names = ", ".join(entry.name for entry in known)
        raise ValueError(
            f"weights={str(weights)!r} is unknown for {backbone}; choose {names}, a .pt or .pth file, or None"
        )
    entry = known[str(weights)]
    file = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    offline = os.environ.get("COURSE_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")
    if offline and not file.is_file():
        raise FileNotFoundError(
            f"{file.name} is not in {file.parent}, and COURSE_OFFLINE forbids its download; unset it, put the file there, "
            "or train from random weights (weights=None)"
        )
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{file.name} could not be downloaded ({error}); put it into {file.parent}") from error
