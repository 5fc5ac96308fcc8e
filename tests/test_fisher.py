"""The Fisher diagonal against loops over images and labels, and against linear-Gaussian models solved by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, make_learner, regression_stream, same, weights
from torch import nn
from torch.nn import functional as F

from course_utils import augment, methods, models, objectives, streams
from course_utils.learner import Learner
from course_utils.methods.fisher import per_sample_gradients
from course_utils.streams import Samples


def competing(learner, task: int) -> slice:
    """Columns of the head that an image of this task may be answered with, written out per scenario."""
    if learner.stream.scenario == "class":
        return slice(0, learner.task.outputs)
    return slice(*learner.stream[task].columns)


def squared_gradients(model, value) -> dict[str, np.ndarray]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: np.zeros(tuple(p.shape)) if g is None else g.double().numpy() ** 2
        for (name, p), g in zip(named.items(), found, strict=True)
    }


def fisher_by_hand(learner, data: Samples, labels: str = "all", noise: float = 1.0) -> dict[str, np.ndarray]:
    """One image and one label at a time, by ordinary autograd on a copy in eval mode."""
    model = copy.deepcopy(learner.model).eval()
    total = {name: np.zeros(tuple(p.shape)) for name, p in model.named_parameters()}
    for x, y, task in zip(data.x, data.y, data.fields["task"].tolist(), strict=True):
        x = x / 255 if x.dtype == torch.uint8 else x
        out = model(x[None])[0]
        if learner.stream.objective == "regression":
            # d log p / d theta = (y - f) / noise^2 * df / d theta, and the mean of (y - f)^2 is noise^2.
            factors = [noise**-2.0] * len(out) if labels == "all" else [((y - out[0]).item() / noise**2) ** 2]
            terms = [(factor, value) for factor, value in zip(factors, out, strict=True)]
        else:
            columns = competing(learner, task)
            log_p = out[columns].log_softmax(0)
            if labels == "all":
                terms = [(value.exp().item(), value) for value in log_p]
            else:
                terms = [(1.0, log_p[int(y) - columns.start])]
        for factor, value in terms:
            for name, square in squared_gradients(model, value).items():
                total[name] += factor * square
    return {name: value / len(data) for name, value in total.items()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray], rtol: float = 2e-3) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape
        limit = 1e-5 * max(expected[name].max(), 1e-12)
        assert np.allclose(value.numpy(), expected[name], rtol=rtol, atol=limit), name


def learned(stream, tasks: int = 2, **options) -> Learner:
    """A learner in the state in which `after_task` of its last task would find it."""
    learner = make_learner(stream, **options)
    learner.fit(stream.first(tasks))
    learner.stream = stream
    return learner


def some(task, count: int = 12) -> Samples:
    return task.train.subset(slice(0, count))


def trace(fisher) -> float:
    return sum(float(value.sum()) for value in fisher.values())


STREAMS = {
    "class": lambda: digit_stream("class"),
    "task": lambda: digit_stream("task"),
    "domain": lambda: digit_stream("domain"),
    "regression": regression_stream,
}

# ---------------------------------------------------------------- against brute force


@pytest.mark.parametrize("labels", ["all", "empirical"])
@pytest.mark.parametrize("kind", STREAMS)
def test_fisher_equals_the_loop_over_images_and_labels(kind, labels):
    learner = learned(STREAMS[kind]())
    data = some(learner.stream[1])
    assert_close(methods.fisher_diagonal(learner, data, labels), fisher_by_hand(learner, data, labels))


@pytest.mark.parametrize("labels", ["all", "empirical"])
def test_fisher_of_the_convolutional_network_is_that_of_eval_mode(labels):
    learner = learned(digit_stream(), model="small_cnn")
    learner.model.dense.append(nn.Dropout(0.5))
    learner.model.train()
    data = some(learner.stream[1])
    assert_close(methods.fisher_diagonal(learner, data, labels), fisher_by_hand(learner, data, labels))


def test_outputs_of_other_tasks_take_no_part_whatever_task_an_image_is_of():
    learner = learned(digit_stream("task"))
    data = Samples.concat([some(learner.stream[0], 7), some(learner.stream[1], 6)])
    found = methods.fisher_diagonal(learner, data, "all")
    assert_close(found, fisher_by_hand(learner, data))
    alone = methods.fisher_diagonal(learner, some(learner.stream[1]), "all")
    first, second = (slice(*task.columns) for task in learner.stream.first(2))
    assert not alone["head.weight"][first].any() and alone["head.weight"][second].any()
    sampled = methods.fisher_diagonal(learner, some(learner.stream[1]), "sampled")
    assert not sampled["head.bias"][first].any() and sampled["head.bias"][second].any()


@pytest.mark.parametrize("kind", ["class", "task", "regression"])
def test_sampled_labels_are_unbiased_and_repeat_with_the_generator(kind):
    learner = learned(STREAMS[kind]())
    data = some(learner.stream[1], 6)
    exact = fisher_by_hand(learner, data)
    runs = [methods.fisher_diagonal(learner, data, generator=torch.Generator().manual_seed(s)) for s in range(250)]
    again = methods.fisher_diagonal(learner, data, generator=torch.Generator().manual_seed(3))
    assert same(again, runs[3]) and not same(runs[3], runs[4])

    def assert_unbiased(values, expected):
        values = np.stack(values)
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        assert (np.abs(values.mean(axis=0) - expected) <= 6 * error + 1e-5 * np.max(expected)).all()

    assert_unbiased([np.array(trace(run)) for run in runs], trace(exact))
    for name in ("head.weight", "head.bias", "body.1.bias"):
        assert_unbiased([run[name].double().numpy() for run in runs], exact[name])


def test_the_default_generator_follows_the_seed_and_the_task():
    stream = digit_stream("domain")
    learner = learned(stream, seed=4)
    data = some(stream[1])
    first = methods.fisher_diagonal(learner, data)
    assert same(first, methods.fisher_diagonal(learner, data))
    learner.seed = 5
    assert not same(first, methods.fisher_diagonal(learner, data))
    learner.seed, learner.task = 4, stream[2]
    assert not same(first, methods.fisher_diagonal(learner, data))


@pytest.mark.parametrize("kind", ["class", "regression"])
def test_the_estimators_that_square_too_late_are_far_from_it(kind):
    """What public code ships: the square of the summed and of the averaged gradient."""
    learner = learned(STREAMS[kind]())
    data = some(learner.stream[1], 24)
    empirical = methods.fisher_diagonal(learner, data, "empirical")
    model = copy.deepcopy(learner.model).eval()
    out = model(learner.inputs(data.x))
    loss = F.cross_entropy(out, data.y) if kind == "class" else 0.5 * F.mse_loss(out[:, 0], data.y)
    of_mean = squared_gradients(model, loss)
    of_sum = {name: value * len(data) ** 2 for name, value in of_mean.items()}
    assert trace(of_mean) < 0.7 * trace(empirical) and trace(of_sum) > 2 * trace(empirical)
    for wrong in (of_mean, of_sum):
        with pytest.raises(AssertionError):
            assert_close(empirical, wrong)


# ---------------------------------------------------------------- linear-Gaussian models


class Plane(models.HeadedModel):
    """y = w . x + b: the head alone."""

    def __init__(self, num_features: int):
        super().__init__()
        self.head = models.ExpandableHead(num_features)

    def features(self, x):
        return x


def plane(x: np.ndarray, noise: float, outputs: int = 1) -> Learner:
    """An untrained learner with a stream of one task; y is x's first column plus noise."""
    y = x[:, 0] + noise * np.random.default_rng(1).normal(size=len(x))
    stream = streams.from_arrays([{"train": (x, y), "test": (x, y), "validation": (x, y)}])
    objective = objectives.Regression(noise)
    learner = Learner(Plane(x.shape[1]), steps_per_task=1, lr=0.0, objective=objective, show_progress=False)
    learner.fit(stream)
    learner.model.grow(outputs, torch.Generator().manual_seed(0))
    return learner


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("noise", [1.0, 0.5, 3.0])
def test_exact_fisher_of_a_plane_is_the_gram_matrix_of_its_inputs(noise, outputs):
    x = np.random.default_rng(0).normal(size=(50, 4))
    learner = plane(x, noise, outputs)
    found = methods.fisher_diagonal(learner, learner.task.train, "all")
    diagonal = np.diag(x.T @ x) / (len(x) * noise**2)
    assert np.allclose(found["head.weight"].numpy(), np.tile(diagonal, (outputs, 1)), rtol=1e-4)
    assert np.allclose(found["head.bias"].numpy(), noise**-2.0, rtol=1e-4)


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_sampled_and_empirical_fisher_of_a_plane(noise):
    x = np.random.default_rng(0).normal(size=(4000, 3))
    learner = plane(x, noise)
    sampled = methods.fisher_diagonal(learner, learner.task.train)
    exact = np.diag(x.T @ x) / (len(x) * noise**2)
    # (y - f)^2 / noise^2 is chi-squared with one degree of freedom: its variance is 2, that of eps^2 x^2 is 8.
    assert np.allclose(sampled["head.weight"].numpy()[0], exact, rtol=6 * np.sqrt(8 / 4000))
    assert not np.allclose(sampled["head.weight"].numpy()[0], exact, rtol=1e-4)
    empirical = methods.fisher_diagonal(learner, learner.task.train, "empirical")
    w, b = (value.detach().double().numpy() for value in (learner.model.head.weight[0], learner.model.head.bias))
    residual = learner.task.train.y.double().numpy() - x @ w - b
    assert np.allclose(empirical["head.weight"].numpy()[0], (residual**2 @ x**2) / len(x) / noise**4, rtol=1e-3)


