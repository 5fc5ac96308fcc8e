"""Trying a student's function without side effects: watched, quiet, and with the random states put back."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

import numpy as np

LARGEST, LONGEST = 1_000_000, 1_000  # elements of an array, and of a container, up to which a change is looked for


def watched(
    function: Callable[..., Any], forbidden: set[int], called: list[str], changed: list[str]
) -> Callable[..., Any]:
    """`function`, noting in `called` the name of every forbidden code object that runs inside it.

    In `changed` go the names of arguments (tensors, arrays, lists, sets, dictionaries) that are not afterwards what they were.
    """

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        def look(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call" and id(frame.f_code) in forbidden:
                called.append(frame.f_code.co_name)

        given = _named(function, args, kwargs)
        before = {name: _content(value) for name, value in given.items()}
        previous = sys.getprofile()
        sys.setprofile(look)
        try:
            return function(*args, **kwargs)
        finally:
            sys.setprofile(previous)
            changed.extend(name for name, value in given.items() if before[name] != _content(value))

    return call


def _named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names that the function gives them, or by their places where it cannot be called like this."""
    try:
        return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {f"argument {place}": value for place, value in enumerate(args, start=1)} | kwargs


def _content(value: Any) -> Any:
    """What a tensor, an array or a container holds, to compare; None for everything else, and for what is large."""
    torch: Any = sys.modules.get("torch")
    if torch and isinstance(value, torch.Tensor):
        if value.numel() > LARGEST or value.dtype == torch.bfloat16:
            return None
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes()) if value.size <= LARGEST and value.dtype != object else None
    if isinstance(value, (list, tuple, set, dict)) and len(value) <= LONGEST:
        parts = [*value.items()] if isinstance(value, dict) else [(place, part) for place, part in enumerate(value)]
        return [(key, id(part), _content(part)) for key, part in parts]
    return None


def code_objects(targets: Iterable[Callable[..., Any]]) -> set[int]:
    """Identities of the code objects of functions, and of the methods of classes."""
    found: set[int] = set()
    for target in targets:
        answer = inspect.unwrap(target)
        members = vars(answer).values() if inspect.isclass(answer) else [answer]
        codes = (getattr(member, "__code__", None) for member in members)
        found |= {id(code) for code in codes if isinstance(code, CodeType)}
    return found


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, and torch if it is loaded."""
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Put back the random states of Python, NumPy and torch (CPU and GPUs) at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    torch: Any = sys.modules.get("torch")
    cpu = torch.get_rng_state() if torch else None
    devices = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch:
            torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what is printed, and drop warnings, log messages and whatever else goes to the standard error stream."""
    printed, level = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _null_file_descriptor(2):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                yield printed
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _null_file_descriptor(number: int) -> Iterator[None]:
    """Send a file descriptor to nowhere: C++ code (torch's own warnings) does not write through `sys.stderr`."""
    try:
        saved = os.dup(number)
    except OSError:  # the process has no such descriptor, as under pythonw
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    try:
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)
        os.close(null)
