"""Lesson 06: every wrong answer meets its own diagnosis, right variants pass, references agree with other roads."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names
from scipy import stats
from torch.nn import functional as F

from course_utils import quality
from course_utils.lessons import exercise
from course_utils.lessons.exercises import lesson_06_protocol, lesson_06_scores

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


# ---- 06.1 rank correlation -----------------------------------------------------------------------------------------


@right("06.1")
def spearman_by_scipy(x, y):
    return stats.spearmanr(x, y).statistic


@right("06.1")
def spearman_by_loops(x, y):
    def ranks(values):
        return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]

    a, b = ranks(list(x)), ranks(list(y))
    mean = sum(a) / len(a)
    top = sum((p - mean) * (q - mean) for p, q in zip(a, b, strict=True))
    return top / (sum((p - mean) ** 2 for p in a) * sum((q - mean) ** 2 for q in b)) ** 0.5


def _with_ranks(ranks):
    return lambda x, y: np.corrcoef(ranks(x), ranks(y))[0, 1]


@wrong("06.1", "the next whole number")
def dense_ranks(x, y):
    return _with_ranks(lambda values: stats.rankdata(values, "dense"))(x, y)


@wrong("06.1", "holds only without ties")
def formula_with_six(x, y):
    gaps, n = stats.rankdata(x) - stats.rankdata(y), len(x)
    return 1 - 6 * (gaps**2).sum() / (n * (n * n - 1))


@wrong("06.1", "The 6 of Spearman's formula")
def formula_without_six(x, y):
    gaps, n = stats.rankdata(x) - stats.rankdata(y), len(x)
    return 1 - (gaps**2).sum() / (n * (n * n - 1))


WRONG += [
    ("06.1", lambda x, y: np.corrcoef(x, y)[0, 1], "Pearson, PLCC"),
    ("06.1", _with_ranks(np.argsort), "argsort twice"),
    ("06.1", _with_ranks(lambda v: np.argsort(np.argsort(v, kind="stable"))), "by the accident of their place"),
    ("06.1", _with_ranks(lambda v: stats.rankdata(v, "min")), "the lowest of their ranks"),
    ("06.1", _with_ranks(lambda v: stats.rankdata(v, "max")), "the highest of their ranks"),
    ("06.1", lambda x, y: (x.sort(), y.sort(), spearman_by_scipy(x, y))[2], "changes its argument"),
    ("06.1", lambda x, y: stats.kendalltau(x, y).statistic, "Kendall's tau"),
    ("06.1", lambda x, y: np.cov(stats.rankdata(x), stats.rankdata(y), bias=True)[0, 1], "This is a covariance"),
    ("06.1", lambda x, y: -spearman_by_scipy(x, y), "The sign is turned round"),
    ("06.1", lambda x, y: 0.3, "Expected the correlation of the ranks"),
]


# ---- 06.2 a score from a direction ---------------------------------------------------------------------------------


@right("06.2")
def score_by_torch(z, v):
    return 0.5 + 0.5 * F.cosine_similarity(z, v[None], dim=1)


@right("06.2")
def score_by_numpy(z, v):
    z, v = z.numpy(), v.numpy()
    return (z @ v / np.linalg.norm(z, axis=1) / np.linalg.norm(v) + 1) / 2


def _unit(z, dim=-1):
    return z / z.norm(dim=dim, keepdim=True)


WRONG += [
    ("06.2", lambda z, v: (1 + z @ _unit(v)) / 2, "making its vectors long"),
    ("06.2", lambda z, v: (1 + _unit(z) @ v) / 2, "learned as a scale"),
    ("06.2", lambda z, v: (1 + z @ v) / 2, "Neither is normalised"),
    ("06.2", lambda z, v: _unit(z) @ _unit(v), "from -1 to 1"),
    ("06.2", lambda z, v: (_unit(z) @ _unit(v)).clamp(min=0), "cut off at 0"),
    ("06.2", lambda z, v: (_unit(z) @ _unit(v)).abs(), "The sign is lost"),
    ("06.2", lambda z, v: (1 + _unit(z, 0) @ _unit(v)) / 2, "over the images"),
    ("06.2", lambda z, v: score_by_torch(z, v)[:, None], "shape (n,)"),
    ("06.2", lambda z, v: (1 + z.div_(z.norm(dim=1, keepdim=True)) @ _unit(v)) / 2, "changes its argument"),
    ("06.2", lambda z, v: torch.sigmoid(_unit(z) @ _unit(v)), "Expected (1 + cosine) / 2"),
]


# ---- 06.3 pairs ----------------------------------------------------------------------------------------------------


@right("06.3")
def pairs_by_loop(p, y, margin):
    terms = [F.relu(margin - (p[i] - p[j])) for i in range(len(p)) for j in range(len(p)) if y[i] > y[j]]
    return torch.stack(terms).mean() if terms else (p * 0).sum()


@right("06.3")
def pairs_by_index(p, y, margin):
    i, j = torch.nonzero(y[:, None] > y, as_tuple=True)
    return (margin - p[i] + p[j]).clamp(min=0).sum() / max(1, len(i))


def _pairs(hinge=lambda a, m: F.relu(m - a), pairs=lambda y: y[:, None] > y, reduce=None):
    reduce = reduce or (lambda terms, chosen: terms.sum() / chosen.sum().clamp(min=1))

    def loss(p, y, margin):
        chosen = pairs(y)
        return reduce(hinge(p[:, None] - p, margin) * chosen, chosen)

    return loss


def _or_equal(y):
    return (y[:, None] >= y) & ~torch.eye(len(y), dtype=torch.bool)


WRONG += [
    ("06.3", _pairs(lambda a, m: F.relu(-a)), "The margin is missing"),
    ("06.3", _pairs(lambda a, m: F.relu(m + a)), "The order is turned round"),
    ("06.3", _pairs(lambda a, m: F.relu(-m - a)), "The margin is subtracted"),
    ("06.3", _pairs(lambda a, m: m - a), "`max(0, ...)` is missing"),
    ("06.3", _pairs(reduce=lambda t, c: t.mean()), "all n * n pairs"),
    ("06.3", _pairs(pairs=_or_equal), "*equal* targets are counted"),
    ("06.3", _pairs(pairs=lambda y: y[:, None] >= y), "every image with itself among them"),
    ("06.3", _pairs(pairs=lambda y: (y[:, None] > y).triu(1)), "i before j in the batch only"),
    (
        "06.3",
        lambda p, y, m: pairs_by_loop(p, y, m) if len(set(y.tolist())) > 1 else 0,
        "not computed from the predictions",
    ),
    ("06.3", _pairs(reduce=lambda t, c: t.sum()), "grows with the square of the batch"),
    ("06.3", _pairs(lambda a, m: F.relu(m - a) ** 2), "The terms are squared"),
    ("06.3", _pairs(reduce=lambda t, c: t.sum() / c.sum()), "yours divides by 0"),
    ("06.3", lambda p, y, m: pairs_by_loop(p.detach(), y, m), "not computed from the predictions"),
    ("06.3", lambda p, y, m: pairs_by_loop(p, y, m) + 1, "Expected the mean hinge"),
]


# ---- 06.4 the correlation as a loss --------------------------------------------------------------------------------


@right("06.4")
def line_by_cosine(p, y):
    return (1 - F.cosine_similarity(p - p.mean(), y - y.mean(), dim=0)) / 2


@right("06.4")
def line_by_moments(p, y):
    x, t = p - p.mean(), y - y.mean()
    return 0.5 - 0.5 * (x * t).mean() / ((x**2).mean() * (t**2).mean() + 1e-9).sqrt()


def _c(values):
    return values - values.mean()


def _r(p, y, eps=1e-8):
    x, t = p - p.mean(), y - y.mean()
    return (x * t).sum() / (x.norm() * t.norm() + eps)


WRONG += [
    ("06.4", lambda p, y: 1 - _r(p, y), "halve it"),
    ("06.4", lambda p, y: _r(p, y), "makes predictions *worse*"),
    ("06.4", lambda p, y: -_r(p, y), "the loss of a perfect line is 0"),
    ("06.4", lambda p, y: (1 - F.cosine_similarity(p, y, dim=0)) / 2, "this is a cosine"),
    ("06.4", lambda p, y: 1 - _r(p, y) ** 2, "a perfectly *wrong* order"),
    ("06.4", lambda p, y: (1 - ((p - p.mean()) * (y - y.mean())).mean()) / 2, "This is a covariance"),
    (
        "06.4",
        lambda p, y: (1 - ((p - p.mean()) * (y - y.mean())).mean() / (p.std() * y.std())) / 2,
        "divide by standard deviations with n - 1",
    ),
    (
        "06.4",
        lambda p, y: (1 - ((p - p.mean()) * (y - y.mean())).sum() / (p.std(correction=0) * y.std(correction=0))) / 2,
        "too large by a factor of n",
    ),
    ("06.4", lambda p, y: (1 - _r(p, y, 0)) / 2, "has no spread"),
    ("06.4", lambda p, y: (1 + _r(p, y)) / 2, "teach the network the opposite"),
    ("06.4", lambda p, y: (1 - _r(p, y) ** 2) / 2, "squared and halved"),
    (
        "06.4",
        lambda p, y: (1 - (_c(p) * _c(y)).sum() / (_c(p).norm() * _c(y).norm()) ** 2) / 2,
        "the square root is missing",
    ),
    ("06.4", lambda p, y: (1 - (_c(p) * y).sum() / (_c(p).norm() * y.norm())) / 2, "the targets keep theirs"),
    ("06.4", lambda p, y: (1 - (p * _c(y)).sum() / (p.norm() * _c(y).norm())) / 2, "the predictions keep theirs"),
    ("06.4", lambda p, y: line_by_cosine(p.sub_(p.mean()), y), "changes its argument"),
    ("06.4", lambda p, y: ((1 - _r(p, y)) / 2).detach(), "The loss has no gradient"),
    ("06.4", lambda p, y: (p - y).square().mean(), "Expected (1 - r) / 2"),
]


# ---- 06.5 histograms -----------------------------------------------------------------------------------------------


@right("06.5")
def earth_by_loop(p, q):
    distances = []
    for a, b in zip(p, q, strict=True):
        carried, total = torch.tensor(0.0), torch.tensor(0.0)
        for k in range(len(a)):
            carried = carried + a[k] - b[k]
            total = total + carried**2
        distances.append((total / len(a)).sqrt())
    return torch.stack(distances).mean()


@right("06.5")
def earth_by_matrix(p, q):
    below = torch.tril(torch.ones(p.shape[1], p.shape[1])).T
    return (((p - q) @ below) ** 2).mean(1).pow(0.5).mean()


def _earth(accumulate=lambda d: d.cumsum(1), reduce=lambda gap: gap.square().mean(1).sqrt().mean()):
    return lambda p, q: reduce(accumulate(p - q))


WRONG += [
    ("06.5", _earth(lambda d: d), "The cumulative sum is missing"),
    ("06.5", _earth(lambda d: d.cumsum(0)), "Levels lie along"),
    ("06.5", _earth(reduce=lambda g: g.square().mean()), "The square root is missing"),
    ("06.5", _earth(reduce=lambda g: g.square().mean().sqrt()), "outside the mean over images"),
    ("06.5", _earth(reduce=lambda g: g.square().sum(1).sqrt().mean()), "You sum over the levels"),
    ("06.5", _earth(reduce=lambda g: g.abs().mean()), "distance with r = 1"),
    ("06.5", _earth(reduce=lambda g: g.mean()), "so they cancel"),
    ("06.5", _earth(reduce=lambda gap: gap.square().mean(1).sqrt()), "one distance an image"),
    ("06.5", lambda p, q: _earth()(p, q).item(), "No gradient reaches the prediction"),
    ("06.5", lambda p, q: _earth()(p.sub_(q), 0 * q), "changes its argument"),
    ("06.5", lambda p, q: F.kl_div((p + 1e-6).log(), q, reduction="batchmean"), "Expected the mean over images"),
]


# ---- 06.6 augmentation ---------------------------------------------------------------------------------------------


@right("06.6")
def views_by_unfolding(x, generator, shift):
    n = len(x)
    top, left = torch.randint(0, shift + 1, (2, n), generator=generator)
    turned = torch.rand(n, generator=generator) < 0.5
    x = torch.where(turned[:, None, None, None], x.flip(3), x)
    windows = x.unfold(2, x.shape[2] - shift, 1).unfold(3, x.shape[3] - shift, 1)
    return windows[torch.arange(n), :, top, left]


@right("06.6")
def views_by_slices(x, generator, shift):
    result = []
    for image in x:
        a, b, turn = (int(torch.randint(0, most, (1,), generator=generator)) for most in (shift + 1, shift + 1, 2))
        view = image[:, a : image.shape[1] - shift + a, b : image.shape[2] - shift + b]
        result.append(torch.flip(view, dims=[-1]) if turn else view)
    return torch.stack(result)


def _view(change=lambda v, g: v, top=3, left=3, turned=0.5, axis=2, own=True, batch=False):
    """A view of every image with one mistake built in; `top`, `left`: number of places to begin at."""

    def views(x, generator, shift):
        generator = generator if own else None
        result, draw = [], None
        for image in x:
            if draw is None or not batch:
                draw = [int(torch.randint(0, n, (1,), generator=generator)) for n in (top, left)]
                draw.append(float(torch.rand(1, generator=generator)))
            a, b, chance = draw
            view = image[:, a : a + image.shape[1] - shift, b : b + image.shape[2] - shift]
            view = view.flip(axis) if chance < turned else view
            result.append(change(view, generator))
        return torch.stack(result)

    return views


def _mirrored(sides):
    """Windows drawn as asked for, but mirrored where `sides(n)` says, whatever the generator."""

    def views(x, generator, shift):
        found = _view(turned=0.0)(x, generator, shift)
        return torch.where(sides(len(x))[:, None, None, None], found.flip(3), found)

    return views


@wrong("06.6", "one draw is used for both")
def views_on_the_diagonal(x, generator, shift):
    places = torch.randint(0, shift + 1, (len(x),), generator=generator).tolist()
    cut = [
        image[:, a : a + image.shape[1] - shift, a : a + image.shape[2] - shift]
        for image, a in zip(x, places, strict=True)
    ]
    turned = torch.rand(len(x), generator=generator) < 0.5
    return torch.stack([view.flip(2) if turn else view for view, turn in zip(cut, turned, strict=True)])


@wrong("06.6", "changes its argument")
def views_of_a_changed_batch(x, generator, shift):
    turned = torch.rand(len(x), generator=generator) < 0.5
    x[turned] = x[turned].flip(3)
    return _view(turned=0.0)(x, generator, shift)


WRONG += [
    ("06.6", _mirrored(lambda n: torch.arange(n) % 2 == 0), "mirrored with every generator"),
    ("06.6", _mirrored(lambda n: torch.arange(n) < n // 2), "mirrored with every generator"),
    ("06.6", _view(lambda v, g: v * 1.1), "the label would be false"),
    ("06.6", _view(lambda v, g: v + 0.01 * torch.randn(v.shape, generator=g)), "the label would be false"),
    (
        "06.6",
        lambda x, g, shift: F.interpolate(views_by_slices(x, g, shift), size=x.shape[2:], mode="bilinear"),
        "that is a blur",
    ),
    ("06.6", _view(axis=1), "stands on its head"),
    ("06.6", _view(turned=0.0), "None of 200 images are mirrored"),
    ("06.6", _view(batch=True), "not once a batch"),
    ("06.6", _view(top=1, left=1), "All 200 windows begin at one place"),
    ("06.6", _view(turned=0.1), "about half are asked for"),
    ("06.6", _view(top=2, left=2), "leaves its upper end out"),
    ("06.6", _view(own=False), "The same generator gives other views"),
    (
        "06.6",
        lambda x, g, shift: views_by_slices(x, torch.Generator().manual_seed(9), shift),
        "nothing is drawn from `generator`",
    ),
]


# ---- 06.7 stability ------------------------------------------------------------------------------------------------


@right("06.7")
def stability_by_comprehension(p, srcc):
    return np.mean([np.mean([srcc(p[i][j], p[j][j]) for j in range(i)]) for i in range(1, len(p))])


@right("06.7")
def stability_by_running_sum(p, srcc):
    total = 0.0
    for i, row in enumerate(p):
        if i:
            total += sum(srcc(now, p[j][j]) for j, now in enumerate(row[:i])) / i
    return torch.tensor(total / (len(p) - 1))


def _si(p, srcc, then=lambda i, j: (j, j), upto=0, now=lambda i, j: (i, j)):
    def at(place):
        return p[place[0]][place[1]]

    return [np.mean([srcc(at(now(i, j)), at(then(i, j))) for j in range(i + upto)]) for i in range(1, len(p))]


WRONG += [
    ("06.7", lambda p, s: np.mean([1.0, *_si(p, s)]), "SI = 1 there is a gift"),
    ("06.7", lambda p, s: sum(_si(p, s)) / len(p), "You divide by the number of tasks"),
    ("06.7", lambda p, s: np.mean(_si(p, s, upto=1)), "A task is compared with itself"),
    ("06.7", lambda p, s: np.mean(_si(p, s, then=lambda i, j: (i - 1, j))), "the task *before*"),
    ("06.7", lambda p, s: _si(p, s)[-1], "Only the last task's row"),
    (
        "06.7",
        lambda p, s: np.mean([s(p[i][j], p[j][j]) for i in range(len(p)) for j in range(i)]),
        "All pairs count the same here",
    ),
    ("06.7", lambda p, s: np.mean(_si(p, s, now=lambda i, j: (j, i))), "two different tasks"),
    ("06.7", lambda p, s: sum(_si(p, s)), "The terms are summed"),
    (
        "06.7",
        lambda p, s: np.mean([np.mean([s(p[i][j], p[j][j]) for j in range(i)] or [np.nan]) for i in range(len(p))]),
        "is NaN",
    ),
    ("06.7", lambda p, s: np.mean(_si(p, s)[:-1]), "The last time is left out"),
    ("06.7", lambda p, s: np.median(_si(p, s)), "the median over the times"),
    ("06.7", lambda p, s: np.mean(_si(p, lambda a, b: np.corrcoef(a, b)[0, 1])), "which you are given, is not used"),
    ("06.7", lambda p, s: 0.5, "Expected the mean over i >= 1"),
]


# ---- 06.8 a split that shares no picture ---------------------------------------------------------------------------


@right("06.8")
def split_by_hashlib(names):
    def number(name):
        return int(hashlib.md5(name.partition("_")[0].encode()).hexdigest(), 16)

    return [number(name) % 100 < 20 for name in names]


@right("06.8")
def split_by_seeded_generators(names):
    def chance(name):
        return np.random.default_rng([ord(letter) for letter in name.split("_")[0]]).random()

    return np.array([chance(name) < 0.2 for name in names])


def _crc(name):
    return zlib.crc32(name.encode())


@wrong("06.8", "depends on the other names")
def split_by_permutation(names):
    order = np.random.default_rng(0).permutation(len(names))
    return [bool(place < len(names) // 5) for place in order]


@wrong("06.8", "Two calls with the same names")
def split_by_coin(names):
    return (np.random.default_rng().random(len(names)) < 0.2).tolist()


WRONG += [
    ("06.8", lambda names: [place < len(names) / 5 for place in range(len(names))], "depends on the other names"),
    ("06.8", lambda names: [_crc(name) % 5 == 0 for name in names], "on both sides"),
    ("06.8", lambda names: [hash(name.split("_")[0]) % 5 == 0 for name in names], "Python's `hash`"),
    ("06.8", lambda names: [_crc(name.split("_")[0]) % 5 != 0 for name in names], "True means *held out*"),
    ("06.8", lambda names: [_crc(name.split("_")[0]) % 2 == 0 for name in names], "about 20 % are asked for"),
    ("06.8", lambda names: [name for name in names if _crc(name) % 5 == 0], "one for every name"),
    ("06.8", lambda names: list(names), "not the names themselves"),
    ("06.8", lambda names: [False for name in names], "land on one side"),
]


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_meets_its_own_diagnosis(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_gets_full_points(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_wrong_and_right_answers():
    for identifier in exercise.of_lesson("06"):
        assert sum(case[0] == identifier for case in WRONG) >= 6, identifier
        assert sum(case[0] == identifier for case in RIGHT) >= 2, identifier


def test_the_references_get_full_points():
    for identifier, task in exercise.of_lesson("06").items():
        assert_full_points(identifier, _wrapped(task.solution()))
    assert sum(task.points for task in exercise.of_lesson("06").values()) == 19


def _wrapped(function):
    """The reference's text in a function of its own: the reference itself is refused."""
    import types

    code = function.__code__.replace(co_name="mine")
    return types.FunctionType(code, function.__globals__, "mine", function.__defaults__, function.__closure__)


