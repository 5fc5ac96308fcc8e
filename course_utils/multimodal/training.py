"""The pair in a stream: captions travel with the images, and one method adds the contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from course_utils import seeding
from course_utils.methods import Method
from course_utils.multimodal.clip import prompt_tokens
from course_utils.multimodal.contrastive import contrastive_loss, same_label
from course_utils.multimodal.tokenizer import PAD, Tokenizer
from course_utils.streams import Samples, TaskStream

PLACE = 17  # of the captions' random numbers among those derived from a seed


def with_text(
    stream: TaskStream, descriptions: Mapping[str, Sequence[str]], tokenizer: Tokenizer, seed: int = 0
) -> TaskStream:
    """The stream with a field `text` in its training samples: for every image one of its class's descriptions.

    Only training samples get one. A caption of a test image would be drawn from its label.

    Args:
        descriptions: class name -> sentences.
        seed: of the choice among a class's descriptions.

    Returns:
        A new stream; `text` is `(N, context_length)` int16 and goes into memories with the image.

    Raises:
        ValueError: a class without descriptions.

    Built in lesson 05.
    """
    tokens = prompt_tokens(stream.class_names, descriptions, tokenizer)
    tasks = []
    for task in stream:
        drawn = torch.rand(len(task.train), generator=seeding.generator(seed, task.index, PLACE))
        text = choose(tokens, task.train.y, drawn)
        tasks.append(replace(task, train=Samples({**task.train.fields, "text": text})))
    return replace(stream, tasks=tuple(tasks))


def choose(prompts: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
    """One description for each label: `(classes, descriptions, length)`, `(n,)`, `(n,)` in [0, 1) -> `(n, length)`."""
    counts = (prompts != PAD).any(dim=2).sum(dim=1)  # (classes,); `prompt_tokens` puts padding last
    return prompts[y, (drawn.to(y.device) * counts[y]).long()]


class Contrastive(Method):
    """Train image and text towers on pairs: `weight * InfoNCE + (1 - weight) * loss`, the temperature kept in bounds.

    InfoNCE is between the images of the batch and their `text`, replayed ones among them, so put it behind `Replay`. The
    loss that it mixes with is the learner's own: cross-entropy over the descriptions of the classes seen so far.

    Args:
        weight: 1 trains on the captions of the batch alone.
        label_aware: spread the target over all pairs of one class, and over equal captions. False is the published loss,
            in which two captions of one class count as each other's mistakes; with one caption a class there is no difference.

    Source: Radford et al. 2021, figure 3; Yang et al. 2022 (UniCL) for the label-aware form. Built in lesson 05.
    """

    name = "contrastive"
    settings = ("weight", "label_aware")

    def __init__(self, weight: float = 0.5, label_aware: bool = True):
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight} must be in [0, 1]")
        self.weight, self.label_aware = weight, label_aware

    def before_task(self, learner, task):
        if "text" not in task.train.fields:
            raise ValueError("Contrastive needs captions: make the stream with `multimodal.with_text`")
        if learner.stream.scenario == "domain":
            raise ValueError(
                "Contrastive on a domain-incremental stream: the same label means another thing in every task, so no "
                "sentence describes it; use a class- or task-incremental stream"
            )

    def loss(self, learner, batch, out, loss):
        if self.weight == 0:
            return loss
        image = learner.model.embedding_of(out)
        text = learner.model.encode_text(batch["text"])
        positives = same_pairs(batch["y"], batch["text"]) if self.label_aware else None
        contrastive = contrastive_loss(image, text, learner.model.head.scale, positives)
        return self.weight * contrastive + (1 - self.weight) * loss

    def after_step(self, learner, batch):
        learner.model.head.clamp()


def same_pairs(labels: Tensor, text: Tensor) -> Tensor:
    """`(n, n)` bool: image i and caption j are of one class, or caption j is word for word that of image i."""
    _, place = torch.unique(text, dim=0, return_inverse=True)
    return same_label(labels) | same_label(place)
