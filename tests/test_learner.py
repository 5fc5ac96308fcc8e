"""The learner against loops written by hand: batches, budgets, growth, scoring, scenarios, saving."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.stats
import torch
from core_helpers import (
    Recorder,
    digit_stream,
    fitted_weights,
    interrupted,
    make_learner,
    regression_stream,
    same,
    unique_stream,
    weights,
)
from torch.nn import functional as F

from course_utils import augment, methods, metrics, models, objectives, progress, seeding, streams
from course_utils.history import History
from course_utils.learner import Learner

# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_fine_tuning_is_the_loop_anyone_would_write(model):
    stream = digit_stream()
    recorder = Recorder()
    learner = make_learner(stream, [recorder], model=model)
    bare = copy.deepcopy(learner.model)
    history = learner.fit(stream)

    losses = []
    for task, batches in zip(stream, recorder.batches, strict=True):
        bare.grow(task.outputs, seeding.generator(0, task.index, 3))
        optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
        bare.train()
        for batch in batches:
            loss = F.cross_entropy(bare(batch["x"] / 255), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert same(weights(learner.model), weights(bare))
    assert sum(history.losses, []) == losses

    bare.eval()
    for task in stream:
        expected = (bare(task.test.x / 255).argmax(1) == task.test.y).double().mean().item()
        assert history.accuracy[-1, task.index] == expected


def test_hooks_run_in_the_documented_order():
    order = []

    class Spy(methods.Method):
        def before_task(self, learner, task):
            order.append(("before_task", learner.model.num_outputs))

        def train_set(self, learner, task, data):
            order.append(("train_set", learner.model.num_outputs))
            return data

        def batch(self, learner, batch):
            order.append(("batch", batch["x"].dtype))
            return batch

        def loss(self, learner, batch, out, loss):
            assert loss is learner.task_loss
            order.append(("loss", batch["input"].dtype))
            return loss

        def after_backward(self, learner, batch):
            order.append(("after_backward", learner.step))

        def after_step(self, learner, batch):
            order.append(("after_step", learner.step))

        def after_task(self, learner, task, data):
            order.append(("after_task", len(data)))

        def before_eval(self, learner, task):
            order.append(("before_eval", task.index))

        def after_eval(self, learner, task):
            order.append(("after_eval", task.index))

    stream = digit_stream(num_tasks=5).first(2)
    make_learner(stream, [Spy()], steps=1).fit(stream)
    step = [("batch", torch.uint8), ("loss", torch.float32), ("after_backward", 0), ("after_step", 1)]
    scored = [[("before_eval", i), ("after_eval", i)] for i in range(2)]
    assert order == [
        ("before_task", 0), ("train_set", 2), *step, ("after_task", 24), *scored[0],
        ("before_task", 2), ("train_set", 4), *step, ("after_task", 24), *scored[0], *scored[1],
    ]  # fmt: skip


def test_each_epoch_is_a_permutation_and_every_batch_is_full():
    stream = unique_stream()
    learner = make_learner(stream, batch_size=7, epochs=3)
    learner.fit(stream.first(1))
    data = stream[0].train  # 24 samples: batches of 7 straddle the epochs
    learner.step, rows = 0, []
    for _ in range(24):
        batch = learner.draw(data)
        assert len(batch["y"]) == 7 and not batch["replayed"].any()
        assert torch.equal(batch["x"], data.x[batch["index"]]) and torch.equal(batch["y"], data.y[batch["index"]])
        rows += batch["index"].tolist()
        learner.step += 1
    epochs = [rows[i : i + 24] for i in range(0, 7 * 24, 24)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_batch_may_be_larger_than_the_data():
    stream = unique_stream()
    learner = make_learner(stream, batch_size=100, steps=2)
    learner.fit(stream.first(1))
    learner.step = 0
    rows = learner.draw(stream[0].train)["index"].tolist()
    assert len(rows) == 100 and set(np.unique(rows, return_counts=True)[1]) == {4, 5}


def test_a_task_without_samples_is_named():
    stream = unique_stream()
    learner = make_learner(stream)
    learner.task = stream[1]
    with pytest.raises(ValueError, match="task 2 .* has no training samples"):
        learner.draw(stream[1].train.subset(slice(0, 0)))


# ---------------------------------------------------------------- budgets


def test_budgets_count_steps_of_the_current_task():
    stream = digit_stream(limit=None)
    sizes = [len(task.train) for task in stream]
    by_steps = make_learner(stream, steps=9).fit(stream)
    by_epochs = make_learner(stream, epochs=0.5, batch_size=64).fit(stream)
    assert by_steps.steps.tolist() == [9, 9, 9] == [len(losses) for losses in by_steps.losses]
    assert by_epochs.steps.tolist() == [math.ceil(size * 0.5 / 64) for size in sizes]


def test_only_joint_training_takes_more_steps_as_the_stream_goes_on():
    stream = unique_stream()  # 24 samples a task, 3 batches of 8
    wanted = {
        "fine-tuning": [],
        "replay": [methods.Replay(20)],
        "gdumb": [methods.GDumb(20)],
        "derpp": [methods.DERpp(20)],
    }
    for name, list_of_methods in wanted.items():
        history = make_learner(stream, list_of_methods, epochs=2).fit(stream)
        assert history.steps.tolist() == [6, 6, 6], name
    assert make_learner(stream, [methods.Joint()], epochs=2).fit(stream).steps.tolist() == [6, 12, 18]
    assert make_learner(stream, [methods.Joint()], steps=6).fit(stream).steps.tolist() == [6, 6, 6]


def test_weight_decay_shrinks_the_weights_as_adamw_says():
    """With a learning rate of 0.1 and decay 0.5, a weight without gradient loses 5 % at every step."""
    stream = digit_stream()
    unused = torch.nn.Parameter(torch.ones(3))
    model = models.build("mlp", stream, hidden=(8,))
    model.register_parameter("unused", unused)
    learner = Learner(model, steps_per_task=4, lr=0.1, optimizer="adamw", weight_decay=0.5, show_progress=False)
    unused.grad = torch.zeros(3)
    optimizer = learner.make_optimizer([unused], lr=0.1)
    for _ in range(4):
        optimizer.step()
    torch.testing.assert_close(unused.detach(), torch.full((3,), 0.95**4))
    plain = Learner(copy.deepcopy(model), steps_per_task=1, show_progress=False).make_optimizer([unused], lr=0.1)
    assert plain.param_groups[0]["weight_decay"] == 0


def test_cosine_schedule_starts_at_lr_and_falls_to_zero_in_every_task():
    seen = []

    class Spy(methods.Method):
        def after_step(self, learner, batch):
            seen.append(learner.optimizer.param_groups[0]["lr"])

    stream = digit_stream()
    make_learner(stream, [Spy()], steps=10, schedule="cosine", lr=0.5).fit(stream)
    expected = [0.25 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert seen == pytest.approx(expected * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "steps_per_task": 5}, "exactly one of the two budgets"),
        ({}, "exactly one of the two budgets"),
        ({"epochs": 1, "optimizer": "adamw2"}, "adam, adamw, sgd or a function"),
        ({"epochs": 1, "schedule": "linear"}, "constant, cosine"),
    ],
)
def test_wrong_arguments_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Learner(models.build("mlp", digit_stream()), **options)
    with pytest.raises(ValueError, match="validation"):
        make_learner(digit_stream()).fit(digit_stream(), evaluate="tests")


@pytest.mark.parametrize("steps", [3, 25])  # 3: fewer than the interval at which the loss is looked at
def test_a_diverging_run_stops_and_says_what_to_lower(steps):
    class Diverge(methods.Method):
        def loss(self, learner, batch, out, loss):
            return loss * float("nan")

    with pytest.raises(FloatingPointError, match=r"lower lr=0\.01"):
        make_learner(digit_stream(), [Diverge()], steps=steps).fit(digit_stream())


# ---------------------------------------------------------------- the head and the optimizer


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_optimizer_moves_new_and_old_rows(keep, optimizer):
    stream = digit_stream()
    grown = {}

    class Spy(methods.Method):
        def train_set(self, learner, task, data):  # after growth, before the first step
            grown[task.index] = learner.model.head.weight.detach().clone()
            return data

    learner = make_learner(stream, [Spy()], keep_optimizer=keep, optimizer=optimizer)
    learner.fit(stream)
    assert (learner.model.head.weight != grown[2]).any(dim=1).all()
    in_optimizer = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == {id(p) for p in learner.model.parameters()}


def test_keeping_the_optimizer_keeps_adams_state_and_gives_new_rows_zeros():
    stream = digit_stream()
    learner = make_learner(stream, keep_optimizer=True)
    learner.fit(stream.first(1))
    old = [{k: v.clone() for k, v in learner.optimizer.state[p].items()} for p in learner.model.parameters()]
    learner._grow(stream[1])
    for parameter, before in zip(learner.model.parameters(), old, strict=True):
        state = learner.optimizer.state[parameter]
        assert state["step"] == before["step"] == 8
        for name in ("exp_avg", "exp_avg_sq"):
            rows = len(before[name])
            assert state[name].shape == parameter.shape
            assert torch.equal(state[name][:rows], before[name]) and not state[name][rows:].any()
    assert len(learner.model.head.weight) == stream[1].outputs > stream[0].outputs


def test_a_fresh_optimizer_for_every_task_is_the_default():
    kept, fresh = (fitted_weights(digit_stream(), keep_optimizer=keep) for keep in (True, False))
    assert not same(kept, fresh)


def full_head(stream, learner):
    """A model with all outputs from the start, its rows those that `learner` will draw."""
    grown = copy.deepcopy(learner.model)
    for task in stream:
        grown.grow(task.outputs, seeding.generator(learner.seed, task.index, 3))
    return grown


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("keep", [False, True])
def test_an_expanding_head_equals_a_full_head_with_unseen_logits_masked(optimizer, keep):
    """The reference is a bare loop that masks with -inf; only the order of float sums may differ."""
    stream = digit_stream()
    recorder = Recorder()
    learner = make_learner(stream, [recorder], optimizer=optimizer, keep_optimizer=keep)
    full = full_head(stream, learner)
    learner.fit(stream)
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    step = make(full.parameters(), lr=0.01)
    for task, batches in zip(stream, recorder.batches, strict=True):
        step = step if keep else make(full.parameters(), lr=0.01)
        for batch in batches:
            out = full(batch["x"] / 255)
            out = out.masked_fill(torch.arange(out.shape[1]) >= task.outputs, -torch.inf)
            step.zero_grad()
            F.cross_entropy(out, batch["y"]).backward()
            step.step()
    for name, value in weights(learner.model).items():
        assert torch.allclose(value, full.state_dict()[name], atol=2e-5), name


def test_a_model_that_is_wide_from_the_start_gets_no_say_for_unseen_classes():
    stream = digit_stream()
    learner = make_learner(stream)
    learner.model = full_head(stream, learner)
    before = learner.model.head.weight.clone()
    learner.fit(stream.first(1))
    seen = stream[0].outputs
    assert torch.equal(learner.model.head.weight[seen:], before[seen:])
    assert (learner.model.head.weight[:seen] != before[:seen]).any(dim=1).all()


# ---------------------------------------------------------------- scenarios and scoring


def test_visible_outputs_in_the_three_scenarios():
    out, task_ids = torch.arange(12.0).reshape(2, 6), torch.tensor([0, 1])
    for scenario, expected in {
        "class": [[0, 1, 2, 3], [6, 7, 8, 9]],  # all seen after the second task
        "domain": out.tolist(),
        "task": [[0, 1, None, None, None, None], [None, None, 8, 9, None, None]],  # each sample its own task's
    }.items():
        stream = unique_stream(scenario)  # three tasks of two classes
        learner = make_learner(stream)
        learner.stream, learner.task = stream, stream[1]
        found = learner.visible(out, task_ids)
        assert [[None if v < -1e30 else v for v in row] for row in found.tolist()] == expected
        assert found.softmax(1).isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_knowing_the_task_never_hurts(seed):
    """The same weights, scored with and without the task's identity."""
    stream, masked = digit_stream("class", 5), digit_stream("task", 5)
    learner = make_learner(stream, [methods.Replay(30)], seed=seed, steps=15)
    learner.fit(stream)
    plain = [learner.score(task.test, task) for task in stream]
    learner.stream = masked
    aware = [learner.score(task.test, task) for task in masked]
    assert all(a >= p for a, p in zip(aware, plain, strict=True)) and sum(aware) > sum(plain)
    out = learner.predict(stream[1].test.x)[:, 2:4]  # by hand, for one task
    assert aware[1] == (out.argmax(1) + 2 == stream[1].test.y).double().mean().item()


