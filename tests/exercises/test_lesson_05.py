"""Lesson 05: every wrong answer meets its own diagnosis, right variants pass, references agree with other roads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names
from torch.nn import functional as F

from course_utils.lessons import exercise
from course_utils.lessons.exercises import lesson_05_pairs, lesson_05_words
from course_utils.multimodal import contrastive, ensemble, signs

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


def unit(vectors, dim=1):
    return vectors / vectors.norm(dim=dim, keepdim=True)


# ---- 05.1 similarities ---------------------------------------------------------------------------------------------


@right("05.1")
def cosines_torch(image, text):
    return F.cosine_similarity(image[:, None], text[None], dim=2)


@right("05.1")
def cosines_numpy(image, text):
    image, text = np.asarray(image), np.asarray(text)
    return image @ text.T / np.linalg.norm(image, axis=1)[:, None] / np.linalg.norm(text, axis=1)


WRONG += [
    ("05.1", lambda image, text: image @ text.T, "a long vector would be similar to everything"),
    ("05.1", lambda image, text: unit(image) @ text.T, "Only the images are normalised"),
    ("05.1", lambda image, text: image @ unit(text).T, "Only the texts are normalised"),
    ("05.1", lambda image, text: unit(image, 0) @ unit(text, 0).T, "over `dim=0`"),
    ("05.1", lambda image, text: image / image.norm() @ (text / text.norm()).T, "the length of the whole matrix"),
    (
        "05.1",
        lambda image, text: image / image.square().sum(1, True) @ (text / text.square().sum(1, True)).T,
        "the squared lengths",
    ),
    ("05.1", lambda image, text: cosines_torch(image, text).abs(), "the opposite direction"),
    ("05.1", lambda image, text: cosines_torch(image, text).T, "Rows belong to images"),
    ("05.1", lambda image, text: cosines_torch(image, text) - 0.1, "the dot product of image i and text j"),
]


# ---- 05.2 words as numbers -----------------------------------------------------------------------------------------


@right("05.2")
def encode_loop(words, ids, length):
    tokens = [0] * length
    tokens[0] = 2
    place = 1
    for word in words[: length - 2]:
        tokens[place] = ids[word] if word in ids else 1
        place += 1
    tokens[place] = 3
    return tokens


@right("05.2")
def encode_tensor(words, ids, length):
    known = [ids.get(word, 1) for word in words[: length - 2]]
    return F.pad(torch.tensor([2, *known, 3]), (0, length - len(known) - 2))


def _encode(begin=(2,), end=(3,), pad=0, front=False, unknown=1, cut=lambda words, length: words[: length - 2]):
    def encode(words, ids, length):
        known = [ids.get(word, unknown) for word in cut(words, length)]
        tokens = [*begin, *(token for token in known if token is not None), *end]
        filling = [pad] * (length - len(tokens))
        return [*filling, *tokens] if front else [*tokens, *filling]

    return encode


WRONG += [
    ("05.2", _encode(begin=(), end=()), "begin (2) and end (3) are missing"),
    ("05.2", _encode(end=()), "The end (3) is missing"),
    ("05.2", _encode(begin=()), "The begin (2) is missing"),
    ("05.2", _encode(front=True), "The padding stands in front"),
    ("05.2", _encode(pad=1), "*unknown word*. Padding is 0"),
    ("05.2", _encode(pad=3), "fill up with the end token"),
    ("05.2", _encode(unknown=None), "The unknown word is left out"),
    ("05.2", _encode(unknown=0), "with 'green' unknown should be"),
    ("05.2", _encode(cut=lambda words, length: words), "The text does not fit"),
    (
        "05.2",
        lambda words, ids, length: _encode(cut=lambda w, n: w)(words, ids, length)[:length],
        "your text loses its end",
    ),
    ("05.2", _encode(cut=lambda words, length: words[-(length - 2) :]), "'a shoe with laces' in"),
    ("05.2", lambda words, ids, length: [2, *(ids.get(w, 1) for w in words), 3], "The padding is missing"),
    ("05.2", lambda words, ids, length: [*_encode(end=())(words, ids, length)[:-1], 3], "stands behind the padding"),
    ("05.2", lambda words, ids, length: _encode()(words[::-1], ids, length), "'a shoe' in 7 tokens should be"),
    ("05.2", lambda words, ids, length: [_encode()(words, ids, length)], "Return one list"),
    ("05.2", lambda words, ids, length: [2.4, *_encode()(words, ids, length)[1:]], "A token is a whole number"),
    ("05.2", lambda words, ids, length: _encode()(words or ["?"], ids, length), "A text without words"),
]


# ---- 05.3 symmetric InfoNCE ----------------------------------------------------------------------------------------


@right("05.3")
def loss_by_logsumexp(image, text, log_scale):
    scale = torch.minimum(log_scale.exp(), torch.tensor(100.0))
    logits = scale * unit(image) @ unit(text).T
    pairs = logits.diagonal()
    return ((logits.logsumexp(0) - pairs).mean() + (logits.logsumexp(1) - pairs).mean()) / 2


@right("05.3")
def loss_by_the_package(image, text, log_scale):
    """Another road to the same number, allowed here because it does not call the forbidden function."""
    scale = log_scale.clamp(max=math.log(100)).exp()
    own = torch.eye(len(image))
    logits = contrastive.similarity(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) * 0.5


def _loss(
    image_of=unit,
    scale_of=lambda s: s.clamp(max=math.log(100)).exp(),
    combine=lambda rows, columns: (rows + columns) / 2,
):
    def loss(image, text, log_scale):
        logits = scale_of(log_scale) * image_of(image) @ image_of(text).T
        own = torch.arange(len(logits))
        return combine(F.cross_entropy(logits, own), F.cross_entropy(logits.T, own))

    return loss


@wrong("05.3", "takes one of its own")
def loss_softmax_twice(image, text, log_scale):
    logits = log_scale.clamp(max=math.log(100)).exp() * unit(image) @ unit(text).T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits.softmax(1), own) + F.cross_entropy(logits.T.softmax(1), own)) / 2


@wrong("05.3", "without the others in the batch")
def loss_of_pairs_alone(image, text, log_scale):
    scale = log_scale.clamp(max=math.log(100)).exp()
    return -torch.log(torch.sigmoid(scale * (unit(image) * unit(text)).sum(1))).mean()


WRONG += [
    ("05.3", _loss(combine=lambda rows, columns: rows), "no text looks for its image"),
    ("05.3", _loss(combine=lambda rows, columns: columns), "no image looks for its text"),
    ("05.3", _loss(combine=lambda rows, columns: rows + columns), "are added, not averaged"),
    ("05.3", _loss(image_of=lambda v: v), "win by making them long"),
    ("05.3", _loss(scale_of=lambda s: s), "the *logarithm* of the scale"),
    ("05.3", _loss(scale_of=lambda s: 1 / s.exp()), "You divide by the scale"),
    ("05.3", _loss(scale_of=lambda s: 1.0), "their softmax is almost flat"),
    ("05.3", _loss(scale_of=lambda s: s.exp()), "The scale is not bounded"),
    ("05.3", _loss(scale_of=lambda s: s.exp().clamp(max=50)), "held below 100"),
    ("05.3", _loss(scale_of=lambda s: s.exp().clamp(1, 100)), "has a lower bound, too"),
    ("05.3", _loss(combine=lambda rows, columns: 5 * (rows + columns) / 2), "You sum over the pairs"),
    ("05.3", _loss(image_of=lambda v: unit(v, 0)), "You normalise over `dim=0`"),
    ("05.3", lambda image, text, log_scale: image.sum() * 0 + text.sum() * 0 + log_scale * 0, "Expected the mean of"),
    ("05.3", _loss(combine=lambda rows, columns: (rows + columns) / 2 + 1), "Expected the mean of"),
    ("05.3", _loss(combine=lambda rows, columns: ((rows + columns) / 2).detach()), "The loss has no gradient"),
    ("05.3", _loss(scale_of=lambda s: s.clamp(max=math.log(100)).exp().item()), "No gradient reaches the temperature"),
]


# ---- 05.4 false mistakes -------------------------------------------------------------------------------------------


@right("05.4")
def share_by_loop(labels):
    labels = labels.tolist()
    pairs = [(a, b) for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j]
    return sum(a == b for a, b in pairs) / len(pairs)


@right("05.4")
def share_by_counts(labels):
    counts, n = labels.bincount(), len(labels)
    return (counts * (counts - 1)).sum() / (n * (n - 1))


def _same(labels):
    return int((labels[:, None] == labels).sum())


WRONG += [
    ("05.4", lambda labels: _same(labels) / len(labels) ** 2, "no negative at all"),
    ("05.4", lambda labels: (_same(labels) - len(labels)) / len(labels) ** 2, "but counted below it"),
    ("05.4", lambda labels: share_by_loop(labels) / 2, "below it twice"),
    ("05.4", lambda labels: _same(labels) - len(labels), "a share is asked for"),
    ("05.4", lambda labels: 1 - share_by_loop(labels), "negatives that are right"),
    ("05.4", lambda labels: 0.5, "the share whose two labels are equal"),
    ("05.4", lambda labels: share_by_loop(labels) if len(labels) == 6 else 0.5, "no negative is a false one"),
]


# ---- 05.5 label-aware targets --------------------------------------------------------------------------------------


@right("05.5")
def targets_by_loop(labels):
    return [[float(a == b) / int((labels == a).sum()) for b in labels] for a in labels]


@right("05.5")
def targets_by_one_hot(labels):
    hot = F.one_hot(labels).double()
    return hot @ (hot / hot.sum(dim=0).clamp(min=1)).T


def _mask(labels):
    return (labels[:, None] == labels).double()


WRONG += [
    ("05.5", lambda labels: torch.eye(len(labels)), "the diagonal alone"),
    ("05.5", _mask, "does not sum to 1: divide"),
    ("05.5", lambda labels: _mask(labels) / _mask(labels).sum(), "Every *row* is a distribution"),
    (
        "05.5",
        lambda labels: (m := _mask(labels) - torch.eye(len(labels))) / m.sum(1, True).clamp(min=1),
        "own text is left out",
    ),
    ("05.5", lambda labels: _mask(labels).softmax(dim=1), "leaves probability on texts of other classes"),
    ("05.5", lambda labels: _mask(labels) / len(labels), "sums to the share of its class"),
    ("05.5", lambda labels: _mask(labels)[:2], "a row for every image"),
    ("05.5", lambda labels: 1 - _mask(labels), "1 / (number of texts of its class)"),
    (
        "05.5",
        lambda labels: targets_by_one_hot(labels) if len(labels) == 6 else _mask(labels),
        "it has to sum to 1",
    ),
]


# ---- 05.6 prompt ensembles -----------------------------------------------------------------------------------------


@right("05.6")
def ensemble_by_sum(embeddings):
    """A sum points the same way as a mean."""
    total = unit(embeddings, 2).sum(dim=1)
    return total / total.norm(dim=1, keepdim=True)


@right("05.6")
def ensemble_numpy(embeddings):
    vectors = np.asarray(embeddings)
    mean = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


WRONG += [
    ("05.6", lambda e: unit(e, 2).mean(dim=1), "Normalise again after the mean"),
    ("05.6", lambda e: unit(e.mean(dim=1)), "the longest vector speaks for all"),
    ("05.6", lambda e: e.mean(dim=1), "Nothing is normalised"),
    ("05.6", lambda e: unit(e, 2)[:, 0], "Only the first description"),
    ("05.6", lambda e: unit(unit(e, 1).mean(dim=1)), "You normalise over the descriptions"),
    ("05.6", lambda e: unit(unit(e, 2).mean(dim=0)), "You average over the classes"),
    ("05.6", lambda e: -ensemble_by_sum(e), "Normalise every description, average over them"),
]


# ---- 05.7 held out, but not unknown --------------------------------------------------------------------------------


@right("05.7")
def held_by_loops(held_out, table):
    for name in held_out:
        for question, answer in table[name].items():
            if not any(table[other][question] == answer for other in table if other not in held_out):
                return False
    return True


@right("05.7")
def held_by_sets(held_out, table):
    parts = {name: set(entry.items()) for name, entry in table.items()}
    training = set().union(*(parts[name] for name in table if name not in held_out))
    return set().union(*(parts[name] for name in held_out)) <= training


@wrong("05.7", "the network would never see one")
def held_counts_itself(held_out, table):
    seen = {part for parts in table.values() for part in parts.items()}
    return all(part in seen for name in held_out for part in table[name].items())


@wrong("05.7", "count what is left when")
def held_one_at_a_time(held_out, table):
    return all(held_by_sets({name}, table) for name in held_out)


@wrong("05.7", "a question together with its answer")
def held_answers_alone(held_out, table):
    seen = {answer for name, parts in table.items() if name not in held_out for answer in parts.values()}
    return all(answer in seen for name in held_out for answer in table[name].values())


@wrong("05.7", "Look for its *parts*, one by one")
def held_whole_combination(held_out, table):
    training = [parts for name, parts in table.items() if name not in held_out]
    return all(table[name] in training for name in held_out)


@wrong("05.7", "not at the first or the last")
def held_first_decides(held_out, table):
    parts = table[sorted(held_out)[0]]
    training = [entry for name, entry in table.items() if name not in held_out]
    return all(any(entry.get(q) == a for entry in training) for q, a in parts.items())


@wrong("05.7", "not at the first or the last")
def held_last_decides(held_out, table):
    parts = table[sorted(held_out)[-1]]
    training = [entry for name, entry in table.items() if name not in held_out]
    return all(any(entry.get(q) == a for entry in training) for q, a in parts.items())


WRONG += [
    ("05.7", lambda held_out, table: "yes", "Return True or False"),
    (
        "05.7",
        lambda held_out, table: len(held_out) < 2 and held_by_sets(held_out, table),
        "These two can be held out together",
    ),
]


# ---- 05.8 patches look at words ------------------------------------------------------------------------------------


@right("05.8")
def attention_einsum(query, key, value, real):
    logits = torch.einsum("bpd,bwd->bpw", query, key) / math.sqrt(query.shape[-1])
    weights = torch.where(real[:, None], logits.exp(), 0.0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.einsum("bpw,bwd->bpd", weights, value), weights


@right("05.8")
def attention_by_torch(query, key, value, real):
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, :])
    weights = F.scaled_dot_product_attention(
        query, key, torch.eye(key.shape[1]).expand(len(key), -1, -1), attn_mask=real[:, None, :]
    )
    return found, weights


def _attention(
    scale=lambda d: d**0.5, masked=lambda logits, hidden: logits.masked_fill(hidden, -1e9), dim=2, after=None
):
    def attention(query, key, value, real):
        logits = query @ key.mT / scale(query.shape[2])
        hidden = ~real[:, None, :]
        weights = masked(logits, hidden).softmax(dim=dim)
        weights = weights if after is None else after(weights, hidden)
        return weights @ value, weights

    return attention


WRONG += [
    ("05.8", _attention(scale=lambda d: 1.0), "look at one word only"),
    ("05.8", _attention(scale=lambda d: d), "by `dim`, not by its square root"),
    ("05.8", _attention(masked=lambda logits, hidden: logits), "`real` is not used"),
    (
        "05.8",
        _attention(masked=lambda logits, hidden: logits, after=lambda w, hidden: w.masked_fill(hidden, 0.0)),
        "set to zero after the softmax",
    ),
    ("05.8", _attention(masked=lambda logits, hidden: logits.masked_fill(hidden, 0.0)), "That is a usual size"),
    ("05.8", _attention(dim=1), "runs over the patches"),
    ("05.8", lambda q, k, v, r: tuple(t.mT for t in _attention()(q, k, v, r)), "it is the *patches* that look"),
    ("05.8", lambda q, k, v, r: _attention()(q, k, v, r)[0], "Return two tensors"),
    (
        "05.8",
        lambda q, k, v, r: _attention(masked=lambda x, h: x.masked_fill(~h, -math.inf))(q, k, v, r),
        "are exchanged",
    ),
    ("05.8", lambda q, k, v, r: (q, _attention()(q, k, v, r)[1]), "the weights times the values"),
    ("05.8", _attention(after=lambda w, hidden: w + 0.1), "softmax over the words"),
    (
        "05.8",
        lambda q, k, v, r: _attention()(q, k, v, r if len(q) == 2 else torch.ones_like(r)),
        "must not change what is found",
    ),
]


# ---- 05.9 the test for a leak --------------------------------------------------------------------------------------


@right("05.9")
def leak_by_flipping(predict, x, text):
    return bool((predict(x, text) != predict(x, text.flip(0))).any())


@right("05.9")
def leak_by_permutations(predict, x, text):
    generator = torch.Generator().manual_seed(0)
    before = predict(x, text)
    return any(
        not torch.equal(before, predict(x, text[torch.randperm(len(x), generator=generator)])) for _ in range(20)
    )


@wrong("05.9", "move the texts alone")
def leak_moves_both(predict, x, text):
    return not torch.equal(predict(x, text), predict(x.roll(1, dims=0), text.roll(1, dims=0)))


@wrong("05.9", "The texts were changed")
def leak_blanks(predict, x, text):
    return not torch.equal(predict(x, text), predict(x, torch.zeros_like(text)))


@wrong("05.9", "You never ask with the texts in other places")
def leak_asks_twice(predict, x, text):
    return not torch.equal(predict(x, text), predict(x, text))


@wrong("05.9", "and your test says that all is well")
def leak_reversed(predict, x, text):
    return torch.equal(predict(x, text), predict(x, text.roll(1, dims=0)))


@wrong("05.9", "ask whether *all* answers are equal")
def leak_majority(predict, x, text):
    return (predict(x, text) != predict(x, text.roll(1, dims=0))).double().mean() > 0.5


@wrong("05.9", "Return True or False")
def leak_as_a_share(predict, x, text):
    return (predict(x, text) != predict(x, text.roll(1, dims=0))).float().mean() * 0.9


@wrong("05.9", "and your test accuses it")
def leak_always(predict, x, text):
    predict(x, text.roll(1, dims=0))
    return True


# ---- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_is_told_what_is_wrong(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_gets_full_points(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_wrong_and_right_answers():
    for identifier in exercise.of_lesson("05"):
        assert sum(case[0] == identifier for case in WRONG) >= 6, identifier
        assert sum(case[0] == identifier for case in RIGHT) >= 2, identifier


def test_the_references_agree_with_the_package():
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([0, 1, 0, 2, 2, 0])
    log_scale = torch.tensor(2.0)
    units = unit(image), unit(text)
    mine = lesson_05_pairs.info_nce(image, text, log_scale)
    torch.testing.assert_close(mine, contrastive.contrastive_loss(*units, log_scale.exp()))
    targets = lesson_05_pairs.soft_targets(labels)
    logits = log_scale.exp() * lesson_05_pairs.cosine_similarities(image, text)
    aware = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    theirs = contrastive.contrastive_loss(*units, log_scale.exp(), contrastive.same_label(labels))
    torch.testing.assert_close(aware, theirs)
    prompts = torch.arange(1, 13).view(3, 4, 1)
    vectors = unit(torch.randn(13, 8))
    torch.testing.assert_close(
        ensemble(lambda tokens: vectors[tokens[:, 0]], prompts), lesson_05_words.class_vectors(vectors[prompts[..., 0]])
    )


def test_held_out_signs_are_judged_as_the_package_judges_them():
    table = {label: sign.attributes for label, sign in signs.SIGNS.items()}
    for seed in range(3):
        held_out = signs.held_out_classes(4, seed)
        assert lesson_05_words.all_parts_seen(held_out, table)
    for label in table:
        assert lesson_05_words.all_parts_seen([label], table) == (not signs.unseen_parts(table, [label]))
