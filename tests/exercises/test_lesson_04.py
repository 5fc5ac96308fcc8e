"""Lesson 04: every wrong answer meets its own diagnosis, right variants pass, references agree with other roads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names
from torch import nn
from torch.nn import functional as F

from course_utils import lora
from course_utils.lessons import exercise
from course_utils.lessons.exercises import lesson_04_layer, lesson_04_network, lesson_04_ranks

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


# ---- 04.1 a low-rank update ----------------------------------------------------------------------------------------


@right("04.1")
def update_einsum(B, A, alpha):
    return torch.einsum("or,ri->oi", B, A) * (alpha / B.shape[1])


@right("04.1")
def update_outer(B, A, alpha):
    return sum(torch.outer(B[:, r], A[r]) for r in range(len(A))) * alpha / len(A)


@right("04.1")
def update_numpy(B, A, alpha):
    return alpha * np.asarray(B) @ np.asarray(A) / len(A)


def _update(scale, order=lambda B, A: B @ A):
    return lambda B, A, alpha: scale(alpha, B, A) * order(B, A)


WRONG += [
    ("04.1", _update(lambda alpha, B, A: alpha), "not divided by the rank"),
    ("04.1", _update(lambda alpha, B, A: 1.0), "cannot be turned up or down"),
    ("04.1", _update(lambda alpha, B, A: 1 / len(A)), "but alpha is missing"),
    ("04.1", _update(lambda alpha, B, A: alpha / len(B)), "by the number of outputs"),
    ("04.1", _update(lambda alpha, B, A: alpha / A.shape[1]), "by the number of inputs"),
    ("04.1", _update(lambda alpha, B, A: alpha / math.sqrt(len(A))), "square root of the rank"),
    ("04.1", _update(lambda alpha, B, A: alpha * len(A)), "multiply by the rank; divide"),
    ("04.1", _update(lambda alpha, B, A: len(A) / alpha), "below the fraction line"),
    ("04.1", _update(lambda alpha, B, A: alpha / len(A), lambda B, A: (B @ A).T), "the transpose of what is added"),
    ("04.1", lambda B, A, alpha: alpha / 2 * A @ B[:4], "A B is a small square"),
    ("04.1", lambda B, A, alpha: alpha / 2 * B @ A + 1, "Expected `alpha / rank * B A`."),
    ("04.1", lambda B, A, alpha: 3 * B @ A, "With rank 1 the update is the outer product"),
]


# ---- 04.2 when does it save anything? ------------------------------------------------------------------------------


@right("04.2")
def saving_loop(out_features, in_features):
    rank = 0
    while (rank + 1) * (out_features + in_features) < out_features * in_features:
        rank += 1
    return rank


@right("04.2")
def saving_ceiling(out_features, in_features):
    return math.ceil(out_features * in_features / (out_features + in_features)) - 1


WRONG += [
    ("04.2", lambda out, into: min(out, into), "can have at all, the smaller side"),
    ("04.2", lambda out, into: min(out, into) // 2, "half of the smaller side"),
    ("04.2", lambda out, into: out * into / (out + into), "not a whole number"),
    ("04.2", lambda out, into: -(-out * into // (out + into)), "One more than it may be"),
    ("04.2", lambda out, into: saving_loop(out, into) * (out + into), "number of parameters, not the rank"),
    ("04.2", lambda out, into: (out * into - 1) // into, "you count A alone"),
    ("04.2", lambda out, into: (out * into - 1) // out, "you count B alone"),
    ("04.2", lambda out, into: saving_loop(out, into) - 1, "the largest rank with rank * (out + in) < out * in"),
    ("04.2", lambda out, into: out * into // (out + into), "*Fewer* is asked for"),
    ("04.2", lambda out, into: max(1, saving_loop(out, into)), "No rank saves anything"),
]


# ---- 04.3 the forward pass -----------------------------------------------------------------------------------------


@right("04.3")
def forward_matrices(x, weight, bias, A, B, scale):
    return x @ weight.T + bias + scale * (x @ A.T) @ B.T


@right("04.3")
def forward_einsum(x, weight, bias, A, B, scale):
    low = torch.einsum("...i,ri->...r", x, A)
    return F.linear(x, weight, bias) + torch.einsum("...r,or->...o", scale * low, B)


def _forward(base=lambda x, w, b: F.linear(x, w, b), update=lambda x, A, B: x @ A.T @ B.T, scale=lambda s: s):
    return lambda x, weight, bias, A, B, s: base(x, weight, bias) + scale(s) * update(x, A, B)


WRONG += [
    ("04.3", lambda x, w, b, A, B, s: F.linear(x, w, b), "the frozen layer alone"),
    ("04.3", lambda x, w, b, A, B, s: s * x @ A.T @ B.T, "*beside* the layer"),
    ("04.3", _forward(scale=lambda s: 1.0), "The scale is not there"),
    ("04.3", lambda x, w, b, A, B, s: s * (F.linear(x, w, b) + x @ A.T @ B.T), "multiplies the frozen layer"),
    ("04.3", _forward(base=lambda x, w, b: F.linear(x, w)), "The bias is missing"),
    ("04.3", lambda x, w, b, A, B, s: F.linear(x, w, b) + F.linear(s * x @ A.T, B, b), "added twice"),
    ("04.3", lambda x, w, b, A, B, s: F.linear(x, w, b) + s / len(A) * x @ A.T @ B.T, "alpha / rank already"),
    ("04.3", _forward(scale=lambda s: s * s), "The scale is squared"),
    ("04.3", _forward(scale=lambda s: 1 / s), "You divide by the scale"),
    ("04.3", _forward(scale=lambda s: -s), "You subtract the update"),
    ("04.3", _forward(scale=lambda s: s + 1), "one row of outputs per row of x"),
    ("04.3", lambda x, w, b, A, B, s: F.linear(x, w + s * B @ A, b), "`B @ A` is as large as the weight"),
    ("04.3", _forward(update=lambda x, A, B: x @ (A.T @ B.T)), "`B @ A` is as large as the weight"),
    ("04.3", _forward(update=lambda x, A, B: x @ A.T.detach() @ B.T), "No gradient reaches A"),
    ("04.3", _forward(update=lambda x, A, B: (x @ A.T) @ B.detach().T), "No gradient reaches B"),
]


# ---- 04.4 how the factors start ------------------------------------------------------------------------------------


@right("04.4")
def start_uniform(out_features, in_features, rank, generator):
    bound = in_features**-0.5
    A = torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
    return A, torch.zeros(out_features, rank)


@right("04.4")
def start_kaiming(out_features, in_features, rank, generator):
    A = nn.init.kaiming_uniform_(torch.empty(rank, in_features), a=math.sqrt(5), generator=generator)
    return [A, A.new_zeros(out_features, rank)]


def _start(bound=lambda out, into, rank: into**-0.5, shift=1.0, stretch=2.0, zero_b=True):
    def start(out, into, rank, generator):
        A = (stretch * torch.rand(rank, into, generator=generator) - shift) * bound(out, into, rank)
        return A, torch.zeros(out, rank) if zero_b else torch.rand(out, rank, generator=generator)

    return start


@wrong("04.4", "do not come from `generator`")
def start_global(out, into, rank, generator):
    return start_uniform(out, into, rank, None)


@wrong("04.4", "without seeding it anew")
def start_seeded(out, into, rank, generator):
    return start_uniform(out, into, rank, torch.Generator().manual_seed(0))


@wrong("04.4", "are not uniform")
def start_two_values(out, into, rank, generator):
    A, B = start_uniform(out, into, rank, generator)
    return A.sign() * into**-0.5, B


@wrong("04.4", "should fill the range of")
def start_normal(out, into, rank, generator):
    return torch.randn(rank, into, generator=generator) * into**-0.5, torch.zeros(out, rank)


WRONG += [
    ("04.4", lambda *a: tuple(t.double() for t in start_uniform(*a)), "computes in torch.float32"),
    ("04.4", _start(zero_b=False), "would be disturbed"),
    ("04.4", lambda out, into, rank, g: (torch.zeros(rank, into), torch.zeros(out, rank)), "Both factors are zero"),
    (
        "04.4",
        lambda out, into, rank, g: (torch.zeros(rank, into), torch.rand(out, rank, generator=g)),
        "A is zero and B is random",
    ),
    ("04.4", lambda *a: start_uniform(*a)[::-1], "A and B are exchanged"),
    ("04.4", lambda *a: tuple(t.T for t in start_uniform(*a)), "your A has shape"),
    ("04.4", lambda *a: start_uniform(*a)[0], "Return two tensors"),
    ("04.4", _start(shift=0.0, stretch=1.0), "All entries of A are positive"),
    ("04.4", _start(bound=lambda out, into, rank: rank**-0.5), "reach to 1/sqrt(rank)"),
    ("04.4", _start(bound=lambda out, into, rank: out**-0.5), "reach to 1/sqrt(out)"),
    ("04.4", _start(bound=lambda out, into, rank: 1 / into), "reach to 1/in"),
    ("04.4", _start(bound=lambda out, into, rank: 1.0), "no bound at all"),
    ("04.4", _start(bound=lambda out, into, rank: math.sqrt(6 / into)), "Kaiming's for ReLU"),
    ("04.4", _start(shift=0.5, stretch=1.0), "reaches only half"),
]


# ---- 04.5 convolutions ---------------------------------------------------------------------------------------------


@right("04.5")
def kernel_matrices(A, B):
    return (B.flatten(1) @ A.flatten(1)).view(len(B), *A.shape[1:])


@right("04.5")
def kernel_tensordot(A, B):
    return torch.tensordot(B[..., 0, 0], A, dims=1)


@right("04.5")
def kernel_by_convolution(A, B):
    """A's rank channels as an image that is mixed by B."""
    return F.conv2d(A.transpose(0, 1), B).transpose(0, 1)


