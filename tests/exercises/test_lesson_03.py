"""Lesson 03: every wrong answer meets its own diagnosis, right variants pass, references agree with other roads."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Answers, assert_full_points, assert_its_own_message, case_names
from scipy import optimize
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from course_utils import landscape, methods
from course_utils.lessons import checking, exercise
from course_utils.lessons.exercises import lesson_03, lesson_03_fisher, lesson_03_importance, lesson_03_networks
from course_utils.methods import agem, gem, packnet, quadratic

ANSWERS = Answers()
WRONG, RIGHT, wrong, right = ANSWERS.wrong_ones, ANSWERS.right_ones, ANSWERS.wrong, ANSWERS.right


# ---- 03.1 a penalty by hand --------------------------------------------------------------------------------------


@right("03.1")
def minimum_solve(hessian_b, centre_b, fisher_a, centre_a, strength):
    pull = strength * np.diag(fisher_a)
    return np.linalg.solve(hessian_b + pull, hessian_b @ centre_b + pull @ centre_a)


@right("03.1")
def minimum_inverse(hessian_b, centre_b, fisher_a, centre_a, strength):
    """The way from A's centre, by the inverse."""
    left = np.linalg.inv(np.asarray(hessian_b) + strength * np.eye(2) * fisher_a)
    return centre_a + left @ hessian_b @ (centre_b - centre_a)


@right("03.1")
def minimum_by_cramer(hessian_b, centre_b, fisher_a, centre_a, strength):
    (p, q), (r, s) = hessian_b
    p, s = p + strength * fisher_a[0], s + strength * fisher_a[1]
    u, v = np.dot(hessian_b, centre_b) + strength * np.multiply(fisher_a, centre_a)
    return [(u * s - q * v) / (p * s - q * r), (p * v - r * u) / (p * s - q * r)]


@right("03.1")
def minimum_torch(hessian_b, centre_b, fisher_a, centre_a, strength):
    H, b, f, a = (torch.tensor(v, dtype=torch.float64) for v in (hessian_b, centre_b, fisher_a, centre_a))
    return torch.linalg.solve(H + torch.diag(strength * f), H @ b + strength * f * a)


def _minimum(left=1.0, right=1.0, swap=False, solve=np.linalg.solve, diagonal=np.diag):
    """A minimum with the powers of the strength and the solver to be broken."""

    def minimum(H, b, f, a, strength):
        b, a = (a, b) if swap else (b, a)
        return solve(H + strength**left * diagonal(f), H @ b + strength**right * f * a)

    return minimum


@wrong("03.1", "All weights are held equally hard")
def minimum_l2(H, b, f, a, strength):
    return np.linalg.solve(H + strength * np.eye(2), H @ b + strength * a)


@wrong("03.1", "you use only the diagonal of H_b")
def minimum_elementwise(H, b, f, a, strength):
    steep = np.diag(H)
    return (steep * b + strength * f * a) / (steep + strength * f)


@wrong("03.1", "At strength 0 there is no penalty")
def minimum_divides_by_the_importance(H, b, f, a, strength):
    """The right equations divided by strength * importance, which may be zero."""
    scale = strength * np.asarray(f)
    return np.linalg.solve(H / scale[:, None] + np.eye(2), H @ b / scale + a)


@wrong("03.1", "At your answer it is")
def minimum_not_converged(H, b, f, a, strength):
    """One weight at a time, a few rounds: enough only where the weights are hardly coupled."""
    w = np.array(a, dtype=float)
    for _ in range(10):
        for i, j in ((0, 1), (1, 0)):
            pull = H[i, i] * b[i] - H[i, j] * (w[j] - b[j]) + strength * f[i] * a[i]
            w[i] = pull / (H[i, i] + strength * f[i])
    return w


@wrong("03.1", "has shape (2, 1), expected (2,)")
def minimum_column(H, b, f, a, strength):
    return minimum_solve(H, b, f, a, strength)[:, None]


def _scaled(factor):
    def minimum(H, b, f, a, strength):
        return minimum_solve(H, b, f, a, factor * strength)

    return minimum


WRONG += [
    ("03.1", _minimum(right=0), "not on the right-hand side"),
    ("03.1", _minimum(left=0), "but not in the matrix"),
    ("03.1", _minimum(left=0, right=0), "no effect in your formula"),
    ("03.1", _scaled(2), "twice what was asked"),
    ("03.1", _scaled(0.5), "half of what was asked"),
    ("03.1", lambda H, b, f, a, strength: (a + b) / 2, "mean of the two centres"),
    ("03.1", _minimum(solve=lambda left, right: right / np.diag(left)), "then you divide element by element"),
    ("03.1", _minimum(diagonal=np.asarray), "adds the vector to every row"),
    ("03.1", _minimum(swap=True), "centres are swapped"),
    ("03.1", lambda H, b, f, a, strength: b, "what fine-tuning finds"),
    ("03.1", lambda H, b, f, a, strength: a, "nothing was learned of task B"),
    ("03.1", _minimum(right=2), "and solve it for w.\nYou got"),
]


# ---- 03.2 the quadratic penalty ----------------------------------------------------------------------------------


@right("03.2")
def penalty_loop(weights, anchors, importance, strength):
    total = 0.0
    for name, anchor in anchors.items():
        total = total + (importance[name] * (weights[name][: len(anchor)] - anchor) ** 2).sum()
    return strength / 2 * total