def test_class_incremental_scores_only_what_was_seen_and_domain_incremental_all():
    for scenario in ("class", "task"):
        accuracy = make_learner(digit_stream(scenario)).fit(digit_stream(scenario)).accuracy
        assert np.array_equal(np.isnan(accuracy), np.triu(np.ones((3, 3), dtype=bool), 1))
    history = make_learner(digit_stream("domain")).fit(digit_stream("domain"))
    assert not np.isnan(history.accuracy).any() and not np.isnan(history.initial).any()
    assert math.isfinite(metrics.forward_transfer(history.accuracy, history.initial))


def test_initial_scores_come_from_the_untrained_model():
    stream = digit_stream("domain")
    learner = make_learner(stream)
    untrained = copy.deepcopy(learner.model)
    untrained.grow(stream[0].outputs, seeding.generator(0, 0, 3))
    history = learner.fit(stream)
    expected = [(untrained(t.test.x / 255).argmax(1) == t.test.y).double().mean().item() for t in stream]
    assert history.initial.tolist() == expected


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_the_asked_split_is_scored(split):
    stream = digit_stream()
    learner = make_learner(stream)
    history = learner.fit(stream, evaluate=split)
    learner.model.eval()
    for task in stream:
        samples = getattr(task, split)
        expected = (learner.model(samples.x / 255).argmax(1) == samples.y).double().mean().item()
        assert history.accuracy[-1, task.index] == expected
    assert history.sizes.tolist() == [len(getattr(task, split)) for task in stream]


