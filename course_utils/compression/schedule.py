"""How much to prune when: the cubic schedule. Built in lesson 07, exercise 07.8."""

from __future__ import annotations


def cubic_sparsity(step: int, steps: int, target: float, start: float = 0.0) -> float:
    """Share that is gone after `step` of `steps`: fast at first, where much is redundant, slow where every cut hurts.

    `target + (start - target) * (1 - step / steps)^3`; `start` at step 0, `target` from the last step on.

    Raises:
        ValueError: a share outside [0, 1), a target below the start, or no step.

    Source: Zhu & Gupta 2017, "To prune, or not to prune", eq. 1. Built in lesson 07, exercise 07.8.
    """
    if not 0 <= start <= target < 1:
        raise ValueError(f"start={start}, target={target}: both in [0, 1), and the target not below the start")
    if steps < 1 or step < 0:
        raise ValueError(f"step={step} of steps={steps}; at least one step, counted from 0")
    left = 1 - min(step, steps) / steps
    return target + (start - target) * left**3
