"""Lesson 05's optional part: a CLIP that was trained on images and texts of the web, on the course's five tasks."""

from __future__ import annotations

from typing import Any

import torch

from course_utils import Learner, lora, methods, metrics, streams
from course_utils.lessons import display
from course_utils.multimodal import descriptions, pretrained, zero_shot


def compare(
    web: pretrained.Pretrained, data: Any, *, limit: int = 50, memory: int = 100, epochs: int = 2, num_tasks: int = 5
) -> dict[str, float]:
    """Accuracy in per cent on all classes: zero-shot twice, a linear probe, and LoRA with replay through the stream.

    Zero-shot is a continual baseline that forgets nothing: it learns nothing. It takes the network over.

    Args:
        web: from `pretrained.load`.
        limit: training images of each class, for the probe and the stream; test images likewise.
        memory: stored images.
    """
    stream = streams.class_incremental(data, num_tasks, limit=limit, limit_test=limit)
    names = stream.class_names
    templates = descriptions.from_templates(names)
    model = pretrained.classifier(web, names, templates, num_outputs=0)
    whole = streams.class_incremental(data, 1, limit=limit, limit_test=limit)[0]
    train, test = whole.train, whole.test
    features, test_features = (zero_shot.image_embeddings(model, part.x) for part in (train, test))
    found = {}
    for label, texts in (("zero-shot, names", templates), ("zero-shot, our descriptions", descriptions.of(data.name))):
        classes = zero_shot.class_embeddings(model, web.tokenizer, texts, names)
        found[label] = 100 * zero_shot.accuracy(test_features, classes, test.y)
    found["linear probe, all classes at once"] = (
        100 * pretrained.linear_probe(features, train.y, test_features, test.y)[0]
    )
    layers = [name for name in pretrained.adaptable(model) if name.startswith("image.") and ".mlp." in name]
    adapter = lora.LoRA(8, 8.0, layers, start="frozen")
    learner = Learner(
        model, [adapter, methods.Replay(memory)], lr=1e-4, batch_size=32, epochs=epochs, show_progress=False
    )
    found["LoRA + replay, five tasks"] = 100 * metrics.average_accuracy(learner.fit(stream).accuracy)
    return found


def show(web: pretrained.Pretrained, data: Any, **options: Any) -> None:
    """A table of `compare`, with the network's name."""
    with torch.random.fork_rng(devices=[]):
        found = compare(web, data, **options)
    rows = [[label, f"{value:.1f}"] for label, value in found.items()]
    display.table(["", "accuracy on all classes (%)"], rows, f"{web.name}; {data.title}, your run, one seed.")