@pytest.mark.parametrize("training", [True, False])
def test_predicting_restores_the_mode_and_leaves_running_statistics_alone(training):
    stream = digit_stream()
    learner = make_learner(stream, model="small_cnn")
    learner.fit(stream)
    learner.model.train(training)
    before = weights(learner.model)
    out = learner.predict(stream[0].test.x)
    assert learner.model.training is training and same(weights(learner.model), before) and not out.requires_grad
    learner.model.eval()
    with torch.no_grad():
        assert torch.allclose(out, learner.model(stream[0].test.x / 255), atol=1e-6)


def test_training_starts_in_training_mode_whatever_came_before():
    class LeaveEvalMode(methods.Method):
        def after_task(self, learner, task, data):
            learner.model.eval()

    stream = digit_stream()
    left = fitted_weights(stream, [LeaveEvalMode()], model="small_cnn")
    assert same(left, fitted_weights(stream, model="small_cnn"))


def test_evaluation_does_not_change_training():
    class Peek(methods.Method):
        def after_step(self, learner, batch):
            learner.score(learner.task.test, learner.task)

    shaky = {"model": "small_cnn", "augment": augment.Affine()}
    assert same(fitted_weights(digit_stream(), **shaky), fitted_weights(digit_stream(), [Peek()], **shaky))