def test_the_references_agree_with_the_package():
    generator = torch.Generator().manual_seed(0)
    p, y = torch.rand(2, 30, generator=generator)
    y = (y * 10).round() / 10
    torch.testing.assert_close(lesson_06_scores.ranking_loss(p, y, 0.1), quality.compute_ranking_loss(p, y, 0.1))
    torch.testing.assert_close(lesson_06_scores.correlation_loss(p, y), quality.plcc_loss(p, y))
    a, b = torch.rand(2, 6, 10, generator=generator).softmax(dim=2)
    torch.testing.assert_close(lesson_06_scores.earth_movers_distance(a, b), quality.emd_loss(a, b))
    assert lesson_06_scores.rank_correlation(p, y) == pytest.approx(quality.srcc(p, y))
    z, v = torch.randn(5, 8, generator=generator), torch.randn(8, generator=generator)
    head = quality.QualityHead(8, "cosine")
    head.positive_vector.data = v[None]
    torch.testing.assert_close(lesson_06_scores.direction_score(z, v), head(F.normalize(z, dim=1))[:, 0])
    tasks = [[torch.rand(9, generator=generator).numpy() for _ in range(3)] for _ in range(3)]
    assert lesson_06_protocol.stability(tasks, quality.srcc) == pytest.approx(quality.stability_index(tasks))
