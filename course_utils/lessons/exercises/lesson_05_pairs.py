"""Exercises 05.1 to 05.5: similarities, words as numbers, the contrastive loss, its false mistakes, and their cure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils.lessons.exercise import Criterion, Exercise, Wrong, close, diagnose, to_array

Answer = Callable[..., Any]
MAX_SCALE = 100.0


def drawn(*shape: int, seed: int = 5) -> Tensor:
    """Numbers to test with, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- 05.1 similarities -----------------------------------------------------------------------------------------------


def cosine_similarities(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of the angle between every image vector and every text vector, `(images, texts)`.

    image: `(images, dim)`, text: `(texts, dim)`, of any length. Built in lesson 05, exercise 05.1.
    """
    return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T


def _cosines(answer: Answer) -> None:
    image, text = drawn(4, 3), drawn(2, 3, seed=11)  # cosines of both signs
    unit_image, unit_text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
    expected = unit_image @ unit_text.T
    actual = to_array(answer(image, text))
    if actual.shape == (2, 4):
        raise Wrong("Your result is (texts, images). Rows belong to images: (images, texts) is asked for.")
    diagnose(
        actual,
        {
            "The vectors are not normalised: a long vector would be similar to everything. Divide each by its own length.": image
            @ text.T,
            "Only the images are normalised; the texts keep their lengths.": unit_image @ text.T,
            "Only the texts are normalised; the images keep their lengths.": image @ unit_text.T,
            "You normalise over `dim=0`, each *coordinate* over all vectors. A vector is a row: `dim=1`.": F.normalize(
                image, dim=0
            )
            @ F.normalize(text, dim=0).T,
            "You divide by the length of the whole matrix. Every row has its own length: `norm(dim=1, keepdim=True)`.": image
            / image.norm()
            @ (text / text.norm()).T,
            "You take the absolute value: the opposite direction would be as similar as the same one.": expected.abs(),
            "You divide by the squared lengths.": image
            / image.square().sum(1, keepdim=True)
            @ (text / text.square().sum(1, keepdim=True)).T,
        },
        expected=expected,
        rtol=1e-4,
    )
    close(actual, expected, "Entry (i, j) is the dot product of image i and text j, both of length 1.", rtol=1e-4)


def _bounded(answer: Answer) -> None:
    image = torch.tensor([[3.0, 4.0], [-30.0, -40.0]])
    close(
        answer(image, torch.tensor([[0.6, 0.8]])),
        [[1.0], [-1.0]],
        "A vector has cosine 1 with every multiple of itself and -1 with its opposite, however long they are.",
    )


# ---- 05.2 words as numbers -------------------------------------------------------------------------------------------


def encode(words: Sequence[str], ids: Mapping[str, int], length: int) -> list[int]:
    """`begin` words `end`, filled up with padding to `length`: 0 padding, 1 unknown, 2 begin, 3 end.

    Words that do not fit are dropped from the end of the text; `end` always stays. Built in lesson 05, exercise 05.2.
    """
    tokens = [2, *(ids.get(word, 1) for word in words)][: length - 1] + [3]
    return tokens + [0] * (length - len(tokens))


_IDS = {"a": 4, "shoe": 5, "with": 6, "laces": 7}


def _tokens(answer: Answer, words: Sequence[str], length: int) -> list[int]:
    found = answer(list(words), dict(_IDS), length)
    values = to_array(found)
    if values.ndim != 1:
        raise Wrong(f"Return one list of {length} numbers; yours has shape {values.shape}.")
    if (values != values.round()).any():
        raise Wrong(f"A token is a whole number, the number of a word; you got {values.tolist()}.")
    return [int(value) for value in values]


def _short_text(answer: Answer) -> None:
    found = _tokens(answer, ["a", "shoe"], 7)
    named = {
        (4, 5, 0, 0, 0, 0, 0): "The tokens for begin (2) and end (3) are missing.",
        (2, 4, 5, 0, 0, 0, 0): "The end (3) is missing: nothing would say where the sentence stops.",
        (4, 5, 3, 0, 0, 0, 0): "The begin (2) is missing.",
        (2, 4, 5, 0, 0, 0, 3): "The end stands behind the padding. It belongs right behind the last word.",
        (0, 0, 0, 2, 4, 5, 3): "The padding stands in front. It fills up the end of the list.",
        (
            2,
            4,
            5,
            3,
        ): "The padding is missing: every text needs the same number of tokens, or they do not fit into one tensor.",
        (2, 4, 5, 3, 1, 1, 1): "You fill up with 1, which means *unknown word*. Padding is 0.",
        (2, 4, 5, 3, 3, 3, 3): "You fill up with the end token. Padding is 0.",
    }
    if tuple(found) in named:
        raise Wrong(named[tuple(found)])
    if found != [2, 4, 5, 3, 0, 0, 0]:
        raise Wrong(f"'a shoe' in 7 tokens should be [2, 4, 5, 3, 0, 0, 0]; you got {found}.")
    nothing = _tokens(answer, [], 4)
    if nothing != [2, 3, 0, 0]:
        raise Wrong(f"A text without words is begin, end and padding: [2, 3, 0, 0] in 4 tokens; you got {nothing}.")


def _unknown_word(answer: Answer) -> None:
    found = _tokens(answer, ["a", "green", "shoe"], 6)
    if found == [2, 4, 5, 3, 0, 0]:
        raise Wrong(
            "The unknown word is left out, as if nobody had said it. 1 stands for it: the network learns that *something* stood there."
        )
    if found != [2, 4, 1, 5, 3, 0]:
        raise Wrong(f"'a green shoe' with 'green' unknown should be [2, 4, 1, 5, 3, 0]; you got {found}.")


def _long_text(answer: Answer) -> None:
    for length, expected in ((5, [2, 4, 5, 6, 3]), (6, [2, 4, 5, 6, 7, 3]), (3, [2, 4, 3])):
        found = _tokens(answer, ["a", "shoe", "with", "laces"], length)
        if found == [2, 4, 5, 6, 7, 3][:length] and length < 6:
            raise Wrong(
                f"In {length} tokens your text loses its end (3). Drop the last *words*; the end token always stays."
            )
        if len(found) != length:
            raise Wrong(f"The text does not fit: you return {len(found)} tokens, {length} were asked for.")
        if found != expected:
            raise Wrong(f"'a shoe with laces' in {length} tokens should be {expected}; you got {found}.")


# ---- 05.3 symmetric InfoNCE ------------------------------------------------------------------------------------------


def info_nce(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of pairs: the mean of two cross-entropies over scaled cosines, the scale at most 100.

    image, text: `(n, dim)`, of any length; row i of both belongs together. log_scale: logarithm of the scale.
    Built in lesson 05, exercise 05.3.
    """
    scale = log_scale.clamp(max=math.log(MAX_SCALE)).exp()
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _parts(log_scale: float = 1.3) -> tuple[Tensor, Tensor, Tensor]:
    image, text = 2 * drawn(5, 4), 3 * drawn(5, 4, seed=7)
    return image + text, text, torch.tensor(log_scale)


def _logits(image: Tensor, text: Tensor) -> Tensor:
    return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T


def _loss_value(answer: Answer) -> None:
    image, text, log_scale = _parts()
    cosines, own, scale = _logits(image, text), torch.arange(5), log_scale.exp()

    def both(logits: Tensor) -> Tensor:
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    expected = both(scale * cosines)
    diagnose(
        answer(image, text, log_scale),
        {
            "Only one direction: every image looks for its text, but no text looks for its image. Add the cross-entropy of the "
            "transposed logits, and halve.": F.cross_entropy(scale * cosines, own),
            "Only one direction: every text looks for its image, but no image looks for its text.": F.cross_entropy(
                scale * cosines.T, own
            ),
            "Both directions are added, not averaged.": 2 * expected,
            'You sum over the pairs of the batch (`reduction="sum"`): a larger batch would have a larger loss. Take the mean.': 5
            * expected,
            "You take a softmax first, and `cross_entropy` takes one of its own: give it the logits.": (
                F.cross_entropy((scale * cosines).softmax(dim=1), own)
                + F.cross_entropy((scale * cosines.T).softmax(dim=1), own)
            )
            / 2,
            "You normalise over `dim=0`, each coordinate over the batch. A vector is a row: `dim=1`.": both(
                scale * F.normalize(image, dim=0) @ F.normalize(text, dim=0).T
            ),
            "The vectors are not normalised: the network can then win by making them long, and the temperature means nothing.": both(
                scale * image @ text.T
            ),
            "You multiply by the *logarithm* of the scale. Take `log_scale.exp()`.": both(log_scale * cosines),
            "You divide by the scale. It is one over the temperature already: multiply.": both(cosines / scale),
            "The scale is not there: cosines lie between -1 and 1, and their softmax is almost flat.": both(cosines),
            "This is the negative log of the pairs' own similarity, without the others in the batch: nothing is compared.": -torch.log(
                torch.sigmoid(scale * cosines.diagonal())
            ).mean(),
        },
        expected=expected,
        rtol=1e-4,
    )
    close(
        answer(image, text, log_scale),
        expected,
        "Expected the mean of cross-entropy(logits) and cross-entropy(logits.T).",
        rtol=1e-4,
    )


def _clamped(answer: Answer) -> None:
    """Compares the answer with itself, so that a mistake elsewhere does not count twice."""
    image, text, _ = _parts()

    def at(scale: float) -> float:
        return float(to_array(answer(image, text, torch.tensor(math.log(scale)))))

    if math.isclose(at(10.0), at(20.0), rel_tol=1e-5):
        raise Wrong("Your loss is the same for a scale of 10 and of 20: `log_scale` is not used.")
    if not math.isclose(at(1000.0), at(100.0), rel_tol=1e-3):
        raise Wrong(
            "The scale is not bounded: 1000 gives another loss than 100. Training becomes unstable, because a tiny change of an "
            "angle turns the softmax around. Clamp it to 100. (Clamping the *logarithm* to 100 does nothing; its bound is log(100).)"
        )
    if math.isclose(at(60.0), at(100.0), rel_tol=1e-3):
        raise Wrong("Your scale is held below 100: 60 and 100 give the same loss. 100 itself is allowed.")
    if math.isclose(at(0.25), at(0.5), rel_tol=1e-5):
        raise Wrong("Your scale has a lower bound, too: 0.25 and 0.5 give the same loss. Only 100 was asked for.")


def _loss_gradients(answer: Answer) -> None:
    image, text, log_scale = (part.clone().requires_grad_() for part in _parts())
    loss = answer(image, text, log_scale)
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise Wrong("The loss has no gradient: keep it a tensor, without `.item()`, `.detach()` and `no_grad`.")
    found = torch.autograd.grad(loss, (image, text, log_scale), allow_unused=True)
    for name, gradient in zip(("the images", "the texts", "the temperature"), found, strict=True):
        if gradient is None:
            raise Wrong(f"No gradient reaches {name}: that part would never learn.")


# ---- 05.4 false mistakes ---------------------------------------------------------------------------------------------


def _share(answer: Answer) -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 2])
    same = (labels[:, None] == labels).sum().item()
    actual = to_array(answer(labels))
    diagnose(
        actual,
        {
            "The pairs on the diagonal are counted: an image and its own text are no negative at all.": same / 36,
            "The pairs on the diagonal are left out above the fraction line, but counted below it: there are n (n - 1) negatives.": (
                same - 6
            )
            / 36,
            "Above the fraction line every pair is counted once, below it twice: (i, j) and (j, i) are two entries of the matrix.": (
                same - 6
            )
            / 2
            / 30,
            "This is a number of pairs; a share is asked for.": same - 6,
            "This is the share of negatives that are right.": 1 - (same - 6) / 30,
        },
        expected=(same - 6) / 30,
    )
    close(
        actual, (same - 6) / 30, "Of the n (n - 1) entries beside the diagonal: the share whose two labels are equal."
    )