def test_samples_are_drawn_without_replacement():
    """Each image lights one weight of its own, so the Fisher diagonal says which images were used."""
    learner = plane(np.eye(6), 1.0)
    data = learner.task.train

    def used(count, seed=0):
        found = methods.fisher_diagonal(learner, data, "all", count, torch.Generator().manual_seed(seed))
        return found["head.weight"][0].double().numpy()

    subsets = set()
    for seed in range(20):
        weights_used = used(3, seed)
        assert np.allclose(np.sort(weights_used), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
        subsets.add(tuple(weights_used > 0))
    assert len(subsets) > 5
    assert np.allclose(used(None), 1 / 6) and np.allclose(used(6), 1 / 6) and np.allclose(used(100), 1 / 6)


# ---------------------------------------------------------------- what it leaves alone


def test_nothing_of_the_model_and_no_global_state_is_touched():
    stream = digit_stream()
    learner = learned(stream, model="small_cnn", augment=augment.Affine())
    learner.model.dense.append(nn.Dropout(0.5))
    learner.model.train()
    learner.model.body[3].eval()  # a frozen normalisation layer in a network that trains
    assert isinstance(learner.model.body[3], nn.BatchNorm2d)
    for parameter in learner.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    modes = [module.training for module in learner.model.modules()]
    before, state = weights(learner.model), torch.get_rng_state()
    for labels in ("sampled", "all", "empirical"):
        fisher = methods.fisher_diagonal(learner, some(stream[1]), labels)
        assert not any(value.requires_grad for value in fisher.values())
    assert [module.training for module in learner.model.modules()] == modes
    assert same(weights(learner.model), before)
    assert all((parameter.grad == 0.25).all() for parameter in learner.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_not_augmented():
    learner = learned(digit_stream())
    data = some(learner.stream[1])
    plain = methods.fisher_diagonal(learner, data, "all")
    learner.augment = lambda x, generator: x * 0
    assert same(methods.fisher_diagonal(learner, data, "all"), plain)


def test_frozen_weights_have_no_entry():
    learner = learned(digit_stream())
    learner.model.body[1].weight.requires_grad_(False)
    found = methods.fisher_diagonal(learner, some(learner.stream[1]), "all")
    assert set(found) == {"body.1.bias", "head.weight", "head.bias"}
    expected = fisher_by_hand(learner_with_all_trainable(learner), some(learner.stream[1]))
    assert_close(found, {name: expected[name] for name in found})


def learner_with_all_trainable(learner):
    learner.model.body[1].weight.requires_grad_(True)
    return learner


# ---------------------------------------------------------------- per-sample gradients


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_per_sample_gradients_are_those_of_one_sample_at_a_time_in_any_chunk(model):
    learner = learned(digit_stream(), model=model)
    data, network = some(learner.stream[1], 10), learner.model
    x = learner.inputs(data.x)

    def collect(chunk):
        parts = list(per_sample_gradients(network, lambda out, y: F.cross_entropy(out, y), x, data.y, chunk=chunk))
        assert [len(part["head.bias"]) for part in parts] == [min(chunk, 10 - i) for i in range(0, 10, chunk)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    chunks = {chunk: collect(chunk) for chunk in (1, 4, 64)}
    bare = copy.deepcopy(network).eval()
    names = [name for name, _ in bare.named_parameters()]
    for row in range(10):
        loss = F.cross_entropy(bare(x[row][None]), data.y[row][None])
        for name, expected in zip(names, torch.autograd.grad(loss, list(bare.parameters())), strict=True):
            for found in chunks.values():
                assert torch.allclose(found[name][row], expected, rtol=1e-3, atol=1e-6), name
    whole = torch.autograd.grad(F.cross_entropy(bare(x), data.y), list(bare.parameters()))
    for name, expected in zip(names, whole, strict=True):
        assert torch.allclose(chunks[4][name].mean(dim=0), expected, rtol=1e-3, atol=1e-6), name


def test_per_sample_gradients_restore_the_modes_even_when_the_function_fails():
    learner = learned(digit_stream(), model="small_cnn")
    learner.model.train()
    learner.model.body.eval()
    modes = [module.training for module in learner.model.modules()]

    def fail(out):
        raise RuntimeError("no such output")

    x = learner.inputs(learner.stream[0].train.x[:3])
    with pytest.raises(RuntimeError, match="no such output"):
        list(per_sample_gradients(learner.model, fail, x))
    assert [module.training for module in learner.model.modules()] == modes


# ---------------------------------------------------------------- errors


def test_impossible_requests_are_explained():
    learner = learned(digit_stream())
    data = learner.stream[1].train
    with pytest.raises(ValueError, match="labels='argmax' is unknown; choose one of sampled, all, empirical"):
        methods.fisher_diagonal(learner, data, "argmax")
    with pytest.raises(ValueError, match="labels='true' is unknown"):
        methods.EWC(labels="true")
    for samples in (0, -1):
        with pytest.raises(ValueError, match=f"samples={samples}"):
            methods.fisher_diagonal(learner, data, samples=samples)
    with pytest.raises(ValueError, match="got 0"):
        methods.fisher_diagonal(learner, data.subset(slice(0, 0)))
