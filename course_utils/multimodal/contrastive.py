"""The loss that ties images to texts: InfoNCE in both directions, and its label-aware form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SCALE = 100.0  # Radford et al. 2021, section 2.5: beyond it training becomes unstable


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor | float, positives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE: every image should find its text among all texts, and every text its image.

    `logits[i, j] = scale * image[i] . text[j]`; the loss is the mean of two cross-entropies, one along the rows (image
    finds text) and one along the columns (text finds image).

    Args:
        image, text: `(n, dim)` of length 1; row i of both belongs together.
        scale: 1 / temperature, at most 100.
        positives: `(n, n)` bool, which pairs belong together: see `same_label`. The target is spread evenly over the
            pairs of a row, and of a column. Default is the diagonal alone: then two captions of one class count as each
            other's mistakes. Where all captions of a class are the same words, both forms are the same number with the
            same gradient: equal texts share the probability anyway.

    Returns:
        Scalar.

    Raises:
        ValueError: vectors not of length 1, a scale above 100, shapes that do not fit, or a row or column without a
            pair: each of them is a mistake that a loss would hide.

    Source: Radford et al. 2021, figure 3 (InfoNCE: van den Oord et al. 2018, eq. 4); spreading the target is UniCL's
    (Yang et al. 2022, eqs. 2 and 3). Built in lesson 05.
    """
    logits = similarity(image, text, scale)
    if positives is None:
        if logits.shape[0] != logits.shape[1]:
            raise ValueError(f"{len(image)} images and {len(text)} texts: without `positives` they must come in pairs")
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    if positives.shape != logits.shape or not (positives.any(0).all() and positives.any(1).all()):
        raise ValueError(
            f"positives has shape {tuple(positives.shape)} for {len(image)} images and {len(text)} texts; expected a "
            "bool matrix of that size in which every image and every text has at least one pair"
        )
    share = positives.to(logits.dtype)
    to_text = F.cross_entropy(logits, share / share.sum(dim=1, keepdim=True))
    to_image = F.cross_entropy(logits.T, (share / share.sum(dim=0, keepdim=True)).T)
    return (to_text + to_image) / 2


def similarity(image: Tensor, text: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Scaled cosine similarities `(images, texts)` of vectors of length 1, checked as `contrastive_loss` says."""
    for name, vectors in (("image", image), ("text", text)):
        norms = vectors.detach().float().norm(dim=1)
        # Length 0 is what normalising leaves of a vector of zeros: every feature was off.
        if not torch.where(norms < 1e-6, 1.0, norms).sub(1).abs().le(1e-2).all():
            raise ValueError(
                f"{name} embeddings have lengths {float(norms.min()):.3g} to {float(norms.max()):.3g}, expected 1: "
                f"normalise them, F.normalize({name}, dim=1)"
            )
    size = float(scale.detach() if isinstance(scale, Tensor) else scale)
    if size > MAX_SCALE * 1.001:
        raise ValueError(f"scale={size:.4g} is above {MAX_SCALE:g}: clamp its logarithm to log({MAX_SCALE:g})")
    return scale * image @ text.T


def same_label(labels: Tensor, text_labels: Tensor | None = None) -> Tensor:
    """`(images, texts)` bool: image i and text j are of one class.

    Args:
        labels: `(images,)` classes of the images.
        text_labels: `(texts,)` classes of the texts; default is the images' own.
    """
    return labels[:, None] == (labels if text_labels is None else text_labels)[None, :]


def collisions(labels: Tensor) -> float:
    """Share of a batch's "negatives" that are of the anchor's own class: mistakes that plain InfoNCE trains on.

    With two classes a task it is about a half. `(n,)` labels, n at least 2.
    """
    same = same_label(labels)
    count = len(labels)
    if count < 2:
        raise ValueError(f"{count} labels have no negatives; give at least 2")
    return float((same.sum() - count) / (count * (count - 1)))