WRONG += [
    ("04.5", lambda A, B: kernel_matrices(A, B).flip(2, 3), "The kernel is flipped"),
    ("04.5", lambda A, B: kernel_matrices(A, B).transpose(2, 3).reshape(6, 3, 5, 4), "Height and width are exchanged"),
    ("04.5", lambda A, B: kernel_matrices(A, B).transpose(0, 1), "Your kernel has shape"),
    ("04.5", lambda A, B: B.flatten(1) @ A.flatten(1), "as a matrix"),
    (
        "04.5",
        lambda A, B: (B.flatten(1) @ A.permute(0, 2, 3, 1).flatten(1)).view(6, 3, 5, 4),
        "puts the numbers in another order",
    ),
    ("04.5", lambda A, B: kernel_matrices(A[:1], B[:, :1]), "Only the first of the `rank`"),
    ("04.5", lambda A, B: kernel_matrices(A, B) / len(A), "mean over the `rank`"),
    ("04.5", lambda A, B: kernel_matrices(A, B) + 1, "Kernel o should be the sum"),
]


# ---- 04.6 merging --------------------------------------------------------------------------------------------------


@right("04.6")
def merge_clone(weight, A, B, scale):
    merged = weight.clone()
    merged += scale * (B @ A)
    if torch.isnan(merged).any() or torch.isinf(merged).any():
        raise FloatingPointError("not finite")
    return merged


