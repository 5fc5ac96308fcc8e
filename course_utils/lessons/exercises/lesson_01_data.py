"""Lesson 01, exercises 01.7 and 01.8: blurring a boundary, and a stream of your own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from course_utils import datasets, streams
from course_utils.lessons.exercise import Changed, Criterion, Exercise, Wrong, to_array

Indices = NDArray[np.int64]

# ---- 01.7 a blurry boundary --------------------------------------------------------------------------------------


def swap_boundary(
    first: Indices, second: Indices, fraction: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Swap a fraction of two neighbouring tasks' samples, so that the boundary between them blurs.

    Args:
        first, second: numbers of the training images of the two tasks; they are left as they are.
        fraction: of the shorter one's images that change sides, rounded to a whole number.
        rng: draws which ones.

    Returns:
        The new (first, second), as long as before. Order does not matter.

    Built in lesson 01, exercise 01.7; `streams.blurry` does the same along a whole stream.
    """
    first, second = rng.permutation(first), rng.permutation(second)
    count = round(fraction * min(len(first), len(second)))
    return np.concatenate([second[:count], first[count:]]), np.concatenate([first[:count], second[count:]])


def _swap(answer: Callable[..., Any], first: Indices, second: Indices, fraction: float, seed: int = 0) -> list[Indices]:
    """The student's two results as arrays, after everything that holds for every call has been checked."""
    given = first.copy(), second.copy()
    result = answer(*given, fraction, np.random.default_rng(seed))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong("Return two arrays of sample numbers: `return new_first, new_second`.")
    if not (np.array_equal(given[0], first) and np.array_equal(given[1], second)):
        raise Changed(
            "Your function writes into the arrays it is given: the sharp stream would be lost. "
            "Work on copies (`rng.permutation` makes one)."
        )
    new = [to_array(part).astype(np.int64).ravel() for part in result]
    together = np.concatenate(new)
    lost = (set(first) | set(second)) - set(together)
    twice = len(together) - len(set(together))
    if twice and lost:
        raise Wrong(
            f"{len(lost)} samples are lost and {twice} appear twice. Something is drawn with replacement, or overwritten "
            "before it was copied to the other side."
        )
    if twice:
        raise Wrong(
            f"{twice} samples are in both tasks now: they were copied, not swapped. "
            "What goes into the other task must leave its own."
        )
    if lost:
        raise Wrong(f"{len(lost)} samples are lost: they left one task and never arrived in the other.")
    return new


def _moved(old: Indices, new: Indices) -> int:
    return len(set(new) - set(old))


def _nothing_lost(answer: Callable[..., Any]) -> None:
    first, second = np.arange(100), np.arange(100, 200)
    new = _swap(answer, first, second, 0.2)
    if [len(part) for part in new] != [100, 100]:
        raise Wrong(
            f"The tasks have {len(new[0])} and {len(new[1])} samples now, before they had 100 each: as many must come as go."
        )
    count = _moved(first, new[0])
    if count == 10:
        raise Wrong(
            "10 of 100 samples changed sides at fraction 0.2: you swap half of what is asked. Each side gives 20."
        )
    if count == 100 - 20:
        raise Wrong("80 of 100 samples changed sides at fraction 0.2: you swap the part that should stay.")
    if count == 0:
        raise Wrong("No sample changed sides. Are both results built from both tasks?")
    if count != 20:
        raise Wrong(f"{count} of 100 samples changed sides, expected 20: the fraction is of the samples of a task.")


def _drawn_at_random(answer: Callable[..., Any]) -> None:
    first, second = np.arange(100), np.arange(100, 200)
    left = [frozenset(first) - set(_swap(answer, first, second, 0.2, seed)[0]) for seed in (1, 1, 2)]
    if left[0] in (frozenset(range(20)), frozenset(range(80, 100))):
        raise Wrong(
            "Always the first (or the last) samples change sides. If the images are sorted by class, only one class would "
            "be blurred: draw them with rng."
        )
    if left[0] != left[1]:
        raise Wrong(
            "The same seed gave two different results. Draw from the `rng` that is passed in, not from NumPy's global one."
        )
    if left[0] == left[2]:
        raise Wrong(
            "Two different seeds gave the same samples. Draw from the `rng` that is passed in; do not seed it yourself."
        )
    arrived = [frozenset(_swap(answer, first, second, 0.2, seed)[0]) - set(first) for seed in (1, 2)]
    if arrived[0] == arrived[1] or arrived[0] == {n + 100 for n in left[0]}:
        raise Wrong("The two sides give the same places of their arrays. Draw the samples of each side on their own.")