def test_predictions_are_not_augmented_and_more_than_one_batch_long():
    stream = digit_stream(limit=None)
    learner = make_learner(stream, augment=lambda x, generator: x * 0)
    learner.fit(stream)
    x = torch.cat([task.train.x for task in stream])
    assert len(x) > 1000
    learner.model.eval()
    assert torch.allclose(learner.predict(x), learner.model(x / 255), atol=1e-6)
    assert learner.predict(x[:0]).shape == (0, 10)


def test_augmentation_reaches_training_and_repeats_with_the_seed():
    affine = {"model": "small_cnn", "augment": augment.Affine()}
    plain = fitted_weights(digit_stream(), model="small_cnn")
    first, again, other = (fitted_weights(digit_stream(), seed=s, **affine) for s in (0, 0, 1))
    assert same(first, again) and not same(first, plain) and not same(first, other)


def test_overall_accuracy_counts_every_test_image_once():
    stream = digit_stream(num_tasks=3)  # 4, 3 and 3 classes
    learner = make_learner(stream, [methods.Replay(30)], steps=30)
    history = learner.fit(stream)
    learner.model.eval()
    x, y = (torch.cat([getattr(t.test, name) for t in stream]) for name in ("x", "y"))
    assert history.overall[-1] == pytest.approx((learner.model(x / 255).argmax(1) == y).double().mean().item())
    assert history.overall[-1] != pytest.approx(history.accuracy[-1].mean(), abs=1e-6)