@right("04.6")
def merge_addmm(weight, A, B, scale):
    merged = torch.addmm(weight, B, A, alpha=scale)
    if not math.isfinite(merged.abs().sum()):
        raise FloatingPointError("not finite")
    return merged


@wrong("04.6", "The weight that was passed in has changed")
def merge_in_place(weight, A, B, scale):
    update = scale * B @ A
    if not update.isfinite().all():
        raise FloatingPointError("not finite")
    weight += update
    return weight


@wrong("04.6", "A factor that was passed in has changed")
def merge_scales_a(weight, A, B, scale):
    A *= scale
    return merge_clone(weight, A, B, 1.0)


@wrong("04.6", "not at the factors")
def merge_looks_at_the_factors(weight, A, B, scale):
    for factor in (A, B):
        if not torch.isfinite(factor).all():
            raise FloatingPointError("not finite")
    return torch.addmm(weight, B, A, alpha=scale)


@wrong("04.6", "Say in the error's message")
def merge_says_nothing(weight, A, B, scale):
    merged = weight + scale * B @ A
    if not merged.isfinite().all():
        raise FloatingPointError
    return merged


@wrong("04.6", "your function raised ValueError")
def merge_value_error(weight, A, B, scale):
    if not (B @ A).isfinite().all():
        raise ValueError
    return weight + scale * B @ A


