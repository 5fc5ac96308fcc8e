"""Exercises 05.6 to 05.9: prompt ensembles, held-out combinations, patches that look at words, and the test for a leak."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array
from course_utils.lessons.exercises.lesson_05_pairs import drawn

Answer = Callable[..., Any]
Table = Mapping[str, Mapping[str, Hashable]]

# ---- 05.6 prompt ensembles -------------------------------------------------------------------------------------------


def class_vectors(embeddings: Tensor) -> Tensor:
    """One vector of length 1 for every class: the mean of its descriptions' directions, `(classes, dim)`.

    embeddings: `(classes, descriptions, dim)`, of any length. Built in lesson 05, exercise 05.6.
    """
    return F.normalize(F.normalize(embeddings, dim=2).mean(dim=1), dim=1)


def _ensemble(answer: Answer) -> None:
    vectors = drawn(3, 4, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    unit = F.normalize(vectors, dim=2)
    expected = F.normalize(unit.mean(dim=1), dim=1)
    actual = to_array(answer(vectors))
    if actual.shape == (4, 5):
        raise Wrong("You average over the classes: one vector for every *class* is asked for, so average over `dim=1`.")
    diagnose(
        actual,
        {
            "The mean of unit vectors is shorter than 1: classes whose descriptions disagree would lose every comparison. "
            "Normalise again after the mean.": unit.mean(dim=1),
            "The descriptions are not normalised before the mean, so the longest vector speaks for all. Normalise first.": F.normalize(
                vectors.mean(dim=1), dim=1
            ),
            "Nothing is normalised.": vectors.mean(dim=1),
            "Only the first description is used.": unit[:, 0],
            "You normalise over the descriptions (`dim=1`); a vector's numbers lie along `dim=2`.": F.normalize(
                F.normalize(vectors, dim=1).mean(dim=1), dim=1
            ),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(actual, expected, "Normalise every description, average over them, normalise again.", rtol=1e-4)


def _one_description(answer: Answer) -> None:
    vectors = drawn(2, 1, 3, seed=6)
    close(answer(vectors), F.normalize(vectors[:, 0], dim=1), "With one description, the class is its direction.")


# ---- 05.7 held out, but not unknown ----------------------------------------------------------------------------------

SIGNS: dict[str, dict[str, Hashable]] = {
    "red circle with 30": {"shape": "circle", "rim": "red", "picture": "30"},
    "red circle with truck": {"shape": "circle", "rim": "red", "picture": "truck"},
    "grey circle with truck": {"shape": "circle", "rim": "grey", "picture": "truck"},
    "red triangle with deer": {"shape": "triangle", "rim": "red", "picture": "deer"},
    "red triangle with truck": {"shape": "triangle", "rim": "red", "picture": "truck"},
    "grey circle with 30": {"shape": "circle", "rim": "grey", "picture": "30"},
}


def all_parts_seen(held_out: Collection[str], table: Table) -> bool:
    """Whether every part of every held-out class occurs in some class that is not held out.

    held_out: names of classes. table: name -> question -> answer. Built in lesson 05, exercise 05.7.
    """
    training = [parts for name, parts in table.items() if name not in held_out]
    seen = {part for parts in training for part in parts.items()}
    return all(part in seen for name in held_out for part in table[name].items())


def _says(answer: Answer, held_out: set[str], table: Table, expected: bool, message: str) -> None:
    found = answer(set(held_out), {name: dict(parts) for name, parts in table.items()})
    if not isinstance(found, bool) and found not in (0, 1):
        raise Wrong(f"Return True or False; yours returned {type(found).__name__}.")
    if bool(found) != expected:
        raise Wrong(message)


def _single(answer: Answer) -> None:
    _says(
        answer, {"grey circle with 30"}, SIGNS, True,
        "'grey circle with 30' can be held out: circles, grey rims and the number 30 all occur elsewhere, only not together. "
        "Look for its *parts*, one by one.",
    )  # fmt: skip
    _says(
        answer, {"red triangle with deer"}, SIGNS, False,
        "'red triangle with deer' cannot be held out: no other sign shows a deer, so the network would never see one. "
        "*Every* part has to occur, and in another class than the held-out one itself.",
    )  # fmt: skip


def _together(answer: Answer) -> None:
    _says(
        answer, {"grey circle with truck", "grey circle with 30"}, SIGNS, False,
        "Each of these two can be held out alone. Together they take every grey rim out of training: count what is left when "
        "*all* of them are gone.",
    )  # fmt: skip
    _says(
        answer, {"grey circle with 30", "red triangle with truck"}, SIGNS, True,
        "These two can be held out together: circle, grey, 30, triangle, red and truck all occur in the four signs that are left.",
    )  # fmt: skip


def _mixed(answer: Answer) -> None:
    """One class that may be held out beside one that may not, under names in both orders."""
    for turn in range(8):
        fair, alone = (f"sign {turn + first}" for first in ((0, 8) if turn % 2 else (8, 0)))
        table = {fair: {"shape": "circle"}, alone: {"shape": "star"}, "another circle": {"shape": "circle"}}
        _says(
            answer, {fair, alone}, table, False,
            "Of two held-out signs one, a star, has a part that is seen nowhere else, so the answer is False. Look at *all* "
            "held-out classes, not at the first or the last.",
        )  # fmt: skip


def _question_and_answer(answer: Answer) -> None:
    table = {
        "red rim, white field": {"rim": "red", "field": "white"},
        "white rim, red field": {"rim": "white", "field": "red"},
        "blue rim, white field": {"rim": "blue", "field": "white"},
        "blue rim, red field": {"rim": "blue", "field": "red"},
        "white rim, blue field": {"rim": "white", "field": "blue"},
    }
    _says(
        answer, {"white rim, blue field"}, table, False,
        "'blue' occurs in other signs, but as a rim, never as a *field*. A part is a question together with its answer: "
        "compare the pairs of `.items()`.",
    )  # fmt: skip


# ---- 05.8 patches look at words --------------------------------------------------------------------------------------


def cross_attention(query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """`softmax(Q K^T / sqrt(dim)) V` with padding left out, and the weights of the softmax.

    query: `(batch, patches, dim)`. key, value: `(batch, words, dim)`. real: `(batch, words)`, False for padding. Returns
    `(batch, patches, dim)` and `(batch, patches, words)`. Built in lesson 05, exercise 05.8.
    """
    logits = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
    weights = logits.masked_fill(~real[:, None, :], float("-inf")).softmax(dim=2)
    return weights @ value, weights


def _looked(answer: Answer, *arguments: Tensor) -> tuple[Any, Any]:
    found = answer(*arguments)
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        raise Wrong(
            "Return two tensors: what was found, (batch, patches, dim), and the weights, (batch, patches, words)."
        )
    return to_array(found[0]), to_array(found[1])


def _attention(answer: Answer) -> None:
    query, key, value = 2 * drawn(2, 3, 4), 2 * drawn(2, 5, 4, seed=6), drawn(2, 5, 4, seed=7)
    real = torch.tensor([[True] * 5, [True, True, True, False, False]])
    raw = query @ key.transpose(1, 2)
    scaled, hidden = raw / 2, ~real[:, None, :]
    expected = scaled.masked_fill(hidden, float("-inf")).softmax(dim=2)
    found, weights = _looked(answer, query, key, value, real)
    if weights.shape == (2, 5, 3):
        raise Wrong(
            "Your weights are (batch, words, patches): it is the *patches* that look, one row for each of them."
        )
    diagnose(
        weights,
        {
            "The division by the square root of `dim` is missing: with many dimensions the softmax would look at one word only.": raw.masked_fill(
                hidden, float("-inf")
            ).softmax(dim=2),
            "You divide by `dim`, not by its square root.": (raw / 4).masked_fill(hidden, float("-inf")).softmax(dim=2),
            "Padding is looked at: `real` is not used.": scaled.softmax(dim=2),
            "Padding is set to zero after the softmax, so the weights do not sum to 1 any more. Mask the logits before it.": scaled.softmax(
                dim=2
            ).masked_fill(hidden, 0.0),
            "The logits of padding are set to 0. That is a usual size for a logit, and its exponential is 1: use minus infinity.": scaled.masked_fill(
                hidden, 0.0
            ).softmax(dim=2),
            "Words and padding are exchanged: `real` is True for *words*. Mask with `~real`.": scaled.masked_fill(
                real[:, None, :], float("-inf")
            ).softmax(dim=2),
            "Your softmax runs over the patches (`dim=1`). Every patch shares out its attention over the words: `dim=2`.": scaled.masked_fill(
                hidden, -1e9
            ).softmax(dim=1),
        },
        expected=expected,
        rtol=1e-4,
    )  # fmt: skip
    close(
        weights, expected, "Weights: softmax over the words of Q K^T / sqrt(dim), padding at minus infinity.", rtol=1e-4
    )
    close(found, expected @ value, "What was found: the weights times the values.", rtol=1e-4, atol=1e-5)


def _padding_is_nothing(answer: Answer) -> None:
    query, key, value = drawn(1, 2, 4), drawn(1, 3, 4, seed=6), drawn(1, 3, 4, seed=7)
    short, _ = _looked(answer, query, key, value, torch.ones(1, 3, dtype=torch.bool))
    longer = [torch.cat([part, 50 * drawn(1, 2, 4, seed=8)], dim=1) for part in (key, value)]
    real = torch.tensor([[True, True, True, False, False]])
    found, _ = _looked(answer, query, *longer, real)
    close(
        found, short, "Two tokens of padding behind a text must not change what is found in it.", rtol=1e-4, atol=1e-5
    )


# ---- 05.9 the test for a leak ----------------------------------------------------------------------------------------


def reads_the_text(predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, text: Tensor) -> bool:
    """Whether the answers change when the texts change places among the images.

    predict: `(images, texts) -> (n,)` classes. x: `(n, ...)`. text: `(n, length)`. Built in lesson 05, exercise 05.9.
    """
    return not torch.equal(predict(x, text), predict(x, text.roll(1, dims=0)))


def _watched(answer: Answer, predict: Callable[[Tensor, Tensor], Tensor]) -> tuple[bool, list[tuple[Tensor, Tensor]]]:
    x, text = torch.arange(6.0)[:, None], torch.tensor([[4, 0], [5, 0], [4, 1], [6, 2], [5, 3], [7, 4]])
    calls: list[tuple[Tensor, Tensor]] = []

    def spy(images: Tensor, texts: Tensor) -> Tensor:
        calls.append((images.clone(), texts.clone()))
        return predict(images, texts)

    found = answer(spy, x.clone(), text.clone())
    if to_array(found).shape != () or found not in (True, False):
        raise Wrong(f"Return True or False; yours returned {found!r}.")
    for images, texts in calls:
        if not torch.equal(images, x):
            raise Wrong(
                "The images were changed or moved. If image and text move together, every answer moves too, and nothing is shown: "
                "move the texts alone."
            )
        if sorted(texts.tolist()) != sorted(text.tolist()):
            raise Wrong(
                "The texts were changed. Let the same texts change places: nothing but *whose* they are may differ."
            )
    if not any(not torch.equal(texts, text) for _, texts in calls):
        raise Wrong(
            "You never ask with the texts in other places, so an answer that is read off the text looks like one that is seen."
        )
    return bool(found), calls


def _finds_a_leak(answer: Answer) -> None:
    leaking, _ = _watched(answer, lambda images, texts: texts[:, 0])
    if not leaking:
        raise Wrong("This network reads its answer off the text's first word, and your test says that all is well.")
    slightly, _ = _watched(answer, lambda images, texts: images[:, 0].long() + (texts[:, 0] == 7).long())
    if not slightly:
        raise Wrong("Here one answer of six depends on its text. One is enough: ask whether *all* answers are equal.")


def _clears_the_honest(answer: Answer) -> None:
    honest, _ = _watched(answer, lambda images, texts: images[:, 0].long() % 3)
    if honest:
        raise Wrong("This network looks at the image alone, and your test accuses it.")
    whole, _ = _watched(answer, lambda images, texts: images[:, 0].long() + texts.sum())
    if whole:
        raise Wrong(
            "This network reads all texts together, the same for every image: whose text it is does not matter, so there is no leak."
        )


EXERCISES = [
    Exercise(
        id="05.6",
        title="Many sentences, one class",
        difficulty=2,
        minutes=8,
        points=2,
        reference=class_vectors,
        forbidden=("course_utils.multimodal.clip:ensemble",),
        criteria=[
            Criterion("normalise, average over descriptions, normalise again", _ensemble, share=2),
            Criterion("one description is its own direction", _one_description),
        ],
        hints=(
            "Only directions count. What does a long vector do in a plain mean?",
            "How long is the mean of two unit vectors that point apart? The class has to be of length 1 as well.",
            "`normalize(normalize(embeddings, dim=2).mean(dim=1), dim=1)`.",
        ),
    ),
    Exercise(
        id="05.7",
        title="Held out, but not unknown",
        difficulty=3,
        minutes=15,
        points=3,
        reference=all_parts_seen,
        forbidden=("course_utils.multimodal.signs:unseen_parts", "course_utils.multimodal.signs:holdable"),
        criteria=[
            Criterion("every part of a held-out class occurs in another class", _single),
            Criterion("counted when all of them are gone", _together),
            Criterion("one class that may not be held out is enough", _mixed),
            Criterion("a part is a question with its answer", _question_and_answer),
        ],
        hints=(
            "Which classes are left for training? What can be seen on them?",
            "Collect `(question, answer)` pairs of the training classes in a set: `parts.items()` gives them.",
            "`seen = {part for name, parts in table.items() if name not in held_out for part in parts.items()}`, then ask whether "
            "all pairs of all held-out classes are in it.",
        ),
    ),
    Exercise(
        id="05.8",
        title="Patches look at words",
        difficulty=3,
        minutes=15,
        points=3,
        reference=cross_attention,
        forbidden=(
            "course_utils.multimodal.fusion:CrossAttention",
            "torch.nn.functional:multi_head_attention_forward",
        ),
        criteria=[
            Criterion("softmax(Q K^T / sqrt(dim)) V, without padding", _attention, share=2),
            Criterion("padding changes nothing", _padding_is_nothing),
        ],
        hints=(
            "Start with the logits: every patch's query with every word's key, (batch, patches, words).",
            "`logits.masked_fill(~real[:, None, :], float('-inf'))` before a softmax over the words.",
            "`logits = query @ key.transpose(1, 2) / query.shape[2] ** 0.5`, mask, `weights = ....softmax(dim=2)`, and "
            "`weights @ value`.",
        ),
    ),
    Exercise(
        id="05.9",
        title="The test for a leak",
        difficulty=2,
        minutes=10,
        points=2,
        reference=reads_the_text,
        forbidden=("course_utils.multimodal.leaks:reads_labels",),
        criteria=[
            Criterion("finds a network that reads the answer off the text", _finds_a_leak),
            Criterion("clears one that does not", _clears_the_honest),
        ],
        hints=(
            "If the text gives the answer away, what happens when every image gets its neighbour's text?",
            "`text.roll(1, dims=0)` moves every text one image further. Do the images stay where they are?",
            "`not torch.equal(predict(x, text), predict(x, text.roll(1, dims=0)))`.",
        ),
    ),
]
