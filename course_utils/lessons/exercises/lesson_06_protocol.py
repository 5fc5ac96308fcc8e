"""Exercises 06.6 to 06.8: augmentation that leaves a label true, a stability index, and a split that shares no picture."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_05_pairs import drawn
from course_utils.lessons.exercises.lesson_06_scores import rank_correlation

Answer = Callable[..., Any]

# ---- 06.6 augmentation -----------------------------------------------------------------------------------------------


def random_view(x: Tensor, generator: torch.Generator, shift: int) -> Tensor:
    """A window of every image at a random place, every second one (on average) mirrored; no pixel gets a new value.

    x: `(n, channels, height, width)`. Returns `(n, channels, height - shift, width - shift)`: a window can begin 0 to `shift`
    pixels from the top and from the left. Built in lesson 06, exercise 06.6.
    """
    height, width = x.shape[2] - shift, x.shape[3] - shift
    views = []
    for image in x:
        top, left = torch.randint(0, shift + 1, (2,), generator=generator).tolist()
        view = image[:, top : top + height, left : left + width]
        views.append(view.flip(2) if torch.rand(1, generator=generator) < 0.5 else view)
    return torch.stack(views)


def _views(answer: Answer, count: int = 48, shift: int = 2, seed: int = 1) -> list[tuple[int, int, bool] | None]:
    """Where each returned view lies in its image, and whether it is mirrored; None where it is no window of it."""
    x = drawn(count, 2, 9, 8, seed=5).sigmoid()
    found = answer(x.clone(), torch.Generator().manual_seed(seed), shift)
    height, width = 9 - shift, 8 - shift
    if not isinstance(found, Tensor) or found.shape != (count, 2, height, width):
        shape = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
        text = f"{count} images of 9x8 pixels with shift={shift} should give {(count, 2, height, width)}; you return {shape}."
        if hasattr(found, "shape") and tuple(found.shape) == tuple(x.shape):
            text += " If you enlarge the window again, you interpolate between pixels, and that is a blur."
        raise Wrong(text)
    places: list[tuple[int, int, bool] | None] = []
    for image, view in zip(x, found, strict=True):
        place = None
        for top in range(shift + 1):
            for left in range(shift + 1):
                window = image[:, top : top + height, left : left + width]
                for mirrored in (False, True):
                    if torch.equal(window.flip(2) if mirrored else window, view):
                        place = (top, left, mirrored)
        if place is None and any(
            torch.equal(image[:, top : top + height, left : left + width].flip(1), view)
            for top in range(shift + 1)
            for left in range(shift + 1)
        ):
            raise Wrong(
                "An image stands on its head. Photographs are judged the right way up: mirror left and right (`flip(2)` of an "
                "image, `flip(3)` of a batch)."
            )
        places.append(place)
    return places


def _same_pixels(answer: Answer) -> None:
    if None in _views(answer):
        raise Wrong(
            "Some views hold values that their image does not have at that place. Brightness, contrast, noise, normalisation and "
            "interpolation change what the score is *about*: the label would be false. Only cut and mirror."
        )


def _every_view(answer: Answer) -> None:
    places = [place for place in _views(answer, count=200) if place is not None]
    if not places:
        raise Wrong("No view is a window of its image.")
    mirrored = np.mean([place[2] for place in places])
    if len(set(places)) == 1:
        raise Wrong("All 200 images get the same view: draw for every image on its own, not once a batch.")
    if len({place[:2] for place in places}) == 1:
        raise Wrong("All 200 windows begin at one place: draw a place for each.")
    if mirrored in (0, 1):
        raise Wrong(f"{'All' if mirrored else 'None'} of 200 images are mirrored: decide for each.")
    if not 0.3 < mirrored < 0.7:
        raise Wrong(f"{mirrored:.0%} of the images are mirrored; about half are asked for.")
    if all(top == left for top, left, _ in places):
        raise Wrong("Every window begins as far from the top as from the left: one draw is used for both. Draw twice.")
    if len({place[:2] for place in places}) < 9:
        raise Wrong(
            "With shift=2 a window can begin at 0, 1 or 2 from the top and from the left, drawn apart: nine places. Not all of them "
            "occur (`torch.randint` leaves its upper end out)."
        )


def _generator_used(answer: Answer) -> None:
    torch.manual_seed(1)
    first = _views(answer, seed=3)
    torch.manual_seed(2)
    again, other = _views(answer, seed=3), _views(answer, seed=4)
    if first != again:
        raise Wrong("The same generator gives other views: pass `generator=generator` to every random function.")
    if first == other:
        raise Wrong("Two generators give the same views: nothing is drawn from `generator`.")
    sides, others = ([place and place[2] for place in places] for places in (first, other))
    if sides == others:
        raise Wrong(
            "The same images are mirrored with every generator. Draw the side of each image, as you draw its place."
        )


# ---- 06.7 stability --------------------------------------------------------------------------------------------------


def stability(predictions: Sequence[Sequence[Any]], srcc: Callable[[Any, Any], float]) -> float:
    """Mean over i >= 1 of SI_i, the mean over j < i of srcc(predictions[i][j], predictions[j][j]).

    predictions[i][j]: scores of task j's images after task i, `(n_j,)`, tasks from 0. Built in lesson 06, exercise 06.7.
    """
    terms = []
    for i in range(1, len(predictions)):
        terms.append(sum(srcc(predictions[i][j], predictions[j][j]) for j in range(i)) / i)
    return sum(terms) / len(terms)


def _tasks(count: int = 4) -> list[list[list[float]]]:
    """Scores of `count` tasks of 7, 8, ... images after each of them; some far from the others, so that ranks matter."""
    generator = np.random.default_rng(6)
    return [[np.exp(2 * generator.normal(size=7 + task)).tolist() for task in range(count)] for _ in range(count)]


def _stability_value(answer: Answer) -> None:
    p, times = _tasks(), range(1, 4)

    def index(term: Callable[[int, int], float], extra: int = 0) -> float:
        return float(np.mean([np.mean([term(i, j) for j in range(i + extra)]) for i in times]))

    si = [np.mean([rank_correlation(p[i][j], p[j][j]) for j in range(i)]) for i in times]
    expected = np.mean(si)
    single = [rank_correlation(p[i][j], p[j][j]) for i in times for j in range(i)]
    found = _index(answer, p, rank_correlation)
    if np.isnan(found):
        raise Wrong(
            "Your index is NaN: before the second task there is no earlier task, and a mean of nothing is NaN. Begin at i = 1."
        )
    diagnose(
        found,
        {
            "The first term is counted: after task 1 there is nothing to be forgotten, so SI = 1 there is a gift. It pulls every "
            "method towards 1, and a bad one most. Begin with the second task.": np.mean([1.0, *si]),
            "You divide by the number of tasks. There is one term for every task *but the first*.": sum(si) / 4,
            "A task is compared with itself (j = i): that is 1 by definition. j runs over *earlier* tasks.": index(
                lambda i, j: rank_correlation(p[i][j], p[j][j]), extra=1
            ),
            "You compare with the predictions after the task *before*. Small steps look harmless, however far they lead: compare "
            "with those right after task j was learned, predictions[j][j].": index(
                lambda i, j: rank_correlation(p[i][j], p[i - 1][j])
            ),
            "Only the last task's row counts here. Average over all times i at which something could be forgotten.": si[
                -1
            ],
            "The last time is left out: `range(1, len(predictions))` goes up to the last task.": np.mean(si[:-1]),
            "All pairs count the same here, so late tasks, which have more of them, count more. Take the mean for each i first.": np.mean(
                single
            ),
            "The terms are summed; their mean is asked for.": sum(si),
            "This is the median over the times; the mean is asked for.": np.median(si),
            "This is the correlation of the *values*: `srcc`, which you are given, is not used.": index(
                lambda i, j: _pearson(p[i][j], p[j][j])
            ),
        },
        expected=expected,
    )
    close(
        found,
        expected,
        "Expected the mean over i >= 1 of the mean over j < i of srcc(predictions[i][j], [j][j]).",
    )


def _index(answer: Answer, p: Sequence[Sequence[Sequence[float]]], srcc: Callable[[Any, Any], float]) -> float:
    """What the answer gives; every task has another number of images, so that other tasks' scores cannot be compared."""

    def of_one_task(first: Any, second: Any) -> float:
        if len(first) != len(second):
            raise Wrong(
                f"You compare the scores of {len(first)} images with those of {len(second)}: two different tasks. predictions[i][j] and "
                "predictions[j][j] are both of task j's images, after task i and after task j."
            )
        return srcc(first, second)

    return float(to_array(answer([[list(scores) for scores in row] for row in p], of_one_task)))


