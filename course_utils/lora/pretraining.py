"""A base to adapt: a network that has learned every class of some other data set at once. Made here, never shipped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import datasets, models, streams
from course_utils.datasets.cache import cached_arrays
from course_utils.learner import Learner
from course_utils.models import HeadedModel

HEAD = "head."


def pretrained_base(
    data: datasets.Dataset,
    model: str = "vit",
    *,
    epochs: float,
    lr: float = 1e-3,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Weights of a network trained on all classes of a data set, without its head; `load_base` reads them.

    Trained once with Adam and a cosine schedule, then kept in the course's cache under a name made of these settings
    and of the untrained network, so that a changed network is trained again. (A changed training loop is not noticed:
    delete the file.)

    Args:
        data: with the image shape of the stream to come; `resized` makes it fit.
        model, options: as in `models.build`.
        epochs, lr, batch_size, seed: of the training.
        limit: at most so many training images a class.

    Returns:
        Name -> tensor, buffers too.
    """
    fresh = models.build(model, data, seed=seed, **options)
    settings: dict[str, Any] = {
        "data": [data.title, data.source, len(data.train), data.num_classes, list(data.image_shape)],
        "model": [model, options, _digest(fresh)],
        "training": [float(epochs), float(lr), batch_size, limit, seed],
    }
    text = json.dumps(settings, sort_keys=True)
    key = f"base_{model}_{data.name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def train() -> dict[str, np.ndarray]:
        learner = Learner(
            fresh,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            schedule="cosine",
            seed=seed,
            show_progress=show_progress,
        )
        learner.fit(streams.class_incremental(data, num_tasks=1, limit=limit))
        return {n: v.detach().cpu().numpy() for n, v in fresh.state_dict().items() if not n.startswith(HEAD)}

    return {name: torch.from_numpy(value) for name, value in cached_arrays(key, train).items()}


def load_base(model: HeadedModel, base: dict[str, Tensor]) -> HeadedModel:
    """Put a base's weights into a network of the same layout; its head stays as it is. Returns the network.

    Raises:
        ValueError: names or shapes differ.
    """
    own = {name: value.shape for name, value in model.state_dict().items() if not name.startswith(HEAD)}
    wrong = sorted(set(own) ^ set(base)) or [name for name in own if own[name] != base[name].shape]
    if wrong:
        raise ValueError(
            f"this base is of another network: {len(wrong)} names or shapes differ, such as {wrong[0]}; "
            "build the network with the options that the base was trained with"
        )
    model.load_state_dict(base, strict=False)
    return model


def resized(data: datasets.Dataset, image_shape: tuple[int, int, int]) -> datasets.Dataset:
    """The same data set with images of another size: every pixel the mean of the area that it covers.

    Raises:
        ValueError: another number of channels.
    """
    channels, height, width = image_shape
    if channels != data.image_shape[0]:
        raise ValueError(f"{data.title} has {data.image_shape[0]} channels, {channels} were asked for")

    def small(split: datasets.Split) -> datasets.Split:
        pixels = F.interpolate(torch.from_numpy(split.x).float(), (height, width), mode="area")
        return replace(split, x=pixels.round().byte().numpy())

    return replace(data, train=small(data.train), validation=small(data.validation), test=small(data.test))


def _digest(model: HeadedModel) -> str:
    """Of the names, shapes and values of an untrained network."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name}|{tuple(value.shape)}|".encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
