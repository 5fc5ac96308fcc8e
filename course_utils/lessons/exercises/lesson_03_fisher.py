"""Lesson 03, exercise 03.3: the diagonal of the Fisher information.

The answer is random: it depends on the labels that the student's function draws, and on their order. On few images the
criteria find out *which* labels were drawn: only finitely many results are possible, so a result is right exactly if
some labels explain it. Every mistake is recognised in the same way, without any tolerance for the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, to_array
from course_utils.lessons.exercises.lesson_03_networks import flat, image_gradients, leaves_the_network_alone

Array = NDArray[np.float64]


def fisher_diagonal(model: nn.Module, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, from one label per image, drawn from the model.

    Args:
        model: gives logits `(n, classes)`; measured in eval mode, left in the mode in which it comes.
        x: `(n, ...)` images.
        generator: draws the labels.

    Returns:
        name -> tensor of the parameter's shape: the mean over images of the squared gradient of log p(label | image).

    Built in lesson 03, exercise 03.3; `methods.fisher_diagonal` computes many images at once.
    """
    training = model.training
    model.eval()
    parameters = dict(model.named_parameters())
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in x:
        log_p = model(image[None]).log_softmax(dim=1)[0]  # (classes,)
        label = torch.multinomial(log_p.detach().exp(), 1, generator=generator)[0]
        gradients = torch.autograd.grad(log_p[label], list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            fisher[name] += gradient.square() / len(x)
    model.train(training)
    return fisher


# ---- the formula: some labels explain the result -------------------------------------------------------------------

CLASSES = 3


def _small() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(11)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, CLASSES)), 2 * torch.randn(4, 3)


