"""Memories of fixed size: reservoir and class-balanced.

Both keep, of all samples ever offered, those with the smallest random keys: each sample draws one key
from U(0, 1) when it is offered, and keeps it. The k smallest of n independent keys are a uniform sample
of size k without replacement, whatever the batches were: the random-sort form of reservoir sampling
(Vitter 1985 gives the sequential form, Algorithm R, which lesson 02 builds).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Buffer:
    """Preallocated tensors for `capacity` samples, with a random generator of their own.

    Fields are whatever is offered first, one row a sample; shapes and dtypes are kept.
    """

    def __init__(self, capacity: int, seed: int = 0):
        if capacity < 0:
            raise ValueError(f"capacity={capacity}; a memory holds 0 or more samples")
        self.capacity = capacity
        self.seen = 0
        self.size = 0
        self.fields: dict[str, Tensor] = {}
        self.keys = torch.zeros(capacity, dtype=torch.float64)
        self.labels = torch.zeros(capacity, dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.size

    def start(self, seed: int) -> None:
        """Seed the generator for a new run.

        Raises:
            ValueError: the memory was filled by an earlier run, whose future it would leak into this one.
        """
        if self.seen:
            raise ValueError(
                f"this memory was already offered {self.seen} samples by an earlier run; "
                "make a new method, a new model and a new learner for every run"
            )
        self.generator.manual_seed(seed)

    def keep(self, keys: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """Indices, at most `capacity`, of the candidates to keep. Each `(candidates,)`."""
        raise NotImplementedError

    def add(self, fields: dict[str, Tensor], labels: Tensor | None = None) -> None:
        """Offer samples; each must be offered once.

        Args:
            fields: tensors with one row a sample.
            labels: `(n,)` integers to balance over; default `fields["y"]` where that is integer, else 0.
        """
        count = len(next(iter(fields.values())))
        if not self.fields:
            self.fields = {k: torch.zeros(self.capacity, *v.shape[1:], dtype=v.dtype) for k, v in fields.items()}
        if set(fields) != set(self.fields):
            raise ValueError(f"this memory holds {sorted(self.fields)}, it was offered {sorted(fields)}")
        if labels is None:
            y = fields.get("y", torch.zeros(count, dtype=torch.int64))
            labels = torch.zeros(count, dtype=torch.int64) if y.is_floating_point() else y
        self.seen += count
        keys = torch.rand(count, generator=self.generator, dtype=torch.float64)
        all_keys = torch.cat([self.keys[: self.size], keys])
        all_labels = torch.cat([self.labels[: self.size], labels.cpu().long()])
        old_groups = self.fields["group"][: self.size] if "group" in self.fields else torch.arange(self.size)
        new_groups = fields["group"].cpu() if "group" in fields else torch.arange(count) + self.seen
        # min(capacity, candidates) are kept: once full, every slot given up is filled again.
        kept = self.keep(all_keys, all_labels, torch.cat([old_groups, new_groups]))

        stays = torch.zeros(len(all_keys), dtype=torch.bool)
        stays[kept] = True
        occupied = torch.zeros(self.capacity, dtype=torch.bool)
        occupied[: self.size] = stays[: self.size]
        incoming = kept[kept >= self.size] - self.size
        slots = torch.nonzero(~occupied).flatten()[: len(incoming)]
        for name, value in fields.items():
            self.fields[name][slots] = value[incoming.to(value.device)].cpu()
        self.keys[slots], self.labels[slots] = keys[incoming], labels.cpu().long()[incoming]
        self.size = len(kept)

    def sample(self, count: int) -> dict[str, Tensor]:
        """`count` samples without replacement, or all of them when there are fewer."""
        index = torch.randperm(self.size, generator=self.generator)[:count]
        return {name: value[index] for name, value in self.fields.items()}

    def all(self) -> dict[str, Tensor]:
        """Everything stored, in slot order."""
        return {name: value[: self.size] for name, value in self.fields.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "seen": self.seen,
            "fields": {name: value.clone() for name, value in self.fields.items()},
            "keys": self.keys.clone(),
            "labels": self.labels.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["keys"]) != self.capacity:
            raise ValueError(f"the saved memory holds {len(state['keys'])} samples, this one {self.capacity}")
        self.size, self.seen = state["size"], state["seen"]
        self.fields = {name: value.clone() for name, value in state["fields"].items()}
        self.keys, self.labels = state["keys"].clone(), state["labels"].clone()
        self.generator.set_state(state["generator"])


class Reservoir(Buffer):
    """A uniform sample of everything offered: the memory follows the stream, imbalance included."""

    def keep(self, keys: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        return keys.argsort()[: self.capacity]


class ClassBalanced(Buffer):
    """The same number of samples for every label, as far as they are available; uniform within a label.

    Args:
        distinct: prefer samples of distinct groups (tracks of a traffic sign): a second frame of a track
            is taken only when every track of the label has one in memory.
    """

    def __init__(self, capacity: int, seed: int = 0, distinct: bool = False):
        super().__init__(capacity, seed)
        self.distinct = distinct

    def keep(self, keys: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        if len(keys) == 0:
            return torch.zeros(0, dtype=torch.int64)
        order = keys.argsort()
        if self.distinct:
            order = order[occurrence(groups[order] * (labels.max() + 1) + labels[order]).argsort(stable=True)]
        # The first sample of every label comes before any second one: filling up to the capacity is then fair.
        turn = occurrence(labels[order])
        return order[turn.argsort(stable=True)][: self.capacity]


def occurrence(values: Tensor) -> Tensor:
    """How often each value has come before: [5, 3, 5, 5] -> [0, 0, 1, 2]. `(n,)` -> `(n,)`."""
    order = values.argsort(stable=True)
    ordered = values[order]
    position = torch.arange(len(values))
    new = torch.ones(len(values), dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    start = torch.where(new, position, torch.zeros_like(position)).cummax(0).values
    result = torch.empty_like(position)
    result[order] = position - start
    return result