def _share_extremes(answer: Answer) -> None:
    close(answer(torch.arange(7)), 0.0, "With seven different classes no negative is a false one.")
    close(answer(torch.zeros(5, dtype=torch.long)), 1.0, "With one class only, every negative is a false one.")


# ---- 05.5 label-aware targets ----------------------------------------------------------------------------------------


def soft_targets(labels: Tensor) -> Tensor:
    """`(n, n)`: row i spreads its probability evenly over all texts of the class of image i.

    labels: `(n,)`. Built in lesson 05, exercise 05.5.
    """
    same = (labels[:, None] == labels[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def _targets(answer: Answer) -> None:
    labels = torch.tensor([3, 1, 3, 3, 0, 1])
    same = (labels[:, None] == labels).double()
    expected = same / same.sum(1, keepdim=True)
    beside = same - torch.eye(6)
    actual = to_array(answer(labels))
    if actual.shape != (6, 6):
        raise Wrong(f"6 labels gave a result of shape {actual.shape}; expected (6, 6), a row for every image.")
    diagnose(
        actual,
        {
            "These are the targets of plain InfoNCE: the diagonal alone.": torch.eye(6),
            "Each row has a 1 for every text of its class, so it does not sum to 1: divide by the row's sum.": same,
            "You divide by the sum of the whole matrix. Every *row* is a distribution of its own.": same / same.sum(),
            "The image's own text is left out. It fits best of all.": beside / beside.sum(1, keepdim=True).clamp(min=1),
            "A softmax of zeros and ones leaves probability on texts of other classes.": same.softmax(dim=1),
            "You divide by the number of texts, so a row sums to the share of its class.": same / 6,
        },
        expected=expected,
    )
    close(actual, expected, "Row i: 1 / (number of texts of its class) at each of them, 0 elsewhere.")


def _rows_sum_to_one(answer: Answer) -> None:
    targets = to_array(answer(torch.tensor([0, 0, 5, 2, 2, 2, 9])))
    close(targets.sum(axis=1), [1.0] * 7, "Every row is a distribution: it has to sum to 1.")


EXERCISES = [
    Exercise(
        id="05.1",
        title="Similar means: the same direction",
        difficulty=1,
        minutes=6,
        points=1,
        reference=cosine_similarities,
        criteria=[
            Criterion("the cosine for every image and every text", _cosines, share=2),
            Criterion("lengths do not count", _bounded),
        ],
        hints=(
            "The cosine of two vectors is the dot product of both divided by their lengths.",
            "`torch.nn.functional.normalize(image, dim=1)` divides every row by its length.",
            "Normalise both, then one matrix product: `image @ text.T`.",
        ),
    ),
    Exercise(
        id="05.2",
        title="From words to numbers",
        difficulty=2,
        minutes=10,
        points=2,
        reference=encode,
        forbidden=("course_utils.multimodal.tokenizer:Tokenizer",),
        criteria=[
            Criterion("begin, words, end, padding", _short_text),
            Criterion("an unknown word is 1", _unknown_word),
            Criterion("a long text keeps its end", _long_text),
        ],
        hints=(
            "How many words fit between begin and end?",
            "`ids.get(word, 1)` gives 1 for a word that is not there. Cut the list of words before you add the end.",
            "`tokens = [2, *ids_of_words][: length - 1] + [3]`, then as many zeros as are missing.",
        ),
    ),
    Exercise(
        id="05.3",
        title="Symmetric InfoNCE",
        difficulty=3,
        minutes=15,
        points=3,
        reference=info_nce,
        forbidden=("course_utils.multimodal.contrastive:contrastive_loss",),
        criteria=[
            Criterion("the mean of both directions over scaled cosines", _loss_value, share=2),
            Criterion("the scale never exceeds 100", _clamped),
            Criterion("gradients reach both sides and the temperature", _loss_gradients),
        ],
        hints=(
            "Build the matrix of logits first: cosines times the scale. Which entry of row i is the right one?",
            "`cross_entropy(logits, torch.arange(n))` asks every image for its text. Whom does `logits.T` ask?",
            "`scale = log_scale.clamp(max=math.log(100)).exp()`, `logits = scale * normalize(image) @ normalize(text).T`, "
            "and the mean of the two cross-entropies.",
        ),
    ),
    Exercise(
        id="05.4",
        title="Mistakes that are none",
        difficulty=2,
        minutes=8,
        points=1,
        reference="course_utils.multimodal.contrastive:collisions",
        criteria=[
            Criterion("the share of negatives with the anchor's own label", _share, share=2),
            Criterion("no class twice is 0, one class only is 1", _share_extremes),
        ],
        hints=(
            "`labels[:, None] == labels[None, :]` is True where two labels are equal. Where must it be True and does not count?",
            "n entries lie on the diagonal. How many are left of n * n?",
            "`(same.sum() - n) / (n * (n - 1))`.",
        ),
    ),
    Exercise(
        id="05.5",
        title="Targets that know the labels",
        difficulty=2,
        minutes=10,
        points=2,
        reference=soft_targets,
        forbidden=("course_utils.multimodal.contrastive:contrastive_loss",),
        criteria=[
            Criterion("evenly over all texts of the class", _targets, share=2),
            Criterion("every row sums to 1", _rows_sum_to_one),
        ],
        hints=(
            "Which texts of the batch would be a right answer for image i?",
            "Compare every label with every other one, and turn True and False into numbers with `.float()`.",
            "`same / same.sum(dim=1, keepdim=True)`.",
        ),
    ),
]