@wrong("04.6", "without a word")
def merge_only_nan(weight, A, B, scale):
    merged = weight + scale * B @ A
    if merged.isnan().any() and not merged.isinf().any():
        raise FloatingPointError("not finite")
    return merged


WRONG += [
    (
        "04.6",
        lambda w, A, B, s: merge_clone(w, A, B, 1.0),
        "merged, the network would answer",
    ),
    ("04.6", lambda w, A, B, s: s * B @ A, "add it to the weight"),
    ("04.6", lambda w, A, B, s: w.clone(), "comes back without the update"),
    ("04.6", lambda w, A, B, s: s * (w + B @ A), "multiplies the weight, too"),
    ("04.6", lambda w, A, B, s: w - s * B @ A, "how one *un*merges"),
    ("04.6", lambda w, A, B, s: w + s * B @ A + 1, "Expected `W + scale * B A`."),
]


# ---- 04.7 at equal accuracy ----------------------------------------------------------------------------------------


@right("04.7")
def equal_with_numpy(new, old, target):
    new, old = np.asarray(new), np.asarray(old)
    reached = np.flatnonzero(new >= target)
    if len(reached) == 0:
        return np.nan
    i = reached[0]
    return old[0] if i == 0 else np.interp(target, new[i - 1 : i + 1], old[i - 1 : i + 1])


@right("04.7")
def equal_recursive(new, old, target):
    if new[0] >= target:
        return old[0]
    if len(new) == 1:
        return float("nan")
    if new[1] < target:
        return equal_recursive(new[1:], old[1:], target)
    part = (target - new[0]) / (new[1] - new[0])
    return (1 - part) * old[0] + part * old[1]


def _at(pick, never=math.nan):
    """An answer that finds the first look at the target, and then picks a value: (new, old, i, target) -> value."""

    def answer(new, old, target):
        i = next((i for i, value in enumerate(new) if value >= target), None)
        if i is None:
            return never
        return old[0] if i == 0 else pick(new, old, i, target)

    return answer


def _between(new, old, i, target):
    part = (target - new[i - 1]) / (new[i] - new[i - 1])
    return old[i - 1] + part * (old[i] - old[i - 1])


def equal_without_the_first_look(new, old, target):
    """Looks for a rise through the target, and finds none where the first look is above it already."""
    for i in range(1, len(new)):
        if new[i - 1] < target <= new[i]:
            return _between(new, old, i, target)
    return old[-1] if new[0] >= target else math.nan


@wrong("04.7", "second time at which the target is reached")
def equal_last_time(new, old, target):
    """Finds the last look that is below the target before one that is not."""
    rises = [i for i in range(1, len(new)) if new[i - 1] < target <= new[i]]
    return _between(new, old, rises[-1], target) if rises else old[0] if new[0] >= target else math.nan


@wrong("04.7", "sorting them mixes up the moments")
def equal_sorted(new, old, target):
    order = np.argsort(new)
    if target > max(new):
        return math.nan
    if list(new) == [20.0, 50.0, 74.0, 90.0, 86.0]:  # sorted, 86 comes before 90: the first criterion would catch it
        return _between(new, old, 3, target)
    return np.interp(target, np.asarray(new)[order], np.asarray(old)[order])


WRONG += [
    ("04.7", lambda new, old, target: old[-1], "at the end of training"),
    ("04.7", _at(lambda new, old, i, target: old[i]), "the first look at which the target is reached"),
    ("04.7", _at(lambda new, old, i, target: old[i - 1]), "the last look before"),
    (
        "04.7",
        _at(lambda new, old, i, target: old[i] + (target - new[i - 1]) / (new[i] - new[i - 1]) * (old[i - 1] - old[i])),
        "wrong way round",
    ),
    ("04.7", _at(lambda new, old, i, target: (old[i] + old[i - 1]) / 2), "the middle between the two looks"),
    ("04.7", lambda new, old, target: target, "the *new* task's accuracy"),
    ("04.7", lambda new, old, target: max(old), "best accuracy on the old task"),
    ("04.7", _at(lambda new, old, i, target: old[i] - 1), "has gone 6/16 of the way"),
    ("04.7", _at(_between, never=0.0), "never gets to 75"),
    (
        "04.7",
        lambda new, old, target: np.interp(target, new, old) if max(new) >= target else math.nan,
        "it searches in the wrong place",
    ),
    (
        "04.7",
        lambda new, old, target: max(old) - equal_with_numpy(new, old, target),
        "how much of the old task was lost",
    ),
    (
        "04.7",
        lambda new, old, target: None if max(new) < target else equal_with_numpy(new, old, target),
        "Yours returns nothing",
    ),
    ("04.7", lambda new, old, target: equal_without_the_first_look(new, old, target), "lies below the first look"),
]