@right("03.2")
def penalty_padded(weights, anchors, importance, strength):
    """New rows get an importance of zero."""
    terms = []
    for name, weight in weights.items():
        rows = [0, 0] * (weight.dim() - 1) + [0, len(weight) - len(anchors[name])]
        terms.append(F.pad(importance[name], rows) * (weight - F.pad(anchors[name], rows)).square())
    return 0.5 * strength * sum(term.sum() for term in terms)


@right("03.2")
def penalty_flat(weights, anchors, importance, strength):
    w, a, f = (
        torch.cat([part[name][: len(anchors[name])].flatten() for name in sorted(anchors)])
        for part in (weights, anchors, importance)
    )
    return strength * (f @ (w - a).pow(2)) / 2


def _penalty(term=lambda w, a, f: (f * (w - a) ** 2).sum(), factor=lambda strength: strength / 2, join=sum):
    def penalty(weights, anchors, importance, strength):
        terms = [term(weights[n][: len(a)], a, importance[n]) for n, a in anchors.items()]
        return factor(strength) * join(terms)

    return penalty


@wrong("03.2", "take a mean over the weights")
def penalty_mean(weights, anchors, importance, strength):
    count = sum(a.numel() for a in anchors.values())
    return penalty_loop(weights, anchors, importance, strength) / count


@wrong("03.2", "without gradient")
def penalty_detached(weights, anchors, importance, strength):
    weights = {name: w.detach() for name, w in weights.items()}
    return penalty_loop(weights, anchors, importance, strength)


@wrong("03.2", "You return a float")
def penalty_item(weights, anchors, importance, strength):
    return penalty_loop(weights, anchors, importance, strength).item()


@wrong("03.2", "The gradient of `head.bias`")
def penalty_partly_detached(weights, anchors, importance, strength):
    weights = {name: w if w.dim() > 1 else w.detach() for name, w in weights.items()}
    return penalty_loop(weights, anchors, importance, strength)


@wrong("03.2", "new rows are pulled towards zero")
def penalty_new_rows(weights, anchors, importance, strength):
    total = penalty_loop(weights, anchors, importance, strength)
    return total + strength / 2 * sum((w[len(anchors[n]) :] ** 2).sum() for n, w in weights.items())


@wrong("03.2", "leave out every tensor that has grown")
def penalty_skips_grown(weights, anchors, importance, strength):
    weights = {n: w if w.shape == anchors[n].shape else anchors[n] for n, w in weights.items()}
    return penalty_loop(weights, anchors, importance, strength)


@wrong("03.2", "A head grows at its end")
def penalty_last_rows(weights, anchors, importance, strength):
    weights = {n: w[-len(anchors[n]) :] for n, w in weights.items()}
    return penalty_loop(weights, anchors, importance, strength)


@wrong("03.2", "the head has grown from 4 rows to 6")
def penalty_shapes(weights, anchors, importance, strength):
    return strength / 2 * sum((importance[n] * (weights[n] - a) ** 2).sum() for n, a in anchors.items())


WRONG += [
    ("03.2", _penalty(factor=lambda strength: strength), "factor 1/2 is missing"),
    ("03.2", _penalty(lambda w, a, f: (f * (w - a) ** 2).mean()), "take a mean over each tensor"),
    ("03.2", _penalty(lambda w, a, f: ((f * (w - a)) ** 2).sum()), "importance is squared"),
    ("03.2", _penalty(lambda w, a, f: (f * (w - a).abs()).sum()), "take the absolute difference"),
    ("03.2", _penalty(lambda w, a, f: (f * (w - a)).sum()), "difference is not squared"),
    ("03.2", _penalty(lambda w, a, f: (f * (w - a)).sum() ** 2), "square the difference of what was summed"),
    ("03.2", _penalty(lambda w, a, f: ((w - a) ** 2).sum()), "the L2 penalty"),
    ("03.2", _penalty(lambda w, a, f: (f * w**2).sum()), "as weight decay does"),
    ("03.2", _penalty(factor=lambda strength: strength**2 / 2), "strength is squared"),
    ("03.2", _penalty(factor=lambda strength: 0.5), "The strength is not there"),
    ("03.2", _penalty(factor=lambda strength: -strength / 2), "sign is wrong"),
    ("03.2", _penalty(join=lambda terms: terms[0]), "stands inside the loop"),
    ("03.2", _penalty(join=lambda terms: terms[-1]), "Only the last tensor"),
    ("03.2", _penalty(lambda w, a, f: (f / f.max() * (w - a) ** 2).sum()), "Expected `strength/2 * sum"),
]


# ---- 03.3 the Fisher diagonal ------------------------------------------------------------------------------------


def _drawn(p, generator):
    return torch.multinomial(p, 1, generator=generator)[:, 0]


def _fisher(
    *,
    draw=_drawn,
    of=lambda out, label: out.log_softmax(dim=1)[0, label],
    each=torch.square,
    mean=True,
    eval_mode=True,
    restore=lambda model, training: model.train(training),
):
    """Image by image, with any part to be broken."""

    def fisher(model, x, generator):
        training = model.training
        if eval_mode:
            model.eval()
        names, parameters = zip(*model.named_parameters(), strict=True)
        total = [torch.zeros_like(p) for p in parameters]
        for image in x:
            out = model(image[None])
            label = draw(out.detach().softmax(dim=1), generator)[0]
            for t, gradient in zip(total, torch.autograd.grad(of(out, label), parameters), strict=True):
                t += each(gradient) / (len(x) if mean else 1)
        restore(model, training)
        return dict(zip(names, total, strict=True))

    return fisher


