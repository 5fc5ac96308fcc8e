"""Lesson 03, exercises 03.5 and 03.6: where a step may go (A-GEM), and which weights a task may keep (PackNet)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose, to_array

# ---- 03.5 do no harm -----------------------------------------------------------------------------------------------


def _conflict() -> tuple[Tensor, Tensor]:
    """A gradient and a reference with a negative dot product; neither has length 1."""
    generator = torch.Generator().manual_seed(9)
    gradient, reference = torch.randn(2, 8, generator=generator).unbind()
    return gradient, 2 * reference if gradient @ reference < 0 else -2 * reference


def _project(answer: Callable[..., Any], gradient: Tensor, reference: Tensor) -> Tensor:
    """The student's result on copies, after type and shape have been checked."""
    result = answer(gradient.clone(), reference.clone())
    if result is None:
        raise Wrong("your function returns nothing: is there a `return` in both branches?")
    if not isinstance(result, Tensor):
        raise Wrong(
            f"Return a tensor of shape {tuple(gradient.shape)}; your function returned a {type(result).__name__}."
        )
    if result.shape != gradient.shape:
        raise Wrong(f"Your result has shape {tuple(result.shape)}, the gradient has {tuple(gradient.shape)}.")
    return result


def _harmless(answer: Callable[..., Any]) -> None:
    gradient, reference = _conflict()
    reference = -reference  # now they agree
    shadow = gradient @ reference / (reference @ reference) * reference
    if torch.allclose(_project(answer, gradient, -reference), gradient, rtol=1e-4):
        reversed_or_not = (
            "Your condition is the wrong way round: you change the gradient where it helps the memory, and leave it "
            "where it harms. A *negative* dot product is the conflict."
        )
    else:
        reversed_or_not = (
            "You always project. Here gradient and reference agree, so the step helps the memory, too, and you throw that "
            "away. Look at the sign of the dot product first."
        )
    actual = _project(answer, gradient, reference)
    diagnose(
        actual,
        {
            reversed_or_not: gradient - shadow,
            "You add the reference to the gradient although there is no conflict: that trains on the memory, which is "
            "replay. A-GEM leaves a harmless step alone.": gradient + reference,
            "You take the mean of gradient and reference although there is no conflict: that trains on the memory, which is "
            "replay. A-GEM leaves a harmless step alone.": (gradient + reference) / 2,
            "You look at every weight by itself and stop those that point against the reference. The dot product of the "
            "whole vectors is what says whether the memory's loss rises.": gradient * (gradient * reference >= 0),
        },
        expected=gradient,
        rtol=1e-4,
    )
    close(actual, gradient, "The dot product is positive: the gradient comes back as it is.", rtol=1e-4)


