"""PackNet: what a task has learned stays to the last bit, and every weight has one owner."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from core_helpers import digit_stream, fitted_weights, make_learner, regression_stream, same, weights
from torch import nn
from torch.func import functional_call

from course_utils import methods, models
from course_utils.history import History
from course_utils.learner import Learner
from course_utils.methods.packnet import keep_mask


def momentum_and_decay(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


OPTIMIZERS = {
    "SGD, momentum, weight decay": {"optimizer": momentum_and_decay, "lr": 0.05},
    "Adam": {"optimizer": "adam"},
    "Adam, weight decay": {"optimizer": "adam", "weight_decay": 0.01},
    "AdamW, weight decay, kept": {"optimizer": "adamw", "weight_decay": 0.1, "keep_optimizer": True},
}
SITUATIONS = {
    "task": (lambda: digit_stream("task"), None),
    "class, inferred": (lambda: digit_stream("class"), "inferred"),
    "domain, inferred": (lambda: digit_stream("domain"), "inferred"),
    "domain, given": (lambda: digit_stream("domain"), "given"),
    "regression, given": (regression_stream, "given"),
}


def outputs_with_the_weights_of(learner, packnet, task) -> torch.Tensor:
    """The network's outputs on the task's test images, with the weights that the task uses; `(n, its columns)`."""
    if packnet.identity != "inferred":
        packnet.before_eval(learner, task)
        out = learner.predict(task.test.x)
        packnet.after_eval(learner, task)
        return out[:, slice(*task.columns)]
    network = copy.deepcopy(learner.model).eval()
    with torch.no_grad():
        chosen = packnet.weights_of(network, task.index + 1)
        return functional_call(network, chosen, (learner.inputs(task.test.x),))[:, slice(*task.columns)]


class Archive(methods.Method):
    """Put behind: after every task, the outputs and the weights as they were."""

    def __init__(self, packnet):
        self.packnet, self.outputs, self.owner, self.weights, self.statistics = packnet, [], [], [], []

    def after_task(self, learner, task, data):
        self.outputs.append(outputs_with_the_weights_of(learner, self.packnet, task))
        self.owner.append({name: value.clone() for name, value in self.packnet.owner.items()})
        self.weights.append({name: p.detach().clone() for name, p in learner.model.named_parameters()})
        self.statistics.append({name: b.clone() for name, b in learner.model.named_buffers()})


def packed(stream, identity, *, prune=0.5, retrain=0.5, before=(), **options):
    packnet = methods.PackNet(prune, retrain, identity)
    archive = Archive(packnet)
    learner = make_learner(stream, [*before, packnet, archive], **options)
    learner.fit(stream)
    return learner, packnet, archive


# ---------------------------------------------------------------- nothing is forgotten


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("situation", "model"),
    [*((name, "mlp") for name in SITUATIONS), ("task", "small_cnn"), ("class, inferred", "small_cnn"),
     ("domain, given", "small_cnn")],
)  # fmt: skip
def test_outputs_of_every_task_are_the_same_bits_after_all_later_tasks(situation, model, optimizer):
    make, identity = SITUATIONS[situation]
    stream = make()
    learner, packnet, archive = packed(stream, identity, model=model, **OPTIMIZERS[optimizer])
    for task, before in zip(stream, archive.outputs, strict=True):
        assert torch.equal(outputs_with_the_weights_of(learner, packnet, task), before), task.index
    # Later tasks did change the network: without the masks it answers otherwise.
    learner.model.eval()
    raw = learner.model(learner.inputs(stream[0].test.x))[:, slice(*stream[0].columns)]
    assert not torch.allclose(raw, archive.outputs[0], atol=1e-3)
    if identity != "inferred":
        accuracy = learner.history.accuracy
        for j in range(3):
            assert (accuracy[j:, j] == accuracy[j, j]).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_owned_weights_biases_and_statistics_never_move_again(model, optimizer):
    stream = digit_stream("task")
    learner, packnet, archive = packed(stream, None, model=model, **OPTIMIZERS[optimizer])
    end = {name: p.detach() for name, p in learner.model.named_parameters()}
    for owner, values in zip(archive.owner, archive.weights, strict=True):
        for name, value in values.items():
            rows = slice(0, len(value))
            mine = owner[name] > 0
            assert torch.equal(packnet.owner[name][rows][mine], owner[name][mine])  # one owner for good
            assert torch.equal(end[name][rows][mine], value[mine])
            if value.dim() == 1 and not name.startswith("head."):  # biases and normalisation
                assert mine.all() and torch.equal(end[name], archive.weights[0][name])
    assert same(archive.statistics[0], archive.statistics[-1])
    assert model == "mlp" or any("running" in name for name in archive.statistics[0])


def test_the_first_task_moves_its_biases_and_statistics():
    stream = digit_stream("task").first(1)
    learner, _, _ = packed(stream, None, model="small_cnn")
    fresh = make_learner(stream, model="small_cnn").model
    moved = {n for n, v in weights(learner.model).items() if n in weights(fresh) and not same(v, weights(fresh)[n])}
    assert {"body.3.weight", "body.3.bias", "body.3.running_mean", "body.3.running_var", "dense.0.bias"} <= moved


@pytest.mark.parametrize("before", [[], [lambda: methods.Replay(20)], [lambda: methods.AGEM(20)]])
def test_rehearsal_and_other_gradients_beside_it_change_nothing_of_that(before):
    stream = digit_stream("task")
    for in_front in (True, False):
        others = [make() for make in before]
        packnet = methods.PackNet(0.5)
        archive = Archive(packnet)
        wanted = [*others, packnet, archive] if in_front else [packnet, *others, archive]
        learner = make_learner(stream, wanted, model="small_cnn", optimizer=momentum_and_decay, lr=0.05)
        learner.fit(stream)
        for task, outputs in zip(stream, archive.outputs, strict=True):
            assert torch.equal(outputs_with_the_weights_of(learner, packnet, task), outputs)


# ---------------------------------------------------------------- sharing out


@pytest.mark.parametrize("prune", [0.0, 0.3, 0.75, 0.999])
def test_the_kept_weights_are_the_largest_free_ones(prune):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 9, generator=generator)
    free = torch.rand(7, 9, generator=generator) < 0.6
    before = weight.clone()
    mask = keep_mask(weight, free, prune)
    ranked = sorted(((abs(weight[i, j].item()), i, j) for i in range(7) for j in range(9) if free[i, j]), reverse=True)
    kept = {(i, j) for _, i, j in ranked[: max(1, round((1 - prune) * len(ranked)))]}
    assert {tuple(place) for place in mask.nonzero().tolist()} == kept
    assert mask.dtype == torch.bool and torch.equal(weight, before)


def test_ties_zeros_and_full_layers_are_shared_out_too():
    ties = keep_mask(torch.ones(10), torch.ones(10, dtype=torch.bool), 0.7)
    assert ties.sum() == 3
    zeros = keep_mask(torch.zeros(10), torch.arange(10) < 4, 0.5)  # a zero that is free goes before one that is not
    assert zeros.sum() == 2 and not zeros[4:].any()
    assert not keep_mask(torch.ones(5), torch.zeros(5, dtype=torch.bool), 0.5).any()
    assert keep_mask(torch.ones(5), torch.arange(5) == 3, 0.99).tolist() == [False, False, False, True, False]


class Trace(methods.Method):
    """Put behind: every step's weights of the first layer."""

    def __init__(self):
        self.seen = [[], [], []]

    def after_step(self, learner, batch):
        self.seen[learner.task.index].append(learner.model.body[1].weight.detach().clone())


