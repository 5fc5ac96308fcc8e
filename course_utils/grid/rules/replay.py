"""er: experience replay from one memory that all repeats share.

The memory holds a few training images of every class of the data set, once, on the device: (classes, images, 28, 28)
uint8, however many repeats there are. A repeat samples only classes it has met in earlier tasks, with its own labels.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sample(
    key: jax.Array, memory: jax.Array, pairs: jax.Array, task: jax.Array, count: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images of earlier tasks for one repeat, each drawn on its own: an earlier task, one of its classes, an image.

    memory: (classes, images, 28, 28). pairs: of this repeat, (T, 2). task: the current one, scalar.
    Returns images (count, 28, 28), labels (count,) and weights (count,): 1, or 0 in task 0, when nothing is past.
    """
    which_task, which_class, which_image = jax.random.split(key, 3)
    past = jax.random.randint(which_task, (count,), 0, jnp.maximum(task, 1))
    label = jax.random.randint(which_class, (count,), 0, 2)
    image = jax.random.randint(which_image, (count,), 0, memory.shape[1])
    weights = jnp.full((count,), (task > 0).astype(jnp.float32))
    return memory[pairs[past, label], image], label, weights


def memory_bytes(num_classes: int, images: int) -> int:
    """What the memory takes on the device, for all repeats together."""
    return num_classes * images * 28 * 28