fisher_loop = _fisher()
RIGHT.append(("03.3", fisher_loop))


@right("03.3")
def fisher_func(model, x, generator):
    """All labels drawn first, then all gradients at once."""
    training = model.training
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        labels = _drawn(model(x).softmax(dim=1), generator)

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(model, parameters, (image[None],)), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, labels)
    model.train(training)
    return {name: (g**2).mean(dim=0) for name, g in gradients.items()}


@right("03.3")
def fisher_backward(model, x, generator):
    """With backward() and .grad, in another order of the images, each module's mode kept."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in reversed(range(len(x))):
        model.zero_grad()
        log_p = torch.log(model(x[i : i + 1]).softmax(dim=-1))
        (-log_p[0, torch.multinomial(log_p.exp(), 1, generator=generator).item()]).backward()
        for name, p in model.named_parameters():
            fisher[name] += p.grad.pow(2)
    for module, mode in modes.items():
        module.training = mode
    return {name: total / len(x) for name, total in fisher.items()}


@right("03.3")
def fisher_on_a_copy(model, x, generator):
    return fisher_loop(copy.deepcopy(model), x, generator)


def _batch(reduction, power=2, divide=1, eval_mode=True):
    """One backward pass for all images: what is often shipped."""

    def fisher(model, x, generator):
        training = model.training
        if eval_mode:
            model.eval()
        out = model(x)
        loss = F.cross_entropy(out, _drawn(out.detach().softmax(dim=1), generator), reduction=reduction)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        model.train(training)
        return {n: g**power / divide for (n, _), g in zip(model.named_parameters(), gradients, strict=True)}

    return fisher


@wrong("03.3", "never clear the gradients")
def fisher_accumulates(model, x, generator):
    training = model.training
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model.zero_grad()
    for image in x:
        log_p = model(image[None]).log_softmax(dim=1)
        log_p[0, _drawn(log_p.detach().exp(), generator)[0]].backward()
        for name, p in model.named_parameters():
            total[name] += p.grad**2 / len(x)
    model.train(training)
    return total


@wrong("03.3", "Only the last image counts")
def fisher_overwrites(model, x, generator):
    for image in x:
        result = fisher_loop(model, image[None], generator)
    return result


def _over_labels(weighted, inside=lambda p: p):
    """All labels instead of a drawn one."""

    def fisher(model, x, generator):
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for image in x:
            was = model.training
            p = model.eval()(image[None]).detach().softmax(dim=1)
            model.train(was)
            for label in range(p.shape[1]):
                one = _fisher(draw=lambda p, generator, label=label: torch.tensor([label]))(
                    model, image[None], generator
                )
                for name, value in one.items():
                    total[name] += (p[0, label] if weighted else 1) * value / len(x)
        return total

    return fisher


@wrong("03.3", "same seed gave different labels")
def fisher_global(model, x, generator):
    return fisher_loop(model, x, None)


@wrong("03.3", "do not seed it yourself")
def fisher_seeds_itself(model, x, generator):
    return fisher_loop(model, x, torch.Generator().manual_seed(0))


@wrong("03.3", "The network came in train mode")
def fisher_stays_eval(model, x, generator):
    return fisher_loop(model.eval(), x, generator)


@wrong("03.3", "Measuring must not move anything")
def fisher_moves_weights(model, x, generator):
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    return fisher_loop(model, x, generator)


WRONG += [
    ("03.3", _batch("mean"), "square of the batch's mean gradient"),
    ("03.3", _batch("sum"), "square of the summed gradient"),
    ("03.3", _batch("sum", divide=4), "square of the summed gradient"),
    ("03.3", _fisher(mean=False), "sum the squares over the images"),
    ("03.3", _fisher(each=lambda g: g), "There is no square"),
    ("03.3", _batch("mean", power=1), "There is no square"),
    ("03.3", _fisher(each=torch.abs), "take the absolute value where"),
    ("03.3", _fisher(of=lambda out, label: out.softmax(dim=1)[0, label]), "differentiate the probability"),
    ("03.3", _fisher(of=lambda out, label: out[0, label]), "differentiate the logit"),
    ("03.3", _fisher(of=lambda out, label: out.log_softmax(dim=0)[0, label]), "softmax along dim 0"),
    ("03.3", _over_labels(weighted=False), "count all labels the same"),
    ("03.3", _over_labels(weighted=True), "You sum over all labels"),
    ("03.3", _fisher(draw=lambda p, generator: p.argmax(dim=1)), "always take the most probable label"),
    (
        "03.3",
        _fisher(draw=lambda p, generator: _drawn(torch.ones_like(p), generator)),
        "Draw a label for every image",
    ),
    ("03.3", _fisher(draw=lambda p, generator: _drawn(p**2, generator)), "Draw a label for every image"),
    ("03.3", _fisher(eval_mode=False), "ran in train mode"),
    ("03.3", _fisher(restore=lambda model, training: model.train()), "Do not end with `model.train()`"),
    ("03.3", lambda model, x, generator: list(fisher_loop(model, x, generator).values()), "Return a dictionary"),
    (
        "03.3",
        lambda model, x, generator: {n: v for n, v in fisher_loop(model, x, generator).items() if "weight" in n},
        "has no entry",
    ),
    (
        "03.3",
        lambda model, x, generator: {n: v.mean() for n, v in fisher_loop(model, x, generator).items()},
        "has shape ()",
    ),
]


@wrong("03.3", "still has one row per image")
def fisher_per_image(model, x, generator):
    each = [fisher_loop(model, image[None], generator) for image in x]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@wrong("03.3", "Draw a label for every image")
def fisher_one_label_for_all(model, x, generator):
    with torch.no_grad():
        label = _drawn(model(x[:1]).softmax(dim=1), generator)
    return _fisher(draw=lambda p, generator: label)(model.eval(), x, generator)


@wrong("03.3", "is none of them")
def fisher_two_labels(model, x, generator):
    both = [fisher_loop(model, x, generator) for _ in range(2)]
    return {name: (both[0][name] + 2 * both[1][name]) / 3 for name in both[0]}


@wrong("03.3", "depends on the mode in which the network comes")
def fisher_on_a_copy_in_train_mode(model, x, generator):
    twin = copy.deepcopy(model)
    if twin.training:
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return _fisher(eval_mode=False)(twin, x, generator)
    return fisher_loop(twin, x, generator)


# ---- 03.4 the path integral --------------------------------------------------------------------------------------


@right("03.4")
def si_numpy(gradients, weights, damping):
    credit = -(gradients * (weights[1:] - weights[:-1])).sum(axis=0)
    return np.maximum(credit, 0) / ((weights[-1] - weights[0]) ** 2 + damping)


@right("03.4")
def si_loop(gradients, weights, damping):
    steps, size = gradients.shape
    omega = []
    for i in range(size):
        credit = 0.0
        for k in range(steps):
            credit += gradients[k, i] * (weights[k, i] - weights[k + 1, i])
        omega.append(max(credit, 0) / ((weights[steps, i] - weights[0, i]) ** 2 + damping))
    return omega


@right("03.4")
def si_torch(gradients, weights, damping):
    g, w = torch.from_numpy(gradients), torch.from_numpy(weights)
    return F.relu(torch.einsum("kp,kp->p", g, -w.diff(dim=0))) / ((w[0] - w[-1]).square() + damping)


def _si(credit=lambda g, w: -(g * np.diff(w, axis=0)).sum(axis=0), cut=lambda c: np.maximum(c, 0), bottom=None):
    def si(gradients, weights, damping):
        below = bottom(weights, damping) if bottom else (weights[-1] - weights[0]) ** 2 + damping
        return cut(credit(gradients, weights)) / below

    return si


@wrong("03.4", "All zero")
def si_aliased(gradients, weights, damping):
    """`now` is a view of the row that the next step is written into: new minus old is always 0."""
    current, credit = weights[0], np.zeros(weights.shape[1])
    for k, g in enumerate(gradients):
        now = current
        current[:] = weights[k + 1]
        credit -= g * (current - now)
    return np.maximum(credit, 0) / ((weights[-1] - weights[0]) ** 2 + damping)


@wrong("03.4", "damping stands outside")
def si_damping_outside(gradients, weights, damping):
    return si_numpy(gradients, weights, 0) + damping


def _moves(w):
    return np.diff(w, axis=0)


WRONG += [
    ("03.4", _si(lambda g, w: (g * _moves(w)).sum(axis=0)), "All zero"),
    ("03.4", _si(lambda g, w: (g * _moves(w)).sum(axis=0), cut=lambda c: c), "gets a negative importance. Downhill"),
    ("03.4", _si(lambda g, w: (g**2).sum(axis=0)), "add up squared gradients"),
    ("03.4", _si(lambda g, w: (g**2).mean(axis=0)), "average squared gradients"),
    ("03.4", _si(lambda g, w: -g.sum(axis=0) * (w[-1] - w[0])), "with the whole way"),
    ("03.4", _si(lambda g, w: -(g[1:] * _moves(w)[:-1]).sum(axis=0)), "with the step before it"),
    ("03.4", _si(lambda g, w: -(g * w[:-1]).sum(axis=0)), "with the weight instead of the step"),
    ("03.4", _si(lambda g, w: -(g * _moves(w)).mean(axis=0)), "average over the steps"),
    ("03.4", _si(lambda g, w: np.maximum(-g * _moves(w), 0).sum(axis=0)), "cut off every uphill step"),
    ("03.4", _si(lambda g, w: np.abs(g * _moves(w)).sum(axis=0)), "count uphill steps as credit"),
    ("03.4", _si(cut=lambda c: c), "*away* from its anchor"),
    ("03.4", _si(cut=np.abs), "that is an absolute value"),
    ("03.4", _si(cut=lambda c: np.where(c > 0, c, 1e-3)), "its importance is 0, you return"),
    ("03.4", _si(bottom=lambda w, d: np.abs(w[-1] - w[0]) + d), "what the penalty needs"),
    ("03.4", _si(bottom=lambda w, d: w[-1] - w[0] + d), "divides by a negative number"),
    ("03.4", _si(bottom=lambda w, d: np.abs(_moves(w)).sum(axis=0) ** 2 + d), "length of the path"),
    ("03.4", _si(bottom=lambda w, d: (_moves(w) ** 2).sum(axis=0) + d), "sum of the squared steps"),
    ("03.4", _si(bottom=lambda w, d: (w[-1] - w[0]) ** 2 * d), "damping multiplies"),
    ("03.4", _si(bottom=lambda w, d: (w[-1] - w[0]) ** 2), "damping is not there"),
    ("03.4", _si(bottom=lambda w, d: (w[-1] - w[0] + d) ** 2), "damping is squared together"),
    ("03.4", _si(bottom=lambda w, d: 1), "You do not divide"),
    ("03.4", _si(lambda g, w: -(g * _moves(w)).sum()), "sum over the weights as well"),
    ("03.4", _si(bottom=lambda w, d: np.sqrt((w[-1] - w[0]) ** 2 + d)), "+ damping)`.\nYou got"),
    ("03.4", lambda *arguments: si_numpy(*arguments).sum(), "Your result has shape ()"),
]


def test_credits_that_do_not_add_up_fail_the_property():
    for answer in (_si(lambda g, w: -(g * _moves(w)).mean(axis=0)), _si(bottom=lambda w, d: np.abs(w[-1] - w[0]) + d)):
        outcome = checking.examine(exercise.find("03.4"), answer).outcomes[-1]
        assert not outcome.passed and "add up to" in outcome.message


# ---- 03.5 do no harm ---------------------------------------------------------------------------------------------


@right("03.5")
def project_formula(gradient, reference):
    dot = gradient @ reference
    return gradient if dot >= 0 else gradient - dot / (reference @ reference) * reference


@right("03.5")
def project_unit(gradient, reference):
    """With the reference brought to length 1 first."""
    unit = F.normalize(reference, dim=0)
    return gradient - torch.clamp((gradient * unit).sum(), max=0) * unit


@right("03.5")
def project_least_squares(gradient, reference):
    if torch.dot(gradient, reference) < 0:
        share = torch.linalg.lstsq(reference[:, None], gradient[:, None]).solution
        return gradient - (reference[:, None] @ share)[:, 0]
    return gradient.clone()


def _project(harmful, harmless=lambda g, r, c: g):
    """`c` is the share of the reference in the gradient."""

    def project(gradient, reference):
        dot = gradient @ reference
        share = dot / (reference @ reference) if dot else dot
        return (harmful if dot < 0 else harmless)(gradient, reference, share)

    return project


@wrong("03.5", "0/0")
def project_strictly(gradient, reference):
    dot = gradient @ reference
    return gradient if dot > 0 else gradient - dot / (reference @ reference) * reference


@wrong("03.5", "You write into the tensors")
def project_in_place(gradient, reference):
    dot = gradient @ reference
    if dot < 0:
        gradient -= dot / (reference @ reference) * reference
    return gradient


@wrong("03.5", "stop those that point against")
def project_each_weight(gradient, reference):
    return torch.where(gradient * reference >= 0, gradient, torch.zeros_like(gradient))


@wrong("03.5", "You always project")
def project_always(gradient, reference):
    square = (reference @ reference).clamp(min=1e-12)
    return gradient - (gradient @ reference) / square * reference


@wrong("03.5", "in both branches")
def project_forgets_a_branch(gradient, reference):
    if gradient @ reference >= 0:
        return gradient


@wrong("03.5", "the wrong way round")
def project_reversed(gradient, reference):
    return _project(lambda g, r, c: g, lambda g, r, c: g - c * r)(gradient, reference)


WRONG += [
    ("03.5", _project(lambda g, r, c: g + r, lambda g, r, c: g + r), "add the reference to the gradient although"),
    ("03.5", _project(lambda g, r, c: g / 2 + r / 2, lambda g, r, c: g / 2 + r / 2), "reference although there is no"),
    ("03.5", _project(lambda g, r, c: g + r), "add the reference to the gradient: that"),
    ("03.5", _project(lambda g, r, c: (g + r) / 2), "mean of gradient and reference: that"),
    ("03.5", _project(lambda g, r, c: g), "this step raises the loss on the memory"),
    ("03.5", _project(lambda g, r, c: g - c * r.norm() * r), "divide by the norm of the reference"),
    ("03.5", _project(lambda g, r, c: g - (g @ r) * r), "You do not divide"),
    ("03.5", _project(lambda g, r, c: g - (g @ r) / (g @ g) * r), "squared norm of the gradient"),
    ("03.5", _project(lambda g, r, c: r), "reference alone"),
    ("03.5", _project(lambda g, r, c: g + c * r), "twice as large"),
    ("03.5", _project(lambda g, r, c: g - 2 * c * r), "mirrored"),
    ("03.5", _project(lambda g, r, c: c * r), "the one to take *out*"),
    ("03.5", _project(lambda g, r, c: -g), "turn the gradient around"),
    ("03.5", _project(lambda g, r, c: 0 * g), "skip the step"),
    ("03.5", _project(lambda g, r, c: g - c * g), "subtract along the gradient"),
    ("03.5", _project(lambda g, r, c: g * (g * r >= 0)), "by itself. The conflict"),
    ("03.5", _project(lambda g, r, c: (g - c * r).sum()), "has shape ()"),
    ("03.5", _project(lambda g, r, c: (g - c * r).tolist()), "Return a tensor"),
    ("03.5", _project(lambda g, r, c: F.normalize(g - c * r, dim=0)), "Expected `g - (g @ r)"),
    ("03.5", _project(lambda g, r, c: g - c * r, lambda g, r, c: g / g.norm()), "The dot product is positive"),
]


# ---- 03.6 what to keep -------------------------------------------------------------------------------------------


def _count(free, prune):
    return max(1, round((1 - prune) * int(free.sum())))


def _mask(score, count):
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().topk(count).indices] = True
    return mask.view(score.shape)


@right("03.6")
def mask_topk(weights, free, prune):
    return _mask(weights.abs().masked_fill(~free, -1), _count(free, prune))


@right("03.6")
def mask_of_free_places(weights, free, prune):
    """Ranks the free places only, and writes them back."""
    places = free.flatten().nonzero()[:, 0]
    order = weights.flatten()[places].abs().argsort(descending=True)
    mask = torch.zeros_like(free).flatten()
    mask[places[order[: _count(free, prune)]]] = True
    return mask.reshape(free.shape)


@right("03.6")
def mask_numpy(weights, free, prune):
    size = np.where(free.numpy(), np.abs(weights.numpy()), -np.inf).ravel()
    keep = np.zeros(size.size, dtype=bool)
    keep[np.argsort(-size, kind="stable")[: _count(free, prune)]] = True
    return torch.from_numpy(keep.reshape(weights.shape))


@right("03.6")
def mask_by_what_goes(weights, free, prune):
    """Gives back the smallest free weights, one by one."""
    mask = free.clone()
    gone = min(round(prune * int(free.sum())), int(free.sum()) - 1)
    for _ in range(gone):
        size = torch.where(mask, weights.abs(), torch.inf)
        mask.view(-1)[size.argmin()] = False
    return mask


def _threshold(compare):
    """Everything above the smallest kept size."""

    def mask(weights, free, prune):
        size = weights.abs()
        smallest = size[free].sort(descending=True).values[: _count(free, prune) + (compare == "gt")][-1]
        return (size >= smallest if compare == "ge" else size > smallest) & free

    return mask


@wrong("03.6", "lets no tie through")
def mask_strictly_above(weights, free, prune):
    if prune == 0:
        return free
    return _threshold("gt")(weights, free, prune)


@wrong("03.6", "nothing is left of 11 free weights")
def mask_may_be_empty(weights, free, prune):
    return _mask(weights.abs().masked_fill(~free, -1), round((1 - prune) * int(free.sum())))


@wrong("03.6", "0 is not below a free weight that is 0")
def mask_zeroed(weights, free, prune):
    return _mask(weights.abs() * free, _count(free, prune))


@wrong("03.6", "compete with free ones")
def mask_zeroed_and_free(weights, free, prune):
    return mask_zeroed(weights, free, prune) & free


def _ranked(score, count=lambda w, f, prune: _count(f, prune), after=lambda mask, free: mask):
    def mask(weights, free, prune):
        return after(_mask(score(weights, free), count(weights, free, prune)), free)

    return mask


def _size(w, f):
    return w.abs().masked_fill(~f, -1)


def _all(w, f, prune):
    return max(1, round((1 - prune) * w.numel()))


WRONG += [
    ("03.6", _ranked(lambda w, f: w.masked_fill(~f, -9)), "largest *values*"),
    ("03.6", _ranked(_size, _all, lambda m, f: m & f), "share of all weights"),
    ("03.6", _ranked(_size, lambda w, f, p: max(1, round(p * int(f.sum())))), "keep the share `prune`"),
    ("03.6", _ranked(_size, after=lambda m, f: f & ~m), "shows what is given back"),
    ("03.6", _ranked(lambda w, f: -w.abs().masked_fill(~f, 9)), "keep the smallest"),
    ("03.6", _ranked(lambda w, f: w.abs(), after=lambda m, f: m & f), "take the places of free ones"),
    ("03.6", _ranked(lambda w, f: w.abs(), _all, lambda m, f: m & f), "take the places of free ones"),
    ("03.6", _ranked(lambda w, f: w.abs()), "and keep them, too"),
    ("03.6", _ranked(lambda w, f: w.abs(), _all), "as if every one of them were free"),
    ("03.6", _ranked(_size, after=lambda m, f: m | ~f), "keep the frozen weights as well"),
    ("03.6", _ranked(_size, lambda w, f, p: max(1, int((1 - p) * int(f.sum())))), "You round down"),
    ("03.6", lambda weights, free, prune: free, "keep every free weight"),
    ("03.6", _threshold("ge"), "lets every tie through"),
    ("03.6", lambda weights, free, prune: mask_topk(weights, free, prune).float(), "return a bool tensor"),
    ("03.6", lambda weights, free, prune: mask_topk(weights, free, prune).flatten(), "Your mask has shape"),
    ("03.6", lambda weights, free, prune: mask_topk(weights, free, prune).tolist(), "Return a bool tensor of shape"),
    ("03.6", lambda weights, free, prune: _mask(_size(weights, free), 3), "18 stay at prune 0.4"),
]


# ---- 03.7 MAS ----------------------------------------------------------------------------------------------------


@right("03.7")
def mas_loop(model, x):
    training = model.training
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in x:
        gradients = torch.autograd.grad((model(image[None]) ** 2).sum(), list(model.parameters()))
        for t, g in zip(total.values(), gradients, strict=True):
            t += g.abs() / len(x)
    model.train(training)
    return total


@right("03.7")
def mas_func(model, x):
    training = model.training
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def length(parameters, image):
        return functional_call(model, parameters, (image[None],)).norm() ** 2

    gradients = vmap(grad(length), in_dims=(None, 0))(parameters, x)
    model.train(training)
    return {name: g.abs().mean(dim=0) for name, g in gradients.items()}


@right("03.7")
def mas_jacobian(model, x):
    """The Jacobian of all outputs, and the chain rule by hand."""
    was = model.training
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    out = model(x).detach()
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(parameters)
    model.train(was)
    return {name: torch.einsum("no,no...->n...", 2 * out, j).abs().mean(dim=0) for name, j in jacobian.items()}


def _mas(of=lambda out: out.square().sum(), each=torch.abs, mean=True, eval_mode=True, restore=True):
    def mas(model, x):
        training = model.training
        if eval_mode:
            model.eval()
        total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for image in x:
            gradients = torch.autograd.grad(of(model(image[None])), list(model.parameters()))
            for t, g in zip(total.values(), gradients, strict=True):
                t += each(g) / (len(x) if mean else 1)
        if restore:
            model.train(training)
        return total

    return mas


def _mas_batch(divide):
    def mas(model, x):
        training = model.training
        loss = model.eval()(x).square().sum() / (len(x) if divide else 1)
        model.train(training)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return {name: g.abs() for (name, _), g in zip(model.named_parameters(), gradients, strict=True)}

    return mas


@wrong("03.7", "never clear the gradients")
def mas_accumulates(model, x):
    training = model.training
    model.eval()
    model.zero_grad()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in x:
        model(image[None]).square().sum().backward()
        for name, p in model.named_parameters():
            total[name] += p.grad.abs() / len(x)
    model.train(training)
    return total


@wrong("03.7", "Only the last image counts")
def mas_overwrites(model, x):
    for image in x:
        result = mas_loop(model, image[None])
    return result


WRONG += [
    ("03.7", _mas_batch(divide=True), "outside the mean"),
    ("03.7", _mas_batch(divide=False), "outside the sum"),
    ("03.7", _mas(each=torch.square), "as the Fisher does"),
    ("03.7", _mas(each=lambda g: g), "There is no absolute value"),
    ("03.7", _mas(of=lambda out: out.norm()), "gradient of the norm"),
    ("03.7", _mas(mean=False), "sum over the images"),
    ("03.7", _mas(of=lambda out: out.square().mean()), "mean over the outputs"),
    ("03.7", _mas(of=lambda out: out.square().sum() / 2), "halve"),
    ("03.7", _mas(of=lambda out: out.max()), "differentiate the largest output"),
    ("03.7", _mas(of=lambda out: out.sum()), "differentiate the sum of the outputs"),
    ("03.7", _mas(of=lambda out: out.softmax(dim=1).square().sum()), "softmax in front"),
    ("03.7", _mas(of=lambda out: F.cross_entropy(out, out.argmax(dim=1))), "predicted class as its label"),
    ("03.7", _mas(of=lambda out: out.square().square().sum()), "Expected the mean over images of |"),
    ("03.7", lambda model, x: mas_loop(model, x) and None, "is there a `return`"),
    ("03.7", _mas(eval_mode=False), "ran in train mode"),
    ("03.7", _mas(restore=False), "The network came in train mode"),
]


# ---- the tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("identifier", "answer", "fragment"), WRONG, ids=case_names(WRONG))
def test_a_wrong_answer_meets_its_own_message(identifier, answer, fragment):
    assert_its_own_message(identifier, answer, fragment, WRONG)


@pytest.mark.parametrize(("identifier", "answer"), RIGHT, ids=case_names(RIGHT))
def test_a_right_variant_passes(identifier, answer):
    assert_full_points(identifier, answer)


def test_every_exercise_has_three_wrong_answers_and_three_right_ones():
    tasks = exercise.of_lesson("03")
    assert len(tasks) == 7 and sum(task.points for task in tasks.values()) == 14
    for identifier in tasks:
        assert len({text for number, _, text in WRONG if number == identifier}) >= 3
        assert sum(number == identifier for number, _ in RIGHT) >= 3


@pytest.mark.parametrize("identifier", list(exercise.of_lesson("03")))
def test_a_blank_answer_is_not_attempted(identifier):
    def blank(*arguments):
        raise NotImplementedError(f"Exercise {identifier}: …")

    report = checking.examine(exercise.find(identifier), blank)
    assert (report.status, report.points) == ("not attempted", 0)


# ---- what the package already has is refused ---------------------------------------------------------------------


def fisher_by_the_package(model, x, generator):
    labels = model(x).argmax(dim=1)
    parts = list(methods.per_sample_gradients(model, lambda out, label: F.cross_entropy(out, label), x, labels))
    return {name: torch.cat([part[name] for part in parts]).square().mean(dim=0) for name in parts[0]}


def mas_by_the_package(model, x):
    parts = list(methods.per_sample_gradients(model, lambda out: out.square().sum(), x))
    return {name: torch.cat([part[name] for part in parts]).abs().mean(dim=0) for name in parts[0]}


def mas_by_the_method(model, x):
    learner = SimpleNamespace(model=model, seed=0, stream=SimpleNamespace(scenario="class"), inputs=lambda x: x)
    data = SimpleNamespace(x=x)
    return methods.MAS.importance(SimpleNamespace(samples=None), learner, SimpleNamespace(index=0, outputs=3), data)


def si_by_the_method(gradients, weights, damping):
    si = methods.SI(damping=damping)
    si.start = {"w": torch.tensor(weights[0])}
    si.path = {"w": -torch.tensor((gradients * np.diff(weights, axis=0)).sum(axis=0))}
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor(weights[-1]))})
    return si.importance(SimpleNamespace(model=model), None, None)["w"]


CALLS = [
    ("03.1", lambda H, b, f, a, strength: landscape.protected_minimum(landscape.Bowl(b, H), f, a, strength)),
    ("03.1", lesson_03.ewc_minimum),
    ("03.2", lambda *arguments: quadratic.penalty(*arguments)),
    ("03.3", lambda *arguments: lesson_03_fisher.fisher_diagonal(*arguments)),
    ("03.3", lambda *arguments: methods.fisher_diagonal(None, ())),
    ("03.3", fisher_by_the_package),
    ("03.4", si_by_the_method),
    ("03.5", lambda gradient, reference: agem.project(gradient, reference)),
    ("03.5", lambda gradient, reference: gem.project(gradient, reference[None])),
    ("03.6", lambda *arguments: packnet.keep_mask(*arguments)),
    ("03.7", mas_by_the_package),
    ("03.7", mas_by_the_method),
]


@pytest.mark.parametrize(("identifier", "answer"), CALLS, ids=case_names(CALLS))
def test_calling_the_packages_own_is_refused(identifier, answer):
    report = checking.examine(exercise.find(identifier), answer)
    assert (report.status, report.points) == ("refused", 0)


# ---- the references, on other roads ------------------------------------------------------------------------------


@pytest.mark.parametrize("identifier", list(exercise.of_lesson("03")))
def test_the_reference_meets_every_criterion(identifier):
    task = exercise.find(identifier)
    for criterion in task.criteria:
        criterion.function(task.solution())


def test_the_minimum_is_what_an_optimizer_finds():
    H, b, f, a = np.array([[1.5, -0.7], [-0.7, 0.9]]), np.array([1.0, 2.0]), np.array([0.3, 4.0]), np.array([-2.0, 0.5])
    for strength in (0.0, 0.7, 30.0):

        def loss(w, strength=strength):
            return 0.5 * (w - b) @ H @ (w - b) + strength / 2 * (f[0] * (w[0] - a[0]) ** 2 + f[1] * (w[1] - a[1]) ** 2)

        found = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
        np.testing.assert_allclose(lesson_03.ewc_minimum(H, b, f, a, strength), found.x, atol=1e-6)


def _exact_by_jacobian(model, x):
    """The exact Fisher diagonal, from the Jacobian of the log-probabilities: `(parameters,)`."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)).log_softmax(dim=1))(parameters)
    p = model(x).detach().softmax(dim=1)
    return torch.cat([torch.einsum("nc,nc...->...", p, j**2).flatten() / len(x) for j in jacobian.values()]).numpy()


