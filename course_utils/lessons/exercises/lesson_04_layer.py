"""Exercises 04.1 to 04.4: a low-rank update, what it costs, the layer's forward pass, and how its factors start."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]


def drawn(*shape: int, seed: int = 4) -> Tensor:
    """Numbers to test with, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- 04.1 a low-rank update ------------------------------------------------------------------------------------------


def low_rank_update(B: Tensor, A: Tensor, alpha: float) -> Tensor:
    """What an adapter adds to a weight: `alpha / rank * B A`.

    B: `(out, rank)`. A: `(rank, in)`. Returns `(out, in)`. Built in lesson 04, exercise 04.1.
    """
    return alpha / len(A) * B @ A


def _update(answer: Answer) -> None:
    B, A, alpha = drawn(5, 2), drawn(2, 4, seed=5), 6.0
    product = B @ A
    actual = to_array(answer(B, A, alpha))
    if actual.shape == (4, 5):
        raise Wrong(
            "Your result has shape (4, 5), the transpose of what is added to a weight of shape (5, 4). Rows are outputs: "
            "B, with `out` rows, comes first."
        )
    if actual.shape == (2, 2):
        raise Wrong("Your result has shape (2, 2): A B is a small square. The update of a (5, 4) weight is B A.")
    diagnose(
        actual,
        {
            "alpha is there, but not divided by the rank: with rank 8 the same alpha would then make an update eight times "
            "that of rank 1.": alpha * product,
            "alpha is not there: the product alone cannot be turned up or down.": product,
            "You divide by the rank, but alpha is missing.": product / 2,
            "You divide by the number of outputs. The rank is the side that A and B share: `len(A)`, or `B.shape[1]`.": alpha
            / 5
            * product,
            "You divide by the number of inputs. The rank is the side that A and B share: `len(A)`, or `B.shape[1]`.": alpha
            / 4
            * product,
            "You divide by the square root of the rank. There is such a version (rank-stabilised LoRA); here it is the rank.": alpha
            / math.sqrt(2)
            * product,
            "You multiply by the rank; divide by it.": alpha * 2 * product,
            "alpha stands below the fraction line: it is alpha / rank.": 2 / alpha * product,
        },
        expected=3.0 * product,
    )
    close(actual, 3.0 * product, "Expected `alpha / rank * B A`.")


def _rank_one(answer: Answer) -> None:
    B, A = torch.tensor([[1.0], [0.0], [2.0], [0.0]]), torch.tensor([[3.0, 1.0, 0.0, 1.0]])
    close(
        answer(B, A, 1.0),
        B * A,
        "With rank 1 the update is the outer product: row i is B's entry i times A's only row.",
    )


# ---- 04.2 what it costs ----------------------------------------------------------------------------------------------


def largest_saving_rank(out_features: int, in_features: int) -> int:
    """The largest rank at which A and B together have fewer numbers than the weight, or 0 if there is none.

    Built in lesson 04, exercise 04.2.
    """
    return (out_features * in_features - 1) // (out_features + in_features)


def _saving(answer: Answer) -> None:
    for out, into in ((96, 384), (100, 60), (30, 300)):
        weight, both = out * into, out + into
        expected = max(r for r in range(min(out, into) + 1) if r * both < weight)
        actual = to_array(answer(out, into))
        diagnose(
            actual,
            {
                "This is the largest rank that the update can have at all, the smaller side. A and B are then already larger than "
                "the weight.": min(out, into),
                "This is half of the smaller side. Count what A and B have together: `rank * (out + in)` numbers.": min(
                    out, into
                )
                // 2,
                "This is not a whole number: a rank counts columns of B and rows of A.": weight / both,
                "One more than it may be: at this rank A and B have no fewer numbers than the weight.": expected + 1,
                "This is the number of parameters, not the rank: A and B have `rank * (out + in)` numbers together.": expected
                * both,
                "Here you count A alone, `rank * in`. B has `rank * out` more.": (weight - 1) // into,
                "Here you count B alone, `rank * out`. A has `rank * in` more.": (weight - 1) // out,
            },
            expected=expected,
        )
        close(actual, expected, f"A weight of {out} x {into}: the largest rank with rank * (out + in) < out * in.")


