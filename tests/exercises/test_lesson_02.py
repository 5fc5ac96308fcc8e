"""Every exercise of lesson 02: three ways to be right, several ways to be wrong, each met by its own message."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_utils import methods
from course_utils.lessons import checking, exercise

# ---- right answers: different roads to the same thing ---------------------------------------------------------------


def soften_softmax(logits, temperature):
    return F.softmax(logits / temperature, dim=1)


def soften_by_power(logits, temperature):
    """Softmax first, then every probability to the power 1/T, normalised: the same numbers."""
    powers = logits.softmax(dim=-1) ** (1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


def soften_with_numpy(logits, temperature):
    values = np.exp(logits.numpy() / temperature)
    return values / values.sum(axis=1, keepdims=True)


def kd_kl_div(student, teacher, temperature):
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, F.softmax(teacher / temperature, dim=1), reduction="batchmean") * temperature**2


def kd_written_out(student, teacher, temperature):
    p = (teacher / temperature).softmax(dim=1)
    difference = p.log() - (student / temperature).log_softmax(dim=1)
    return temperature * temperature * (p * difference).sum() / len(student)


def kd_per_sample(student, teacher, temperature):
    losses = []
    for s, t in zip(student, teacher, strict=True):
        p = torch.softmax(t / temperature, dim=0)
        losses.append((p * (p.log() - torch.log_softmax(s / temperature, dim=0))).sum())
    return torch.stack(losses).mean() * temperature**2


def grow_uniform(weight, bias, num_new, generator):
    bound = weight.shape[1] ** -0.5
    new = torch.empty(num_new, weight.shape[1] + 1).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, new[:, :-1]]), torch.cat([bias, new[:, -1]])


def grow_zeros(weight, bias, num_new, generator):
    return F.pad(weight, (0, 0, 0, num_new)), F.pad(bias, (0, num_new))


def grow_normal_in_place(weight, bias, num_new, generator):
    features = weight.shape[1]
    bigger, longer = torch.zeros(len(weight) + num_new, features), torch.zeros(len(bias) + num_new)
    bigger[: len(weight)], longer[: len(bias)] = weight, bias
    bigger[len(weight) :] = 0.01 * torch.randn(num_new, features, generator=generator)
    return bigger, longer


def slot_algorithm_r(seen, capacity, rng):
    if seen <= capacity:
        return seen - 1
    slot = rng.integers(0, seen)
    return slot if slot < capacity else None


def slot_coin_then_slot(seen, capacity, rng):
    if seen <= capacity:
        return seen - 1
    return int(rng.integers(capacity)) if rng.random() < capacity / seen else None


def slot_by_permutation(seen, capacity, rng):
    """The rank that a random order gives the newest of `seen` samples."""
    if seen <= capacity:
        return seen - 1
    rank = int(np.flatnonzero(rng.permutation(seen) == seen - 1)[0])
    return rank if rank < capacity else None


def quotas_dealt(available, capacity):
    quotas = [0] * len(available)
    while sum(quotas) < min(capacity, sum(available)):
        open_classes = [c for c in range(len(available)) if quotas[c] < available[c]]
        poorest = min(open_classes, key=lambda c: quotas[c])
        quotas[poorest] += 1
    return quotas


def quotas_smallest_first(available, capacity):
    quotas, left = np.zeros(len(available), dtype=int), capacity
    for place, c in enumerate(np.argsort(available)):
        quotas[c] = min(available[c], left // (len(available) - place))
        left -= quotas[c]
    return quotas


def quotas_by_level(available, capacity):
    """Raise the water level until the memory is full; the last slots go to the last classes."""
    level = 0
    while sum(min(a, level + 1) for a in available) <= capacity and level < max(available):
        level += 1
    quotas = [min(a, level) for a in available]
    for c in reversed(range(len(available))):
        if sum(quotas) < capacity and quotas[c] < available[c]:
            quotas[c] += 1
    return quotas


def align_ratio(weight, num_old):
    norms = weight.norm(dim=1)
    return torch.cat([weight[:num_old], weight[num_old:] * norms[:num_old].mean() / norms[num_old:].mean()])


def align_with_mask(weight, num_old):
    norms = (weight**2).sum(dim=1).sqrt()
    factor = torch.ones(len(weight))
    factor[num_old:] = norms[:num_old].mean() / norms[num_old:].mean()
    return weight * factor[:, None]


def align_with_numpy(weight, num_old):
    rows = weight.numpy().copy()
    norms = np.linalg.norm(rows, axis=1)
    rows[num_old:] *= norms[:num_old].mean() / norms[num_old:].mean()
    return torch.from_numpy(rows)


def design_finetune(memory):
    replay = methods.Replay(memory=memory)
    return [replay, methods.BalancedFinetune(replay, steps=60, lr=1e-3)]


def design_gdumb(memory):
    return [methods.GDumb(memory=memory)]


def design_head(memory):
    replay = methods.Replay(memory=memory, policy="class_balanced")
    return [replay, methods.BalancedFinetune(replay, steps=100, lr=3e-3, part="all")]


RIGHT = {
    "02.1": [soften_softmax, soften_by_power, soften_with_numpy],
    "02.2": [kd_kl_div, kd_written_out, kd_per_sample],
    "02.3": [grow_uniform, grow_zeros, grow_normal_in_place],
    "02.4": [slot_algorithm_r, slot_coin_then_slot, slot_by_permutation],
    "02.5": [quotas_dealt, quotas_smallest_first, quotas_by_level],
    "02.6": [align_ratio, align_with_mask, align_with_numpy],
    "02.7": [design_finetune, design_gdumb, design_head],
}

# ---- wrong answers, and a piece of the message that must meet each --------------------------------------------------


def _kd(t_student=None, t_teacher=None, reduction="batchmean", power=2, swap=False):
    def kd(student, teacher, temperature):
        a, b = (teacher, student) if swap else (student, teacher)
        log_q = F.log_softmax(a / (t_student or temperature), dim=1)
        return (
            F.kl_div(log_q, F.softmax(b / (t_teacher or temperature), dim=1), reduction=reduction) * temperature**power
        )

    return kd


def kd_detached(student, teacher, temperature):
    return torch.tensor(kd_kl_div(student.detach(), teacher, temperature).item(), dtype=torch.float64)


def kd_cross_entropy(student, teacher, temperature):
    p = F.softmax(teacher / temperature, dim=1)
    return -(p * F.log_softmax(student / temperature, dim=1)).sum(dim=1).mean() * temperature**2


def kd_without_log(student, teacher, temperature):
    q, p = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return F.kl_div(q, p, reduction="batchmean") * temperature**2


def kd_log_target(student, teacher, temperature):
    q, p = F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(q, p, reduction="batchmean") * temperature**2


def grow_afresh(weight, bias, num_new, generator):
    return grow_uniform(0.1 * torch.randn(weight.shape), bias, num_new, generator)


def grow_at_the_front(weight, bias, num_new, generator):
    new = 0.1 * torch.rand(num_new, weight.shape[1], generator=generator)
    return torch.cat([new, weight]), torch.cat([torch.zeros(num_new), bias])


def grow_only_new(weight, bias, num_new, generator):
    return torch.zeros(num_new, weight.shape[1]), torch.zeros(num_new)


def grow_columns(weight, bias, num_new, generator):
    return torch.cat([weight, torch.zeros(len(weight), num_new)], dim=1), bias


def grow_without_bias(weight, bias, num_new, generator):
    return F.pad(weight, (0, 0, 0, num_new)), bias


def grow_bias_reset(weight, bias, num_new, generator):
    return F.pad(weight, (0, 0, 0, num_new)), torch.zeros(len(bias) + num_new)


def grow_copies(weight, bias, num_new, generator):
    return torch.cat([weight, weight[:num_new]]), torch.cat([bias, bias[:num_new]])


def grow_loud(weight, bias, num_new, generator):
    return torch.cat([weight, 5 + torch.rand(num_new, weight.shape[1])]), F.pad(bias, (0, num_new))


def grow_ordinary_size(weight, bias, num_new, generator):
    rows = torch.randn(num_new, weight.shape[1], generator=generator)
    return torch.cat([weight, rows]), torch.cat([bias, torch.zeros(num_new)])


def grow_unseeded(weight, bias, num_new, generator):
    return torch.cat([weight, 0.01 * torch.rand(num_new, weight.shape[1])]), F.pad(bias, (0, num_new))


def slot_one_too_few(seen, capacity, rng):
    return (
        seen - 1 if seen < capacity else (lambda slot: slot if slot < capacity - 1 else None)(int(rng.integers(seen)))
    )


def slot_from_one_more(seen, capacity, rng):
    if seen <= capacity:
        return seen - 1
    slot = int(rng.integers(seen + 1))
    return slot if slot < capacity else None


def slot_unseeded(seen, capacity, rng):
    return slot_algorithm_r(seen, capacity, np.random.default_rng())


def slot_first_come(seen, capacity, rng):
    return seen - 1 if seen <= capacity else None


def slot_window(seen, capacity, rng):
    return (seen - 1) % capacity


def slot_always_enter(seen, capacity, rng):
    return seen - 1 if seen <= capacity else int(rng.integers(capacity))


def slot_off_by_one(seen, capacity, rng):
    if seen <= capacity:
        return seen - 1
    slot = int(rng.integers(seen - 1))
    return slot if slot < capacity else None


def slot_twice_unlikely(seen, capacity, rng):
    if seen <= capacity:
        return seen - 1
    return slot_algorithm_r(seen, capacity, rng) if rng.random() < capacity / seen else None


def slot_never_full(seen, capacity, rng):
    slot = int(rng.integers(max(seen, capacity)))
    return slot if slot < capacity else None


def slot_outside(seen, capacity, rng):
    return int(rng.integers(seen))


def quotas_floor(available, capacity):
    return [min(a, capacity // len(available)) for a in available]


def quotas_ceil(available, capacity):
    return [min(a, -(-capacity // len(available))) for a in available]


def quotas_proportional(available, capacity):
    return [int(a * capacity / sum(available)) for a in available]


def quotas_promise(available, capacity):
    return [capacity // len(available) + (c < capacity % len(available)) for c in range(len(available))]


def quotas_no_redistribution(available, capacity):
    return [min(a, q) for a, q in zip(available, quotas_promise(available, capacity), strict=True)]


def quotas_fractions(available, capacity):
    return [capacity / len(available)] * len(available)


def align_old_up(weight, num_old):
    result, norms = weight.clone(), weight.norm(dim=1)
    result[:num_old] *= norms[num_old:].mean() / norms[:num_old].mean()
    return result


def align_upside_down(weight, num_old):
    result, norms = weight.clone(), weight.norm(dim=1)
    result[num_old:] *= norms[num_old:].mean() / norms[:num_old].mean()
    return result


def align_unit(weight, num_old):
    return F.normalize(weight, dim=1)


def align_blocks(weight, num_old):
    result = weight.clone()
    result[num_old:] *= weight[:num_old].norm() / weight[num_old:].norm()
    return result


def align_each_row(weight, num_old):
    result, norms = weight.clone(), weight.norm(dim=1)
    result[num_old:] *= norms[:num_old].mean() / norms[num_old:, None]
    return result


def align_never_up(weight, num_old):
    result, norms = weight.clone(), weight.norm(dim=1)
    result[num_old:] *= min(1.0, (norms[:num_old].mean() / norms[num_old:].mean()).item())
    return result


def align_in_place(weight, num_old):
    norms = weight.norm(dim=1)
    weight[num_old:] *= norms[:num_old].mean() / norms[num_old:].mean()
    return weight


WRONG = {
    "02.1": [
        (lambda logits, T: F.softmax(logits * T, dim=1), "multiply the logits"),
        (lambda logits, T: F.softmax(logits, dim=1) / T, "divide the probabilities after the softmax"),
        (lambda logits, T: F.softmax(logits, dim=1), "has no effect"),
        (lambda logits, T: F.softmax(logits / T, dim=0), "runs over the batch"),
    ],
    "02.2": [
        (_kd(power=0), "factor T² is missing"),
        (_kd(power=1), "multiply by T once"),
        (_kd(reduction="mean"), "average over classes"),
        (_kd(reduction="sum"), "sum over the batch"),
        (_kd(swap=True), "runs the wrong way"),
        (_kd(t_teacher=1.0), "Only the student is softened"),
        (_kd(t_student=1.0), "Only the teacher is softened"),
        (kd_cross_entropy, "cross-entropy with the teacher"),
        (kd_detached, "carries no gradient"),
        (kd_without_log, "can be negative"),
        (kd_log_target, "probabilities, `softmax`, not logarithms"),
    ],
    "02.3": [
        (grow_afresh, "drawing the whole head afresh"),
        (grow_at_the_front, "moved to the end"),
        (grow_only_new, "only the new rows"),
        (grow_columns, "added features"),
        (grow_without_bias, "bias needs one entry a class"),
        (grow_bias_reset, "biases changed"),
        (grow_copies, "copy of an old one"),
        (grow_loud, "drown the old classes"),
        (grow_ordinary_size, "b = 1/√features = 0.05"),
        (grow_unseeded, "draw from the `generator`"),
    ],
    "02.4": [
        (slot_first_come, "Only the first samples are ever kept"),
        (slot_window, "sliding window"),
        (slot_always_enter, "throws a random old one out"),
        (slot_off_by_one, "`seen - 1`"),
        (slot_twice_unlikely, "too unlikely"),
        (slot_never_full, "memory of five is not full"),
        (slot_outside, "does not exist"),
        (slot_one_too_few, "still fits"),
        (slot_from_one_more, "`seen + 1`"),
        (slot_unseeded, "draw from the `rng`"),
    ],
    "02.5": [
        (quotas_floor, "Hand the remainder out"),
        (quotas_ceil, "rounding up breaks the budget"),
        (quotas_proportional, "follow how common a class is"),
        (quotas_promise, "never promise more than there is"),
        (quotas_no_redistribution, "hand out what it cannot fill"),
        (quotas_fractions, "Images come whole"),
    ],
    "02.6": [
        (align_old_up, "raise the old rows"),
        (align_upside_down, "upside down"),
        (align_unit, "every row norm one"),
        (align_blocks, "whole blocks"),
        (align_each_row, "every new row the same norm"),
        (align_never_up, "never exceeds one"),
        (align_in_place, "changed the tensor that was passed in"),
    ],
    "02.7": [
        (lambda memory: [methods.Joint()], "keeps every image ever seen"),
        (lambda memory: [methods.Replay(memory), methods.DERpp(memory)], "share one budget"),
        (lambda memory: [methods.Distill()], "single stored image"),
        (lambda memory: [methods.Replay(memory)], "last task still outweighs"),
        (lambda memory: methods.Replay(memory), "Return a list"),
        (lambda memory: [methods.Replay(memory), methods.WeightAlign()], "new classes got louder"),
        (lambda memory: [methods.Distill(alpha=1.0)], "little was learned"),
    ],
}


@pytest.mark.parametrize(("exercise_id", "answer"), [(e, f) for e, fs in RIGHT.items() for f in fs])
def test_right_answers_pass(exercise_id, answer):
    report = checking.examine(exercise.find(exercise_id), answer)
    assert report.status == "passed", report
    assert report.points == exercise.find(exercise_id).points


@pytest.mark.parametrize(("exercise_id", "answer", "message"), [(e, f, m) for e, fs in WRONG.items() for f, m in fs])
def test_wrong_answers_meet_their_message(exercise_id, answer, message):
    report = checking.examine(exercise.find(exercise_id), answer)
    assert report.status in ("wrong", "partly")
    assert report.points < exercise.find(exercise_id).points
    assert message in " ".join(outcome.message for outcome in report.outcomes)


def test_messages_are_distinct():
    for pairs in WRONG.values():
        messages = [message for _, message in pairs]
        assert len(set(messages)) == len(messages) >= 3


@pytest.mark.parametrize("exercise_id", RIGHT)
def test_blank_is_not_attempted(exercise_id):
    def blank(*args, **kwargs):
        raise NotImplementedError(f"Exercise {exercise_id}: to be written")

    report = checking.examine(exercise.find(exercise_id), blank)
    assert (report.status, report.points) == ("not attempted", 0)


@pytest.mark.parametrize("exercise_id", ["02.2", "02.6"])
def test_calling_the_package_is_refused(exercise_id):
    solution = exercise.find(exercise_id).solution()
    report = checking.examine(exercise.find(exercise_id), lambda *args: solution(*args))
    assert (report.status, report.points) == ("refused", 0)


@pytest.mark.parametrize("exercise_id", RIGHT)
def test_the_reference_meets_every_criterion(exercise_id):
    task = exercise.find(exercise_id)
    for criterion in task.criteria:
        criterion.function(task.solution())