def test_the_fisher_of_many_images_is_near_the_exact_one():
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)), torch.randn(1500, 3)
    expected = _exact_by_jacobian(model, x)
    np.testing.assert_allclose(lesson_03_fisher.exact(model, x), expected, rtol=1e-4, atol=1e-7)
    drawn = lesson_03_fisher.fisher_diagonal(model, x, torch.Generator().manual_seed(0))
    drawn = np.concatenate([value.numpy().ravel() for value in drawn.values()])
    assert np.abs(drawn / expected - 1).max() < 0.2
    assert abs(drawn.sum() / expected.sum() - 1) < 0.05


def test_with_two_equal_logits_the_fisher_does_not_depend_on_the_labels():
    """p = 1/2: every label has the squared gradient x^2/4, whichever is drawn."""
    model = nn.Linear(3, 2)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    fisher = lesson_03_fisher.fisher_diagonal(model, x, torch.Generator().manual_seed(2))
    torch.testing.assert_close(fisher["weight"], (x**2).mean(dim=0).expand(2, 3) / 4)
    torch.testing.assert_close(fisher["bias"], torch.full((2,), 0.25))


def test_no_mistake_can_give_a_result_that_is_right():
    """On the criterion's images: of all labellings, none lets a wrong formula give what the right one could."""
    results = lesson_03_fisher.possible_results(*lesson_03_fisher._small())
    right_ones = results.pop("")
    assert len(right_ones) == 81
    for message, rows in results.items():
        assert not any(lesson_03_fisher.is_among(row, right_ones) for row in rows), message
    for answer in (_batch("mean"), _batch("sum"), _fisher(mean=False)):  # and whatever is drawn, the mistake is named
        model, x = lesson_03_fisher._small()
        for seed in range(10):
            result = answer(model, x, torch.Generator().manual_seed(seed))
            flat = lesson_03_networks.flat(result, model, len(x))
            assert sum(lesson_03_fisher.is_among(flat, rows) for rows in results.values()) == 1


def test_the_path_integral_finds_the_curvature_of_a_bowl():
    """From w to the minimum in small steps the credit is c/2 w^2, so without damping the importance is c/2."""
    curvature, start = np.array([3.0, 0.5]), np.array([2.0, -4.0])
    time = np.linspace(0, 1, 4001)[:, None]
    weights = start * (1 - time)  # straight to the minimum, at 0
    importance = lesson_03_importance.si_importance(curvature * weights[:-1], weights, 1e-12)
    np.testing.assert_allclose(importance, curvature / 2, rtol=1e-3)


def test_mas_is_the_slope_of_the_squared_norm():
    torch.manual_seed(5)
    model, x = nn.Linear(2, 3).double(), torch.randn(4, 2, dtype=torch.float64)
    importance = lesson_03_importance.mas_importance(model, x)
    for name, parameter in model.named_parameters():
        for i in range(parameter.numel()):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[i] += sign * 1e-5
                    values.append(model(x).square().sum(dim=1))
                    parameter.view(-1)[i] -= sign * 1e-5
            slopes = (values[0] - values[1]) / 2e-5  # one per image
            assert float(importance[name].view(-1)[i]) == pytest.approx(float(slopes.abs().mean()), rel=1e-5)
