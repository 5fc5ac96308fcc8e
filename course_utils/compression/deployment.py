"""What of a network is deployed: without adapters, and of a pair of towers the one that sees."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.lora.model import adapted, fold
from course_utils.multimodal.clip import CLIP


class ImageClassifier(nn.Module):
    """The image tower of a `CLIP` with its classes as a matrix: sentences were read once, and their reader stays at home."""

    classes: Tensor

    def __init__(self, pair: CLIP):
        super().__init__()
        self.image = copy.deepcopy(pair.image)
        weight = pair.head.projection.detach()
        self.projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.projection.weight = nn.Parameter(weight.clone())
        with torch.no_grad():
            vectors = copy.deepcopy(pair).eval().class_embeddings()
            self.register_buffer("classes", (pair.head.scale * vectors).T.contiguous())

    def forward(self, x: Tensor) -> Tensor:  # (batch, C, H, W) -> (batch, classes)
        return torch.matmul(F.normalize(self.projection(self.image.features(x)), dim=1), self.classes)


class Features(nn.Module):
    """A network without its head, in the same layers: what is done to one is done to the other."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.features(x)


def without_adapters(model: nn.Module) -> nn.Module:
    """The network itself, or, if it carries adapters, a copy with the one in use written into its weights.

    Pruning and quantization replace layers, and an adapted layer is two. The copy is free to learn densely.
    """
    if not adapted(model):
        return model
    made = copy.deepcopy(model)
    fold(made)
    return made.requires_grad_(True)


def deployable(model: nn.Module) -> nn.Module:
    """A copy that answers on its own: adapters are written into the weights, descriptions of classes are read."""
    made: nn.Module = copy.deepcopy(model).eval()
    if adapted(made):
        fold(made)
    made = ImageClassifier(made) if isinstance(made, CLIP) else made
    made._state_dict_hooks.clear()  # a copy has its own widths, see `keep_full_shape`
    return made.eval().requires_grad_(False)


def prunable(model: nn.Module) -> nn.Module:
    """The part of a network that is pruned: all of it, or the image tower of a pair."""
    return Features(model.image) if isinstance(model, CLIP) else model
