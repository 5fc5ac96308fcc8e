"""Does the text give the answer away? A test that needs nothing but the way to answer and a few samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.streams import Samples


def reads_labels(predict: Callable[[Samples], Tensor], samples: Samples, seed: int = 0) -> bool:
    """Whether a way to answer depends on anything but the images: then its accuracy means nothing.

    Everything except `x` changes places among the samples, labels and captions alike. Honest outputs stay as they are.

    Args:
        predict: `Samples` -> outputs `(N, ...)`; deterministic.
        samples: at least two classes of them.

    Raises:
        ValueError: the samples are all of one class, so that a permutation shows nothing.

    Built in lesson 05.
    """
    if len(samples.y.unique()) < 2:
        raise ValueError(f"all {len(samples)} samples are of one class; take some of several classes")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    if torch.equal(samples.y[order], samples.y):
        order = samples.y.argsort(descending=True)
    if torch.equal(samples.y[order], samples.y):
        order = order.flip(0)
    hidden = Samples({name: value if name == "x" else value[order] for name, value in samples.fields.items()})
    return not torch.equal(predict(samples), predict(hidden))