@pytest.mark.parametrize(("retrain", "pruned_after"), [(0.5, 4), (0.25, 6), (0.0, 8), (0.9, 1), (0.99, 1)])
def test_pruning_and_retraining_share_the_tasks_own_budget(retrain, pruned_after):
    stream = digit_stream("task")
    trace, unpruned = Trace(), Trace()
    packnet = methods.PackNet(0.75, retrain)
    history = make_learner(stream, [packnet, trace]).fit(stream)
    assert history.steps.tolist() == [8, 8, 8] and [len(seen) for seen in trace.seen] == [8, 8, 8]
    make_learner(stream, [unpruned]).fit(stream.first(1))

    first = trace.seen[0]
    size = first[0].numel()
    for step in range(pruned_after - 1):  # before pruning it is fine-tuning
        assert torch.equal(first[step], unpruned.seen[0][step])
    largest = unpruned.seen[0][pruned_after - 1].abs().flatten().argsort(descending=True)[: round(0.25 * size)]
    kept = torch.zeros(size, dtype=torch.bool)
    kept[largest] = True
    for step in range(pruned_after - 1, 8):
        assert torch.equal((first[step] != 0).flatten(), kept)
    retrained = [not torch.equal(a, b) for a, b in zip(first[pruned_after - 1 :], first[pruned_after:], strict=False)]
    assert all(retrained) and len(retrained) == 8 - pruned_after
    # The second task takes a quarter of what is left, and frees the rest again.
    left = size - round(0.25 * size)
    second = trace.seen[1]
    assert (second[-1] != 0).sum() == size - left + round(0.25 * left)
    assert torch.equal(second[-1].flatten()[kept], first[-1].flatten()[kept])