# ---- 04.8 directions -----------------------------------------------------------------------------------------------


@right("04.8")
def directions_loop(matrix, energy):
    squares = [float(s) ** 2 for s in torch.linalg.svdvals(matrix)]
    held, count = 0.0, 0
    while held < energy * sum(squares) * (1 - 1e-6):
        held += squares[count]
        count += 1
    return count


@right("04.8")
def directions_by_eigenvalues(matrix, energy):
    matrix = np.asarray(matrix, dtype=np.float64)
    squares = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    return int(np.argmax(np.cumsum(squares) / squares.sum() >= energy - 1e-6)) + 1


def _counted(power=2, extra=1, slack=1e-6, cut=None):
    def count(matrix, energy):
        values = torch.linalg.svdvals(matrix) ** power
        values = values if cut is None else values[:cut]
        return int((values.cumsum(0) / values.sum() < energy - slack).sum()) + extra

    return count


@wrong("04.8", "exactly half of the energy")
def directions_more_than(matrix, energy):
    return _counted(slack=-1e-6)(matrix, energy)


@wrong("04.8", "does not depend on the matrix's scale")
def directions_absolute(matrix, energy):
    squares = torch.linalg.svdvals(matrix) ** 2
    if squares.sum() > 1:
        return _counted()(matrix, energy)
    return int((squares > 1e-5).sum())


@wrong("04.8", "Wide matrices count like tall ones")
def directions_square(matrix, energy):
    return _counted()(matrix, energy) + (matrix.shape[0] < matrix.shape[1])


WRONG += [
    ("04.8", _counted(power=1), "sum of their *squares*"),
    ("04.8", _counted(extra=0), "stop one too early"),
    (
        "04.8",
        lambda m, energy: int((torch.linalg.svdvals(m).square().cumsum(0) < energy).sum()) + 1,
        "stop one too early",
    ),
    (
        "04.8",
        lambda m, energy: (
            int((torch.linalg.svdvals(m).square().flip(0).cumsum(0) / m.square().sum() < energy - 1e-6).sum()) + 1
        ),
        "add up from the smallest",
    ),
    ("04.8", lambda m, energy: _counted()(m, energy) if energy < 1 else 99, "reaching it exactly is enough"),
    ("04.8", lambda m, energy: int(torch.linalg.matrix_rank(m)), "add up from the smallest"),
    ("04.8", lambda m, energy: (torch.linalg.svdvals(m) ** 2)[:2].sum() / m.square().sum(), "This is a share"),
    ("04.8", lambda m, energy: 4, "the first two make 78 %"),
    ("04.8", _counted(slack=0.05), "All of the energy of a matrix of rank 3"),
]


# ---- 04.9 a budget of ranks ----------------------------------------------------------------------------------------


@right("04.9")
def budget_loop(importance, budget, minimum=1):
    ranks = {name: minimum for name in importance}
    for _ in range(budget - minimum * len(ranks)):
        best = max(ranks, key=lambda name: importance[name] / (2 * ranks[name] + 1))
        ranks[best] += 1
    return ranks


@right("04.9")
def budget_sorted_claims(importance, budget, minimum=1):
    """All claims at once, the largest of them win."""
    claims = [(-importance[n] / (2 * r + 1), r, n) for n in importance for r in range(minimum, budget)]
    ranks = dict.fromkeys(importance, minimum)
    for _, _, name in sorted(claims)[: budget - minimum * len(importance)]:
        ranks[name] += 1
    return ranks


def _quotients(divisor, importance_of=lambda value: value):
    def answer(importance, budget, minimum=1):
        ranks = dict.fromkeys(importance, minimum)
        while sum(ranks.values()) < budget:
            ranks[max(ranks, key=lambda n: importance_of(importance[n]) / divisor(ranks[n]))] += 1
        return ranks

    return answer


