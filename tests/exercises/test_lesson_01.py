"""Lesson 01: every wrong answer meets its own diagnosis, right variants pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names

from course_utils import datasets, landscape, metrics, streams
from course_utils.lessons import checking, exercise

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


# ---- 01.1 joint minimum ------------------------------------------------------------------------------------------


@wrong("01.1", "plain mean of the centres")
def mean_of_centres(centers, curvatures):
    return np.mean(centers)


@wrong("01.1", "where fine-tuning ends up")
def last_minimum(centers, curvatures):
    return centers[-1]


@wrong("01.1", "you divide by the curvature")
def inverse_weights(centers, curvatures):
    return np.average(centers, weights=1 / np.asarray(curvatures))


@wrong("01.1", "You divide by the number of tasks")
def divided_by_tasks(centers, curvatures):
    return sum(c * a for a, c in zip(centers, curvatures, strict=True)) / len(centers)


@wrong("01.1", "never divide")
def not_divided(centers, curvatures):
    return np.dot(centers, curvatures)


@wrong("01.1", "Only the first two tasks")
def two_tasks_only(centers, curvatures):
    (a, b, *_), (c, d, *_) = centers, curvatures
    return (c * a + d * b) / (c + d)


@right("01.1")
def minimum_loop(centers, curvatures):
    top = bottom = 0
    for a, c in zip(centers, curvatures, strict=True):
        top, bottom = top + c * a, bottom + c
    return top / bottom


@right("01.1")
def minimum_numpy(centers, curvatures):
    return np.average(centers, weights=curvatures)


@right("01.1")
def minimum_torch(centers, curvatures):
    a, c = torch.tensor(centers), torch.tensor(curvatures)
    return (a * c).sum() / c.sum()


# ---- 01.2 average accuracy ---------------------------------------------------------------------------------------


@wrong("01.2", "mean of the diagonal")
def acc_diagonal(R):
    return np.diag(R).mean()


@wrong("01.2", "every measured entry")
def acc_all_measured(R):
    return np.nanmean(R)


@wrong("01.2", "the last task alone")
def acc_last_column(R):
    return np.nanmean(R[:, -1])


@wrong("01.2", "average incremental accuracy")
def acc_incremental(R):
    return np.mean([R[i, : i + 1].mean() for i in range(len(R))])


@wrong("01.2", "except the last")
def acc_without_last(R):
    return R[-1, :-1].mean()


@wrong("01.2", "Your result is NaN")
def acc_nan(R):
    return R.mean()


@wrong("01.2", "This is a percentage")
def acc_per_cent(R):
    return 100 * R[-1].mean()


@wrong("01.2", "writes into the matrix")
def acc_in_place(R):
    R[np.isnan(R)] = 0
    return R[-1].mean()


@right("01.2")
def acc_loop(R):
    return sum(R[len(R) - 1][j] for j in range(len(R))) / len(R)


@right("01.2")
def acc_numpy(R):
    return np.mean(R[-1, :])


@right("01.2")
def acc_torch(R):
    return torch.as_tensor(R)[-1].mean()


# ---- 01.3 backward transfer --------------------------------------------------------------------------------------


@wrong("01.3", "The sign is turned")
def bwt_sign(R):
    return np.mean((np.diag(R) - R[-1])[:-1])


@wrong("01.3", "divide by the number of tasks T")
def bwt_over_t(R):
    return np.mean(R[-1] - np.diag(R))


@wrong("01.3", "best accuracy that a task ever had")
def bwt_from_best(R):
    return np.mean([R[-1, j] - R[j:-1, j].max() for j in range(len(R) - 1)])


@wrong("01.3", "all pairs of rows and tasks")
def bwt_pairs(R):
    return np.mean([R[i, j] - R[j, j] for i in range(len(R)) for j in range(i)])


@wrong("01.3", "how task 1 changed")
def bwt_first_task(R):
    return R[-1, 0] - R[0, 0]


@wrong("01.3", "is NaN")
def bwt_first_row(R):
    return np.mean(R[-1, :-1] - R[0, :-1])


@wrong("01.3", "cannot be positive")
def bwt_clamped(R):
    return min(0, np.mean((R[-1] - np.diag(R))[:-1]))


@right("01.3")
def bwt_loop(R):
    T = len(R)
    return sum(R[T - 1, j] - R[j, j] for j in range(T - 1)) / (T - 1)


@right("01.3")
def bwt_numpy(R):
    return (R[-1] - np.diag(R))[:-1].mean()


@right("01.3")
def bwt_torch(R):
    R = torch.tensor(R)
    return (R[-1] - R.diagonal()).sum() / (len(R) - 1)


# ---- 01.4 forgetting ---------------------------------------------------------------------------------------------


@wrong("01.4", "This is minus BWT")
def forgetting_is_minus_bwt(R):
    return np.mean((np.diag(R) - R[-1])[:-1])


@wrong("01.4", "The last row is among the rows")
def forgetting_max_with_last(R):
    return np.mean([R[j:, j].max() - R[-1, j] for j in range(len(R) - 1)])


@wrong("01.4", "before it was learned")
def forgetting_max_all_rows(R):
    return np.mean(np.nanmax(R[:-1, :-1], axis=0) - R[-1, :-1])


@wrong("01.4", "divide by the number of tasks T")
def forgetting_over_t(R):
    return sum(R[j:-1, j].max() - R[-1, j] for j in range(len(R) - 1)) / len(R)


@wrong("01.4", "The sign is turned")
def forgetting_sign(R):
    return np.mean([R[-1, j] - R[j:-1, j].max() for j in range(len(R) - 1)])


@wrong("01.4", "`max` over a column that holds NaN")
def forgetting_nan(R):
    return np.mean(R[:-1, :-1].max(axis=0) - R[-1, :-1])


@wrong("01.4", "mean of the earlier scores")
def forgetting_mean(R):
    return np.mean([R[j:-1, j].mean() - R[-1, j] for j in range(len(R) - 1)])


@right("01.4")
def forgetting_loop(R):
    T, total = len(R), 0.0
    for j in range(T - 1):
        best = max(R[i, j] for i in range(j, T - 1))
        total += best - R[T - 1, j]
    return total / (T - 1)


@right("01.4")
def forgetting_masked(R):
    known = np.where(np.tri(len(R), dtype=bool), R, -np.inf)[:-1, :-1]
    return (known.max(axis=0) - R[-1, :-1]).mean()


@right("01.4")
def forgetting_torch(R):
    R = torch.tensor(R)
    return torch.stack([R[j:-1, j].max() - R[-1, j] for j in range(len(R) - 1)]).mean()


# ---- 01.5 three questions ----------------------------------------------------------------------------------------


def _scores(class_=None, task=None, domain=None, strict=True):
    """An answer made of three parts; the parts not given are right."""

    def class_right(z, y, k):
        return z.argmax(1) == y

    def domain_right(z, y, k):
        return z.argmax(1) % k == y % k

    def task_right(z, y, k):
        columns = torch.arange(z.shape[1])
        return torch.where(columns // k == (y // k)[:, None], z, -torch.inf).argmax(1) == y

    parts = {"class": class_ or class_right, "task": task or task_right, "domain": domain or domain_right}

    def answer(logits, labels, classes_per_task, scenario):
        if strict and scenario not in parts:
            raise ValueError(scenario)
        return parts.get(scenario, class_right)(logits, labels, classes_per_task).double().mean()

    return answer


def _zero_mask(z, y, k):
    return torch.where(torch.arange(z.shape[1]) // k == (y // k)[:, None], z, 0.0).argmax(1) == y


def _masked_in_place(z, y, k):
    z[torch.arange(z.shape[1]) // k != (y // k)[:, None]] = -torch.inf
    return z.argmax(1) == y


def _own_place(z, y, k):
    return z.reshape(len(y), -1, k)[torch.arange(len(y)), y // k].argmax(1)


def _own(z, y, k):
    return _own_place(z, y, k) == y % k


WRONG += [
    ("01.5", _scores(class_=_own), "so it uses the task's identity"),
    (
        "01.5",
        _scores(class_=lambda z, y, k: z[:, -k:].argmax(1) + z.shape[1] - k == y),
        "only the last task's columns compete",
    ),
    ("01.5", _scores(class_=lambda z, y, k: z.argmax(1) // k == y // k), "right if its task is right"),
    ("01.5", _scores(task=lambda z, y, k: z.argmax(1) == y), "as in class-incremental learning"),
    ("01.5", _scores(task=_zero_mask), "the logit 0"),
    ("01.5", _scores(task=lambda z, y, k: z[:, :k].argmax(1) == y % k), "among the first task's columns"),
    ("01.5", _scores(task=_masked_in_place), "writes into the logits"),
    ("01.5", _scores(domain=lambda z, y, k: z.argmax(1) == y), "asks for the very class"),
    ("01.5", _scores(domain=_own), "the winner among the sample's own columns"),
    ("01.5", _scores(domain=lambda z, y, k: z.argmax(1) // k == y // k), "You divide (`//`)"),
    ("01.5", _scores(task=lambda z, y, k: _own_place(z, y, k) == y), "the winner's place among"),
    (
        "01.5",
        _scores(domain=lambda z, y, k: z.reshape(len(y), -1, k).sum(1).argmax(1) == y % k),
        "You add up each position's logits",
    ),
    ("01.5", _scores(domain=lambda z, y, k: z.argmax(1) % k == y), "the winner's position with the label"),
    ("01.5", _scores(domain=lambda z, y, k: z.argmax(1) % 2 == y % 2), "nothing may assume two"),
    ("01.5", _scores(strict=False), "without a word"),
]


@right("01.5")
def scoring_loop(logits, labels, classes_per_task, scenario):
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        first = label // classes_per_task * classes_per_task
        own = row[first : first + classes_per_task]
        best = row.index(max(row))
        answers = {
            "class": best == label,
            "domain": best % classes_per_task == label % classes_per_task,
            "task": first + own.index(max(own)) == label,
        }
        if scenario not in answers:
            raise ValueError(f"{scenario} is not one of {list(answers)}")
        hits += answers[scenario]
    return hits / len(labels)


@right("01.5")
def scoring_numpy(logits, labels, classes_per_task, scenario):
    z, y, k = logits.numpy(), labels.numpy(), classes_per_task
    if scenario == "class":
        return (z.argmax(1) == y).mean()
    if scenario == "domain":
        return ((z.argmax(1) - y) % k == 0).mean()
    if scenario == "task":
        own = np.arange(z.shape[1])[None] // k == (y // k)[:, None]
        return (np.where(own, z, -np.inf).argmax(1) == y).mean()
    raise ValueError(scenario)


RIGHT.append(("01.5", _scores()))
RIGHT.append(("01.5", _scores(task=_own)))


# ---- 01.6 choose -------------------------------------------------------------------------------------------------


def _by(score):
    def answer(candidates, seen):
        return max(candidates, key=lambda lr: score(candidates[lr], seen))

    return answer


WRONG += [
    ("01.6", _by(lambda c, seen: np.nan_to_num(c["test"]).mean()), "chose by the test set"),
    ("01.6", _by(lambda c, seen: np.nan_to_num(c["validation"][-1]).mean()), "chose by the last row"),
    ("01.6", _by(lambda c, seen: np.nanmean(np.diag(c["validation"]))), "chose by the diagonal"),
    ("01.6", _by(lambda c, seen: c["validation"][seen - 1, seen - 1]), "the latest task alone"),
    ("01.6", _by(lambda c, seen: -c["validation"][seen - 1, :seen].mean()), "chose the lowest accuracy"),
    ("01.6", _by(lambda c, seen: c["validation"][seen - 1, 0]), "the first task alone"),
    ("01.6", _by(lambda c, seen: np.nanmean(c["validation"][:seen, :seen])), "You average over older rows too"),
    ("01.6", _by(lambda c, seen: c["validation"][1, :2].mean()), "Does your function use `seen`?"),
    ("01.6", lambda c, seen: max(r["validation"][seen - 1, :seen].mean() for r in c.values()), "You return the best accuracy"),
    ("01.6", lambda c, seen: int(np.argmax([r["validation"][seen - 1, :seen].mean() for r in c.values()])), "a place in the list"),
    ("01.6", lambda c, seen: list(c)[3] if seen == 2 else _by(lambda r, s: r["validation"][s - 1, :s].mean())(c, seen), "in another order"),
]  # fmt: skip


@right("01.6")
def choose_loop(candidates, seen):
    best, chosen = -1.0, None
    for lr, record in candidates.items():
        score = sum(record["validation"][seen - 1, j] for j in range(seen)) / seen
        if score > best:
            best, chosen = score, lr
    return chosen


@right("01.6")
def choose_numpy(candidates, seen):
    rates = list(candidates)
    return rates[np.argmax([candidates[lr]["validation"][seen - 1, :seen].mean() for lr in rates])]


@right("01.6")
def choose_nanmean(candidates, seen):
    return sorted(candidates, key=lambda lr: np.nanmean(candidates[lr]["validation"][:seen, :seen][-1]))[-1]


# ---- 01.7 swap ---------------------------------------------------------------------------------------------------


@wrong("01.7", "they were copied, not swapped")
def swap_copies(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    a, b = rng.permutation(first), rng.permutation(second)
    return np.concatenate([a, b[:n]]), np.concatenate([b, a[:n]])


@wrong("01.7", "with replacement")
def swap_with_replacement(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    i, j = rng.integers(len(first), size=n), rng.integers(len(second), size=n)
    a, b = first.copy(), second.copy()
    a[i], b[j] = second[j], first[i]
    return a, b


@wrong("01.7", "you swap half of what is asked")
def swap_half(first, second, fraction, rng):
    return _swap(first, second, fraction / 2, rng)


@wrong("01.7", "Always the first (or the last) samples")
def swap_first_ones(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    return np.concatenate([second[:n], first[n:]]), np.concatenate([first[:n], second[n:]])


@wrong("01.7", "not from NumPy's global one")
def swap_global_generator(first, second, fraction, rng):
    return _swap(first, second, fraction, np.random.RandomState(np.random.randint(2**31)))


@wrong("01.7", "do not seed it yourself")
def swap_own_seed(first, second, fraction, rng):
    return _swap(first, second, fraction, np.random.default_rng(0))


@wrong("01.7", "writes into the arrays it is given")
def swap_in_place(first, second, fraction, rng):
    rng.shuffle(first)
    rng.shuffle(second)
    n = round(fraction * min(len(first), len(second)))
    first[:n], second[:n] = second[:n].copy(), first[:n].copy()
    return first, second


@wrong("01.7", "take the fraction of the shorter one")
def swap_each_its_own_fraction(first, second, fraction, rng):
    a, b = rng.permutation(first), rng.permutation(second)
    n, m = round(fraction * len(a)), round(fraction * len(b))
    return np.concatenate([b[:m], a[n:]]), np.concatenate([a[:n], b[m:]])


@wrong("01.7", "cut the fraction off")
def swap_cuts_off(first, second, fraction, rng):
    return _swap(first, second, fraction, rng, whole=int)


@wrong("01.7", "always rounds up")
def swap_rounds_up(first, second, fraction, rng):
    return _swap(first, second, fraction, rng, whole=lambda count: int(np.ceil(count)))


@wrong("01.7", "2.8 should round to 3")
def swap_rounds_the_wrong_way(first, second, fraction, rng):
    return _swap(first, second, fraction, rng, whole=lambda count: int(count) + (0 < count % 1 < 0.5))


@wrong("01.7", "never arrived in the other")
def swap_loses(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    a, b = rng.permutation(first), rng.permutation(second)
    return np.concatenate([a[n:], b[:n]]), b[n:]


def _swap(first, second, fraction, rng, whole=round):
    n = whole(fraction * min(len(first), len(second)))
    a, b = rng.permutation(first), rng.permutation(second)
    return np.concatenate([b[:n], a[n:]]), np.concatenate([a[:n], b[n:]])


RIGHT.append(("01.7", _swap))


@right("01.7")
def swap_choice(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    i, j = rng.choice(len(first), n, replace=False), rng.choice(len(second), n, replace=False)
    a, b = first.copy(), second.copy()
    a[i], b[j] = second[j], first[i]
    return a, b


@right("01.7")
def swap_torch_and_lists(first, second, fraction, rng):
    n = round(fraction * min(len(first), len(second)))
    out, back = set(rng.choice(first, n, replace=False).tolist()), set(rng.choice(second, n, replace=False).tolist())
    return torch.tensor(sorted(set(first) - out | back)), sorted(set(second) - back | out)


# ---- 01.8 own data -----------------------------------------------------------------------------------------------


def _stream_of(pixels, labels, groups, test, num_tasks, make=streams.class_incremental, **options):
    data = datasets.from_arrays(
        train=(pixels[~test], labels[~test], groups[~test]),
        test=(pixels[test], labels[test], groups[test]),
        **options,
    )
    return make(data, num_tasks=num_tasks)


@wrong("01.8", "nearly the same image is learned and then asked")
def stream_split_by_image(images, labels, groups, test_groups, num_tasks):
    test = np.random.default_rng(0).random(len(images)) < 0.25
    return _stream_of(images / 255, labels, groups, test, num_tasks)


@wrong("01.8", "groups are in training and in validation")
def stream_groups_not_passed(images, labels, groups, test_groups, num_tasks):
    test = np.isin(groups, test_groups)
    data = datasets.from_arrays(train=(images[~test] / 255, labels[~test]), test=(images[test] / 255, labels[test]))
    return streams.class_incremental(data, num_tasks)


@wrong("01.8", "every choice made on them is made on the test set")
def stream_validates_on_test(images, labels, groups, test_groups, num_tasks):
    test = np.isin(groups, test_groups)
    held = (images[test] / 255, labels[test], groups[test])
    data = datasets.from_arrays((images[~test] / 255, labels[~test], groups[~test]), held, validation=held)
    return streams.class_incremental(data, num_tasks)


@wrong("01.8", "nearly black")
def stream_divided_twice(images, labels, groups, test_groups, num_tasks):
    return _stream_of(images / 255 / 255, labels, groups, np.isin(groups, test_groups), num_tasks)


@wrong("01.8", "expected floats in [0, 1]")
def stream_not_scaled(images, labels, groups, test_groups, num_tasks):
    return _stream_of(images, labels, groups, np.isin(groups, test_groups), num_tasks)


@wrong("01.8", "A cast to uint8 cuts off the fractions")
def stream_truncated(images, labels, groups, test_groups, num_tasks):
    return _stream_of(images.astype(np.uint8), labels, groups, np.isin(groups, test_groups), num_tasks)


@wrong("01.8", "the pixels were changed on the way")
def stream_divided_by_maximum_of_each(images, labels, groups, test_groups, num_tasks):
    lowest = images.min(axis=(1, 2), keepdims=True)
    pixels = (images - lowest) / (images.max() * 2 - lowest)
    return _stream_of(pixels, labels, groups, np.isin(groups, test_groups), num_tasks)


@wrong("01.8", "Asked for is a class-incremental one")
def stream_task_incremental(images, labels, groups, test_groups, num_tasks):
    test = np.isin(groups, test_groups)
    return _stream_of(images / 255, labels, groups, test, num_tasks, make=streams.task_incremental)


@wrong("01.8", "You return the data set")
def stream_is_a_data_set(images, labels, groups, test_groups, num_tasks):
    return _stream_of(
        images / 255, labels, groups, np.isin(groups, test_groups), num_tasks, make=lambda data, num_tasks: data
    )


@wrong("01.8", "mask the right way round")
def stream_mask_turned(images, labels, groups, test_groups, num_tasks):
    return _stream_of(images / 255, labels, groups, ~np.isin(groups, test_groups), num_tasks)


@wrong("01.8", "pass `num_tasks` on")
def stream_default_tasks(images, labels, groups, test_groups, num_tasks):
    return _stream_of(images / 255, labels, groups, np.isin(groups, test_groups), 2)


RIGHT += [
    ("01.8", lambda x, y, g, t, n: _stream_of(x / 255, y, g, np.isin(g, t), n)),
    ("01.8", lambda x, y, g, t, n: _stream_of(np.round(x).astype(np.uint8)[..., 0], y, g, np.isin(g, t), n)),
]


@right("01.8")
def stream_by_hand(images, labels, groups, test_groups, num_tasks):
    def part(wanted):
        rows = [i for i, group in enumerate(groups) if group in wanted]
        return images[rows].transpose(0, 3, 1, 2) / 255, labels[rows], groups[rows]

    rest = sorted(set(groups) - set(test_groups))
    held = set(rest[::10])
    data = datasets.from_arrays(
        part(set(rest) - held), part(set(test_groups)), validation=part(held), name="digits in frames"
    )
    return streams.class_incremental(data, num_tasks=num_tasks, class_order=[5, 4, 3, 2, 1, 0])


# ---- the tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_meets_its_own_message(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_passes(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_three_wrong_answers_and_three_right_ones():
    assert len(exercise.of_lesson("01")) == 8
    for identifier in exercise.of_lesson("01"):
        assert len({text for number, _, text in WRONG if number == identifier}) >= 3
        assert sum(number == identifier for number, _ in RIGHT) >= 3


UNKNOWN = [
    _by(lambda c, seen: c["test"].mean()),
    _by(lambda c, seen: c["validation"][-1].mean()),
    lambda c, seen: sorted(c, key=lambda lr: c[lr]["test"].mean())[-1],
]


@pytest.mark.parametrize("answer", UNKNOWN, ids=["test", "last row", "sorted"])
def test_choosing_by_what_is_unknown_fails_the_criterion_on_the_unknown_future(answer):
    report = checking.examine(exercise.find("01.6"), answer)
    unknown = [outcome for outcome in report.outcomes if "future is unknown" in outcome.name]
    assert not unknown[0].passed
    assert "instead of 0.004" in unknown[0].message


def test_messages_show_single_numbers_plainly():
    for expected, text in ((0.0, "You got 1, expected 0."), (2.5, "You got 1, expected 2.5.")):
        with pytest.raises(exercise.Wrong) as raised:
            exercise.close(1.0, expected, "Not so.")
        assert str(raised.value).endswith(text)


@pytest.mark.parametrize("identifier", list(exercise.of_lesson("01")))
def test_a_blank_answer_is_not_attempted(identifier):
    def blank(*arguments):
        raise NotImplementedError(f"Exercise {identifier}: …")

    report = checking.examine(exercise.find(identifier), blank)
    assert (report.status, report.points) == ("not attempted", 0)


CALLS = [
    ("01.1", lambda centers, curvatures: landscape.joint_minimum(centers, curvatures)),
    ("01.2", lambda R: metrics.summary(R)["ACC"]),
    ("01.3", lambda R: metrics.backward_transfer(R)),
    ("01.4", lambda R: metrics.forgetting(R)),
]


@pytest.mark.parametrize(("identifier", "answer"), CALLS, ids=case_names(CALLS))
def test_calling_the_packages_own_is_refused(identifier, answer):
    report = checking.examine(exercise.find(identifier), answer)
    assert (report.status, report.points) == ("refused", 0)


# ---- the landscape -----------------------------------------------------------------------------------------------


def test_the_gradient_of_a_bowl_is_its_slope():
    bowl = landscape.valley((0.3, -1.0), angle=35, steep=2.0, flat=0.2)
    w = torch.tensor([1.2, 0.7], dtype=torch.float64, requires_grad=True)
    offset = w - torch.tensor(bowl.centre)
    (0.5 * offset @ torch.tensor(bowl.hessian) @ offset).backward()
    np.testing.assert_allclose(bowl.gradient([1.2, 0.7]), w.grad.numpy(), rtol=1e-12)
    assert bowl.loss([[1.2, 0.7], [0.3, -1.0]]) == pytest.approx([float(bowl.loss([1.2, 0.7])), 0.0])


def test_the_meeting_point_has_the_lowest_sum_of_losses():
    tasks = [landscape.valley((-1, 0), 0), landscape.valley((1, 1), 70)]
    best = landscape.meeting_point(tasks)
    rng = np.random.default_rng(0)
    for point in best + rng.normal(0, 0.1, (50, 2)):
        assert sum(task.loss(best) for task in tasks) <= sum(task.loss(point) for task in tasks)


def test_descent_ends_in_the_centre_of_its_own_task():
    bowl = landscape.valley((1.2, 1.0), 70)
    path = landscape.descend(bowl, (-2.0, 1.0), lr=0.5, steps=300)
    assert path.shape == (301, 2)
    np.testing.assert_allclose(path[-1], bowl.centre, atol=1e-4)
    with pytest.raises(ValueError, match="must be positive"):
        landscape.valley((0, 0), 0, flat=0.0)
