"""Exercises 04.5, 04.6 and 04.10: convolutions, merging, and one batch for many tenants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_04_layer import drawn, flops, operations

Answer = Callable[..., Any]

# ---- 04.5 convolutions -----------------------------------------------------------------------------------------------


def convolution_update(A: Tensor, B: Tensor) -> Tensor:
    """The kernel of the one convolution that does what A and then B do: `(out, in, height, width)`.

    A: `(rank, in, height, width)`. B: `(out, rank, 1, 1)`. Built in lesson 04, exercise 04.5.
    """
    return torch.einsum("or,rihw->oihw", B[:, :, 0, 0], A)


def _kernel(answer: Answer) -> None:
    A, B = drawn(2, 3, 5, 4), drawn(6, 2, 1, 1, seed=5)
    mix = B[:, :, 0, 0]
    expected = torch.stack([mix[o, 0] * A[0] + mix[o, 1] * A[1] for o in range(6)])
    actual = to_array(answer(A, B))
    if actual.shape == (6, 60):
        raise Wrong(
            "This is the update as a matrix, (out, in * height * width): give it the shape of a kernel, (6, 3, 5, 4)."
        )
    if sorted(actual.shape) == sorted(expected.shape) and actual.shape != expected.shape:
        raise Wrong(f"Your kernel has shape {actual.shape}, expected (out, in, height, width) = (6, 3, 5, 4).")
    diagnose(
        actual,
        {
            "The kernel is flipped. Networks slide their kernels without turning them round.": expected.flip(2, 3),
            "Height and width are exchanged before the shape is put right.": expected.transpose(2, 3).reshape(
                expected.shape
            ),
            "The channels are in the wrong places: a `.view` or `.reshape` puts the numbers in another order, where the axes "
            "should have been exchanged.": (mix @ A.permute(0, 2, 3, 1).flatten(1)).view(6, 3, 5, 4),
            "Only the first of the `rank` channels is used: sum over all of them.": torch.stack(
                [mix[o, 0] * A[0] for o in range(6)]
            ),
            "You take the mean over the `rank` channels; a convolution sums over its inputs.": expected / 2,
        },
        expected=expected,
    )
    close(actual, expected, "Kernel o should be the sum over r of `B[o, r] * A[r]`.")


def _same_as_two(answer: Answer) -> None:
    A, B, x = drawn(3, 2, 3, 3), drawn(5, 3, 1, 1, seed=5), drawn(2, 2, 9, 8, seed=6)
    for stride, padding in ((1, 1), (2, 0)):
        two = F.conv2d(F.conv2d(x, A, stride=stride, padding=padding), B)
        kernel = torch.as_tensor(to_array(answer(A, B)), dtype=torch.float32)
        one = F.conv2d(x, kernel, stride=stride, padding=padding)
        close(
            one,
            two,
            f"With stride {stride} and padding {padding}, one convolution with your kernel should give what A and B give "
            "one after the other.",
            rtol=1e-4,
            atol=1e-4,
        )


# ---- 04.6 merging ----------------------------------------------------------------------------------------------------


def merged_weight(weight: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """`W + scale * B A` as a new tensor; W stays as it is.

    weight: `(out, in)`. A: `(rank, in)`. B: `(out, rank)`.

    Raises:
        FloatingPointError: there is a NaN or an infinite number in the result.

    Built in lesson 04, exercise 04.6.
    """
    merged = weight + scale * B @ A
    if not merged.isfinite().all():
        raise FloatingPointError("the adapter holds NaN or inf; train it again with a smaller learning rate")
    return merged


def _merged(answer: Answer) -> None:
    weight, A, B, scale = drawn(5, 4), drawn(2, 4, seed=5), drawn(5, 2, seed=6), 0.3
    given, update = weight.clone(), B @ A
    actual = answer(weight, A, B, scale)
    diagnose(
        actual,
        {
            "The scale is not there: merged, the network would answer otherwise than before.": given + update,
            "This is the update alone; add it to the weight.": scale * update,
            "The weight comes back without the update.": given,
            "The scale multiplies the weight, too.": scale * (given + update),
            "You subtract the update: that is how one *un*merges.": given - scale * update,
        },
        expected=given + scale * update,
    )
    close(actual, given + scale * update, "Expected `W + scale * B A`.")


def _leaves_the_base(answer: Answer) -> None:
    weight, A, B = drawn(5, 4), drawn(2, 4, seed=5), drawn(5, 2, seed=6)
    given = [t.clone() for t in (weight, A, B)]
    found = answer(weight, A, B, 0.3)
    if not torch.equal(weight, given[0]):
        raise Changed(
            "The weight that was passed in has changed. Subtracting the update later does not give the old bits back: look at the "
            "cell above. Return a new tensor; `W + ...` makes one, `W += ...` does not."
        )
    if not (torch.equal(A, given[1]) and torch.equal(B, given[2])):
        raise Changed("A factor that was passed in has changed; leave A and B as they are.")
    if found is weight:
        raise Wrong("You return the very tensor that was passed in; return a new one.")


def _refuses(answer: Answer) -> None:
    for bad in (float("nan"), float("inf"), 1e30):
        weight, A, B = drawn(5, 4), drawn(2, 4, seed=5), drawn(5, 2, seed=6)
        B[3, 1] = bad
        if bad == 1e30:
            A[1, 2] = bad  # both finite, their product is not
        try:
            answer(weight, A, B, 0.3)
        except FloatingPointError as error:
            if not str(error):
                raise Wrong(
                    "Say in the error's message what is wrong: whoever meets it has trained for hours."
                ) from None
            continue
        except NotImplementedError:
            raise
        except Exception as error:
            raise Wrong(
                f"An adapter with {bad} in it should raise FloatingPointError; your function raised {type(error).__name__}."
            ) from None
        if bad == 1e30:
            raise Wrong(
                "A and B are finite here, but with 1e30 in both their product is infinite: look at the *result*, not at the factors."
            )
        raise Wrong(
            f"B holds {bad}, and your function merges it without a word: from then on the whole network answers NaN, and the "
            "good base is gone with it. Raise FloatingPointError unless `merged.isfinite().all()`."
        )


# ---- 04.10 one batch, many tenants -----------------------------------------------------------------------------------


def _tenants(batch: int = 4, tokens: int = 3, features: int = 5, outputs: int = 6, rank: int = 2) -> tuple[Tensor, ...]:
    x, A, B = drawn(batch, tokens, features), drawn(4, rank, features, seed=5), drawn(4, outputs, rank, seed=6)
    return x, A, B, torch.tensor([2, 0, 3, 2] * 10)[:batch], torch.tensor([0.5, 2.0, 1.5, 0.8])


def _mixed(answer: Answer) -> None:
    x, A, B, which, scale = (
        _tenants()
    )  # as many samples as there are tenants, so that a mix-up gives numbers, not an error

    def with_tenants(tenants: Any, factors: Any) -> Tensor:
        return torch.stack([s * sample @ A[t].T @ B[t].T for sample, t, s in zip(x, tenants, factors, strict=True)])

    expected = with_tenants(which, scale[which])
    found = answer(x, A, B, which, scale)
    if found is not None and not isinstance(found, Tensor):
        raise Wrong(f"Return one tensor, (batch, tokens, out); yours is a {type(found).__name__}.")
    actual = to_array(found)
    if actual.shape != expected.shape:
        raise Wrong(
            f"4 samples of 3 tokens gave a result of shape {actual.shape}; expected (batch, tokens, out) = (4, 3, 6)."
        )
    diagnose(
        actual,
        {
            "All samples get the first tenant's adapter. `which` says whose adapter a sample needs: `A[which]` is (batch, "
            "rank, in).": with_tenants([0] * 4, [scale[0]] * 4),
            "Sample i gets the adapter of tenant i in sorted order; `which` is not used as it stands.": with_tenants(
                which.sort().values, scale[which.sort().values]
            ),
            "The scales are not there.": with_tenants(which, [1.0] * 4),
            "The scales are in the order of the tenants, not of the samples: `scale[which]`.": with_tenants(
                which, scale
            ),
            "All samples get the adapter of the first *sample's* tenant.": with_tenants([2] * 4, [scale[2]] * 4),
            "All samples get the sum of all tenants' updates.": torch.stack(
                [sum(scale[t] * sample @ A[t].T @ B[t].T for t in range(4)) for sample in x]
            ),
            "Every tenant's adapter is averaged into one.": torch.stack(
                [sum(scale[t] * sample @ A[t].T @ B[t].T for t in range(4)) / 4 for sample in x]
            ),
        },
        expected=expected,
        rtol=1e-4,
        atol=1e-5,
    )
    close(
        actual,
        expected,
        "Sample i should get `scale[t] * x[i] A[t]^T B[t]^T` with its tenant t.",
        rtol=1e-4,
        atol=1e-5,
    )


def _stays_thin(answer: Answer) -> None:
    x, A, B, which, scale = _tenants(tokens=1, features=128, outputs=128)
    thin = 4 * 2 * 2 * (128 + 128)
    spent = flops(lambda: answer(x, A, B, which, scale))
    if spent > 3 * thin:
        raise Wrong(
            f"The outputs are right, with {spent / thin:.0f} times the work that is needed: a full matrix B A is formed for every "
            "sample. Send x through A first, then through B."
        )


def _no_loop(answer: Answer) -> None:
    def made(batch: int) -> int:
        return operations(lambda: answer(*_tenants(batch)))

    few, many = made(4), made(40)
    if many > few:
        raise Wrong(
            f"With 4 samples your function makes {few} operations, with 40 it makes {many}: there is a loop in it. `A[which]` gives every "
            "sample's factor at once, and `@` multiplies a whole batch of matrices."
        )


EXERCISES = [
    Exercise(
        id="04.5",
        title="Adapters for convolutions",
        difficulty=3,
        minutes=12,
        points=2,
        reference=convolution_update,
        forbidden=("course_utils.lora.layer:LoRALayer",),
        criteria=[
            Criterion("the kernel that A and B make together", _kernel, share=2),
            Criterion("one convolution with it does what the two do", _same_as_two),
        ],
        hints=(
            "A 1x1 convolution mixes channels, pixel by pixel. So every output channel is a weighted sum of A's `rank` channels.",
            "Kernel o is the sum over r of `B[o, r, 0, 0] * A[r]`. As matrices: B is (out, rank), A is (rank, in * height * width).",
            '`torch.einsum("or,rihw->oihw", B[:, :, 0, 0], A)`, or `(B.flatten(1) @ A.flatten(1)).view(len(B), *A.shape[1:])`.',
        ),
    ),
    Exercise(
        id="04.6",
        title="Merge, and keep the base",
        difficulty=2,
        minutes=10,
        points=2,
        reference=merged_weight,
        forbidden=("course_utils.lora.layer:LoRALayer",),
        criteria=[
            Criterion("the weight with the update in it", _merged, share=2),
            Criterion("what was passed in stays as it is", _leaves_the_base),
            Criterion("NaN and infinite numbers are refused", _refuses),
        ],
        hints=(
            "Which of `W + ...` and `W += ...` leaves W as it was? And what could be wrong with the sum?",
            "`tensor.isfinite()` is True where a number is neither NaN nor infinite; `.all()` asks for all of them.",
            "`merged = weight + scale * B @ A`, then `if not merged.isfinite().all(): raise FloatingPointError(...)`.",
        ),
    ),
]
TENANTS = [
    Exercise(
        id="04.10",
        title="One batch, many tenants",
        difficulty=3,
        minutes=12,
        points=2,
        reference="course_utils.lora.serving:mixed_update",
        criteria=[
            Criterion("every sample gets its own tenant's update", _mixed, share=2),
            Criterion("no full matrix for any sample", _stays_thin),
            Criterion("all samples at once", _no_loop),
        ],
        hints=(
            "Indexing with a tensor of integers picks rows: what shape has `A[which]`?",
            "`@` multiplies batches of matrices: (batch, tokens, in) @ (batch, in, rank). `A[which].transpose(1, 2)` has the latter shape.",
            "`low = x @ A[which].transpose(1, 2)`, then the same with B, times `scale[which, None, None]`.",
        ),
    ),
]