def _by_label(model: nn.Module, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Array:
    """Gradients `(n, classes, parameters)`: what every image gives for every label."""
    rows = [image_gradients(model, x, lambda out, label=label: function(out, label)) for label in range(CLASSES)]  # type: ignore[misc]
    return np.stack(rows, axis=1)


def possible_results(model: nn.Module, x: Tensor) -> dict[str, Array]:
    """Message -> every result `(labellings, parameters)` that a formula can give; the right one has the message ""."""
    labels = np.array(list(itertools.product(range(CLASSES), repeat=len(x))))  # (labellings, n)
    n, images = len(x), np.arange(len(x))
    every = _by_label(model, x, lambda out, label: out.log_softmax(dim=1)[0, label])
    p = model(x).softmax(dim=1).detach().double().numpy()
    g = every[images, labels]  # (labellings, n, parameters)
    of_probability = (p[:, :, None] * every)[images, labels]
    of_logit = _by_label(model, x, lambda out, label: out[0, label])[images, labels]
    total = g.sum(axis=1)
    return {
        "": (g**2).mean(axis=1),
        "This is the square of the batch's mean gradient: one backward pass for all images, then the square. Gradients of "
        "different images cancel in the mean, so every weight seems unimportant. Square the gradient of each image first, "
        "then take the mean.": total**2 / n**2,
        "This is the square of the summed gradient. Gradients of different images cancel in the sum, or pile up. "
        "Square the gradient of each image first, then take the mean.": np.concatenate([total**2, total**2 / n]),
        "You sum the squares over the images: the importance then grows with the data set, and lambda with it. "
        "Take the mean.": (g**2).sum(axis=1),
        "You never clear the gradients: `backward()` adds each image's gradient to those of the images before. "
        "Use `model.zero_grad()` before every image, or `torch.autograd.grad`.": np.concatenate(
            [(np.cumsum(g, axis=1) ** 2).mean(axis=1), (np.cumsum(g, axis=1) ** 2).sum(axis=1)]
        ),
        "There is no square. Plain gradients of a sampled label average to zero; the Fisher is the mean of their squares.": np.concatenate(
            [total / n, -total / n, total, -total]
        ),
        "You take the absolute value where the Fisher has the square.": np.abs(g).mean(axis=1),
        "You differentiate the probability. The Fisher takes the gradient of the *log*-probability: `log_softmax`.": np.concatenate(
            [(of_probability**2).mean(axis=1), (of_probability**2).sum(axis=1)]
        ),
        "You differentiate the logit of the label. A logit alone says nothing about the prediction; take the "
        "log-probability: `log_softmax`.": (of_logit**2).mean(axis=1),
        "Only the last image counts: every turn of the loop overwrites the one before. Add with `+=`.": np.concatenate(
            [g[:, -1] ** 2, g[:, -1] ** 2 / n]
        ),
        "You count all labels the same. In the Fisher a label counts with its probability: draw one from the model.": np.concatenate(
            [(every**2).mean(axis=(0, 1))[None], (every**2).sum(axis=1).mean(axis=0)[None]]
        ),
        "Every gradient is zero: a softmax along dim 0 runs over the images, and over a single image it is always 1. "
        "Use `dim=1`, the classes.": np.zeros((1, g.shape[-1])),
    }


def exact(model: nn.Module, x: Tensor) -> Array:
    """The exact Fisher diagonal `(parameters,)`: all labels, each weighted with its probability."""
    every = _by_label(model, x, lambda out, label: out.log_softmax(dim=1)[0, label])
    p = model(x).softmax(dim=1).detach().double().numpy()
    return np.asarray((p[:, :, None] * every**2).sum(axis=1).mean(axis=0))


def is_among(result: Array, rows: Array) -> bool:
    """Whether a result equals one of the rows, within single precision."""
    return bool((np.abs(rows - result) <= 1e-3 * np.abs(rows) + 1e-5 * np.abs(rows).max()).all(axis=1).any())


def _formula(answer: Callable[..., Any]) -> None:
    model, x = _small()
    result = flat(answer(model.eval(), x, torch.Generator().manual_seed(0)), model, len(x))
    if is_among(result, exact(model, x)[None]):
        return  # the right quantity; the next criterion says that no label was drawn
    for message, rows in possible_results(model, x).items():
        if is_among(result, rows):
            if message:
                raise Wrong(message)
            return
    raise Wrong(
        f"With {len(x)} images and {CLASSES} labels there are {CLASSES ** len(x)} possible results; yours, with the sum "
        f"{result.sum():.4g}, is none of them. For each image: one label, the gradient of its log-probability, every entry "
        "squared. Then the mean over the images."
    )


# ---- the labels: read off the result -------------------------------------------------------------------------------

NUM_IMAGES = 100


def _readable() -> tuple[nn.Linear, Tensor, Array]:
    """A linear network and images with a single pixel on: column i of its importance comes from image i alone."""
    torch.manual_seed(12)
    logits = 1.5 * torch.randn(CLASSES, NUM_IMAGES)
    model = nn.Linear(NUM_IMAGES, CLASSES, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(logits)
    return model, torch.eye(NUM_IMAGES), logits.softmax(dim=0).T.double().numpy()


def _read_labels(result: Any, p: Array) -> Array:
    """The label of every image `(n,)`. Log p(y) has the gradient `onehot(y) - p` in its column, here up to a factor."""
    columns = to_array(result["weight"]).T  # (n, classes)
    columns = columns / np.maximum(columns.sum(axis=1, keepdims=True), 1e-30)
    if np.allclose(columns, p * (1 - p) / (p * (1 - p)).sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5):
        raise Wrong(
            "You sum over all labels. That is the exact Fisher, with a backward pass per class and image. Here one label is "
            "drawn for each image: the same on average, and its cost does not grow with the number of classes."
        )
    expected = (np.eye(CLASSES)[None] - p[:, None, :]) ** 2  # (n, label, classes)
    expected /= expected.sum(axis=2, keepdims=True)
    distance = np.abs(expected - columns[:, None, :]).max(axis=2)  # (n, label)
    if distance.min(axis=1).max() > 1e-3:
        raise Wrong("Your labels cannot be read off: the result is no mean of squared gradients of single images yet.")
    return np.asarray(distance.argmin(axis=1))


def _labels(answer: Callable[..., Any]) -> None:
    model, x, p = _readable()

    def drawn(seed: int) -> Array:
        result = answer(model, x, torch.Generator().manual_seed(seed))
        flat(result, model, len(x))
        return _read_labels(result, p)

    runs = np.array([drawn(seed) for seed in (1, 1, 2, 3)])
    if (runs == p.argmax(axis=1)).all():
        raise Wrong(
            "You always take the most probable label. Its gradients are the smallest, so the Fisher comes out too small. "
            "Draw the label: `torch.multinomial(p, 1, generator=generator)`."
        )
    if (runs[0] != runs[1]).any():
        raise Wrong(
            "Two generators with the same seed gave different labels: draw with `generator=generator`, not from torch's "
            "global state."
        )
    if (runs[1] == runs[2]).all():
        raise Wrong(
            "Two generators with different seeds gave the same labels: draw from the `generator` that is passed in, and do "
            "not seed it yourself."
        )
    runs = runs[1:]
    top = p.max(axis=1)
    share, expected = (runs == p.argmax(axis=1)).mean(), top.mean()
    tolerance = 4.5 * np.sqrt((top * (1 - top)).mean() / runs.size)  # standard errors
    if abs(share - expected) > tolerance:
        raise Wrong(
            f"The most probable label is drawn in {share:.0%} of the cases; the model gives it {expected:.0%}. "
            "Draw a label for every image, from the model's own probabilities for that image, its softmax."
        )


def _eval_mode(answer: Callable[..., Any]) -> None:
    def measure(model: nn.Module, x: Tensor) -> Any:
        torch.manual_seed(5)  # labels from the global state are the criterion above's business
        return answer(model, x, torch.Generator().manual_seed(5))

    leaves_the_network_alone(measure)


EXERCISES = [
    Exercise(
        id="03.3",
        title="The Fisher diagonal",
        difficulty=4,
        minutes=25,
        points=3,
        reference=fisher_diagonal,
        forbidden=(
            "course_utils.methods.fisher:fisher_diagonal",
            "course_utils.methods.fisher:per_sample_gradients",
        ),
        criteria=[
            Criterion("the mean over images of each image's squared gradient", _formula, share=4),
            Criterion("labels drawn from the model, with the generator", _labels),
            Criterion("measured in eval mode; the network stays as it was", _eval_mode),
        ],
        hints=(
            "Two images with the gradients 1 and -1: what is the mean of the squares, and what is the square of the mean? "
            "Which of them says that the weight matters?",
            "Go through the images one at a time, in eval mode. For each: log-probabilities, one label drawn from them, the "
            "gradient of that label's log-probability for all parameters, its square.",
            "For one image: `log_p = model(image[None]).log_softmax(dim=1)[0]`, "
            "`label = torch.multinomial(log_p.detach().exp(), 1, generator=generator)[0]`, "
            "`torch.autograd.grad(log_p[label], list(model.parameters()))`. Add `gradient**2 / len(x)` to each entry. "
            "At the end `model.train(training)`, with `training = model.training` from the beginning.",
        ),
    )
]