def _edges(answer: Callable[..., Any]) -> None:
    first, second = np.array([7, 3, 9, 1, 5, 11, 13, 15, 17, 19]), np.array([20, 30, 40, 50])
    untouched = _swap(answer, first, second, 0.0)
    if _moved(first, untouched[0]):
        raise Wrong("At fraction 0 the boundary is sharp: nothing may change sides.")
    new = _swap(answer, first, second, 0.5)
    if [len(part) for part in new] != [10, 4]:
        raise Wrong(
            f"Tasks of 10 and 4 samples became {len(new[0])} and {len(new[1])}. As many must come as go: "
            "take the fraction of the shorter one for both sides."
        )
    if _moved(first, new[0]) != 2:
        raise Wrong(f"{_moved(first, new[0])} samples changed sides; half of the shorter task (4 samples) is 2.")
    seven = np.arange(20, 27)
    rounded = {fraction: _moved(first, _swap(answer, first, seven, fraction)[0]) for fraction in (0.4, 0.3)}
    if rounded == {0.4: 2, 0.3: 2}:
        raise Wrong("0.4 of 7 samples is 2.8, and 2 changed sides: `int` and `//` cut the fraction off. Use `round`.")
    if rounded == {0.4: 3, 0.3: 3}:
        raise Wrong("0.3 of 7 samples is 2.1, and 3 changed sides: `ceil` always rounds up. Use `round`.")
    if rounded != {0.4: 3, 0.3: 2}:
        raise Wrong(
            f"Tasks of 10 and 7 samples: {rounded[0.4]} changed sides at fraction 0.4 and {rounded[0.3]} at 0.3. "
            "2.8 should round to 3, and 2.1 to 2."
        )


# ---- 01.8 a stream of your own data ------------------------------------------------------------------------------


def my_stream(
    images: NDArray[np.float64], labels: Indices, groups: Indices, test_groups: Indices, num_tasks: int
) -> streams.TaskStream:
    """A class-incremental stream of your own images, without a leak between training, validation and test.

    Args:
        images: `(N, H, W, 1)` floats from 0 to 255.
        labels: `(N,)` from 0.
        groups: `(N,)` images with the same number show the same thing, such as frames of one video.
        test_groups: the groups that make the test set; the others are for training and validation.
        num_tasks: how many tasks to spread the classes over.

    Built in lesson 01, exercise 01.8.
    """
    pixels, test = images / 255, np.isin(groups, test_groups)
    data = datasets.from_arrays(
        train=(pixels[~test], labels[~test], groups[~test]),
        test=(pixels[test], labels[test], groups[test]),
        name="mine",
    )
    return streams.class_incremental(data, num_tasks=num_tasks)


def example_arrays(seed: int = 0) -> tuple[NDArray[np.float64], Indices, Indices, Indices]:
    """480 grouped images of 6 classes, as one gets them: `(images, labels, groups, test_groups)`.

    Digits of scikit-learn, each in four nearly equal frames (one group): floats `(480, 8, 8, 1)` from 0 to 255.
    """
    rng = np.random.default_rng(seed)
    train = datasets.load("digits").train
    rows = np.concatenate([np.flatnonzero(train.y == label)[:20] for label in range(6)])
    frames = train.x[rows].repeat(4, axis=0).transpose(0, 2, 3, 1)  # (480, 8, 8, 1)
    images = np.clip(frames + rng.normal(0, 8, frames.shape), 0, 255)
    labels, groups = train.y[rows].repeat(4), np.arange(len(rows)).repeat(4)
    order = rng.permutation(len(images))
    return images[order], labels[order], groups[order], np.arange(0, len(rows), 4)


def _parts(stream: streams.TaskStream) -> dict[str, streams.Samples]:
    return {
        name: streams.Samples.concat([getattr(task, name) for task in stream])
        for name in ("train", "validation", "test")
    }


def _build(answer: Callable[..., Any]) -> tuple[streams.TaskStream, tuple[Any, ...]]:
    arrays = example_arrays()
    stream = answer(*[array.copy() for array in arrays], 3)
    if isinstance(stream, datasets.Dataset):
        raise Wrong(
            "You return the data set. Return the stream: `streams.class_incremental(data, num_tasks=num_tasks)`."
        )
    if not isinstance(stream, streams.TaskStream):
        raise Wrong(f"Return a stream, as `streams.class_incremental` makes it; yours is {type(stream).__name__}.")
    return stream, arrays


def _is_stream(answer: Callable[..., Any]) -> None:
    stream, _ = _build(answer)
    if stream.scenario != "class":
        raise Wrong(f"This stream is {stream.scenario}-incremental. Asked for is a class-incremental one.")
    if len(stream) != 3:
        raise Wrong(f"The stream has {len(stream)} tasks, asked for were 3: pass `num_tasks` on.")
    if stream.num_outputs != 6:
        raise Wrong(f"The stream covers {stream.num_outputs} classes, the labels have 6.")


