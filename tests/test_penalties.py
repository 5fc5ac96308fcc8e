"""L2, EWC, SI and MAS against penalties and importances computed by hand."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, fitted_weights, make_learner, regression_stream, same, weights
from test_fisher import assert_close, competing, fisher_by_hand
from test_learner import interrupted
from torch.nn import functional as F

from course_utils import methods, streams
from course_utils.streams import Samples

STREAMS = {
    "class": lambda: digit_stream("class"),
    "task": lambda: digit_stream("task"),
    "domain": lambda: digit_stream("domain"),
    "regression": regression_stream,
}
PENALTIES = {
    "L2": lambda strength: methods.L2(strength),
    "EWC": lambda strength: methods.EWC(strength),
    "online EWC": lambda strength: methods.EWC(strength, online=True, decay=0.9),
    "SI": lambda strength: methods.SI(strength),
    "MAS": lambda strength: methods.MAS(strength),
}


class Known(methods.Quadratic):
    """Importances that the test chooses: `values(name, shape, task index)`."""

    name = "known"

    def __init__(self, strength, values, online=False, decay=1.0):
        super().__init__(strength, online, decay)
        self.values = values

    def importance(self, learner, task, data):
        return {n: self.values(n, tuple(p.shape), task.index) for n, p in learner.model.named_parameters()}


def drawn(name, shape, task):
    """Any importance: from 0 to 1, another one for every parameter and task."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(len(name) + 100 * task))


def constant(value):
    return lambda name, shape, task: torch.full(shape, value)


def rows_by_hand(importance: np.ndarray, anchor: np.ndarray, weight: np.ndarray) -> float:
    """sum importance (weight - anchor)^2, entry by entry; entries that came later have no partner."""
    total = 0.0
    for place in np.ndindex(anchor.shape):
        total += float(importance[place]) * (float(weight[place]) - float(anchor[place])) ** 2
    return total


def arrays(model) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}


# ---------------------------------------------------------------- the penalty


class ByHand(methods.Method):
    """Keeps its own copies of anchors and importances, and checks every step's penalty against loops."""

    def __init__(self, strength, values, online, decay):
        self.strength, self.values, self.online, self.decay = strength, values, online, decay
        self.terms, self.found = [], []

    def loss(self, learner, batch, out, loss):
        now = arrays(learner.model)
        expected = self.strength / 2 * sum(
            rows_by_hand(importance[name], anchor[name], now[name])
            for importance, anchor in self.terms
            for name in anchor
        )  # fmt: skip
        added = (loss - learner.task_loss).item()
        assert added == pytest.approx(expected, rel=1e-3, abs=1e-6)
        self.found.append(added)
        return loss

    def after_task(self, learner, task, data):
        anchor = arrays(learner.model)
        new = {name: self.values(name, value.shape, task.index).double().numpy() for name, value in anchor.items()}
        if self.online and self.terms:
            for name, old in self.terms[0][0].items():
                new[name][: len(old)] += self.decay * old
        self.terms = [(new, anchor)] if self.online else [*self.terms, (new, anchor)]


@pytest.mark.parametrize(("online", "decay"), [(False, 1.0), (True, 1.0), (True, 0.6), (True, 0.0)])
@pytest.mark.parametrize("kind", ["class", "regression"])
def test_the_penalty_equals_a_loop_over_all_weights(kind, online, decay):
    stream = STREAMS[kind]()
    check = ByHand(3.0, drawn, online, decay)
    make_learner(stream, [Known(3.0, drawn, online, decay), check], steps=4).fit(stream)
    assert len(check.found) == 12 and not any(check.found[:4])
    if online:
        assert check.found[4] == check.found[8] == 0  # at the anchor itself
    assert min(check.found[5:8] + check.found[9:]) > 0


def moved(learner, scale: float = 0.05):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return learner


def penalty_of(learner, method):
    """The penalty at the learner's weights, and its gradient by autograd."""
    parameters = dict(learner.model.named_parameters())
    learner.task_loss = sum(p.sum() for p in parameters.values())  # SI differentiates it
    value = method.loss(learner, {}, torch.empty(0), torch.zeros(()))
    return value, dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))