def _no_saving(answer: Answer) -> None:
    # 12 * 4 = 48 = 3 * 16: at rank 3 exactly as many.
    close(
        answer(12, 4),
        2,
        "A weight of 12 x 4 has 48 numbers, and rank 3 takes 3 * 16 = 48 as well. *Fewer* is asked for: rank 2.",
    )
    close(
        answer(1, 50),
        0,
        "A weight of 1 x 50 has 50 numbers; rank 1 already takes 51. No rank saves anything, so the answer is 0.",
    )


# ---- 04.3 the forward pass -------------------------------------------------------------------------------------------


def lora_forward(x: Tensor, weight: Tensor, bias: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """`x W^T + bias + scale * (x A^T) B^T`: the frozen layer, and the update beside it.

    x: `(..., in)`. weight: `(out, in)`, bias: `(out,)`. A: `(rank, in)`, B: `(out, rank)`. Returns `(..., out)`.
    Built in lesson 04, exercise 04.3.
    """
    return F.linear(x, weight, bias) + scale * F.linear(F.linear(x, A), B)


def _layer(inputs: int = 6, outputs: int = 5, rank: int = 2) -> tuple[Tensor, ...]:
    return drawn(outputs, inputs), drawn(outputs, seed=5), drawn(rank, inputs, seed=6), drawn(outputs, rank, seed=7)


def _forward(answer: Answer) -> None:
    x, scale = drawn(3, 4, 6, seed=8), 0.7
    weight, bias, A, B = _layer()
    base, update = F.linear(x, weight, bias), F.linear(F.linear(x, A), B)
    actual = answer(x, weight, bias, A, B, scale)
    diagnose(
        actual,
        {
            "This is the frozen layer alone: the update is missing.": base,
            "This is the update alone. The adapter stands *beside* the layer: add both outputs.": scale * update,
            "The scale is not there.": base + update,
            "The scale multiplies the frozen layer, too. It belongs to the update alone.": scale * (base + update),
            "The bias is missing.": base - bias + scale * update,
            "The bias is added twice: the update has none.": base + scale * update + bias,
            "You divide by the rank. `scale` is alpha / rank already.": base + scale / 2 * update,
            "The scale is squared: it stands on one of the two products, not on both.": base + scale**2 * update,
            "You divide by the scale.": base + update / scale,
            "You subtract the update.": base - scale * update,
        },
        expected=base + scale * update,
        rtol=1e-4,
        atol=1e-5,
    )
    close(
        actual, base + scale * update, "Expected `x W^T + bias + scale * (x A^T) B^T`, one row of outputs per row of x.",
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


class _Counting(TorchDispatchMode):
    """Counts PyTorch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(call: Callable[[], Any]) -> int:
    """How many operations of PyTorch a call makes: a loop in Python makes more of them the more often it turns."""
    with _Counting() as counting:
        call()
    return counting.count


def flops(call: Callable[[], Any]) -> int:
    """Multiplications and additions in the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _two_thin_products(answer: Answer) -> None:
    x, (weight, bias, A, B) = drawn(2, 256, seed=9), _layer(256, 256, 2)
    base = 2 * 2 * 256 * 256
    spent = flops(lambda: answer(x, weight, bias, A, B, 0.5))
    if spent > 1.5 * base:
        raise Wrong(
            f"The outputs are right, but for two rows of x your function does {spent / base:.1f} times the work of the frozen "
            "layer. `B @ A` is as large as the weight. Multiply x by A first: only `rank` numbers a row are left, and B makes "
            "the outputs of them. That way it is 1.02 times."
        )


def _gradients(answer: Answer) -> None:
    weight, bias, A, B = _layer()
    A.requires_grad_()
    B.requires_grad_()
    out = answer(drawn(3, 6, seed=10), weight, bias, A, B, 1.0)
    for name, factor in (("A", A), ("B", B)):
        found = None
        if isinstance(out, Tensor) and out.requires_grad:
            (found,) = torch.autograd.grad(out.square().sum(), factor, retain_graph=True, allow_unused=True)
        if found is None:
            raise Wrong(f"No gradient reaches {name}, so it would never learn. Is there a `.detach()` or `no_grad`?")


# ---- 04.4 how the factors start --------------------------------------------------------------------------------------


def initial_factors(
    out_features: int, in_features: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A uniform between -1/sqrt(in) and 1/sqrt(in), B zero: the layer starts as the frozen one, and can learn.

    Returns `(rank, in)` and `(out, rank)`. Built in lesson 04, exercise 04.4.
    """
    bound = 1 / math.sqrt(in_features)
    A = (2 * torch.rand(rank, in_features, generator=generator) - 1) * bound
    return A, torch.zeros(out_features, rank)


def _factors(answer: Answer, out: int, into: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    found = answer(out, into, rank, torch.Generator().manual_seed(seed))
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(f, Tensor) for f in found)):
        raise Wrong("Return two tensors: `A, B`.")
    A, B = found
    if A.shape == (out, rank) and B.shape == (rank, into):
        raise Wrong("A and B are exchanged: return A, of shape (rank, in), first.")
    if A.shape != (rank, into) or B.shape != (out, rank):
        raise Wrong(
            f"For out={out}, in={into}, rank={rank} your A has shape {tuple(A.shape)} and B {tuple(B.shape)}; "
            f"expected ({rank}, {into}) and ({out}, {rank})."
        )
    if A.dtype != torch.float32 or B.dtype != torch.float32:
        raise Wrong(
            f"A is {A.dtype} and B {B.dtype}; the layer beside them computes in torch.float32, and would not take them."
        )
    return A, B


def _starts_as_the_frozen_layer(answer: Answer) -> None:
    A, B = _factors(answer, 12, 16, 3)
    if not A.any() and not B.any():
        raise Wrong(
            "Both factors are zero. The gradient of A is B^T times something, and that of B something times A^T: both are zero, "
            "and stay so. One factor has to be random."
        )
    if not A.any():
        raise Wrong(
            "A is zero and B is random. That also starts as the frozen layer, and it does learn. LoRA does it the other way "
            "round, and everybody's files and recipes count on that: A random, B zero."
        )
    if B.any():
        raise Wrong(
            "B is not zero, so the product is not zero: a pretrained network would be disturbed before it has seen a single new "
            "image. Start B at zero."
        )


def _spread(answer: Answer) -> None:
    A, _ = _factors(answer, 30, 400, 50)
    bound, largest = 1 / 20, float(A.abs().max())
    if not A.any():
        raise Wrong("A is all zero, so it fills no range.")
    if float(A.min()) >= 0:
        raise Wrong(
            "All entries of A are positive. `torch.rand` draws from 0 to 1: shift it, so that both signs are as likely."
        )
    named = {
        "1/sqrt(rank)": 1 / math.sqrt(50),
        "1/sqrt(out)": 1 / math.sqrt(30),
        "1/in": 1 / 400,
        "1 (no bound at all)": 1.0,
        "sqrt(6/in), Kaiming's for ReLU": math.sqrt(6 / 400),
        "1/(2 sqrt(in)): `rand - 0.5` reaches only half": bound / 2,
    }
    for name, other in named.items():
        if 0.98 * other < largest <= 1.0001 * other:
            raise Wrong(f"The entries of A reach to {name}, expected 1/sqrt(in): A reads `in` numbers.")
    if not 0.98 * bound < largest <= 1.0001 * bound:
        raise Wrong(f"With in=400 the entries of A should fill the range of ±{bound:g}; yours reach {largest:.3g}.")
    spread = float(A.std())
    if not 0.97 < spread / (bound / math.sqrt(3)) < 1.03:
        raise Wrong(
            f"The entries of A are not uniform: their standard deviation is {spread:.3g}, that of a uniform draw from "
            f"±{bound:g} is {bound / math.sqrt(3):.3g}."
        )


def _from_the_generator(answer: Answer) -> None:
    first, again, other = (_factors(answer, 4, 9, 2, seed)[0] for seed in (1, 1, 2))
    if not first.any():
        raise Wrong("A is all zero: no chance in it at all.")
    if not torch.equal(first, again):
        raise Wrong(
            "Two generators with the same seed gave different factors: the random numbers do not come from `generator`. "
            "Pass it on: `torch.rand(..., generator=generator)`."
        )
    if torch.equal(first, other):
        raise Wrong("Two different seeds gave the same factors: draw from `generator`, without seeding it anew.")


EXERCISES = [
    Exercise(
        id="04.1",
        title="A low-rank update",
        difficulty=1,
        minutes=6,
        points=1,
        reference=low_rank_update,
        criteria=[
            Criterion("alpha / rank times B A", _update, share=2),
            Criterion("rank 1 is an outer product", _rank_one),
        ],
        hints=(
            "B has as many rows as the weight has outputs, A as many columns as it has inputs. In which order do they fit?",
            "The rank is what the two share: the number of rows of A.",
            "`alpha / len(A) * B @ A`.",
        ),
    ),
    Exercise(
        id="04.2",
        title="When does it save anything?",
        difficulty=1,
        minutes=6,
        points=1,
        reference=largest_saving_rank,
        criteria=[
            Criterion("the largest rank with fewer numbers than the weight", _saving, share=2),
            Criterion("as many is not fewer, and for some weights no rank saves anything", _no_saving),
        ],
        hints=(
            "How many numbers has A? And B? Write both with the rank, and compare with the weight.",
            "`rank * (out + in) < out * in`. Find the largest whole rank that fits; a loop is fine.",
            "`(out_features * in_features - 1) // (out_features + in_features)`: the -1 turns `<=` into `<`.",
        ),
    ),
    Exercise(
        id="04.3",
        title="The forward pass",
        difficulty=2,
        minutes=10,
        points=2,
        reference=lora_forward,
        forbidden=("course_utils.lora.layer:LoRALayer",),
        criteria=[
            Criterion("the frozen layer plus the scaled update", _forward, share=2),
            Criterion("two thin products instead of one large one", _two_thin_products),
            Criterion("gradients reach A and B", _gradients),
        ],
        hints=(
            "Which of the two products in $(x A^T) B^T$ has to come first, so that little is left to do for the second?",
            "`torch.nn.functional.linear(x, M)` computes `x M^T` for any M. Send x through A, and the result through B.",
            "`linear(x, weight, bias) + scale * linear(linear(x, A), B)`.",
        ),
    ),
    Exercise(
        id="04.4",
        title="How the factors start",
        difficulty=2,
        minutes=10,
        points=2,
        reference=initial_factors,
        criteria=[
            Criterion("starts as the frozen layer, and can learn", _starts_as_the_frozen_layer, share=2),
            Criterion("A is uniform between -1/sqrt(in) and 1/sqrt(in)", _spread),
            Criterion("all chance comes from the generator", _from_the_generator),
        ],
        hints=(
            "The product has to be zero at the start. How many of the two factors have to be zero for that?",
            "`torch.rand(rank, in_features, generator=generator)` draws from 0 to 1. Stretch and shift it to ±1/sqrt(in).",
            "`A = (2 * torch.rand(rank, in_features, generator=generator) - 1) / in_features**0.5`, `B = torch.zeros(...)`.",
        ),
    ),
]