def test_history_survives_json():
    history = make_learner(digit_stream("domain")).fit(digit_stream("domain"))
    history.accuracy[0, 1] = np.nan
    history.remarks.append("the task was told")
    import json

    restored = History.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False)))
    for name in ("accuracy", "initial", "seconds", "steps", "sizes", "losses", "remarks"):
        assert same(getattr(restored, name), getattr(history, name)), name


def test_training_time_is_measured_and_evaluation_is_not(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("course_utils.learner.time.perf_counter", lambda: clock[0])

    class Slow(methods.Method):
        def before_task(self, learner, task):
            clock[0] += 1

        def after_step(self, learner, batch):
            clock[0] += 10

        def after_task(self, learner, task, data):
            clock[0] += 100

        def before_eval(self, learner, task):
            clock[0] += 1000

    stream = digit_stream()
    assert make_learner(stream, [Slow()], steps=3).fit(stream).seconds.tolist() == [131, 131, 131]


# ---------------------------------------------------------------- randomness


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_same_seed_same_bytes_and_another_seed_others(model):
    def run(seed):
        return fitted_weights(digit_stream(), [methods.Replay(20)], model=model, seed=seed)

    first = run(3)
    torch.rand(5)  # the global generators have no say
    np.random.rand(5)
    assert same(first, run(3)) and not same(first, run(4))


def test_training_leaves_the_global_generator_alone():
    stream = digit_stream()
    before = torch.get_rng_state()
    make_learner(stream, [methods.Replay(20), methods.Distill()], model="small_cnn", augment=augment.Affine()).fit(
        stream
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_derived_seeds_differ_from_place_to_place():
    places = [
        (seed, task, kind, step) for seed in range(3) for task in range(5) for kind in range(5) for step in range(50)
    ]
    assert len({seeding.derive(*place) for place in places}) >= len(places) - 2  # 32 bits: a collision is unlikely


# ---------------------------------------------------------------- regression


def test_regression_is_scored_by_rank_and_trains():
    stream = regression_stream()
    learner = make_learner(stream, steps=60)
    history = learner.fit(stream)
    assert isinstance(learner.objective, objectives.Regression)
    out = learner.predict(stream[2].test.x).flatten().numpy()
    expected = scipy.stats.spearmanr(out, stream[2].test.y.numpy()).statistic
    assert history.accuracy[2, 2] == pytest.approx(expected) and expected > 0.8


# ---------------------------------------------------------------- saving and resuming


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def balanced_and_aligned():
    replay = methods.Replay(20)
    return [replay, methods.BalancedFinetune(replay, steps=3), methods.WeightAlign()]


RESUMED = {
    "fine-tuning": (lambda: [], {}),
    "replay": (lambda: [methods.Replay(20)], {}),
    "reservoir and distillation": (
        lambda: [methods.Replay(20, "reservoir"), methods.Distill()],
        {"model": "small_cnn"},
    ),
    "distillation, kept Adam": (lambda: [methods.Distill(0.8)], {"keep_optimizer": True}),
    "replay, kept momentum": (lambda: [methods.Replay(20)], {"keep_optimizer": True, "optimizer": momentum}),
    "DER++": (lambda: [methods.DERpp(20)], {"model": "small_cnn"}),
    "DER++ refreshed, momentum": (lambda: [methods.DERpp(20, refresh=True)], {"optimizer": momentum}),
    "GDumb": (lambda: [methods.GDumb(20)], {"model": "small_cnn"}),
    "joint": (lambda: [methods.Joint()], {"model": "small_cnn"}),
    "joint, epochs": (lambda: [methods.Joint()], {"epochs": 2}),
    "calibration": (balanced_and_aligned, {"model": "small_cnn"}),
    "L2": (lambda: [methods.L2(2.0)], {"model": "small_cnn"}),
    "EWC": (lambda: [methods.EWC(10.0)], {"model": "small_cnn"}),
    "EWC, online": (lambda: [methods.EWC(10.0, online=True, decay=0.5)], {"keep_optimizer": True}),
    "SI": (lambda: [methods.SI(50.0)], {"model": "small_cnn"}),
    "MAS and replay": (lambda: [methods.Replay(20), methods.MAS(0.1)], {"model": "small_cnn"}),
    "A-GEM, augmentation": (lambda: [methods.AGEM(20)], {"model": "small_cnn", "augment": augment.Affine()}),
    "GEM": (lambda: [methods.GEM(20, margin=0.1)], {"optimizer": momentum}),
    "PackNet": (lambda: [methods.PackNet(0.5, identity="inferred")], {"model": "small_cnn", "optimizer": momentum}),
    "PackNet, kept Adam": (
        lambda: [methods.Replay(20), methods.PackNet(0.5, retrain=0.3, identity="inferred")],
        {"keep_optimizer": True, "weight_decay": 0.01},
    ),
    "cosine and augmentation": (
        lambda: [methods.Replay(20), methods.Distill()],
        {"model": "small_cnn", "schedule": "cosine", "augment": augment.Affine(), "optimizer": momentum},
    ),
}


def assert_same_run(a, b):
    assert same(weights(a.model), weights(b.model))
    for name in ("accuracy", "initial", "steps", "sizes", "losses", "remarks"):
        assert same(getattr(a.history, name), getattr(b.history, name)), name
    for mine, theirs in zip(a.methods, b.methods, strict=True):
        assert same(mine.state_dict(), theirs.state_dict()), mine.name
    assert same(a.optimizer.state_dict(), b.optimizer.state_dict())


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_a_run_stopped_in_the_middle_of_task_2_ends_in_the_same_bytes(case, scenario, tmp_path):
    make, options = RESUMED[case]
    stream, path = digit_stream(scenario), tmp_path / "run.pt"
    whole = make_learner(stream, make(), **options)
    whole.fit(stream)
    interrupted(make_learner(stream, make(), **options), stream, path, 5, 1, 5)
    # The same learner, but its weights are others until the file is read.
    again = make_learner(stream, make(), model_seed=9, **options)
    again.resume(path)
    again.fit(stream)
    assert_same_run(whole, again)


PROTECTED = {
    "EWC": lambda identity: [methods.EWC(10.0)],
    "SI": lambda identity: [methods.SI(50.0)],
    "MAS": lambda identity: [methods.MAS(0.1)],
    "A-GEM": lambda identity: [methods.AGEM(20)],
    "GEM": lambda identity: [methods.GEM(20)],
    "PackNet": lambda identity: [methods.PackNet(0.5, identity=identity)],
}


@pytest.mark.parametrize("step", [3, 5])  # PackNet prunes after step 4
@pytest.mark.parametrize("kind", ["task", "domain", "regression"])
@pytest.mark.parametrize("name", PROTECTED)
def test_protected_weights_survive_a_stop_on_every_kind_of_stream(name, kind, step, tmp_path):
    stream = regression_stream() if kind == "regression" else digit_stream(kind)
    make, path = (lambda: PROTECTED[name](None if kind == "task" else "given")), tmp_path / "run.pt"
    options = {"optimizer": momentum, "lr": 0.02, "keep_optimizer": True}
    whole = make_learner(stream, make(), **options)
    whole.fit(stream)
    interrupted(make_learner(stream, make(), **options), stream, path, step, 1, step)
    again = make_learner(stream, make(), model_seed=9, **options)
    again.resume(path)
    again.fit(stream)
    assert_same_run(whole, again)
    told = name == "PackNet" and kind != "task"
    assert again.history.remarks == (["PackNet: the task of every test image is given"] if told else [])


@pytest.mark.parametrize("position", [1, 3])
def test_a_run_stopped_between_tasks_or_after_the_last_one_resumes(position, tmp_path):
    stream, path = digit_stream(), tmp_path / "deep" / "run.pt"
    wanted = lambda: [methods.Replay(20), methods.Distill()]  # noqa: E731
    whole = make_learner(stream, wanted(), keep_optimizer=True)
    whole.fit(stream)
    interrupted(make_learner(stream, wanted(), keep_optimizer=True), stream, path, None, position, 0)
    again = make_learner(stream, wanted(), keep_optimizer=True)
    again.resume(path)
    again.fit(stream)
    assert_same_run(whole, again)
    assert [file.name for file in path.parent.iterdir()] == ["run.pt"]  # no half-written file is left


def test_a_task_longer_than_the_progress_interval_is_saved_where_asked(tmp_path):
    stream = digit_stream().first(2)
    learner, saved = make_learner(stream, steps=60), []
    learner.save = lambda path: saved.append((learner.position, learner.step))
    learner.fit(stream, checkpoint=tmp_path / "run.pt", checkpoint_every=20)
    assert saved == [(0, 20), (0, 40), (1, 0), (1, 20), (1, 40), (2, 0)]


@pytest.fixture
def saved(tmp_path):
    stream, path = digit_stream(), tmp_path / "run.pt"
    interrupted(make_learner(stream, [methods.Replay(20), methods.Distill(0.5)]), stream, path, 5, 1, 5)
    return path


@pytest.mark.parametrize(
    ("wanted", "options", "named"),
    [
        (lambda: [methods.Replay(20)], {}, "methods"),
        (lambda: [methods.Replay(21), methods.Distill(0.5)], {}, "memory"),
        (lambda: [methods.Replay(20, "reservoir"), methods.Distill(0.5)], {}, "policy"),
        (lambda: [methods.Replay(20), methods.Distill(0.6)], {}, "alpha"),
        (None, {"lr": 0.02}, "lr: here 0.02, saved 0.01"),
        (None, {"seed": 1}, "seed"),
        (None, {"batch_size": 9}, "batch_size"),
        (None, {"steps": 9}, "steps_per_task"),
        (None, {"schedule": "cosine"}, "schedule"),
        (None, {"optimizer": "sgd"}, "optimizer"),
        (None, {"augment": augment.Affine()}, "augment"),
        (None, {"model": "small_cnn"}, "model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(saved, wanted, options, named):
    wanted = wanted or (lambda: [methods.Replay(20), methods.Distill(0.5)])
    with pytest.raises(ValueError, match=f"other settings .*{named}.*build the same learner"):
        make_learner(digit_stream(), wanted(), **options).resume(saved)


def test_a_checkpoint_of_another_stream_is_refused(saved):
    learner = make_learner(digit_stream(), [methods.Replay(20), methods.Distill(0.5)])
    learner.resume(saved)
    with pytest.raises(ValueError, match="task-incremental"):
        learner.fit(digit_stream("task"))


def test_truncated_and_foreign_files_are_refused(saved, tmp_path):
    learner = make_learner(digit_stream(), [methods.Replay(20), methods.Distill(0.5)])
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for name in ("run.pt", "text.pt", "other.pt", "tensor.pt"):
        with pytest.raises(ValueError, match="not a whole saved run"):
            learner.resume(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        learner.resume(tmp_path / "missing.pt")


def test_an_interrupted_save_leaves_the_previous_file_whole(saved, monkeypatch):
    before = saved.read_bytes()
    learner = make_learner(digit_stream(), [methods.Replay(20), methods.Distill(0.5)])
    learner.resume(saved)
    learner.fit(digit_stream())

    def full_disk(state, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        learner.save(saved)
    assert saved.read_bytes() == before


def test_numpy_scalars_as_settings_can_be_saved_and_resumed(tmp_path):
    stream, path = digit_stream(), tmp_path / "run.pt"
    options = {"lr": np.float64(0.01), "seed": np.int64(1)}
    interrupted(make_learner(stream, **options), stream, path, 5, 1, 5)
    again = make_learner(stream, **options)
    again.resume(path)
    again.fit(stream)
    assert same(weights(again.model), fitted_weights(stream, lr=0.01, seed=1))


# ---------------------------------------------------------------- progress


def test_progress_is_silent_in_ci_and_shown_when_asked(monkeypatch, capfd):
    stream = digit_stream()
    monkeypatch.setenv("CI", "1")
    make_learner(stream, show_progress=None).fit(stream)
    assert capfd.readouterr() == ("", "")
    make_learner(stream, show_progress=True).fit(stream)
    assert "task 3/3" in capfd.readouterr().err
    monkeypatch.delenv("CI")
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    assert progress.wanted() and not progress.wanted(False)
    monkeypatch.setenv("COURSE_QUIET", "1")
    assert not progress.wanted() and progress.wanted(True)


def test_blurry_streams_train_in_every_scenario():
    for scenario in ("class", "task", "domain"):
        stream = streams.blurry(digit_stream(scenario), 0.3)
        history = make_learner(stream, [methods.Replay(20), methods.Distill()]).fit(stream)
        assert np.isfinite(history.accuracy[-1]).all()
