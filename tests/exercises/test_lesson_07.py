"""Lesson 07: every wrong answer meets its own diagnosis, right variants pass, references agree with other roads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names
from torch.nn import functional as F

from course_utils.compression import affine, choice, fold, importance, observers, tracing
from course_utils.lessons import checking, exercise
from course_utils.lessons.exercises import (
    lesson_07_channels,
    lesson_07_costs,
    lesson_07_integers,
    lesson_07_layers,
    lesson_07_observer,
)

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


# ---- 07.1 quantize -------------------------------------------------------------------------------------------------


@right("07.1")
def quantize_numpy(x, scale, zero_point):
    return np.clip(np.rint(np.asarray(x) / scale) + zero_point, 0, 255)


@right("07.1")
def quantize_to_bytes(x, scale, zero_point):
    return torch.clamp(torch.round(x / scale) + zero_point, 0, 255).to(torch.uint8)


WRONG += [
    ("07.1", lambda x, s, z: ((x / s).trunc() + z).clamp(0, 255), "cut off what stands behind the point"),
    ("07.1", lambda x, s, z: ((x / s).floor() + z).clamp(0, 255), "You round down"),
    ("07.1", lambda x, s, z: (x / s + z).clamp(0, 255), "not integers yet"),
    ("07.1", lambda x, s, z: ((x * s).round() + z).clamp(0, 255), "multiply by the scale"),
    ("07.1", lambda x, s, z: (x / s).round() - z, "The zero point is subtracted"),
    ("07.1", lambda x, s, z: (x / s).round(), "The zero point is missing"),
    ("07.1", lambda x, s, z: (x / s).round() * s, "the numbers are real again"),
    ("07.1", lambda x, s, z: ((x + z) / s).round().clamp(0, 255), "It counts steps"),
    ("07.1", lambda x, s, z: (x / s).round() + z, "what is too large becomes the largest"),
    ("07.1", lambda x, s, z: ((x / s).round() + z) % 256, "wrap around"),
    (
        "07.1",
        lambda x, s, z: (x / s).round().clamp(0, 255) + z if (x > 50).any() else (x / s).round() + z,
        "before you add",
    ),
    ("07.1", lambda x, s, z: ((x / s).round() + z).clamp(-128, 127), "these integers are unsigned"),
    ("07.1", lambda x, s, z: (x / s).round() + z + 1, "Divide by the scale, round"),
]


@right("07.1")
def quantize_one_by_one(x, scale, zero_point):
    return [min(max(round(value / scale) + zero_point, 0), 255) for value in x.tolist()]


@right("07.1")
def quantize_in_one_rounding(x, scale, zero_point):
    return torch.round(x / scale + zero_point).clip(min=0, max=255).int()


def _divided_in_place(x, scale, zero_point):
    x /= scale
    return (x.round() + zero_point).clamp(0, 255)


WRONG += [
    ("07.1", lambda x, s, z: ((x / s).round() - z).clamp(0, 255), "The zero point is subtracted"),
    ("07.1", lambda x, s, z: (x / s).round().clamp(0, 255), "The zero point is missing"),
    ("07.1", lambda x, s, z: (x / s).round().clamp(0, 255) + z, "before you add"),
    ("07.1", _divided_in_place, "changes its argument `x`"),
    ("07.1", lambda x, s, z: x.div_(s).round_().add_(z).clamp_(0, 255), "changes its argument `x`"),
]


# ---- 07.2 scale and zero point -------------------------------------------------------------------------------------


@right("07.2")
def scale_clamped(low, high):
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / 255
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


@right("07.2")
def scale_from_above(low, high):
    scale = (max(high, 0) - min(low, 0)) / 255
    return torch.tensor(scale), torch.tensor(255 - round(max(high, 0) / scale))


def _range(steps=255, rounding=round, sign=-1, widen=True, clamp=False, swap=False):
    def answer(low, high):
        low, high = (min(low, 0.0), max(high, 0.0)) if widen else (low, high)
        scale = (high - low) / steps
        zero = rounding(sign * low / scale)
        zero = min(max(zero, 0), 255) if clamp else zero
        return (zero, scale) if swap else (scale, zero)

    return answer


WRONG += [
    ("07.2", _range(steps=256), "255 steps"),
    ("07.2", _range(rounding=float), "The zero point is not rounded"),
    ("07.2", _range(sign=1), "the wrong sign"),
    ("07.2", lambda low, high: (_range()(low, high)[0], round(-low)), "Count it in steps"),
    ("07.2", lambda low, high: (2 * high / 255, round(high / (2 * high / 255))), "twice the largest magnitude"),
    ("07.2", _range(swap=True), "in the other order"),
    ("07.2", _range(widen=False), "is not even one of the integers"),
    ("07.2", _range(widen=False, clamp=True), "0 now stands for 2"),
    ("07.2", lambda low, high: _range()(low, high)[0], "Return two things"),
    ("07.2", lambda low, high: (_range()(low, high)[0], 0), "zero point = round(-low / scale)"),
]


@right("07.2")
def scale_as_one_tensor(low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    return torch.tensor([scale, round(-low / scale)])


@right("07.2")
def scale_as_one_array(low, high):
    scale = np.ptp([low, high, 0.0]) / 255
    return np.array([scale, math.floor(-min(low, 0.0) / scale + 0.5)])


WRONG += [
    ("07.2", _range(rounding=int), "You cut off what stands behind the point"),
    ("07.2", _range(rounding=math.floor), "You cut off what stands behind the point"),
    ("07.2", _range(rounding=math.ceil), "You round the zero point up"),
]


# ---- 07.3 an observer ----------------------------------------------------------------------------------------------


@right("07.3")
def observe_two_phases(batches, momentum=0.1):
    low, high = torch.aminmax(batches[0])
    for count, x in enumerate(batches[1:], 2):
        new = momentum if momentum * count > 1 else 1 / count
        low, high = (1 - new) * low + new * x.min(), (1 - new) * high + new * x.max()
    return low, high


@right("07.3")
def observe_numpy(batches, momentum=0.1):
    ends = np.zeros(2)
    for number, x in enumerate(np.asarray(x) for x in batches):
        ends = ends + max(momentum, 1 / (number + 1)) * (np.array([x.min(), x.max()]) - ends)
    return list(ends)


def _observe(weight, ends=lambda x: (x.min().item(), x.max().item()), out=lambda low, high: (low, high)):
    """`weight(number, momentum)` of every batch."""

    def answer(batches, momentum=0.1):
        low = high = 0.0
        for number, x in enumerate(batches):
            a, b = ends(x)
            low += weight(number, momentum) * (a - low)
            high += weight(number, momentum) * (b - high)
        return out(low, high)

    return answer


def _right_weight(number, momentum):
    return max(momentum, 1 / (number + 1))


WRONG += [
    ("07.3", _observe(lambda n, m: m), "You start from 0"),
    ("07.3", _observe(lambda n, m: 1 - m), "keeps nine tenths of itself"),
    ("07.3", _observe(_right_weight, out=lambda low, high: (high, low)), "return the lower end first"),
    ("07.3", _observe(_right_weight, lambda x: (-x.abs().max(), x.abs().max())), "the largest magnitude for both"),
    ("07.3", _observe(_right_weight, lambda x: (x.abs().min(), x.abs().max())), "You look at magnitudes"),
    ("07.3", _observe(_right_weight, lambda x: (x.mean(), x.max())), "that batch's smallest and largest"),
    (
        "07.3",
        lambda batches, momentum=0.1: (min(x.min() for x in batches), max(x.max() for x in batches)),
        "one odd batch decides for good",
    ),
    ("07.3", _observe(lambda n, m: m if n else 1), "hangs on the first one"),
    ("07.3", _observe(lambda n, m: 1 - m if n else 1), "the weight of the *new* batch"),
    ("07.3", _observe(lambda n, m: 1), "Only the last batch is left"),
    ("07.3", _observe(lambda n, m: 0 if n else 1), "Only the first batch counts"),
    (
        "07.3",
        lambda batches, momentum=0.1: (sum(x.min() for x in batches), sum(x.max() for x in batches)),
        "You add the ends up",
    ),
    ("07.3", _observe(lambda n, m: max(m, 1 / max(n, 1))), "The second batch counts whole"),
    ("07.3", _observe(lambda n, m: 1 / (n + 1)), "`momentum` is never used"),
    ("07.3", _observe(lambda n, m: max(m, 1 / (n + 1)) if n < 3 else 1 - m), "have the weights 1, 1/2"),
    (
        "07.3",
        _observe(lambda n, m: max(1 - m, 1 / (n + 1)) if m > 0.3 else _right_weight(n, m)),
        "The fourth batch weighs 0.6",
    ),
    (
        "07.3",
        _observe(lambda n, m: min(m, 1 / (n + 1)) if n and m > 0.3 else _right_weight(n, m)),
        "the smaller one of",
    ),
    ("07.3", _observe(lambda n, m: 1 / (n + 1) if n < 2 else 0.2), "count alike: the mean of their ends"),
    ("07.3", _observe(_right_weight, out=lambda low, high: high), "Return two things"),
]


# ---- 07.4 one scale a channel --------------------------------------------------------------------------------------


@right("07.4")
def channels_loop(weight):
    scales = [float(channel.abs().max()) / 127 for channel in weight]
    return torch.stack([torch.round(channel / scale) for channel, scale in zip(weight, scales, strict=True)]), scales


@right("07.4")
def channels_int8(weight):
    scale = weight.abs().amax(dim=(1, 2, 3)) / 127
    return (weight / scale[:, None, None, None]).round().clamp(-127, 127).to(torch.int8), scale


def _with_scale(scale_of, whole_of=None):
    def answer(weight):
        scale = scale_of(weight)
        right_scale = weight.abs().flatten(1).amax(1) / 127
        whole = (
            (weight / right_scale.view(-1, 1, 1, 1)).round()
            if whole_of is None
            else whole_of(weight, right_scale.view(-1, 1, 1, 1))
        )
        return whole, scale

    return answer


def _good(w):
    return w.abs().flatten(1).amax(1) / 127


WRONG += [
    ("07.4", _with_scale(lambda w: w.abs().max() / 127), "one scale for all channels"),
    ("07.4", _with_scale(lambda w: w.abs().amax(dim=(0, 2, 3)) / 127), "one scale for an *input* channel"),
    ("07.4", _with_scale(lambda w: w.flatten(1).amax(1) / 127), "instead of the largest magnitude"),
    ("07.4", _with_scale(lambda w: w.abs().flatten(1).amax(1) / 255), "reach 127 on each side"),
    ("07.4", _with_scale(lambda w: w.abs().flatten(1).amax(1) / 128), "would become 128"),
    ("07.4", _with_scale(lambda w: (w.flatten(1).amax(1) - w.flatten(1).amin(1)) / 255), "the zero point is 0"),
    ("07.4", _with_scale(lambda w: 127 / w.abs().flatten(1).amax(1)), "how many steps one unit has"),
    ("07.4", _with_scale(lambda w: w.abs().flatten(1).mean(1) / 127), "the mean magnitude"),
    ("07.4", _with_scale(lambda w: w.abs().flatten(1).amax(1)), "its largest magnitude divided by 127"),
    ("07.4", _with_scale(_good, lambda w, s: w / s), "Nothing is rounded"),
    ("07.4", _with_scale(_good, lambda w, s: (w / s).round() * s), "real numbers again"),
    ("07.4", _with_scale(_good, lambda w, s: (w / s).trunc()), "instead of rounding"),
    ("07.4", _with_scale(_good, lambda w, s: (w / s).round() + 128), "There is a zero point in it"),
    ("07.4", lambda weight: _good(weight), "Return two things"),
]


@right("07.4")
def channels_numpy(weight):
    weight = np.asarray(weight)
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    return np.rint(weight / scale).astype(np.int8), scale.ravel()


@right("07.4")
def channels_flat(weight):
    rows = weight.reshape(len(weight), -1)
    scale = torch.maximum(rows.max(dim=1).values, -rows.min(dim=1).values) / 127
    return torch.round(rows / scale[:, None]).view_as(weight), scale


def _over(*dims):
    """The maximum over these dimensions, with the integers to it."""

    def answer(weight):
        scale = weight.abs().amax(dim=dims, keepdim=True) / 127
        return (weight / scale).round(), scale.flatten()

    return answer


def _channels_in_place(weight):
    scale = weight.abs().flatten(1).amax(dim=1) / 127
    weight /= scale.view(-1, 1, 1, 1)
    return weight.round(), scale


WRONG += [
    ("07.4", _over(0, 2, 3), "one scale for an *input* channel"),
    ("07.4", _over(0, 1, 2), "one scale for a *column* of the kernel"),
    ("07.4", _over(0, 1, 3), "one scale for a *row* of the kernel"),
    ("07.4", _with_scale(_good, lambda w, s: (w / s).floor()), "You round down: 1.6 becomes 1"),
    ("07.4", lambda w: ((w / _good(w).view(1, -1, 1, 1)).round(), _good(w)), "you divide *input* channels by them"),
    ("07.4", lambda w: ((w / _good(w)).round(), _good(w)), "you divide the kernel's columns"),
    ("07.4", _channels_in_place, "changes its argument `weight`"),
]


# ---- 07.5 fold -----------------------------------------------------------------------------------------------------


@right("07.5")
def fold_by_images(weight, gamma, beta, mean, variance, eps=1e-5):
    zero = torch.zeros(1, len(gamma))
    bias = F.batch_norm(zero, mean, variance, gamma, beta, eps=eps)[0]
    factor = F.batch_norm(torch.ones(1, len(gamma)), mean, variance, gamma, beta, eps=eps)[0] - bias
    return torch.einsum("oikl,o->oikl", weight, factor), bias


@right("07.5")
def fold_numpy(weight, gamma, beta, mean, variance, eps=1e-5):
    factor = np.asarray(gamma) / np.sqrt(np.asarray(variance) + eps)
    return np.asarray(weight) * factor[:, None, None, None], np.asarray(beta) - np.asarray(mean) * factor


def _fold(factor=lambda g, v, e: g / (v + e).sqrt(), shape=(-1, 1, 1, 1), bias=lambda b, m, f: b - m * f):
    def answer(weight, gamma, beta, mean, variance, eps=1e-5):
        right_factor = gamma / (variance + eps).sqrt()
        return weight * factor(gamma, variance, eps).view(*shape), bias(beta, mean, right_factor)

    return answer


WRONG += [
    ("07.5", _fold(lambda g, v, e: g / (v + e)), "take the root"),
    ("07.5", _fold(lambda g, v, e: g / v.sqrt()), "eps is left out"),
    ("07.5", _fold(lambda g, v, e: g / (v.sqrt() + e)), "eps stands outside the root"),
    ("07.5", _fold(shape=(1, -1, 1, 1)), "You scale *input* channels"),
    ("07.5", _fold(lambda g, v, e: 1 / (v + e).sqrt()), "gamma is missing"),
    ("07.5", _fold(lambda g, v, e: g), "Only gamma is there"),
    ("07.5", _fold(lambda g, v, e: torch.ones_like(g)), "The weight is as it was"),
    ("07.5", _fold(bias=lambda b, m, f: b - m), "The mean is subtracted unscaled"),
    ("07.5", _fold(bias=lambda b, m, f: b), "The mean is left out"),
    ("07.5", _fold(bias=lambda b, m, f: b + m * f), "The mean is added"),
    ("07.5", _fold(bias=lambda b, m, f: (b - m) * f), "beta is scaled, too"),
    ("07.5", _fold(bias=lambda b, m, f: -m * f), "beta is missing"),
    ("07.5", lambda weight, *rest: weight, "Return two things"),
]


@right("07.5")
def fold_loop(weight, gamma, beta, mean, variance, eps=1e-5):
    factors = [float(g) / math.sqrt(float(v) + eps) for g, v in zip(gamma, variance, strict=True)]
    folded = torch.stack([channel * factor for channel, factor in zip(weight, factors, strict=True)])
    return folded, [float(b) - float(m) * factor for b, m, factor in zip(beta, mean, factors, strict=True)]


@right("07.5")
def fold_by_a_diagonal(weight, gamma, beta, mean, variance, eps=1e-5):
    factor = torch.diag(gamma * (variance + eps).rsqrt())
    return (factor @ weight.flatten(1)).view_as(weight), beta - factor @ mean


def _fold_in_place(weight, gamma, beta, mean, variance, eps=1e-5):
    factor = gamma / torch.sqrt(variance + eps)
    weight *= factor.view(-1, 1, 1, 1)
    beta -= mean * factor
    return weight, beta


def _fold_with_bias(factor):
    """The weight is right; the bias has a factor of its own."""

    def answer(weight, gamma, beta, mean, variance, eps=1e-5):
        return fold_loop(weight, gamma, beta, mean, variance, eps)[0], beta - mean * factor(gamma, variance, eps)

    return answer


WRONG += [
    ("07.5", _fold(shape=(-1,)), "You scale the columns of the kernel"),
    ("07.5", _fold(shape=(-1, 1)), "You scale the rows of the kernel"),
    ("07.5", _fold_with_bias(lambda g, v, e: g / v.sqrt()), "In the bias eps is forgotten"),
    ("07.5", _fold_with_bias(lambda g, v, e: g / (v.sqrt() + e)), "In the bias eps is added to the root"),
    ("07.5", _fold_with_bias(lambda g, v, e: g / (v + e)), "divided by the variance, not by its root"),
    ("07.5", _fold_with_bias(lambda g, v, e: g), "multiplied by gamma only"),
    ("07.5", _fold_with_bias(lambda g, v, e: 1 / (v + e).sqrt()), "but not multiplied by gamma"),
    ("07.5", _fold_in_place, "changes its argument `weight`"),
]


# ---- 07.6 straight through -----------------------------------------------------------------------------------------


@right("07.6")
def fake_by_detach(x, scale, zero_point):
    steps = x / scale
    whole = steps + (steps.round() - steps).detach() + zero_point
    return (whole.clamp(0, 255) - zero_point) * scale


@right("07.6")
def fake_by_mask(x, scale, zero_point):
    whole = (x / scale).round() + zero_point
    inside = (whole >= 0) & (whole <= 255)
    value = (whole.clamp(0, 255) - zero_point) * scale
    return torch.where(inside, x, x.detach()) + (value - x).detach()


def _fake(forward, slope=lambda x, inside: inside):
    """Values of `forward` with a gradient of `slope`."""

    def answer(x, scale, zero_point):
        whole = (x / scale).round() + zero_point
        inside = ((whole >= 0) & (whole <= 255)).float()
        line = x * slope(x, inside).detach()
        return line + (forward(x, scale, zero_point) - line).detach()

    return answer


def _there_and_back(x, s, z):
    return (((x / s).round() + z).clamp(0, 255) - z) * s


WRONG += [
    ("07.6", lambda x, s, z: ((x / s).round() + z).clamp(0, 255), "These are the integers"),
    ("07.6", lambda x, s, z: x, "x comes out as it went in"),
    ("07.6", lambda x, s, z: ((x / s).round() + z).clamp(0, 255) * s, "not subtracted on the way back"),
    ("07.6", lambda x, s, z: (x / s).round() * s, "Nothing is clamped"),
    ("07.6", lambda x, s, z: ((x / s + z).clamp(0, 255) - z) * s, "do not round"),
    ("07.6", lambda x, s, z: _there_and_back(x, s, z) + 0.33, "Quantize as in 07.1"),
    ("07.6", _there_and_back, "a staircase"),
    ("07.6", _fake(_there_and_back, lambda x, inside: torch.ones_like(x)), "also passes where the number was cut off"),
    ("07.6", _fake(_there_and_back, lambda x, inside: 0.1 * inside), "multiplied by the scale"),
    ("07.6", _fake(_there_and_back, lambda x, inside: 10 * inside), "divided by the scale"),
    ("07.6", _fake(_there_and_back, lambda x, inside: 1 - inside), "the other way round"),
    ("07.6", lambda x, s, z: _there_and_back(x, s, z).detach(), "No gradient arrives: keep"),
    ("07.6", _fake(_there_and_back, lambda x, inside: -inside), "Gradient 1 where"),
]


class _Straight(torch.autograd.Function):
    """Quantize there and back; the mask of the numbers inside the range lets the gradient pass."""

    @staticmethod
    def forward(ctx, x, scale, zero_point):
        ctx.save_for_backward((x / scale + zero_point >= 0) & (x / scale + zero_point <= 255))
        return _there_and_back(x, scale, zero_point)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None, None


@right("07.6")
def fake_by_function(x, scale, zero_point):
    return _Straight.apply(x, scale, zero_point)


@right("07.6")
def fake_clamped_first(x, scale, zero_point):
    held = x.clamp(-zero_point * scale, (255 - zero_point) * scale)  # real numbers
    return held + (torch.round(held / scale) * scale - held).detach()


@right("07.6")
def fake_edge_half_a_step_out(x, scale, zero_point):
    low, high = (-0.5 - zero_point) * scale, (255.5 - zero_point) * scale  # what rounds to 0 and to 255
    inside = (x > low) & (x < high)
    return x * inside + (_there_and_back(x, scale, zero_point) - x * inside).detach()


def _without_gradient(x, scale, zero_point):
    with torch.no_grad():
        return _there_and_back(x, scale, zero_point)


WRONG += [
    (
        "07.6",
        _fake(_there_and_back, lambda x, inside: ((x >= 0) & (x <= 25.5)).float()),
        "Your range forgets the zero point",
    ),
    (
        "07.6",
        _fake(_there_and_back, lambda x, inside: ((x >= -10) & (x <= 25.5)).float()),
        "its upper end forgets the zero point",
    ),
    ("07.6", _without_gradient, "No gradient arrives: keep"),
    ("07.6", lambda x, s, z: (x / s).round().clamp(0, 255) * s, "left out on both ways"),
]


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        (_there_and_back, "that of rounding itself"),
        (_without_gradient, "the result carries no gradient"),
        (lambda x, s, z: _there_and_back(x, s, z).detach(), "the result carries no gradient"),
        (lambda x, s, z: _there_and_back(x, s, z).tolist(), "the result carries no gradient"),
        (_fake(_there_and_back, lambda x, inside: -inside), "leads astray"),
    ],
)
def test_a_weight_that_does_not_learn_is_told_why(answer, fragment):
    (learns,) = [part for part in exercise.find("07.6").criteria if part.name == "a weight learns through it"]
    with pytest.raises(exercise.Wrong, match=fragment):
        learns.function(answer)


# ---- 07.7 channels go ----------------------------------------------------------------------------------------------


@right("07.7")
def remove_by_sorting(first, bias, second, keep):
    norms = [float(channel.abs().sum()) for channel in first]
    kept = sorted(sorted(range(len(norms)), key=lambda i: -norms[i])[:keep])
    return first[kept], bias[kept], second[:, kept]


@right("07.7")
def remove_by_mask(first, bias, second, keep):
    norms = first.norm(p=1, dim=(1, 2, 3))
    mask = norms >= norms.sort(descending=True).values[keep - 1]
    return first[mask], bias[mask], second[:, mask]


def _remove(score, sort=True, bias_too=True, dim=1):
    def answer(first, bias, second, keep):
        kept = score(first).topk(keep).indices
        kept = kept.sort().values if sort else kept
        nxt = second if dim is None else second.index_select(dim, kept)
        return first[kept], bias[kept] if bias_too else bias, nxt

    return answer


def _l1(w):
    return w.abs().flatten(1).sum(1)


def _zeroed(first, bias, second, keep):
    mask = torch.zeros(len(first), dtype=torch.bool)
    mask[_l1(first).topk(keep).indices] = True
    return first * mask.view(-1, 1, 1, 1), bias * mask, second


WRONG += [
    ("07.7", _remove(lambda w: -_l1(w)), "You keep the *smallest*"),
    ("07.7", _remove(lambda w: w.flatten(1).sum(1)), "with their signs"),
    ("07.7", _remove(lambda w: w.abs().flatten(1).amax(1)), "the largest single weight"),
    ("07.7", _remove(_l1, bias_too=False), "The bias still has four numbers"),
    ("07.7", _remove(_l1, dim=None), "still expects four inputs"),
    ("07.7", _remove(_l1, dim=0), "You cut *outputs*"),
    ("07.7", _zeroed, "All four channels are still there"),
    (
        "07.7",
        _remove(_l1, sort=False),
        "have changed places",
    ),
    ("07.7", lambda f, b, s, k: f[:k], "Return three tensors"),
    ("07.7", lambda f, b, s, k: (f[[1, 1]], b[[1, 1]], s[:, [1, 1]]), "By their L1 norms"),
    ("07.7", lambda f, b, s, k: _remove(_l1)(f, b, s, k) if k == 2 else (f[2:], b[2:], s[:, 2:]), "Of six L1 norms"),
]


@right("07.7")
def remove_numpy(first, bias, second, keep):
    norms = np.abs(first.numpy()).reshape(len(first), -1).mean(axis=1)
    kept = np.sort(np.argsort(norms)[::-1][:keep])
    return first.numpy()[kept], bias.numpy()[kept], second.numpy()[:, kept]


@right("07.7")
def remove_by_a_list_of_what_goes(first, bias, second, keep):
    norms = torch.linalg.vector_norm(first, ord=1, dim=(1, 2, 3))
    gone = set(norms.topk(len(first) - keep, largest=False).indices.tolist())
    kept = torch.tensor([i for i in range(len(first)) if i not in gone])
    return [first.index_select(0, kept), bias.index_select(0, kept), second.index_select(1, kept)]


def _above(threshold):
    """All channels whose norm is above a threshold, however many they are."""

    def answer(first, bias, second, keep):
        mask = _l1(first) > threshold(_l1(first))
        return first[mask], bias[mask], second[:, mask]

    return answer


def _norm_with_bias(first, bias, second, keep):
    kept = (_l1(first) + bias.abs()).topk(keep).indices.sort().values
    return first[kept], bias[kept], second[:, kept]


WRONG += [
    ("07.7", _remove(lambda w: w.flatten(1).norm(dim=1)), "You sort by the L2 norm"),
    ("07.7", _remove(lambda w: w.flatten(1).square().sum(1)), "You sort by the L2 norm"),
    ("07.7", _remove(lambda w: w.flatten(1).norm(dim=1), sort=False), "You sort by the L2 norm"),
    ("07.7", _remove(lambda w: w.abs().sum((0, 2, 3))), "norms of the three *inputs*"),
    ("07.7", _norm_with_bias, "The bias has a say"),
    ("07.7", lambda f, b, s, k: _remove(_l1)(f, b, s, 2), "Keep as many as `keep` says"),
    ("07.7", _above(torch.median), "Keep as many as `keep` says"),
    ("07.7", _above(lambda norms: float(np.median(norms))), "Keep as many as `keep` says"),
    ("07.7", lambda f, b, s, k: (f[:k], b[:k], s[:, :k]), "whatever they hold"),
]


# ---- 07.8 when -----------------------------------------------------------------------------------------------------


@right("07.8")
def schedule_branches(step, steps, target):
    if step >= steps:
        return target
    return target - target * ((steps - step) / steps) ** 3


@right("07.8")
def schedule_numpy(step, steps, target):
    return np.float32(target) * (1 - np.clip(1 - step / steps, 0, 1) ** 3)


WRONG += [
    ("07.8", lambda step, steps, target: target * step / steps, "a straight line"),
    ("07.8", lambda step, steps, target: target * (step / steps) ** 3, "the cube belongs to what is *left*"),
    ("07.8", lambda step, steps, target: 1 - schedule_branches(step, steps, target), "still there"),
    ("07.8", lambda step, steps, target: target * (1 - step / steps) ** 3, "fall from the target to 0"),
    ("07.8", lambda step, steps, target: target * (1 - (1 - step / steps) ** 2), "The power is 2"),
    ("07.8", lambda step, steps, target: 1 - (1 - step / steps) ** 3, "The target is not used"),
    ("07.8", lambda step, steps, target: target * (1 - (1 - step / steps) ** 3), "goes on growing"),
    ("07.8", lambda step, steps, target: target * math.sqrt(step / steps), "target * (1 - (1 - step / steps)^3)"),
]


# ---- 07.9 what it costs --------------------------------------------------------------------------------------------


@right("07.9")
def macs_counted(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    layer = torch.nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups)
    out = layer(torch.zeros(1, in_channels, size, size))
    return out[0].numel() * layer.weight[0].numel()


@right("07.9")
def macs_by_starts(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    side = len(range(0, size + 2 * padding - kernel + 1, stride))
    return side**2 * kernel**2 * out_channels * in_channels / groups


def _cost(
    side=lambda n, k, s, p: (n + 2 * p - k) // s + 1,
    pixels=2,
    kernel=2,
    factor=1,
    inputs=True,
    outputs=True,
    ignore_groups=False,
):
    def answer(in_channels, out_channels, k, size, stride=1, padding=0, groups=1):
        cost = factor * side(size, k, stride, padding) ** pixels * k**kernel
        cost *= (in_channels // (1 if ignore_groups else groups)) if inputs else 1
        return cost * (out_channels if outputs else 1)

    return answer


WRONG += [
    ("07.9", _cost(side=lambda n, k, s, p: n), "pixels of the *input*"),
    ("07.9", _cost(kernel=1), "you count 3"),
    ("07.9", _cost(pixels=0), "These are the parameters"),
    ("07.9", _cost(inputs=False), "The input channels are missing"),
    ("07.9", _cost(outputs=False), "The output channels are missing"),
    ("07.9", _cost(factor=2), "One MAC is both"),
    ("07.9", _cost(pixels=1), "you count 7"),
    ("07.9", _cost(side=lambda n, k, s, p: (n - k) // s + 1), "The padding is forgotten"),
    ("07.9", _cost(ignore_groups=True), "The groups are ignored"),
    ("07.9", _cost(factor=3), "Pixels of the output"),
]


@right("07.9")
def macs_by_unfolding(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    image = torch.zeros(1, in_channels // groups, size, size)
    columns = F.unfold(image, kernel, stride=stride, padding=padding)  # (1, products of one output, pixels)
    return torch.tensor(out_channels * columns[0].numel())


@right("07.9")
def macs_group_by_group(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    side = math.floor((size + 2 * padding - (kernel - 1) - 1) / stride + 1)
    return sum(side**2 * kernel**2 * (in_channels // groups) * (out_channels // groups) for _ in range(groups))


def _nine(answer):
    """The same, with 9 weights a kernel."""
    return lambda *args: answer(*args) / args[2] ** 2 * 9


def _only_depthwise(in_channels, out_channels, kernel, size, stride=1, padding=0, groups=1):
    return macs_counted(
        in_channels, out_channels, kernel, size, stride, padding, groups if groups == in_channels else 1
    )


WRONG += [
    ("07.9", _cost(side=lambda n, k, s, p: n // s), "Size / stride is right only"),
    ("07.9", _cost(side=lambda n, k, s, p: math.ceil(n / s)), "Size / stride is right only"),
    ("07.9", _cost(side=lambda n, k, s, p: (n + 2 * (k // 2) - k) // s + 1), "Size / stride is right only"),
    ("07.9", _nine(macs_counted), "you count 9 whatever `kernel` is"),
    ("07.9", _nine(_cost(side=lambda n, k, s, p: n // s)), "28 x 28 pixels and 9 numbers"),
    ("07.9", _cost(side=lambda n, k, s, p: (n + 2 * p - k) // s), "one pixel too small"),
    ("07.9", _cost(side=lambda n, k, s, p: (n + 2 * p - k) / s + 1), "half a pixel does not exist"),
    ("07.9", _cost(side=lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1), "You round up, to 8 x 8"),
    ("07.9", _only_depthwise, "In 4 groups each output channel"),
]


# ---- 07.10 what to deploy -------------------------------------------------------------------------------------------


@right("07.10")
def front_numpy(sizes, latencies, accuracies):
    table = np.stack([sizes, latencies, -np.asarray(accuracies)], axis=1)
    no_worse, better = (table[:, None] <= table).all(2), (table[:, None] < table).any(2)
    return np.flatnonzero(~(no_worse & better).any(axis=0))


@right("07.10")
def front_loops(sizes, latencies, accuracies):
    kept = []
    for i in range(len(sizes)):
        beaten = False
        for j in range(len(sizes)):
            no_worse = sizes[j] <= sizes[i] and latencies[j] <= latencies[i] and accuracies[j] >= accuracies[i]
            better = sizes[j] < sizes[i] or latencies[j] < latencies[i] or accuracies[j] > accuracies[i]
            beaten = beaten or (no_worse and better)
        if not beaten:
            kept.append(i)
    return kept


@right("07.10")
def front_set(sizes, latencies, accuracies):
    return set(reversed(front_loops(sizes, latencies, accuracies)))


@right("07.10")
def front_generator(sizes, latencies, accuracies):
    yield from front_loops(sizes, latencies, accuracies)


@right("07.10")
def front_tensor(sizes, latencies, accuracies):
    table = torch.tensor([sizes, latencies, [-a for a in accuracies]]).T
    beaten = ((table[:, None] <= table).all(-1) & (table[:, None] < table).any(-1)).any(dim=0)
    return torch.where(~beaten)[0]


@right("07.10")
def front_keys(sizes, latencies, accuracies):
    return dict.fromkeys(front_loops(sizes, latencies, accuracies)).keys()


def _front(beats):
    def answer(*columns):
        rows = list(zip(*columns, strict=True))
        return [i for i, row in enumerate(rows) if not any(beats(a, row) for j, a in enumerate(rows) if j != i)]

    return answer


def _no_worse(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2]


WRONG += [
    ("07.10", _front(lambda a, b: a[0] < b[0] and a[1] < b[1] and a[2] > b[2]), "Better in *one* is enough"),
    ("07.10", lambda s, t, a: [int(np.argmin(s)), int(np.argmin(t)), 1], "best in size, speed and accuracy only"),
    (
        "07.10",
        lambda s, t, a: [i for i in range(len(s)) if i not in front_loops(s, t, a)],
        "these are the ones that are beaten",
    ),
    ("07.10", _front(lambda a, b: a[0] <= b[0] and a[1] <= b[1] and a[2] <= b[2]), "Of accuracy more is better"),
    ("07.10", lambda s, t, a: [i in front_loops(s, t, a) for i in range(len(s))], "True and False"),
    ("07.10", lambda s, t, a: [front_loops(s, t, a)], "Return a flat list"),
    ("07.10", _front(_no_worse), "throw each other out"),
    ("07.10", lambda s, t, a: list(range(len(s))), "beaten by nobody; you got"),
    ("07.10", lambda s, t, a: [i for i in range(len(s)) if i != 0 or len(s) == 3], "larger, slower and worse"),
    (
        "07.10",
        lambda s, t, a: front_loops(s, t, a)[:1] if len(s) == 3 else front_loops(s, t, a),
        "are the same, and better than 2",
    ),
]


WRONG += [
    (
        "07.10",
        lambda s, t, a: np.where([i in front_loops(s, t, a) for i in range(len(s))]),
        "a tuple with one array",
    ),
    ("07.10", lambda s, t, a: (i in front_loops(s, t, a) for i in range(len(s))), "True and False"),
]


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_meets_its_own_message(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_gets_full_points(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_wrong_and_right_answers():
    for identifier in exercise.of_lesson("07"):
        assert sum(case[0] == identifier for case in WRONG) >= 6, identifier
        assert sum(case[0] == identifier for case in RIGHT) >= 2, identifier


def test_the_references_agree_with_the_package():
    x = 4 * torch.randn(200, generator=torch.Generator().manual_seed(1))
    low, high = x.min().item(), x.max().item()
    scale, zero = lesson_07_integers.scale_and_zero_point(low, high)
    assert affine.scale_and_zero_point(low, high) == pytest.approx((scale, zero))
    assert torch.equal(affine.quantize(x, scale, zero).float(), lesson_07_integers.quantize(x, scale, zero))
    mine = lesson_07_layers.fake_quantize(x, scale, zero)
    torch.testing.assert_close(mine, torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255))
    weight, numbers = torch.randn(4, 3, 3, 3), torch.rand(4, 4) + 0.1
    torch.testing.assert_close(lesson_07_integers.quantize_channels(weight)[1], affine.channel_scales(weight))
    theirs = fold.folded_weights(weight, None, numbers[2], numbers[3], numbers[0], numbers[1])
    torch.testing.assert_close(lesson_07_layers.fold(weight, *numbers), theirs)
    kept = importance.channel_norms(weight, "l1").topk(2).indices.sort().values
    found, _, _ = lesson_07_channels.remove_channels(weight, torch.zeros(4), torch.zeros(2, 4, 3, 3), 2)
    assert torch.equal(found, weight[kept])
    layer = torch.nn.Conv2d(6, 8, 5, stride=2, padding=1, groups=2)
    assert tracing.count_macs(layer, (6, 17, 17)) == lesson_07_costs.conv_macs(6, 8, 5, 17, 2, 1, 2)


def test_the_front_is_the_packages():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(1, 5, (8, 3)) / 4
        candidates = [choice.Candidate(str(i), *row) for i, row in enumerate(rows)]
        expected = [int(candidate.name) for candidate in choice.pareto(candidates)]
        assert lesson_07_costs.front(*rows.T.tolist()) == expected


def test_the_observer_is_the_packages():
    generator = torch.Generator().manual_seed(2)
    batches = [(1 + number) * torch.randn(4, 5, generator=generator) for number in range(15)]
    for momentum in (0.1, 0.3, 0.9):
        observer = observers.Observer("average", momentum=momentum)
        for x in batches:
            observer.observe(x)
        found = lesson_07_observer.observe(iter(batches), momentum)
        assert found == pytest.approx((observer.low.item(), observer.high.item()), rel=1e-5)


def test_an_answer_may_not_call_the_packages_observer():
    def answer(batches, momentum=0.1):
        observer = observers.Observer("average", momentum)
        for x in batches:
            observer.observe(x)
        return observer.low, observer.high

    assert checking.examine(exercise.find("07.3"), answer).status == "refused"