def _conflicting(answer: Callable[..., Any]) -> None:
    gradient, reference = _conflict()
    dot, square = gradient @ reference, reference @ reference
    expected = gradient - dot / square * reference
    actual = _project(answer, gradient, reference)
    diagnose(
        actual,
        {
            "The gradient comes back as it is although it points against the reference: this step raises the loss on the "
            "memory.": gradient,
            "You divide by the norm of the reference. Its *squared* norm belongs there, `reference @ reference`: the result "
            "must not depend on how long the reference is.": gradient - dot / square.sqrt() * reference,
            "You do not divide: the result depends on how long the reference is. Divide by `reference @ reference`.": gradient
            - dot * reference,
            "You divide by the squared norm of the gradient; it is the reference's that belongs there.": gradient
            - dot / (gradient @ gradient) * reference,
            "You add the reference to the gradient: that trains on the memory, which is replay. A-GEM only takes out the part "
            "that does harm.": gradient + reference,
            "You take the mean of gradient and reference: that trains on the memory, which is replay. A-GEM only takes out "
            "the part that does harm.": (gradient + reference) / 2,
            "You step along the reference alone: nothing is learned of the new task.": reference,
            "The sign is wrong: you add the harmful part once more, so it is twice as large. Subtract it.": gradient
            + dot / square * reference,
            "You take the harmful part out twice: the gradient is mirrored, and now points *with* the reference. Projecting "
            "makes it orthogonal.": gradient - 2 * dot / square * reference,
            "This is the part along the reference, the one to take *out*. Return what is left of the gradient.": dot
            / square
            * reference,
            "You turn the gradient around. That raises the loss of the new task; take out only the harmful part.": -gradient,
            "You skip the step. A part of it does no harm, and the new task needs it.": torch.zeros_like(gradient),
            "You subtract along the gradient. What must go is the part along the *reference*.": gradient
            - dot / square * gradient,
            "You stop every weight that points against the reference by itself. The conflict is one of the whole vectors: "
            "one dot product, one projection.": gradient * (gradient * reference >= 0),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(actual, expected, "Expected `g - (g @ r) / (r @ r) * r`: orthogonal to the reference.", rtol=1e-4, atol=1e-5)


def _zero_reference(answer: Callable[..., Any]) -> None:
    gradient, reference = _conflict()
    actual = _project(answer, gradient, torch.zeros_like(reference))
    if actual.isnan().any():
        raise Wrong(
            "A reference of zeros gives NaN: 0/0. Its dot product is 0, so there is no conflict and nothing to divide: "
            "return the gradient when the dot product is `>= 0`."
        )
    close(actual, gradient, "A reference of zeros asks for nothing: the gradient comes back as it is.")


def _arguments_stay(answer: Callable[..., Any]) -> None:
    gradient, reference = _conflict()
    for sign in (1, -1):
        given = gradient.clone(), sign * reference
        answer(*given)
        if not torch.equal(given[0], gradient) or not torch.equal(given[1], sign * reference):
            raise Changed(
                "You write into the tensors that were passed in: `-=`, `*=` and names that end in `_` do. Compute a new tensor."
            )


# ---- 03.6 what to keep ---------------------------------------------------------------------------------------------


def _layer() -> tuple[Tensor, Tensor]:
    """A layer `(4, 4)` with 11 free weights; of both the free and the frozen ones some are large and negative."""
    weights = torch.tensor(
        [[0.9, -1.0, 0.15, 0.3], [-0.8, 0.05, 0.75, -0.2], [0.7, 0.5, -0.1, 0.25], [-0.45, 0.35, 0.02, 0.4]]
    )
    free = torch.ones(4, 4, dtype=torch.bool)
    free[0, 0] = free[0, 1] = free[1, 2] = free[2, 2] = free[3, 3] = False
    return weights, free


def _keep(answer: Callable[..., Any], weights: Tensor, free: Tensor, prune: float) -> Tensor:
    """The student's mask, after type, shape and the frozen weights have been checked."""
    mask = answer(weights.clone(), free.clone(), prune)
    if not isinstance(mask, Tensor):
        to_array(mask)  # None is named
        raise Wrong(f"Return a bool tensor of shape {tuple(weights.shape)}, not a {type(mask).__name__}.")
    if mask.shape != weights.shape:
        raise Wrong(f"Your mask has shape {tuple(mask.shape)}, the weights have {tuple(weights.shape)}.")
    if mask.dtype != torch.bool:
        raise Wrong(f"Your mask is of type {mask.dtype}. Indexing by it would pick positions: return a bool tensor.")
    return mask


def _top(score: Tensor, count: int) -> Tensor:
    """Bool mask of the `count` largest entries; for scores without ties."""
    return score >= score.flatten().sort(descending=True).values[count - 1]


def _largest(answer: Callable[..., Any]) -> None:
    weights, free = _layer()
    prune, size = 0.75, weights.abs()
    own = size.masked_fill(~free, -1.0)
    expected = _top(own, 3)  # 0.25 of 11 is 2.75
    mask = _keep(answer, weights, free, prune)
    diagnose(
        mask,
        {
            "You keep the largest *values*, so a weight of -0.8 goes and one of 0.5 stays. Size is what counts: "
            "`weights.abs()`.": _top(weights.masked_fill(~free, -9.0), 3),
            "Your count is a share of all weights. Only the free ones are to be shared out: `free.sum()`.": _top(
                own, 4
            ),
            "You keep the share `prune`. That is what goes back; `1 - prune` stays.": _top(own, 8),
            "Your mask shows what is given back. It should show what is kept.": free & ~expected,
            "You keep the smallest weights. They are the ones the task can do without.": _top(
                -size.masked_fill(~free, 9.0), 3
            ),
            "You rank the frozen weights with the others, so they take the places of free ones. Rank and count the free ones "
            "alone.": _top(size, 3) & free,
            "You rank the frozen weights with the others, and keep them, too. The mask is for what this task takes from the "
            "free ones.": _top(size, 3),
            "You count and rank all weights as if every one of them were free. Earlier tasks own some: look at `free`.": _top(
                size, 4
            ),
            "You keep the frozen weights as well. They belong to earlier tasks; the mask is for what this task takes from the "
            "free ones.": expected | ~free,
            "You round down: 0.25 of 11 free weights is 2.75, and `int(2.75)` is 2. Use `round`.": _top(own, 2),
            "You keep every free weight: nothing is given back to later tasks.": free,
        },
        expected=expected,
    )
    if (mask & ~free).any():
        raise Wrong("Your mask is True for a weight that is not free: an earlier task owns it.")
    wanted = f"Of 11 free weights 3 stay at prune 0.75: the largest in size, {sorted(weights[expected].tolist())}"
    if not torch.equal(mask, expected):
        raise Wrong(f"{wanted}; you keep {sorted(weights[mask].tolist())}.")


def _any_layer(answer: Callable[..., Any]) -> None:
    generator = torch.Generator().manual_seed(14)
    for shape, prune in (((3, 2, 3, 3), 0.4), ((7, 5), 0.9), ((6,), 0.0)):
        weights = torch.randn(shape, generator=generator)
        free = torch.rand(shape, generator=generator) < 0.6
        count = round((1 - prune) * int(free.sum()))
        mask = _keep(answer, weights, free, prune)
        if (mask & ~free).any():
            raise Wrong("Your mask is True for a weight that is not free: an earlier task owns it.")
        if int(mask.sum()) != count:
            raise Wrong(
                f"Of {int(free.sum())} free weights in a tensor of shape {shape}, {count} stay at prune {prune:g}; "
                f"you keep {int(mask.sum())}."
            )
        rest = weights[free & ~mask].abs()
        if len(rest) and rest.max() > weights[mask].abs().min():
            raise Wrong(f"In a tensor of shape {shape} you give back a weight that is larger than one that you keep.")


def _at_least_one(answer: Callable[..., Any]) -> None:
    weights, free = _layer()
    mask = _keep(answer, weights, free, 0.99)
    if not mask.any():
        raise Wrong(
            "At prune 0.99 nothing is left of 11 free weights: a layer without weights is dead. Keep at least one."
        )
    if not torch.equal(mask, _top(weights.abs().masked_fill(~free, -1.0), 1)):
        raise Wrong("At prune 0.99 one of 11 free weights stays, the largest in size, -0.8.")


def _ties(answer: Callable[..., Any]) -> None:
    _, free = _layer()
    signs = torch.where(torch.arange(16).reshape(4, 4) % 3 == 0, -1.0, 1.0)
    count = int(_keep(answer, _layer()[0], free, 0.75).sum())
    if count != 3:
        raise Wrong(f"Of 11 free weights 3 stay at prune 0.75, you keep {count} even without ties.")
    mask = _keep(answer, 0.1 * signs, free, 0.75)
    _no_frozen(mask, free)
    if int(mask.sum()) > 3:
        raise Wrong(
            f"All weights have the same size, and you keep {int(mask.sum())} instead of 3: a comparison `>=` with a threshold "
            "lets every tie through. Take the first 3 places of the ranking: `topk`."
        )
    if int(mask.sum()) < 3:
        raise Wrong(
            f"All weights have the same size, and you keep {int(mask.sum())} instead of 3: a comparison `>` with a threshold "
            "lets no tie through. Take the first 3 places of the ranking: `topk`."
        )
    first_half = torch.arange(16).reshape(4, 4) < 8
    for free in (first_half, ~first_half):  # weights are zero where PackNet has given them back
        mask = _keep(answer, torch.zeros(4, 4), free, 0.5)
        _no_frozen(mask, free)
        if int(mask.sum()) != 4:
            raise Wrong(
                f"All 8 free weights are 0, and you keep {int(mask.sum())} instead of 4. Frozen weights that are "
                "set to 0 in the ranking compete with free ones that *are* 0: give them a rank below every free weight."
            )


def _no_frozen(mask: Tensor, free: Tensor) -> None:
    if (mask & ~free).any():
        raise Wrong(
            "With ties, your mask is True for a weight that is not free. Give frozen weights a rank below every free one, such "
            "as -1; 0 is not below a free weight that is 0."
        )


EXERCISES = [
    Exercise(
        id="03.5",
        title="Do no harm",
        difficulty=2,
        minutes=10,
        points=2,
        reference="course_utils.methods.agem:project",
        forbidden=("course_utils.methods.gem:project",),
        criteria=[
            Criterion("a step that does no harm is left alone", _harmless),
            Criterion("a harmful step loses the part against the reference, and no more", _conflicting, share=2),
            Criterion("a reference of zeros is no conflict", _zero_reference, share=0.5),
            Criterion("the tensors passed in stay as they are", _arguments_stay, share=0.5),
        ],
        hints=(
            "When does a step along minus the gradient raise the memory's loss? One number says it.",
            "If `gradient @ reference` is negative, subtract the part of the gradient that lies along the reference. What is "
            "left is orthogonal to it.",
            "The part along the reference is `(gradient @ reference) / (reference @ reference) * reference`. Return the gradient "
            "unchanged when the dot product is `>= 0`.",
        ),
    ),
    Exercise(
        id="03.6",
        title="What to keep",
        difficulty=2,
        minutes=12,
        points=2,
        reference="course_utils.methods.packnet:keep_mask",
        criteria=[
            Criterion("the largest of the free weights, in size", _largest, share=2),
            Criterion("tensors of any shape, any share", _any_layer, share=0.5),
            Criterion("at least one stays", _at_least_one, share=0.5),
            Criterion("ties do not change the count", _ties),
        ],
        hints=(
            "Two questions, one after the other: how many stay, and which.",
            "Rank the sizes with the frozen ones below all others: `weights.abs().masked_fill(~free, -1)`. The first places of "
            "the ranking stay.",
            "Flatten the ranking, set a bool tensor of zeros to True at `ranking.topk(count).indices`, and give it the shape of "
            "the weights. `count = max(1, round((1 - prune) * int(free.sum())))`.",
        ),
    ),
]