def test_online_with_decay_1_and_equal_anchors_is_the_separate_form():
    stream = digit_stream("domain")
    learner = {}
    for online in (False, True):
        learner[online] = make_learner(stream, [Known(2.0, drawn, online)], lr=0.0, steps=1)
        learner[online].fit(stream)
        moved(learner[online])
    assert len(learner[False].methods[0].terms) == 3 and len(learner[True].methods[0].terms) == 1
    separate, online = (penalty_of(learner[mode], learner[mode].methods[0]) for mode in (False, True))
    assert separate[0].item() == pytest.approx(online[0].item(), rel=1e-5) and online[0] > 0
    for name, gradient in separate[1].items():
        assert torch.allclose(gradient, online[1][name], rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("name", PENALTIES)
def test_new_rows_of_the_head_are_free_and_old_ones_are_not(name):
    stream = digit_stream()
    learner = make_learner(stream, [PENALTIES[name](10.0)], lr=0.05)
    learner.fit(stream.first(2))
    learner.stream = stream
    learner._grow(stream[2])
    value, gradients = penalty_of(moved(learner), learner.methods[0])
    old = stream[1].outputs
    assert value > 0
    for part in ("head.weight", "head.bias"):
        assert not gradients[part][old:].any() and gradients[part][: stream[0].outputs].any()
        assert len(gradients[part]) == stream[2].outputs


@pytest.mark.parametrize("name", PENALTIES)
def test_lambda_means_the_same_at_every_batch_size(name):
    """At the same weights after the same path, the penalty does not know how large a batch is."""
    stream = digit_stream("domain")
    found = []
    for size in (4, 32):
        learner = make_learner(stream, [PENALTIES[name](10.0)], batch_size=8, lr=0.05)
        learner.fit(stream.first(1))
        learner.batch_size = size
        method = learner.methods[0]
        if name != "SI":  # its path is made while training
            method.terms = []
            method.after_task(learner, stream[0], stream[0].train)
        moved(learner)
        learner.step = 1
        batch = learner.draw(stream[0].train)
        out = learner.model(learner.inputs(batch["x"]))
        loss = learner.task_loss = F.cross_entropy(out, batch["y"])
        assert len(batch["y"]) == size
        found.append((method.loss(learner, batch, out, loss) - loss).item())
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0] > 0


# ---------------------------------------------------------------- the strength


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", PENALTIES)
def test_strength_zero_is_fine_tuning_and_a_large_one_is_not(name, kind):
    stream = STREAMS[kind]()
    model = "mlp" if kind == "regression" else "small_cnn"  # BatchNorm would notice a stray forward pass
    plain = fitted_weights(stream, model=model)
    assert same(fitted_weights(stream, [PENALTIES[name](0.0)], model=model), plain)
    assert not same(fitted_weights(stream, [PENALTIES[name](100.0)], model=model), plain)


def half(name, shape, task):
    """Importance 1 for every second weight, 0 for the others."""
    return (torch.arange(int(np.prod(shape))) % 2).float().reshape(shape)


def drifts(stream, strength, lr=0.05, steps=40):
    """Root-mean-square moves of important and of other weights while the second task is learned."""
    before = {}

    class Keep(methods.Method):
        def after_task(self, learner, task, data):
            if task.index == 0:
                before.update(arrays(learner.model))

    learner = make_learner(stream, [Known(strength, half), Keep()], optimizer="sgd", lr=lr, steps=steps)
    learner.fit(stream.first(2))
    moves = {False: [], True: []}
    for name, now in arrays(learner.model).items():
        important = half(name, before[name].shape, 0).numpy() > 0
        difference = now[: len(before[name])] - before[name]
        for kind in (False, True):
            moves[kind].append(difference[important == kind].ravel())
    return {kind: np.sqrt(np.mean(np.concatenate(parts) ** 2)) for kind, parts in moves.items()}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_larger_lambda_lets_important_weights_drift_less_and_others_go(kind):
    stream, lr = STREAMS[kind](), 0.02
    found = [drifts(stream, strength, lr) for strength in (0.0, 1.0, 3.0, 10.0, 30.0, 49.0)]  # lr * lambda * F < 1
    important = [drift[True] for drift in found]
    assert all(b < a for a, b in zip(important, important[1:], strict=False)), important
    assert important[-1] < 0.15 * important[0]
    assert found[-1][False] > 0.3 * found[0][False]