def _pearson(x: Sequence[float], y: Sequence[float]) -> float:
    return float(np.corrcoef(x, y)[0, 1])


def _turned_round(answer: Answer) -> None:
    task = [1.0, 4.0, 2.0, 3.0]
    turned = [-value for value in task]
    value = answer([[task, task], [turned, task]], rank_correlation)
    diagnose(
        value,
        {
            "Task 2 turned every ranking of task 1 round, and your index calls that 0, half stable: the first term flatters.": 0.0
        },
        expected=-1.0,
    )
    close(value, -1.0, "Two tasks, and the ranking of the first is turned round by the second: the index is -1.")


# ---- 06.8 a split that shares no picture -----------------------------------------------------------------------------


def held_out(names: Sequence[str]) -> list[bool]:
    """Whether each image is for testing: about one picture in five, decided by the picture's name and nothing else.

    names: "1234", or "I04_01_2": what stands before the first "_" names the picture, the rest its distortion. The same picture
    gets the same answer in every list. Built in lesson 06, exercise 06.8.
    """
    return [zlib.crc32(name.split("_")[0].encode()) % 5 == 0 for name in names]


def _split(answer: Answer, names: Sequence[str]) -> list[bool]:
    found = answer(list(names))
    values = found.tolist() if hasattr(found, "tolist") else list(found) if isinstance(found, (list, tuple)) else None
    if values is None or len(values) != len(names):
        raise Wrong("Return a list of True and False, one for every name, in the order of the names.")
    if not all(value in (True, False) for value in values):
        raise Wrong("Return True (for testing) or False for every name, not the names themselves.")
    return [bool(value) for value in values]