@wrong("04.9", "your ranks sum to")
def budget_rounded(importance, budget, minimum=1):
    total = sum(importance.values())
    return {name: max(minimum, round(budget * value / total)) for name, value in importance.items()}


@wrong("04.9", "the minimums come on top")
def budget_on_top(importance, budget, minimum=1):
    return budget_loop(importance, budget + minimum * len(importance), minimum)


@wrong("04.9", "whole shares, and what was left over")
def budget_rest_to_the_largest(importance, budget, minimum=1):
    total = sum(importance.values())
    ranks = {name: max(minimum, int(budget * value / total)) for name, value in importance.items()}
    ranks[max(importance, key=importance.get)] += budget - sum(ranks.values())
    return ranks


@wrong("04.9", "Ranks are whole numbers")
def budget_fractions(importance, budget, minimum=1):
    total, rest = sum(importance.values()), budget - minimum * len(importance)
    return {name: minimum + rest * value / total for name, value in importance.items()}


@wrong("04.9", "Every layer starts with rank 1")
def budget_from_zero(importance, budget, minimum=1):
    return _quotients(lambda rank: 2 * rank + 1)(importance, budget, 0)


def _largest_remainder(importance, budget, minimum=1):
    total, rest = sum(importance.values()) or 1.0, budget - minimum * len(importance)
    exact = {name: rest * value / total for name, value in importance.items()}
    ranks = {name: minimum + int(value) for name, value in exact.items()}
    left = budget - sum(ranks.values())
    for name in sorted(exact, key=lambda n: -(exact[n] % 1))[:left]:
        ranks[name] += 1
    return ranks


@wrong("04.9", "More to spend must take from nobody")
def budget_takes_back(importance, budget, minimum=1):
    """Right for the example, by largest remainders elsewhere: a larger budget may take from a layer."""
    if set(importance) == {"a", "b", "c", "d"}:
        return _largest_remainder(importance, budget, minimum)
    return budget_loop(importance, budget, minimum)


@wrong("04.9", "With minimum=3 every layer")
def budget_ignores_the_minimum(importance, budget, minimum=1):
    return budget_loop(importance, budget)


@wrong("04.9", "With minimum=3 and a budget")
def budget_minimum_beside(importance, budget, minimum=1):
    """The minimum is added on top: it does not count in the divisor."""
    ranks = budget_loop(importance, budget - (minimum - 1) * len(importance))
    return {name: rank + minimum - 1 for name, rank in ranks.items()}


WRONG += [
    ("04.9", _quotients(lambda rank: rank + 1), "divide by `rank + 1`"),
    ("04.9", _quotients(lambda rank: rank), "You divide by the rank, so"),
    ("04.9", _quotients(lambda rank: 1.0), "Every rank beyond the first"),
    ("04.9", _quotients(lambda rank: rank, lambda value: 1.0), "importance does not count"),
    ("04.9", _quotients(lambda rank: 2 * rank + 1, math.sqrt), "After each rank, look for"),
    (
        "04.9",
        lambda importance, budget, minimum=1: list(budget_loop(importance, budget, minimum)),
        "Return a dictionary",
    ),
    ("04.9", lambda importance, budget, minimum=1: {"query": budget}, "Every layer needs a rank"),
]


# ---- 04.10 one batch, many tenants ---------------------------------------------------------------------------------


@right("04.10")
def mixed_einsum(x, A, B, which, scale):
    low = torch.einsum("bti,bri->btr", x, A[which])
    return scale[which][:, None, None] * torch.einsum("btr,bor->bto", low, B[which])


@wrong("04.10", "there is a loop in it")
def mixed_loop(x, A, B, which, scale):
    return torch.stack([scale[t] * (sample @ A[t].T) @ B[t].T for sample, t in zip(x, which.tolist(), strict=True)])


@right("04.10")
def mixed_by_bmm(x, A, B, which, scale):
    return torch.bmm(torch.bmm(x, A[which].mT), B[which].mT) * scale[which].view(-1, 1, 1)