@pytest.mark.parametrize("prune", [0.4, 0.75])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_shares_are_as_documented_and_free_weights_are_zero(situation, prune):
    make, identity = SITUATIONS[situation]
    stream = make()
    learner, packnet, _ = packed(stream, identity, prune=prune)
    head_is_shared = stream.scenario == "domain"
    for name, parameter in learner.model.named_parameters():
        owner = packnet.owner[name]
        assert owner.shape == parameter.shape and int(owner.min()) >= 0 and int(owner.max()) <= 3
        if parameter.dim() > 1 and (head_is_shared or not name.startswith("head.")):
            free = parameter.numel()
            for number in (1, 2, 3):
                kept = max(1, round((1 - prune) * free))
                assert int((owner == number).sum()) == kept, (name, number)
                free -= kept
            assert int((owner == 0).sum()) == free and not parameter[owner == 0].any()
            assert (parameter[owner > 0] != 0).float().mean() > 0.5
        elif name.startswith("head.") and not head_is_shared:
            for task in stream:
                assert (owner[slice(*task.columns)] == task.index + 1).all()
        else:
            assert (owner == 1).all()


def test_a_head_that_is_wide_from_the_start_is_shared_out_by_tasks_too():
    stream = digit_stream("task")
    model = models.build("mlp", stream, num_outputs=stream.num_outputs, hidden=(16,))
    packnet = methods.PackNet(0.5)
    archive = Archive(packnet)
    learner = Learner(model, [packnet, archive], steps_per_task=8, batch_size=8, lr=0.01, show_progress=False)
    start = model.head.weight.detach().clone()
    learner.fit(stream)
    for task in stream:
        rows = slice(*task.columns)
        assert not torch.equal(learner.model.head.weight[rows], start[rows])
        assert (packnet.owner["head.weight"][rows] == task.index + 1).all()
        assert torch.equal(outputs_with_the_weights_of(learner, packnet, task), archive.outputs[task.index])


def test_a_full_layer_is_an_error_that_names_it_and_the_cure():
    stream = digit_stream("task")
    match = r"no free weight left in body\.1\.weight \(1,024 weights\) for task 2.*larger prune or a larger network"
    with pytest.raises(ValueError, match=match):
        make_learner(stream, [methods.PackNet(prune=0.0)]).fit(stream)
    assert np.isfinite(make_learner(stream.first(1), [methods.PackNet(prune=0.0)]).fit(stream.first(1)).accuracy).all()


# ---------------------------------------------------------------- answering


def answers_by_hand(learner, packnet, stream, x):
    """Every task's network on its own: a copy of the model with the other weights set to zero."""
    rows = []
    for task in stream:
        network = make_learner(stream).model
        network.grow(learner.model.num_outputs, torch.Generator())
        network.load_state_dict(learner.model.state_dict())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                owner = packnet.owner[name]
                parameter[(owner == 0) | (owner > task.index + 1)] = 0
            rows.append(network.eval()(learner.inputs(x))[:, slice(*task.columns)])
    return rows


def test_inferred_answers_come_from_the_most_confident_task():
    stream = digit_stream("class")
    learner, packnet, _ = packed(stream, "inferred", steps=40)
    for task in stream:
        by_task = answers_by_hand(learner, packnet, stream, task.test.x)
        confidence = torch.stack([rows.softmax(1).amax(1) for rows in by_task])
        labels = torch.stack([rows.argmax(1) + t.columns[0] for rows, t in zip(by_task, stream, strict=True)])
        expected = labels[confidence.argmax(0), torch.arange(len(task.test))]
        assert learner.history.accuracy[-1, task.index] == (expected == task.test.y).double().mean().item()
    assert len(set(confidence.argmax(0).tolist())) > 1


