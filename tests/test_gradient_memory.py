"""GEM and A-GEM: projections against brute force, and every step of a run against gradients taken by hand."""

from __future__ import annotations

import ast
import copy
import itertools

import numpy as np
import pytest
import torch
from core_helpers import (
    digit_stream,
    fingerprints,
    fitted_weights,
    make_learner,
    regression_stream,
    same,
    unique_stream,
)
from helpers import ROOT
from torch.nn import functional as F

from course_utils import methods, models
from course_utils.methods import agem, gem

STREAMS = {
    "class": lambda: digit_stream("class"),
    "task": lambda: digit_stream("task"),
    "domain": lambda: digit_stream("domain"),
    "regression": regression_stream,
}


def random_vectors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the projection of A-GEM


@pytest.mark.parametrize("size", [2, 50, 100_000])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_agem_projects_only_against_conflicts_and_then_onto_the_orthogonal_plane(size, scale):
    signs = set()
    for seed in range(20):
        g, r = random_vectors(seed, size), scale * random_vectors(seed + 1000, size)
        found = agem.project(g, r)
        g64, r64 = g.double().numpy(), r.double().numpy()
        signs.add(bool(g64 @ r64 >= 0))
        if g64 @ r64 >= 0:
            assert torch.equal(found, g)
            continue
        expected = g64 - (g64 @ r64) / (r64 @ r64) * r64
        assert np.allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)
        assert not torch.equal(found, g)
        if np.linalg.norm(expected) > 1e-3 * np.linalg.norm(g64):  # nothing is left of opposite vectors but rounding
            cosine = found.double().numpy() @ r64 / np.linalg.norm(found.double().numpy()) / np.linalg.norm(r64)
            assert abs(cosine) < 1e-6
        assert found.double().norm() <= g.double().norm() * (1 + 1e-7)
    assert signs == {True, False}


def test_agem_on_two_numbers():
    g, r = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    assert agem.project(g, r).tolist() == [1.0, 0.0]
    assert agem.project(g, -r) is g
    assert agem.project(g, 0 * r) is g  # an empty memory's gradient forbids nothing
    assert agem.project(g, -g).tolist() == [0.0, 0.0]


# ---------------------------------------------------------------- the projection of GEM


def nearest_by_enumeration(g: np.ndarray, r: np.ndarray, margin: float) -> np.ndarray:
    """The best of all ways to hold some multipliers at the margin and to solve for the others (float64)."""
    best, answer = np.inf, None
    gram, dots = r @ r.T, r @ g
    for free in itertools.product([False, True], repeat=len(r)):
        free = np.array(free)
        u = np.full(len(r), float(margin))
        if free.any():
            right = -dots[free] - gram[np.ix_(free, ~free)] @ u[~free]
            u[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right, rcond=1e-12)[0]
        if (u >= margin - 1e-9).all():
            value = 0.5 * u @ gram @ u + dots @ u
            if value < best - 1e-12:
                best, answer = value, g + u @ r
    return answer


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_gem_finds_the_nearest_gradient_that_harms_no_past_task(tasks, margin):
    changed = 0
    for seed in range(30):
        g, r = random_vectors(seed, 12), random_vectors(seed + 500, tasks, 12)
        found = gem.project(g, r, margin)
        g64, r64 = g.double().numpy(), r.double().numpy()
        if (r64 @ g64 >= 0).all():
            assert torch.equal(found, g)
            continue
        changed += 1
        assert np.allclose(found.numpy(), nearest_by_enumeration(g64, r64, margin), rtol=1e-4, atol=1e-5)
    assert changed > 5