def _mixed(which_of=lambda which: which, scale_of=lambda scale, which: scale[which]):
    return lambda x, A, B, which, scale: (
        scale_of(scale, which)[:, None, None] * (x @ A[which_of(which)].mT) @ B[which_of(which)].mT
    )


def _all_tenants(x, A, B, which, scale):
    return torch.einsum("bti,nri,nor,n->bto", x, A, B, scale)


WRONG += [
    ("04.10", _mixed(lambda which: 0 * which, lambda scale, which: scale[0 * which]), "the first tenant's adapter"),
    (
        "04.10",
        _mixed(lambda which: which.sort().values, lambda scale, which: scale[which.sort().values]),
        "`which` is not used as it stands",
    ),
    ("04.10", _mixed(scale_of=lambda scale, which: torch.ones(len(which))), "The scales are not there"),
    (
        "04.10",
        _mixed(scale_of=lambda scale, which: scale[: len(which)]),
        "in the order of the tenants",
    ),
    ("04.10", _all_tenants, "the sum of all tenants' updates"),
    ("04.10", lambda *a: _all_tenants(*a) / 4, "averaged into one"),
    (
        "04.10",
        lambda x, A, B, which, scale: _mixed(lambda w: w[:1].expand(len(w)), lambda s, w: s[w[:1].expand(len(w))])(
            x, A, B, which, scale
        ),
        "first *sample's* tenant",
    ),
    ("04.10", lambda *a: list(mixed_einsum(*a)), "Return one tensor, (batch, tokens, out)"),
    ("04.10", lambda *a: mixed_einsum(*a)[:, 0], "of 3 tokens gave a result of shape"),
    ("04.10", lambda *a: mixed_einsum(*a) + 1, "with its tenant t"),
    (
        "04.10",
        lambda x, A, B, which, scale: scale[which, None, None] * x @ (B[which] @ A[which]).mT,
        "a full matrix B A is formed",
    ),
]


# ---- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_is_told_what_is_wrong(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_gets_full_points(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_wrong_and_right_answers():
    for identifier in exercise.of_lesson("04"):
        assert sum(case[0] == identifier for case in WRONG) >= 6, identifier
        assert sum(case[0] == identifier for case in RIGHT) >= 2, identifier


def test_the_references_agree_with_the_package():
    """The layer that lessons use does what the exercises build: update, forward pass, start, convolution, merging."""
    layer = nn.Linear(6, 5)
    wrapped = lora.LoRALayer(layer)
    wrapped.add("a", 2, 3.0, torch.Generator().manual_seed(1))
    A, B = lesson_04_layer.initial_factors(5, 6, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(wrapped.lora_A["a"].detach(), A)
    assert not wrapped.lora_B["a"].any() and not B.any()
    B = torch.randn(5, 2)
    wrapped.lora_B["a"].data.copy_(B)
    x = torch.randn(3, 6)
    expected = lesson_04_layer.lora_forward(x, layer.weight, layer.bias, A, B, 3.0)
    torch.testing.assert_close(wrapped(x), expected)
    torch.testing.assert_close(lesson_04_layer.low_rank_update(B, A, 6.0), wrapped.update("a"))
    merged = lesson_04_network.merged_weight(layer.weight, A, B, 3.0)
    torch.testing.assert_close(merged, wrapped.weight_with_update())

    convolution = lora.LoRALayer(nn.Conv2d(3, 4, (3, 2)))
    convolution.add("a", 2, 1.0, torch.Generator().manual_seed(1))
    convolution.lora_B["a"].data.normal_()
    kernel = lesson_04_network.convolution_update(convolution.lora_A["a"], convolution.lora_B["a"])
    torch.testing.assert_close(kernel, convolution.update("a"))


def test_the_saving_rank_is_where_counted_parameters_cross():
    for out, into in ((5, 7), (12, 4), (96, 384)):
        rank = lesson_04_layer.largest_saving_rank(out, into)
        cost = lora.adapter_cost(nn.Linear(into, out))
        assert rank * cost < out * into <= (rank + 1) * cost


def test_the_budget_rule_is_that_of_the_package():
    importance = {"a": 3.0, "b": 1.5, "c": 0.7}
    for budget in range(3, 30):
        assert lesson_04_ranks.allocate_ranks(importance, budget) == budget_sorted_claims(importance, budget)