def _pictures() -> list[str]:
    generator = np.random.default_rng(3)
    return [str(number) for number in generator.choice(900_000, 400, replace=False) + 1000]


def _same_in_every_list(answer: Answer) -> None:
    names = _pictures()
    whole = dict(zip(names, _split(answer, names), strict=True))
    if _split(answer, names) != [whole[name] for name in names]:
        raise Wrong(
            "Two calls with the same names give two splits: a test image of yesterday is a training image today."
        )
    turned = dict(zip(names[::-1], _split(answer, names[::-1]), strict=True))
    part = dict(zip(names[100:], _split(answer, names[100:]), strict=True))
    if turned != whole or any(part[name] != whole[name] for name in part):
        raise Wrong(
            "The answer for an image depends on the other names in the list or on their order. EVA's photographs are AVA's: an image "
            "that is held out in one list and trained on in the other makes the test worthless. Decide by the name alone."
        )


def _versions_together(answer: Answer) -> None:
    names = [f"I{picture:02d}_{kind:02d}_{level}" for picture in range(60) for kind in (1, 8) for level in (1, 3, 5)]
    found = np.array(_split(answer, names)).reshape(60, 6)
    if (found != found[:, :1]).any():
        raise Wrong(
            "Distorted versions of one picture are on both sides: the network can recognise the picture instead of judging it. What "
            'counts is the name before the first "_".'
        )
    if found.all() or not found.any():
        raise Wrong("60 pictures with distorted versions all land on one side.")


def _one_in_five(answer: Answer) -> None:
    share = np.mean(_split(answer, _pictures()))
    if share > 0.7:
        raise Wrong(f"{share:.0%} of 400 pictures are for testing: True means *held out*, about one in five.")
    if not 0.12 < share < 0.28:
        raise Wrong(f"{share:.0%} of 400 pictures are for testing; about 20 % are asked for.")


def _same_tomorrow(answer: Answer) -> None:
    calls: list[Any] = []

    def salted(value: Any) -> int:
        calls.append(value)
        return 7

    with mock.patch("builtins.hash", salted):
        _split(answer, ["1234", "I04_01_2"])
    if calls:
        raise Wrong(
            "Python's `hash` of a text is another number in every new process (it is salted on purpose), so the split would change "
            "with each start. Use `zlib.crc32(name.encode())` or hashlib."
        )


EXERCISES = [
    Exercise(
        id="06.6",
        title="Augment without lying",
        difficulty=2,
        minutes=12,
        points=3,
        reference=random_view,
        forbidden=("course_utils.quality.transforms:QualityAugment",),
        criteria=[
            Criterion("no pixel gets a new value", _same_pixels),
            Criterion("a place and a side for every image", _every_view),
            Criterion("everything is drawn from the generator", _generator_used),
        ],
        hints=(
            "Which changes of a photograph would change your opinion of its quality? All those are out.",
            "For every image: draw `top` and `left` in 0 to shift (`torch.randint(0, shift + 1, (2,), generator=generator)`), cut, and "
            "mirror with probability one half.",
            "`view = image[:, top : top + height, left : left + width]`, mirrored `view.flip(2)`, and `torch.stack` at the end.",
        ),
    ),
    Exercise(
        id="06.7",
        title="Stable compared with when?",
        difficulty=2,
        minutes=10,
        points=2,
        reference=stability,
        forbidden=("course_utils.quality.metrics:stability_index",),
        criteria=[
            Criterion("the mean over later times and earlier tasks", _stability_value, share=2),
            Criterion("a ranking turned round is -1", _turned_round),
        ],
        hints=(
            "After which task could something be forgotten for the first time?",
            "For i = 1, 2, ...: compare predictions[i][j] with predictions[j][j] for every j < i, and take the mean.",
            "`terms.append(sum(srcc(predictions[i][j], predictions[j][j]) for j in range(i)) / i)`, then the mean of terms.",
        ),
    ),
    Exercise(
        id="06.8",
        title="A split that shares no picture",
        difficulty=2,
        minutes=10,
        points=2,
        reference=held_out,
        forbidden=("course_utils.datasets.scored:split_of",),
        criteria=[
            Criterion("the same answer in every list", _same_in_every_list, share=2),
            Criterion("versions of a picture stay together", _versions_together),
            Criterion("about one in five", _one_in_five),
            Criterion("the same answer tomorrow", _same_tomorrow),
        ],
        hints=(
            "If the decision may depend on the name alone, where can chance come from?",
            "A checksum turns a name into a number that looks random and is always the same: `zlib.crc32(name.encode())`.",
            '`zlib.crc32(name.split("_")[0].encode()) % 5 == 0` for every name.',
        ),
    ),
]