@pytest.mark.parametrize("seed", range(3))
def test_gem_agrees_with_a_general_solver(seed):
    from scipy.optimize import minimize

    g, r = random_vectors(seed, 20), random_vectors(seed + 700, 8, 20)
    r[0] = -g  # a conflict for certain
    g64, r64 = g.double().numpy(), r.double().numpy()
    solved = minimize(
        lambda v: 0.5 * ((v - g64) ** 2).sum(),
        g64,
        jac=lambda v: v - g64,
        constraints={"type": "ineq", "fun": lambda v: r64 @ v, "jac": lambda v: r64},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert solved.success and np.allclose(gem.project(g, r).numpy(), solved.x, atol=1e-4)


def awkward(name: str, tasks: int, size: int, seed: int) -> torch.Tensor:
    r = random_vectors(seed + 900, tasks, size)
    if name == "duplicates":
        r[1::2] = r[: len(r[1::2])]
    elif name == "nearly parallel":
        r = r[:1] + 1e-4 * r
    elif name == "very different norms":
        r = r * torch.logspace(-5, 5, tasks)[:, None]
    elif name == "opposite":
        r[1] = -r[0]
    elif name == "one is zero":
        r[0] = 0
    elif name == "more tasks than weights":
        r[:, 3:] = 0
    return r


@pytest.mark.parametrize(
    "name",
    ["duplicates", "nearly parallel", "very different norms", "opposite", "one is zero", "more tasks than weights"],
)
@pytest.mark.parametrize("tasks", [2, 5, 10])
def test_gem_keeps_every_constraint_when_past_gradients_are_awkward(name, tasks):
    changed = 0
    for seed in range(20):
        g, r = random_vectors(seed, 40), awkward(name, tasks, 40, seed)
        found = gem.project(g, r)
        assert found.isfinite().all() and found.norm() <= g.norm() * (1 + 1e-6)
        scale = r.double().norm(dim=1).clamp(min=1e-300) * g.double().norm()
        assert ((r.double() @ found.double()) / scale >= -1e-6).all()
        # Of all allowed gradients the nearest one: what was taken away is orthogonal to what is left.
        assert abs(((found - g).double() @ found.double()).item()) <= 1e-5 * g.double().square().sum().item()
        if bool((r.double() @ g.double() >= 0).all()):
            assert torch.equal(found, g)
        else:
            changed += 1
            unit = (r.double() / r.double().norm(dim=1, keepdim=True).clamp(min=1e-300)).numpy()  # lengths do not count
            if tasks < 10:  # 2 to the power of tasks combinations
                least = nearest_by_enumeration(g.double().numpy(), unit, 0.0)
                assert np.allclose(found.numpy(), least, rtol=1e-3, atol=1e-4)
    assert changed > 2


def test_gem_on_two_numbers_and_its_margin():
    g, r = torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0]])
    assert gem.project(g, r).tolist() == [1.0, 0.0]
    assert gem.project(g, r, margin=2.0).tolist() == [1.0, 3.0]  # two references on top of -1
    assert gem.project(g, r, margin=0.25).tolist() == [1.0, 0.0]  # half a reference is needed anyway
    assert gem.project(-g, r, margin=2.0).tolist() == [-1.0, 1.0]  # no conflict, no change
    with pytest.raises(ValueError, match="margin=-1"):
        methods.GEM(margin=-1)


def test_for_one_past_task_both_projections_are_the_same():
    for seed in range(20):
        g, r = random_vectors(seed, 200), random_vectors(seed + 300, 200)
        assert torch.allclose(gem.project(g, r[None]), agem.project(g, r), rtol=1e-5, atol=1e-7)