@pytest.mark.parametrize(("scenario", "identity"), [("task", None), ("domain", "given")])
def test_told_answers_come_from_the_tasks_own_network(scenario, identity):
    stream = digit_stream(scenario)
    learner, packnet, _ = packed(stream, identity, steps=30)
    for task in stream:
        rows = answers_by_hand(learner, packnet, stream, task.test.x)[task.index]
        expected = (rows.argmax(1) + task.columns[0] == task.test.y).double().mean().item()
        assert learner.history.accuracy[-1, task.index] == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_scoring_gives_the_network_back_as_it_was(situation, training):
    make, identity = SITUATIONS[situation]
    stream = make()
    learner, packnet, _ = packed(stream, identity)
    learner.model.train(training)
    model, before = learner.model, weights(learner.model)
    for task in stream:
        learner.score(task.test, task)
    assert learner.model is model and same(weights(model), before)
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("situation", SITUATIONS)
def test_scoring_while_a_task_is_learned_changes_nothing(situation):
    make, identity = SITUATIONS[situation]
    stream = make()

    class Peek(methods.Method):
        def after_step(self, learner, batch):
            learner.score(learner.task.test, learner.task)

    plain = fitted_weights(stream, [methods.PackNet(0.5, identity=identity)])
    assert same(fitted_weights(stream, [methods.PackNet(0.5, identity=identity), Peek()]), plain)


def test_until_it_is_pruned_a_task_is_answered_with_all_weights_that_it_trains():
    stream = digit_stream("task")
    found, expected = [], []

    class Peek(methods.Method):
        def after_step(self, learner, batch):
            if learner.step == 7 and learner.task.index < 2:
                found.append(learner.score(learner.task.test, learner.task))
                out = learner.predict(learner.task.test.x)[:, slice(*learner.task.columns)]
                labels = out.argmax(1) + learner.task.columns[0]
                expected.append((labels == learner.task.test.y).double().mean().item())

    make_learner(stream, [methods.PackNet(0.5, retrain=0.0), Peek()]).fit(stream)
    assert found == expected and min(found) > 0.4


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_scoring_that_failed_does_not_harm_the_next_one(situation):
    make, identity = SITUATIONS[situation]
    stream = make()
    learner, packnet, _ = packed(stream, identity)
    task, model, before = stream[0], learner.model, weights(learner.model)
    expected = learner.score(task.test, task)
    predict = learner.predict

    def interrupted(x):
        raise KeyboardInterrupt

    learner.predict = interrupted
    with pytest.raises(KeyboardInterrupt):
        learner.score(task.test, task)
    learner.predict = predict
    assert learner.score(task.test, task) == expected
    assert learner.model is model and same(weights(model), before)


# ---------------------------------------------------------------- who may know the task


@pytest.mark.parametrize(
    ("make", "identity", "message"),
    [
        (lambda: digit_stream("class"), None, "class-incremental classification.*identity='inferred'$"),
        (lambda: digit_stream("class"), "given", "class-incremental classification.*identity='inferred'$"),
        (lambda: digit_stream("domain"), None, "domain-incremental.*identity='given' or 'inferred'$"),
        (regression_stream, None, "domain-incremental regression.*identity='given'$"),
        (regression_stream, "inferred", "domain-incremental regression.*identity='given'$"),
        (lambda: digit_stream("task"), "inferred", "task-incremental.*tells the task.*identity=None"),
        (lambda: digit_stream("task"), "given", "task-incremental.*tells the task.*identity=None"),
    ],
)
def test_an_unknown_task_is_refused_with_the_choices(make, identity, message):
    with pytest.raises(ValueError, match=message):
        make_learner(make(), [methods.PackNet(identity=identity)]).fit(make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": 1.0}, "prune=1.0"),
        ({"prune": -0.1}, "prune=-0.1"),
        ({"retrain": 1.0}, "retrain=1.0"),
        ({"identity": "told"}, "identity='told' is unknown"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        methods.PackNet(**options)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_history_says_once_how_the_task_was_known(situation):
    make, identity = SITUATIONS[situation]
    stream = make()
    history = packed(stream, identity)[0].history
    expected = [] if identity is None else [f"PackNet: the task of every test image is {identity}"]
    assert history.remarks == expected
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))).remarks == expected


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_used_packnet_starts_a_second_run_afresh(situation):
    make, identity = SITUATIONS[situation]
    stream, packnet = make(), methods.PackNet(0.5, identity=identity)
    runs = []
    for _ in range(2):
        learner = make_learner(stream, [packnet])
        learner.fit(stream)
        runs.append((weights(learner.model), learner.history.initial, learner.history.accuracy, packnet.state_dict()))
    assert same(runs[0], runs[1])


def test_normalisation_trains_in_the_first_task_only():
    modes = [set(), set(), set()]

    class Watch(methods.Method):
        def loss(self, learner, batch, out, loss):
            norm = [m for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d)]
            modes[learner.task.index] |= {m.training for m in norm}
            return loss

    make_learner(digit_stream("task"), [methods.PackNet(), Watch()], model="small_cnn").fit(digit_stream("task"))
    assert modes == [{True}, {False}, {False}]