@pytest.mark.parametrize("name", PENALTIES)
def test_each_penalty_brings_the_weights_nearer_to_the_old_ones(name):
    stream = digit_stream("domain").first(2)
    ends = {}

    def drift(strength):
        class Keep(methods.Method):
            def after_task(self, learner, task, data):
                ends[task.index] = arrays(learner.model)

        make_learner(stream, [PENALTIES[name](strength), Keep()], optimizer="sgd", lr=0.05, steps=40).fit(stream)
        return sum(((ends[1][key] - value) ** 2).sum() for key, value in ends[0].items())

    weak, strong = {"L2": (0.3, 10.0), "SI": (5.0, 40.0)}.get(name, (3.0, 30.0))
    assert drift(strong) < 0.9 * drift(weak) < 0.9 * drift(0.0)


# ---------------------------------------------------------------- too strong


@pytest.mark.parametrize("name", PENALTIES)
def test_a_strength_beyond_the_stable_range_stops_with_an_explanation(name):
    stream = digit_stream()
    learner = make_learner(stream, [PENALTIES[name](1e9)], optimizer="sgd", lr=0.05, steps=40)
    with pytest.raises(FloatingPointError, match=r"lr \* strength \* largest importance = .* diverges above 2.*lower"):
        learner.fit(stream)
    assert learner.task.index == 1  # the first task with a penalty


def test_the_explanation_names_the_numbers_and_adds_the_terms_of_all_tasks():
    """Two terms of 1.5 each are stable alone and diverge together."""
    stream = digit_stream("domain")
    learner = make_learner(stream, [Known(30.0, constant(1.0))], optimizer="sgd", lr=0.05, steps=120)
    with pytest.raises(FloatingPointError, match=r"importance = 3\..*strength=30 or lr=0\.05"):
        learner.fit(stream)
    assert learner.task.index == 2


def first_step_that_is_not_finite(stream, make):
    learner = make_learner(stream, [make()], optimizer="sgd", lr=0.05, steps=60)
    with pytest.raises(FloatingPointError):
        learner.fit(stream)
    assert learner.task.index == 1
    return learner.step


def test_weights_that_overflow_in_the_last_step_of_all_are_noticed():
    stream = digit_stream("domain").first(2)
    make = lambda: Known(1e4, constant(1.0))  # noqa: E731
    steps = first_step_that_is_not_finite(stream, make)
    learner = make_learner(stream, [make()], optimizer="sgd", lr=0.05, steps=steps)
    with pytest.raises(FloatingPointError, match="lower strength"):
        learner.fit(stream)


@pytest.mark.parametrize("online", [False, True])
def test_a_divergence_that_is_still_finite_at_the_end_of_a_task_is_not_silent(online):
    stream = digit_stream("domain").first(2)
    learner = make_learner(stream, [Known(90.0, constant(1.0), online)], optimizer="sgd", lr=0.05, steps=8)
    with pytest.warns(RuntimeWarning, match=r"known.*task 2.*importance = 4\.5.*lower strength=90"):
        learner.fit(stream)
    assert all(value.isfinite().all() for value in weights(learner.model).values())