def _same_pixels(answer: Callable[..., Any]) -> None:
    stream, (images, labels, groups, _) = _build(answer)
    everything = streams.Samples.concat(list(_parts(stream).values()))
    brightest, mean = int(everything.x.max()), float(everything.x.float().mean())
    if brightest <= 1:
        raise Wrong(
            f"The brightest pixel is {brightest} of 255: the images are nearly black. They were divided by 255 (perhaps twice, "
            "or before a cast to uint8). `from_arrays` takes floats in [0, 1] or uint8 from 0 to 255."
        )
    if abs(mean - images.mean()) > 0.05 * images.mean():
        raise Wrong(
            f"The mean pixel is {mean:.0f}, in the images given it is {images.mean():.0f}: the pixels were changed on the way. "
            "Divide by 255, nothing else."
        )
    if tuple(everything.x.shape[1:]) != (1, 8, 8):
        raise Wrong(
            f"Images in the stream have shape {tuple(everything.x.shape[1:])}, expected (1, 8, 8): channels, height, width."
        )
    rounded, cut = ({how(image).astype(np.uint8).tobytes() for image in images} for how in (np.round, np.floor))
    found = {image.numpy().tobytes() for image in everything.x}
    if (found & cut) - rounded:
        raise Wrong("A cast to uint8 cuts off the fractions: divide by 255, or round first.")


def _no_leak(answer: Callable[..., Any]) -> None:
    stream, (images, labels, groups, test_groups) = _build(answer)
    parts = _parts(stream)
    # Groups are found again by their pixels, so that it does not matter what the student passed as `group`.
    group_of = {
        np.round(image[..., 0]).astype(np.uint8).tobytes(): int(group)
        for image, group in zip(images, groups, strict=True)
    }
    found: dict[str, list[int]] = {}
    for name, samples in parts.items():
        keys = [image[0].numpy().tobytes() for image in samples.x]
        if not all(key in group_of for key in keys):
            raise Wrong(f"The {name} images are not the ones that were given; see the criterion above.")
        found[name] = [group_of[key] for key in keys]
    if set(found["validation"]) <= set(found["test"]):
        raise Wrong(
            "Your validation images are test images. Then every choice made on them is made on the test set. "
            "Leave `validation` out: `from_arrays` takes some of the training images."
        )
    if set(found["train"]) & set(found["test"]):
        both = len(set(found["train"]) & set(found["test"]))
        raise Wrong(
            f"{both} groups are in training and in test: nearly the same image is learned and then asked. "
            "Split by group, `np.isin(groups, test_groups)`, never by image."
        )
    if set(found["train"]) & set(found["validation"]):
        both = len(set(found["train"]) & set(found["validation"]))
        raise Wrong(
            f"{both} groups are in training and in validation. `from_arrays` can only keep groups whole if it knows them: "
            "pass (x, y, groups) for train."
        )
    if set(found["test"]) != set(test_groups.tolist()):
        raise Wrong("The test set is not made of `test_groups`. Is the mask the right way round?")
    if sum(map(len, found.values())) != len(images):
        raise Wrong(f"{len(images) - sum(map(len, found.values()))} images of {len(images)} are in no split.")


EXERCISES = [
    Exercise(
        id="01.7",
        title="Blur a boundary",
        difficulty=2,
        minutes=12,
        points=2,
        reference=swap_boundary,
        forbidden=("course_utils.streams:blurry",),
        criteria=[
            Criterion("a fifth of each side changes sides; nothing lost, nothing twice", _nothing_lost, share=2),
            Criterion("drawn with the generator that is passed in", _drawn_at_random),
            Criterion("fraction 0, tasks of different size, rounding", _edges),
        ],
        hints=(
            "Shuffle each side on its own with `rng.permutation`, which returns a shuffled copy. Then take the first few of each.",
            "The number that changes sides is `round(fraction * min(len(first), len(second)))`, the same for both.",
            "With both shuffled: new first = `np.concatenate([second[:count], first[count:]])`. What is new second?",
        ),
    ),
    Exercise(
        id="01.8",
        title="A stream of your own data",
        difficulty=3,
        minutes=15,
        points=3,
        reference=my_stream,
        criteria=[
            Criterion("a class-incremental stream with the tasks asked for", _is_stream),
            Criterion("the same images, in the range that is expected", _same_pixels),
            Criterion("no group in two splits; the test set is the test groups", _no_leak, share=2),
        ],
        hints=(
            "`test = np.isin(groups, test_groups)` is True for test images, `~test` for the others. Index all three arrays with it.",
            "`datasets.from_arrays(train=(x, y, group), test=(x, y, group))` holds validation images out by itself, whole groups. "
            "Floats must lie in [0, 1].",
            "Divide the images by 255, pass (images[~test], labels[~test], groups[~test]) and the same with `test`, "
            "and give the result to `streams.class_incremental(data, num_tasks=num_tasks)`.",
        ),
    ),
]