def test_no_solver_that_does_not_install_everywhere():
    imported = set()
    for path in (ROOT / "course_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert "torch" in imported and not imported & {"quadprog", "cvxopt", "qpsolvers"}
    assert "quadprog" not in (ROOT / "pyproject.toml").read_text()


# ---------------------------------------------------------------- every step of a run


class Before(methods.Method):
    """Put in front: keeps the step's own gradient before the method changes it."""

    def after_backward(self, learner, batch):
        self.gradient = {name: p.grad.clone() for name, p in learner.model.named_parameters()}
        self.model = copy.deepcopy(learner.model)  # before the memory passes through it


class Behind(methods.Method):
    """Put behind: checks what the method made of the gradient."""

    def __init__(self, before, spied, several):
        self.before, self.spied, self.several = before, spied, several
        self.kept, self.projected, self.drawn = 0, 0, set()

    def after_backward(self, learner, batch):
        found = {name: p.grad for name, p in learner.model.named_parameters()}
        own = self.before.gradient
        if learner.task.index == 0:
            assert same(found, own) and not self.spied
            return
        stored = self.spied.pop()
        assert not self.spied  # one look into the memory a step
        self.drawn |= set(fingerprints(stored["x"]))
        parts = [stored]
        if self.several:
            past = sorted(set(stored["task"].tolist()))
            assert past == list(range(learner.task.index))
            parts = [{k: v[stored["task"] == index] for k, v in stored.items()} for index in past]
        references = np.stack([reference_by_hand(learner, copy.deepcopy(self.before.model), part) for part in parts])
        g = np.concatenate([value.double().numpy().ravel() for value in own.values()])
        dots = references @ g
        if abs(dots).min() < 1e-6:  # a sign that rounding decides
            return
        if (dots >= 0).all():
            self.kept += 1
            assert same(found, own)
            return
        self.projected += 1
        now = np.concatenate([value.double().numpy().ravel() for value in found.values()])
        assert np.allclose(now, nearest_by_enumeration(g, references, 0.0), rtol=1e-2, atol=1e-5)
        assert all(found[name].shape == value.shape for name, value in own.items())


def reference_by_hand(learner, model, stored) -> np.ndarray:
    x = stored["x"] / 255 if stored["x"].dtype == torch.uint8 else stored["x"]
    out, losses = model(x), []
    for row, y, task in zip(out, stored["y"], stored["task"].tolist(), strict=True):
        if learner.stream.objective == "regression":
            losses.append((row[0] - y) ** 2)
        elif learner.stream.scenario == "task":
            start, stop = learner.stream[task].columns
            losses.append(F.cross_entropy(row[None, start:stop], y[None] - start))
        else:
            losses.append(F.cross_entropy(row[None], y[None]))
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    return np.concatenate([g.double().numpy().ravel() for g in gradients])


def spy_on(buffer, name: str) -> list:
    """What `buffer.name` hands out."""
    handed, original = [], getattr(buffer, name)

    def spy(*arguments):
        handed.append(original(*arguments))
        return handed[-1]

    setattr(buffer, name, spy)
    return handed


@pytest.mark.parametrize("several", [False, True], ids=["A-GEM", "GEM"])
@pytest.mark.parametrize(("kind", "model"), [*((kind, "mlp") for kind in STREAMS), ("class", "small_cnn")])
def test_every_step_is_the_projection_of_its_own_gradient(kind, model, several):
    stream, before = STREAMS[kind](), Before()
    method = methods.GEM(30) if several else methods.AGEM(30, batch_size=10)
    behind = Behind(before, spy_on(method.buffer, "all" if several else "sample"), several)
    make_learner(stream, [before, method, behind], model=model, steps=15).fit(stream)
    assert behind.kept + behind.projected > 20 and behind.projected > 3
    assert behind.kept > 0 or several


def test_agem_draws_as_many_as_a_batch_unless_told():
    stream = unique_stream()
    for options, expected in (({}, 8), ({"batch_size": 5}, 5), ({"batch_size": 50}, 20)):
        method = methods.AGEM(20, **options)
        handed = spy_on(method.buffer, "sample")
        make_learner(stream, [method]).fit(stream)
        assert {len(part["y"]) for part in handed} == {expected}


@pytest.mark.parametrize("make", [methods.AGEM, methods.GEM], ids=["A-GEM", "GEM"])
def test_the_whole_memory_is_used(make):
    """Every image is unique. What is stored from the first two tasks must all be met during the third."""
    stream, met, held = unique_stream(), set(), {}

    class Watch(methods.Method):
        def train_set(self, learner, task, data):
            held[task.index] = set(fingerprints(method.buffer.all()["x"])) if task.index else set()
            met.clear()
            return data

        def after_backward(self, learner, batch):
            if learner.task.index:
                seen = handed.pop()
                met.update(fingerprints(seen["x"]))

    method = make(20)
    handed = spy_on(method.buffer, "sample" if make is methods.AGEM else "all")

    class Clear(methods.Method):  # in front: the watch's own look at the memory does not count
        def batch(self, learner, batch):
            handed.clear()
            return batch

    make_learner(stream, [Clear(), method, Watch()], steps=30).fit(stream)
    assert len(held[1]) == len(held[2]) == len(method.buffer) == 20
    assert met == held[2]
    labels = method.buffer.all()["y"].bincount()
    assert labels.tolist() == sorted(labels.tolist()) or labels.max() - labels.min() <= 1
    assert labels.sum() == 20 and labels.min() >= 3  # six classes


@pytest.mark.parametrize("make", [methods.AGEM, methods.GEM], ids=["A-GEM", "GEM"])
def test_the_size_of_the_memory_matters(make):
    stream = digit_stream()
    ends = [fitted_weights(stream, [make(memory)]) for memory in (0, 6, 30)]
    assert same(ends[0], fitted_weights(stream))  # without a memory it is fine-tuning
    assert not same(ends[0], ends[1]) and not same(ends[1], ends[2])


@pytest.mark.parametrize("kind", ["class", "domain", "regression"])
def test_gem_on_one_past_task_is_agem_on_its_whole_memory(kind):
    stream = STREAMS[kind]().first(2)
    options = {"optimizer": "sgd", "lr": 0.1, "steps": 20}
    all_at_once = fitted_weights(stream, [methods.GEM(20)], **options)
    averaged = fitted_weights(stream, [methods.AGEM(20, batch_size=20)], **options)
    plain = fitted_weights(stream, **options)
    for name, value in all_at_once.items():
        assert torch.allclose(value, averaged[name], atol=2e-5), name
    assert any(not torch.allclose(value, plain[name], atol=1e-3) for name, value in all_at_once.items())


@pytest.mark.parametrize("kind", STREAMS)
def test_small_steps_of_gem_raise_no_past_loss_and_those_of_fine_tuning_do(kind):
    stream = STREAMS[kind]()
    rises = {}

    def losses(learner, model):
        stored = memory.buffer.all()
        for index in sorted(set(stored["task"].tolist())):
            mine = {name: value[stored["task"] == index] for name, value in stored.items()}
            out = learner.visible(model(learner.inputs(mine["x"])), mine["task"])
            yield learner.objective.loss(out, mine["y"]).item()

    class Watch(methods.Method):
        def loss(self, learner, batch, out, loss):
            if learner.task.index:
                self.before = list(losses(learner, learner.model))
            return loss

        def after_step(self, learner, batch):
            if learner.task.index:
                now = list(losses(learner, learner.model))
                worst[0] = max(worst[0], max(b - a for a, b in zip(self.before, now, strict=True)))

    for name, memory in (("GEM", methods.GEM(30)), ("fine-tuning", methods.Replay(30, batch_size=0))):
        worst = [0.0]
        make_learner(stream, [memory, Watch()], optimizer="sgd", lr=0.01, steps=15).fit(stream)
        rises[name] = worst[0]
    assert rises["fine-tuning"] > 1e-4 and rises["GEM"] < 0.2 * rises["fine-tuning"]


# ---------------------------------------------------------------- what they leave alone


@pytest.mark.parametrize("make", [methods.AGEM, methods.GEM], ids=["A-GEM", "GEM"])
def test_the_second_run_of_a_used_memory_is_refused(make):
    stream, method = digit_stream(), make(20)
    fitted_weights(stream, [method])
    with pytest.raises(ValueError, match="earlier run"):
        fitted_weights(stream, [method])


@pytest.mark.parametrize("make", [methods.AGEM, methods.GEM], ids=["A-GEM", "GEM"])
def test_frozen_and_unused_weights_stay(make):
    stream = digit_stream()
    learner = make_learner(stream, [make(20)], optimizer="adamw", weight_decay=0.1)
    learner.model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    frozen = learner.model.body[1].weight.requires_grad_(False).clone()
    start = models.build("mlp", stream, hidden=(16,)).body[1].bias.detach().clone()
    learner.fit(stream)
    assert torch.equal(learner.model.body[1].weight, frozen)
    assert torch.equal(learner.model.unused, torch.ones(3))  # without a gradient no optimizer decays it
    assert not torch.equal(learner.model.body[1].bias, start)
