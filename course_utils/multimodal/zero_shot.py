"""Answers without training examples: classes by their descriptions, images by a sentence, sentences by an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_utils.multimodal.clip import ensemble, prompt_tokens
from course_utils.multimodal.contrastive import similarity
from course_utils.multimodal.tokenizer import Tokenizer, split_words

BATCH = 512


class Match(NamedTuple):
    """One line of a ranking: which (index of an image, or a name), and its cosine similarity."""

    which: Any
    similarity: float


@contextmanager
def evaluating(model: Any) -> Iterator[torch.device]:
    """The network in eval mode without gradients; its mode comes back afterwards. Gives its device."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(training)


def image_embeddings(model: Any, x: Tensor) -> Tensor:
    """Embeddings of images, `(N, C, H, W)` uint8 or floats in [0, 1] -> `(N, dim)` of length 1, in eval mode."""
    with evaluating(model) as device:
        parts = [part.to(device) for part in x.split(BATCH)]
        return torch.cat([model.encode_image(p.float() / 255 if p.dtype == torch.uint8 else p) for p in parts])


def text_embeddings(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Embeddings of sentences: texts -> `(len(texts), dim)` of length 1, in eval mode."""
    with evaluating(model) as device:
        return model.encode_text(tokenizer(list(texts)).to(device))


def class_embeddings(
    model: Any, tokenizer: Any, descriptions: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Tensor:
    """Prompt ensemble of any classes, seen in training or not: `(len(names), dim)` of length 1, in the order of `names`.

    Raises:
        ValueError: a class without descriptions.
    """
    with evaluating(model) as device:
        return ensemble(model.encode_text, prompt_tokens(names, descriptions, tokenizer).to(device))


def classify(image: Tensor, classes: Tensor) -> Tensor:
    """For every image the row of `classes` that is nearest: `(N, dim)`, `(classes, dim)` -> `(N,)` integers.

    Built in lesson 05.
    """
    return similarity(image, classes).argmax(dim=1)


def accuracy(image: Tensor, classes: Tensor, y: Tensor, among: Sequence[int] | None = None) -> float:
    """Zero-shot accuracy in [0, 1].

    Args:
        image: `(N, dim)`.
        classes: `(classes, dim)` for labels 0, 1, ...
        y: `(N,)` labels.
        among: labels that compete; images of others are left out. Default is all: the harder question, since a network
            prefers what it was trained on.

    Raises:
        ValueError: no image has one of these labels.
    """
    labels = torch.arange(len(classes)) if among is None else torch.as_tensor(list(among))
    mine = torch.isin(y, labels)
    if not mine.any():
        raise ValueError(f"none of the {len(y)} images has a label among {labels.tolist()}")
    labels = labels.to(classes.device)
    answers = labels[classify(image[mine.to(image.device)], classes[labels])]
    return (answers == y[mine].to(answers.device)).double().mean().item()


def recall_at(image: Tensor, text: Tensor, positives: Tensor, k: int) -> tuple[float, float]:
    """Retrieval both ways: the share of queries with at least one right answer among their k nearest.

    Args:
        image, text: `(images, dim)` and `(texts, dim)` of length 1.
        positives: `(images, texts)` bool, which belong together: several texts may be right for an image.
        k: length of the list that is looked at.

    Returns:
        (image to text, text to image), each in [0, 1]. Queries without a right answer do not count.

    Raises:
        ValueError: k is below 1 or longer than a list, or nothing belongs together.

    Built in lesson 05.
    """
    if positives.shape != (len(image), len(text)) or not positives.any():
        raise ValueError(
            f"positives has shape {tuple(positives.shape)} and {int(positives.sum())} pairs; expected "
            f"({len(image)}, {len(text)}) with at least one pair"
        )
    if not 1 <= k <= min(positives.shape):
        raise ValueError(f"k={k}; choose 1 to {min(positives.shape)}, the shorter of the two lists")
    scores = similarity(image, text)
    return _recall(scores, positives, k), _recall(scores.T, positives.T, k)


def _recall(scores: Tensor, positives: Tensor, k: int) -> float:
    answerable = positives.any(dim=1)
    nearest = scores.topk(k, dim=1).indices
    found = positives.gather(1, nearest).any(dim=1)
    return found[answerable].double().mean().item()


def rank_images(model: Any, tokenizer: Any, text: str, image: Tensor, count: int = 5) -> list[Match]:
    """The images that fit a typed sentence best, best first.

    Args:
        image: `(N, dim)`, from `image_embeddings`.
        count: how many.

    Raises:
        ValueError: the sentence has no word that the network knows.

    Built in lesson 05.
    """
    scores = similarity(image, _query(model, tokenizer, text)).squeeze(1)
    values, order = scores.topk(min(count, len(scores)))
    return [Match(int(i), float(v)) for i, v in zip(order, values, strict=True)]


def rank_classes(
    model: Any, tokenizer: Any, text: str, classes: Tensor, names: Sequence[str], count: int = 5
) -> list[Match]:
    """The classes whose own descriptions are nearest to a typed sentence, best first: what the text tower makes of it.

    Args:
        classes: `(len(names), dim)`, from `class_embeddings`.
    """
    scores = similarity(classes, _query(model, tokenizer, text)).squeeze(1)
    values, order = scores.topk(min(count, len(scores)))
    return [Match(names[int(i)], float(v)) for i, v in zip(order, values, strict=True)]


def _query(model: Any, tokenizer: Any, text: str) -> Tensor:
    if isinstance(tokenizer, Tokenizer) and not any(word in tokenizer.ids for word in split_words(text)):
        raise ValueError(f"{text!r} holds no word that this network has read; use words of the descriptions")
    return text_embeddings(model, tokenizer, [text])