@pytest.mark.parametrize(("strength", "warned"), [(30.0, False), (90.0, True)])  # lr * strength: 1.5 and 4.5
def test_a_resumed_task_is_judged_by_the_loss_that_it_began_with(strength, warned, tmp_path):
    stream, path = digit_stream("domain").first(2), tmp_path / "run.pt"

    def learner():
        return make_learner(stream, [Known(strength, constant(1.0))], optimizer="sgd", lr=0.05, steps=8)

    interrupted(learner(), stream, path, 4, 1, 4)
    again = learner()
    again.resume(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again.fit(stream)
    assert bool(caught) == warned


def test_a_first_batch_that_was_right_by_luck_raises_no_alarm():
    stream, known = digit_stream("domain").first(2), Known(10.0, constant(1.0))  # lr * strength is 0.5

    class Lucky(methods.Method):
        def after_step(self, learner, batch):
            known.began = 0.0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(stream, [known, Lucky()], optimizer="sgd", lr=0.05).fit(stream)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", PENALTIES)
def test_a_stable_penalty_gives_no_warning(name, kind):
    stream = STREAMS[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_learner(stream, [PENALTIES[name](1.0)], steps=20).fit(stream)


# ---------------------------------------------------------------- L2 and EWC


def test_l2_is_half_lambda_times_the_squared_distance_to_the_last_weights():
    stream = digit_stream("domain")
    learner = make_learner(stream, [methods.L2(7.0)])
    learner.fit(stream)
    anchor = arrays(learner.model)
    value, _ = penalty_of(moved(learner), learner.methods[0])
    distance = sum(((now - anchor[name]) ** 2).sum() for name, now in arrays(learner.model).items())
    assert value.item() == pytest.approx(3.5 * distance, rel=1e-4)


@pytest.mark.parametrize("labels", ["all", "empirical"])
@pytest.mark.parametrize("kind", STREAMS)
def test_ewc_takes_the_fisher_of_every_task_at_its_end(kind, labels):
    stream = STREAMS[kind]()
    expected = []

    class Keep(methods.Method):
        def after_task(self, learner, task, data):
            expected.append((fisher_by_hand(learner, data, labels), arrays(learner.model)))

    ewc = methods.EWC(0.1, labels=labels, samples=None)
    make_learner(stream, [ewc, Keep()], steps=5).fit(stream)
    assert len(ewc.terms) == 3
    for (importance, anchor), (fisher, end) in zip(ewc.terms, expected, strict=True):
        assert_close(importance, fisher)
        assert all(np.array_equal(anchor[name].double().numpy(), value) for name, value in end.items())


def test_ewc_hands_its_options_to_the_fisher():
    stream = digit_stream("domain").first(1)
    importance = {}
    for options in ({"samples": 3}, {"samples": None}, {"samples": None, "labels": "all"}):
        ewc = methods.EWC(**options)
        make_learner(stream, [ewc]).fit(stream)
        importance[str(options)] = ewc.terms[0][0]["head.bias"]
    a, b, c = importance.values()
    assert not torch.allclose(a, b) and not torch.allclose(b, c)


# ---------------------------------------------------------------- SI


class PathByHand(methods.Method):
    """The path integral of every weight from gradients of its own, in double precision."""

    def __init__(self, damping):
        self.damping, self.omega, self.starts = damping, {}, []

    def train_set(self, learner, task, data):  # the head has grown
        self.start = arrays(learner.model)
        self.starts.append(self.start)
        self.path = {name: np.zeros_like(value) for name, value in self.start.items()}
        return data

    def loss(self, learner, batch, out, loss):
        visible = learner.visible(out, batch["task"])
        regression = learner.stream.objective == "regression"
        own = F.mse_loss(visible[:, 0], batch["y"]) if regression else F.cross_entropy(visible, batch["y"])
        parameters = dict(learner.model.named_parameters())
        gradients = torch.autograd.grad(own, list(parameters.values()), retain_graph=True)
        self.gradient = {name: g.double().numpy().copy() for name, g in zip(parameters, gradients, strict=True)}
        self.before = arrays(learner.model)
        return loss

    def after_step(self, learner, batch):
        for name, now in arrays(learner.model).items():
            self.path[name] -= self.gradient[name] * (now - self.before[name])

    def after_task(self, learner, task, data):
        for name, now in arrays(learner.model).items():
            new = np.maximum(self.path[name], 0) / ((now - self.start[name]) ** 2 + self.damping)
            if name in self.omega:
                new[: len(self.omega[name])] += self.omega[name]
            self.omega[name] = new


class Huge(methods.Method):
    """A penalty whose gradient dwarfs the task's."""

    name = "huge"

    def loss(self, learner, batch, out, loss):
        return loss + 5 * sum(p.square().sum() for p in learner.model.parameters())


@pytest.mark.parametrize("other", [[], ["before"], ["after"]], ids=["alone", "after a penalty", "before a penalty"])
@pytest.mark.parametrize("kind", STREAMS)
def test_si_importance_equals_a_path_integral_of_the_tasks_own_loss(kind, other):
    stream, si, hand = STREAMS[kind](), methods.SI(20.0, damping=0.01), PathByHand(0.01)
    wanted = [*([Huge()] if other == ["before"] else []), si, hand, *([Huge()] if other == ["after"] else [])]
    make_learner(stream, wanted, steps=6).fit(stream)
    importance, anchor = si.terms[0]
    assert len(si.terms) == 1
    assert_close(importance, hand.omega)
    assert all((value >= 0).all() for value in importance.values())
    assert any((value > 0).any() for value in importance.values())
    # The start of the last task, not a view of the weights that moved on.
    assert all(np.array_equal(si.start[name].double().numpy(), value) for name, value in hand.starts[-1].items())
    assert any((si.start[name] != value).any() for name, value in anchor.items())


@pytest.mark.parametrize("kind", STREAMS)
def test_the_path_integral_sums_to_the_drop_of_the_training_loss(kind):
    stream = STREAMS[kind]().first(1)
    data, si = stream[0].train, methods.SI()
    lr = 0.01 if kind == "regression" else 0.1
    learner = make_learner(stream, [si], optimizer="sgd", lr=lr, steps=60, batch_size=len(data))
    history = learner.fit(stream)
    learner.step = 0
    out = learner.visible(learner.predict(data.x), data.fields["task"])
    end = F.mse_loss(out[:, 0], data.y) if kind == "regression" else F.cross_entropy(out, data.y)
    drop = history.losses[0][0] - end.item()
    assert drop > 0.2 * history.losses[0][0]
    assert sum(path.sum().item() for path in si.path.values()) == pytest.approx(drop, rel=0.1)


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="damping=0"):
        methods.SI(damping=0)
    with pytest.raises(ValueError, match="strength=-1"):
        methods.L2(-1)
    for decay in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            methods.EWC(online=True, decay=decay)
    with pytest.raises(NotImplementedError, match="override"):
        make_learner(digit_stream(), [methods.Quadratic()]).fit(digit_stream())


# ---------------------------------------------------------------- MAS


def mas_by_hand(learner, data: Samples) -> dict[str, np.ndarray]:
    model = copy.deepcopy(learner.model).eval()
    total = {name: np.zeros(tuple(p.shape)) for name, p in model.named_parameters()}
    for x, task in zip(data.x, data.fields["task"].tolist(), strict=True):
        x = x / 255 if x.dtype == torch.uint8 else x
        length = (model(x[None])[0, competing(learner, task)] ** 2).sum()
        gradients = torch.autograd.grad(length, list(model.parameters()))
        for name, gradient in zip(total, gradients, strict=True):
            total[name] += gradient.abs().double().numpy()
    return {name: value / len(data) for name, value in total.items()}


@pytest.mark.parametrize(("kind", "model"), [*((kind, "mlp") for kind in STREAMS), ("class", "small_cnn")])
def test_mas_importance_equals_a_loop_and_adds_up_over_tasks(kind, model):
    stream, expected, mas = STREAMS[kind](), {}, methods.MAS(0.1, samples=None)

    class Add(methods.Method):
        def after_task(self, learner, task, data):
            for name, value in mas_by_hand(learner, data).items():
                if name in expected:
                    value[: len(expected[name])] += expected[name]
                expected[name] = value

    make_learner(stream, [mas, Add()], model=model, steps=4).fit(stream)
    assert_close(mas.terms[0][0], expected)


def test_mas_needs_no_labels_and_no_augmentation():
    stream = digit_stream().first(1)
    mas = methods.MAS(samples=20)
    learner = make_learner(stream, [mas])
    learner.fit(stream)
    data = stream[0].train
    plain = mas.importance(learner, stream[0], data)
    assert same(plain, mas.terms[0][0])
    shuffled = Samples({**data.fields, "y": data.y.flip(0)})
    assert not torch.equal(shuffled.y, data.y) and same(mas.importance(learner, stream[0], shuffled), plain)
    learner.augment = lambda x, generator: x * 0
    assert same(mas.importance(learner, stream[0], data), plain)
    other = methods.MAS(samples=19).importance(learner, stream[0], data)
    assert not torch.allclose(other["head.bias"], plain["head.bias"])
    with pytest.raises(ValueError, match="samples=0"):
        methods.MAS(samples=0).importance(learner, stream[0], data)


def test_mas_asks_an_image_of_another_task_for_its_own_outputs():
    stream = streams.blurry(digit_stream("task"), 0.4)
    mas = methods.MAS(0.1, samples=None)
    learner = make_learner(stream, [mas])
    learner.fit(stream)
    data = stream[1].train
    assert set(data.fields["task"].tolist()) == {0, 1, 2}
    assert_close(mas.importance(learner, stream[1], data), mas_by_hand(learner, data))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", PENALTIES)
def test_a_weight_that_no_output_depends_on_does_not_stop_training(name):
    stream = digit_stream()
    learner = make_learner(stream, [PENALTIES[name](1.0)])
    learner.model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    learner.fit(stream)
    assert torch.equal(learner.model.unused, torch.ones(3))


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", PENALTIES)
def test_a_used_penalty_starts_a_second_run_afresh(name, kind):
    stream, method = STREAMS[kind](), PENALTIES[name](1.0)
    first = fitted_weights(stream, [method])
    assert same(fitted_weights(stream, [method]), first)
    assert not same(fitted_weights(stream, [method], seed=1), first)
