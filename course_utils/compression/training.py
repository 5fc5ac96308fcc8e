"""Fine-tuning for a few steps, with the uncompressed network as a teacher: behind every cut, and with rounded weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.compression.fake import set_state
from course_utils.compression.preparation import images_of
from course_utils.objectives import distillation_loss
from course_utils.streams import Samples


class Batches:
    """Images in memory as a loader: every pass gives all of them in a new order, `batch_size` at a time.

    Args:
        x: `(N, C, H, W)` uint8 or float; y: `(N,)` labels. NumPy arrays will do.
        shuffle: False keeps the order, for scoring and calibration.
        seed: of the orders.
    """

    def __init__(self, x: Any, y: Any, batch_size: int = 128, shuffle: bool = True, seed: int = 0):
        self.x, self.y = torch.as_tensor(x), torch.as_tensor(y)
        if len(self.x) != len(self.y) or batch_size < 1:
            raise ValueError(f"{len(self.x)} images, {len(self.y)} labels, batch_size={batch_size}: one label an image")
        self.batch_size, self.shuffle = batch_size, shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator) if self.shuffle else torch.arange(len(self.x))
        for index in order.split(self.batch_size):
            yield images_of(self.x[index]), self.y[index]

    def first(self, count: int) -> Batches:
        """The first `count` images, in their order."""
        return Batches(self.x[:count], self.y[:count], self.batch_size, shuffle=False)


def finetune(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: float = 1.0,
    steps: int | None = None,
    lr: float = 1e-3,
    teacher: nn.Module | None = None,
    alpha: float = 0.7,
    temperature: float = 2.0,
    augment: Any = None,
    seed: int = 0,
) -> list[float]:
    """Train a network in place, with Adam and a learning rate that falls to zero along a cosine.

    Args:
        loader: batches of (images, labels); it is run through again and again.
        epochs: passes over the loader (a part of one will do); needs its length, unless `steps` is given.
        teacher: the loss becomes `alpha * KD + (1 - alpha) * CE`, as in lesson 02. Only its answers are used.
        augment: `(x, generator) -> x` on float images.

    Returns:
        The loss of every step.

    Raises:
        ValueError: an empty loader, or no step.
        FloatingPointError: the loss is not finite.
    """
    if steps is None and not hasattr(loader, "__len__"):
        raise ValueError(f"epochs={epochs} of a {type(loader).__name__}, whose length is unknown; say steps= instead")
    total = steps if steps is not None else math.ceil(epochs * len(loader))  # type: ignore[arg-type]
    if total < 1:
        raise ValueError(f"epochs={epochs}, steps={steps} make no step; ask for at least one")
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=lr)
    device, generator = learning[0].device, torch.Generator().manual_seed(seed)
    training = model.training
    model.train()
    if teacher is not None:
        teacher.eval()
    losses: list[float] = []
    while len(losses) < total:
        before = len(losses)
        for batch in loader:
            if len(losses) == total:
                break
            x, y = images_of(batch).to(device), labels_of(batch).to(device)
            x = x if augment is None else augment(x, generator)
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * len(losses) / total))
            out = model(x)
            loss = F.cross_entropy(out, y)
            if teacher is not None:
                with torch.no_grad():
                    known = teacher(x)
                loss = alpha * distillation_loss(out, known, temperature) + (1 - alpha) * loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss is {losses[-1]} at step {len(losses)}; lower lr={lr}")
        if len(losses) == before:
            raise ValueError("the loader gives no batch; give images and labels to fine-tune on")
    model.train(training)
    return losses


def labels_of(batch: Any) -> Tensor:
    """The labels of a batch that a loader gives: second in a tuple, or "y" of a dictionary."""
    return torch.as_tensor(batch["y"] if isinstance(batch, dict) else batch[1])


@torch.no_grad()
def accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    """Share of right answers of a PyTorch network in eval mode, between 0 and 1; the mode is restored."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    right = total = 0
    for batch in loader:
        right += int((model(images_of(batch).to(device)).argmax(dim=1).cpu() == labels_of(batch)).sum())
        total += len(labels_of(batch))
    model.train(training)
    if total == 0:
        raise ValueError("no image to score; give a loader of (images, labels)")
    return right / total


def finetune_in_stream(
    learner: Any,
    model: nn.Module,
    data: Samples,
    memory: Samples,
    *,
    teacher: nn.Module,
    steps: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    alpha: float = 0.7,
    rounded: bool = False,
) -> None:
    """A few steps inside a learner's stream, in place: half of every batch from this task, half from the memory.

    The loss is the learner's own objective, with the outputs that compete in its scenario, and distillation from `teacher`.

    Args:
        memory: samples of all tasks so far, with all fields of `data` or some of them.
        rounded: the network is calibrated, and learns with rounded numbers.
    """
    if rounded:
        set_state(model, "learn")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    teacher.eval()
    for step in range(steps):
        halves = [part[torch.randint(len(part), (batch_size // 2,), generator=generator)] for part in (data, memory)]
        batch = {name: torch.cat([half[name] for half in halves]).to(learner.device) for name in memory.fields}
        x = learner.inputs(batch["x"], generator)
        with torch.no_grad():
            known = teacher(x)
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        out = model(x)
        loss = learner.objective.loss(learner.visible(out, batch["task"]), batch["y"])
        loss = (1 - alpha) * loss + alpha * learner.objective.distill(out, known, 2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    if rounded:
        set_state(model, "fixed")
