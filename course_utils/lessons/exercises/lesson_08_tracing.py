"""What lesson 08's exercises look at while JAX traces an answer: calls, operations, loops, and errors made short."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from course_utils.lessons.exercise import Wrong

Answer = Callable[..., Any]


def counted(function: Answer) -> tuple[Answer, list[int]]:
    """`function`, and a list whose one entry counts how often Python has called it."""
    calls = [0]

    @functools.wraps(function)
    def counting(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        return function(*arguments, **keywords)

    return counting, calls


NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
LEAKED = (
    "A tracer has leaked: inside a function that JAX traces, you fill a variable or list that lies outside. That happens "
    "once, while the program is written down, and with no numbers in it. Return what you need: what the function of "
    "`jax.lax.scan` returns second is stacked."
)

TREES = (
    "You compute with a whole tree as if it were an array: `lr * gradient` is a number times a dict. `jax.tree.map(f, a, b)` calls "
    "`f` for every pair of arrays."
)


def in_short(criterion: Callable[[Answer], None]) -> Callable[[Answer], None]:
    """A criterion in which JAX's errors have at most three lines. They keep the place where the student's code stopped."""

    @functools.wraps(criterion)
    def run(answer: Answer) -> None:
        try:
            criterion(answer)
        except jax.errors.UnexpectedTracerError:
            raise Wrong(LEAKED) from None
        except NEEDS_VALUES as error:
            error.args = (
                "JAX cannot trace this: it needs the *value* of an array, and while JAX traces there are only shapes. Leave "
                "out `float()`, `int()`, `if` on an array, masks as indices and NumPy functions (`np.`); `jnp.` and `jax.` "
                "are fine.",
            )
            raise
        except (TypeError, ValueError) as error:
            if "'dict'" in str(error) and "unsupported operand" in str(error):
                raise Wrong(TREES) from None
            lines = [line for line in str(error).splitlines() if line.strip()]
            error.args = ("\n".join(lines[:3]),)
            raise

    return run


def operations(function: Answer, *arguments: Any) -> list[str]:
    """Names of the primitive operations in the traced program, those of inner programs too."""
    names: list[str] = []

    def visit(program: Any) -> None:
        for equation in program.eqns:
            names.append(equation.primitive.name)
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(function)(*arguments).jaxpr)
    return names


def unrolled(function: Answer, arguments: Callable[[int], tuple[Any, ...]], operation: str) -> bool:
    """Whether the program holds the operation once more for each more of what is looped over: a loop in Python.

    arguments: number of repetitions -> arguments of the function. False where NumPy keeps JAX from tracing it.
    """
    few, many = 4, 40
    try:
        short, long = (operations(function, *arguments(number)).count(operation) for number in (few, many))
    except NEEDS_VALUES:
        return False
    return long - short >= many - few


def structure(tree: Any) -> Any:
    """The structure of a pytree, to be compared."""
    return jax.tree.structure(tree)
