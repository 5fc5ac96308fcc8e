"""Independent random generators from a seed and a path, so that no state has to be carried along."""

from __future__ import annotations

import numpy as np
import torch


def derive(seed: int, *path: int) -> int:
    """A 32-bit seed for the place `path` (task, step, ...) of a run with `seed`; NumPy's SeedSequence mixes them."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1)[0])


def generator(seed: int, *path: int) -> torch.Generator:
    """A fresh CPU generator for the place `path` of a run with `seed`."""
    return torch.Generator().manual_seed(derive(seed, *path))
