"""LoRA in a stream: what learns and what stays, saving, scenarios, and company."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from core_helpers import (
    Recorder,
    digit_stream,
    fitted_weights,
    interrupted,
    make_learner,
    regression_stream,
    same,
    weights,
)
from torch import nn
from torch.nn import functional as F

from course_utils import augment, lora, methods, models, seeding
from course_utils.history import History
from course_utils.learner import Learner


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


STREAMS = {
    "class": lambda: digit_stream("class"),
    "task": lambda: digit_stream("task"),
    "domain": lambda: digit_stream("domain"),
    "regression": regression_stream,
}
KINDS = [(start, adapters) for start in lora.method.STARTS for adapters in lora.method.KINDS]
every_kind = pytest.mark.parametrize(("start", "adapters"), KINDS)
every_stream = pytest.mark.parametrize("kind", STREAMS)


def method(start="dense", adapters="shared", kind="class", **options) -> lora.LoRA:
    told = {"class": "inferred", "task": None}.get(kind, "given") if adapters == "per_task" else None
    return lora.LoRA(2, 4.0, start=start, adapters=adapters, identity=told, **options)


def everything(learner) -> dict:
    """Weights and adapters: `state_dict` of a network in a stream holds the base alone."""
    return {"base": weights(learner.model), "methods": [m.state_dict() for m in learner.methods]}


def run(stream, wanted, **options):
    learner = make_learner(stream, wanted, **options)
    learner.fit(stream)
    return learner


class Watch(methods.Method):
    """Put behind: the network as it was after every step, and what had a gradient."""

    def __init__(self):
        self.seen, self.graded = [[], [], []], [set(), set(), set()]

    def after_backward(self, learner, batch):
        index = learner.task.index
        self.graded[index] |= {name for name, p in learner.model.named_parameters() if p.grad is not None}

    def after_step(self, learner, batch):
        kept = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
        self.seen[learner.task.index].append(kept)


# ---------------------------------------------------------------- every kind on every stream


@every_stream
@every_kind
def test_it_runs_on_every_kind_of_stream_and_repeats_with_the_seed(start, adapters, kind):
    stream = STREAMS[kind]()
    state = torch.get_rng_state()
    learner = run(stream, [method(start, adapters, kind)])
    assert torch.equal(torch.get_rng_state(), state)  # the global generator has no say and is left alone
    history = learner.history
    assert np.isfinite(history.accuracy[-1]).all() and history.steps.tolist() == [8, 8, 8]
    torch.rand(3)
    again = run(stream, [method(start, adapters, kind)])
    assert same(everything(again), everything(learner)) and same(again.history.accuracy, history.accuracy)
    assert not same(everything(run(stream, [method(start, adapters, kind)], seed=1)), everything(learner))
    replay = run(stream, [method(start, adapters, kind), methods.Replay(10)])
    other_order = run(stream, [methods.Replay(10), method(start, adapters, kind)])
    assert same(weights(replay.model), weights(other_order.model))
    assert same(replay.methods[0].state_dict(), other_order.methods[1].state_dict())
    assert not same(replay.methods[0].state_dict(), learner.methods[0].state_dict())


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
@pytest.mark.parametrize("adapters", lora.method.KINDS)
def test_a_dense_start_shares_the_weights_of_the_first_task(adapters, model):
    stream = digit_stream().first(1)
    assert same(fitted_weights(stream, [method(adapters=adapters)], model=model), fitted_weights(stream, model=model))
    frozen = fitted_weights(stream, [method("frozen", adapters)], model=model)
    assert not same(frozen, fitted_weights(stream, model=model))


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
@every_kind
def test_only_adapters_and_head_learn_and_the_base_stays(start, adapters, model):
    stream, watch = digit_stream("class"), Watch()
    fresh = make_learner(stream, model=model).model
    learner = run(stream, [method(start, adapters), watch], model=model)
    for index in range(3):
        if index == 0 and start == "dense":
            assert watch.graded[0] == {name for name, _ in learner.initial_model.named_parameters()}
            continue
        name = f"task_{index + 1}" if adapters == "per_task" else "stream"
        layers = lora.candidates(fresh)
        expected = {f"{layer}.lora_{factor}.{name}" for layer in layers for factor in "AB"}
        assert watch.graded[index] == expected | {"head.weight", "head.bias"}
        first, last = watch.seen[index][0], watch.seen[index][-1]
        moved = {key for key in last if not torch.equal(first[key], last[key])}
        assert moved == watch.graded[index]
        assert (first["head.weight"] != last["head.weight"]).any(dim=1).all()  # old rows and new ones
    bases = [{k.replace(".base", ""): v for k, v in steps[-1].items() if "lora_" not in k} for steps in watch.seen]
    inner = [{k: v for k, v in base.items() if not k.startswith("head.")} for base in bases]
    assert same(inner[1], inner[2]) == (adapters != "merged")
    if start == "frozen":
        untouched = {k: v for k, v in fresh.named_parameters() if not k.startswith("head.")}
        assert same(inner[0], {k: v.detach() for k, v in untouched.items()})


def test_batch_norm_stays_as_the_dense_phase_left_it():
    stream, modes = digit_stream(), [set(), set(), set()]

    class Modes(methods.Method):
        def loss(self, learner, batch, out, loss):
            norms = [m for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d)]
            modes[learner.task.index] |= {m.training for m in norms}
            return loss

    def statistics(model):
        return {name: value for name, value in weights(model).items() if "running" in name}

    learner = run(stream, [method(), Modes()], model="small_cnn")
    assert modes == [{True}, {False}, {False}] and statistics(learner.model)
    assert same(statistics(learner.model), statistics(run(stream.first(1), [], model="small_cnn").model))


def test_it_is_the_loop_anyone_would_write():
    """Shared adapters by hand: two weight matrices as products, gradients through them, Adam on what is left to learn."""
    stream, recorder = digit_stream("class"), Recorder()
    learner = make_learner(stream, [method(patterns="body.1"), recorder])
    bare = copy.deepcopy(learner.model)
    learner.fit(stream)
    a = b = None
    for task, batches in zip(stream, recorder.batches, strict=True):
        bare.grow(task.outputs, seeding.generator(0, task.index, 3))
        if task.index == 1:
            generator = torch.Generator().manual_seed(seeding.derive(0, 1, 11))
            a = torch.empty(2, 64).uniform_(-1 / 8, 1 / 8, generator=generator).requires_grad_()
            b = torch.zeros(16, 2, requires_grad=True)
        head = list(bare.head.parameters())
        optimizer = torch.optim.Adam(bare.parameters() if a is None else [a, b, *head], lr=0.01)
        for batch in batches:
            x = (batch["x"] / 255).flatten(1)
            weight = bare.body[1].weight if a is None else bare.body[1].weight.detach() + 2 * b @ a
            bias = bare.body[1].bias if a is None else bare.body[1].bias.detach()
            loss = F.cross_entropy(bare.head(torch.relu(x @ weight.T + bias)), batch["y"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    adapter = lora.adapter_state_dict(learner.model)
    assert torch.allclose(adapter["body.1.lora_A"], a, atol=1e-4) and torch.allclose(
        adapter["body.1.lora_B"], b, atol=1e-4
    )
    assert torch.allclose(learner.model.head.weight, bare.head.weight, atol=1e-4)
    assert b.abs().max() > 0.01


def test_merging_after_each_task_moves_the_update_into_the_weights():
    stream, watch = digit_stream("class"), Watch()

    class Outputs(methods.Method):
        def __init__(self):
            self.seen = []

        def after_task(self, learner, task, data):
            self.seen.append(learner.predict(task.test.x))

    before, after, lora_method = Outputs(), Outputs(), method(adapters="merged")
    learner = run(stream, [watch, before, lora_method, after])
    for out, merged in zip(before.seen, after.seen, strict=True):
        assert torch.allclose(out, merged, atol=1e-5)
    last = watch.seen[2][-1]
    layer = lora.adapted(learner.model)["body.1"]
    update = last["body.1.lora_B.stream"] @ last["body.1.lora_A.stream"] * 2
    assert torch.allclose(layer.base.weight, last["body.1.base.weight"] + update, atol=1e-6)
    assert not layer.lora_B["stream"].any() and update.abs().max() > 1e-3
    firsts = [watch.seen[index][0]["body.1.lora_A.stream"] for index in (1, 2)]
    assert not torch.allclose(*firsts, atol=1e-2)  # a new A for every task
    # The weights have moved by more than the rank of one adapter.
    moved = layer.base.weight - watch.seen[0][-1]["body.1.weight"]
    assert torch.linalg.matrix_rank(moved.detach().double(), rtol=1e-5) == 4


def test_a_new_adapter_does_not_inherit_the_momentum_of_the_old_one():
    found = []

    class Look(methods.Method):
        def train_set(self, learner, task, data):
            state = learner.optimizer.state
            adapters = [p for name, p in learner.model.named_parameters() if "lora_" in name]
            found.append((any(state.get(p) for p in adapters), bool(state.get(learner.model.head.weight))))
            return data

    run(digit_stream(), [method(adapters="merged"), Look()], keep_optimizer=True)
    assert found == [(False, False), (False, True), (False, True)]  # what is known about the head is kept
    run(digit_stream(), [method(adapters="shared"), Look()], keep_optimizer=True)
    assert found[-1] == (True, True)


# ---------------------------------------------------------------- one adapter per task


@pytest.mark.parametrize(
    "optimizer", [{"optimizer": momentum, "lr": 0.05}, {"weight_decay": 0.1, "keep_optimizer": True}]
)
@pytest.mark.parametrize("start", lora.method.STARTS)
@pytest.mark.parametrize(("kind", "model"), [*((kind, "mlp") for kind in STREAMS), ("class", "small_cnn")])
def test_what_a_task_has_learned_stays_to_the_last_bit(kind, model, start, optimizer):
    stream = STREAMS[kind]()
    wanted = method(start, "per_task", kind)

    class Archive(methods.Method):
        def __init__(self):
            self.outputs = []

        def after_task(self, learner, task, data):
            self.outputs.append(answer(learner, task))

    @torch.no_grad()
    def answer(learner, task):
        network = learner.model.eval()
        return wanted.answer(network, task.index + 1, learner.inputs(task.test.x))[:, slice(*task.columns)]

    archive = Archive()
    learner = run(stream, [wanted, archive], model=model, **optimizer)
    for task, before in zip(stream, archive.outputs, strict=True):
        assert torch.equal(answer(learner, task), before), task.index
    if kind in ("task", "domain", "regression"):
        for j in range(3):
            assert (learner.history.accuracy[j:, j] == learner.history.accuracy[j, j]).all()
    raw = learner.model(learner.inputs(stream[0].test.x))[:, slice(*stream[0].columns)]
    assert not torch.allclose(raw, archive.outputs[0], atol=1e-3)  # without its adapter it answers otherwise


def by_hand(stream, learner, method):
    """Every task's outputs from a plain network: its adapter folded in, its own head."""
    rows = []
    for task in stream:
        network = copy.deepcopy(learner.model).eval()
        name = method._adapter(task.index + 1)
        lora.use(network, name)
        lora.fold(network)
        if task.index < len(method.heads):
            with torch.no_grad():
                for key, value in method.heads[task.index].items():
                    network.head.get_parameter(key)[: len(value)] = value
        rows.append((network, slice(*task.columns)))
    return rows


def test_inferred_answers_come_from_the_most_confident_task():
    stream, wanted = digit_stream("class"), method("dense", "per_task")
    learner = run(stream, [wanted], steps=40)
    networks = by_hand(stream, learner, wanted)
    for task in stream:
        x = learner.inputs(task.test.x)
        by_task = [network(x)[:, columns] for network, columns in networks]
        confidence = torch.stack([rows.softmax(1).amax(1) for rows in by_task])
        labels = torch.stack([rows.argmax(1) + t.columns[0] for rows, t in zip(by_task, stream, strict=True)])
        expected = labels[confidence.argmax(0), torch.arange(len(task.test))]
        assert learner.history.accuracy[-1, task.index] == (expected == task.test.y).double().mean().item()
    assert len(set(confidence.argmax(0).tolist())) > 1


@pytest.mark.parametrize("kind", ["task", "domain"])
def test_told_answers_come_from_the_tasks_own_adapter(kind):
    stream, wanted = STREAMS[kind](), method("dense", "per_task", kind)
    learner = run(stream, [wanted], steps=30)
    for task, (network, columns) in zip(stream, by_hand(stream, learner, wanted), strict=True):
        expected = network(learner.inputs(task.test.x))[:, columns].argmax(1) + columns.start == task.test.y
        assert learner.history.accuracy[-1, task.index] == expected.double().mean().item()


@every_stream
@every_kind
def test_scoring_gives_the_network_back_and_does_not_change_training(start, adapters, kind):
    stream = STREAMS[kind]()

    class Peek(methods.Method):
        name = "peek"

        def after_step(self, learner, batch):
            learner.score(learner.stream[0].test, learner.stream[0])

    plain, peeked = (run(stream, [method(start, adapters, kind), *more]) for more in ([], [Peek()]))
    assert same(plain.methods[0].state_dict(), peeked.methods[0].state_dict())
    assert same(weights(plain.model), weights(peeked.model))
    model, before, used = plain.model, everything(plain), lora.in_use(plain.model)
    predict, plain.predict = plain.predict, lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        plain.score(stream[0].test, stream[0])
    plain.predict = predict
    for task in stream:
        plain.score(task.test, task)
    assert plain.model is model and same(everything(plain), before) and lora.in_use(model) == used


@every_stream
def test_the_history_says_once_how_the_task_was_known(kind):
    wanted = method("dense", "per_task", kind)
    history = run(STREAMS[kind](), [wanted]).history
    expected = [] if kind == "task" else [f"LoRA: the task of every test image is {wanted.identity}"]
    assert history.remarks == expected
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))).remarks == expected
    assert run(STREAMS[kind](), [method("dense", "shared", kind)]).history.remarks == []


@pytest.mark.parametrize(
    ("kind", "identity", "message"),
    [
        ("class", None, "class-incremental classification.*identity='inferred'$"),
        ("class", "given", "class-incremental classification.*identity='inferred'$"),
        ("domain", None, "domain-incremental.*identity='given' or 'inferred'$"),
        ("regression", None, "domain-incremental regression.*identity='given'$"),
        ("regression", "inferred", "domain-incremental regression.*identity='given'$"),
        ("task", "inferred", "task-incremental.*identity=None$"),
        ("task", "given", "task-incremental.*identity=None$"),
    ],
)
def test_an_unknown_task_is_refused_with_the_choices(kind, identity, message):
    with pytest.raises(ValueError, match=message):
        run(STREAMS[kind](), [lora.LoRA(2, adapters="per_task", identity=identity)])


# ---------------------------------------------------------------- company


COMPANY = {
    "replay": lambda: [methods.Replay(20)],
    "DER++": lambda: [methods.DERpp(20)],
    "A-GEM": lambda: [methods.AGEM(20)],
    "GEM": lambda: [methods.GEM(20, margin=0.1)],
    "weight alignment": lambda: [methods.WeightAlign()],
}


@pytest.mark.parametrize("name", COMPANY)
@every_kind
def test_rehearsal_beside_it_changes_what_is_learned(name, start, adapters):
    stream = digit_stream()
    alone = run(stream, [method(start, adapters)])
    both = run(stream, [method(start, adapters), *COMPANY[name]()])
    assert not same(everything(alone)["methods"][0], everything(both)["methods"][0]) or name == "weight alignment"
    assert not same(weights(alone.model), weights(both.model)) and np.isfinite(both.history.accuracy[-1]).all()


def test_an_adapter_that_a_later_method_tunes_is_kept():
    """BalancedFinetune behind a merging LoRA trains the emptied adapter: the next task must not throw that away."""
    stream, kept = digit_stream(), []
    replay = methods.Replay(20)

    class Look(methods.Method):
        def before_task(self, learner, task):
            kept.append(learner.predict(stream[0].test.x))

        def after_task(self, learner, task, data):
            kept.append(learner.predict(stream[0].test.x))

    wanted = [method(adapters="merged"), replay, methods.BalancedFinetune(replay, steps=5, lr=0.01), Look()]
    run(stream, wanted)
    assert torch.allclose(kept[3], kept[4], atol=1e-5)  # after task 2, and before task 3


@pytest.mark.parametrize("adapters", ["shared", "merged"])
def test_joint_training_of_adapters_on_a_frozen_base(adapters):
    stream = digit_stream()
    learner = run(stream, [methods.Joint(), method("frozen", adapters)])
    base = weights(learner.initial_model)["body.1.weight"]
    assert torch.equal(weights(learner.model)["body.1.weight"], base) == (adapters == "shared")
    with pytest.raises(ValueError, match="start='frozen'"):
        run(stream, [methods.Joint(), method("dense", adapters)])
    with pytest.raises(ValueError, match="replaced the network"):
        run(stream, [method("frozen", adapters), methods.Joint()])


@pytest.mark.parametrize("kind", STREAMS)
def test_a_penalty_on_shared_adapters(kind):
    stream = STREAMS[kind]()
    plain = run(stream, [method("frozen")])
    for name in (methods.EWC(10.0), methods.SI(50.0), methods.L2(2.0), methods.MAS(0.1)):
        both = run(stream, [method("frozen"), name])
        assert not same(both.methods[0].state_dict(), plain.methods[0].state_dict()), name.name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [method(), methods.EWC()], "ewc: .*knows by name; use start='frozen' and adapters='shared'"),
        (lambda: [methods.SI(), method("frozen", "merged")], "si: .*use start='frozen'"),
        (lambda: [method("frozen"), methods.PackNet(identity="inferred")], "packnet.*knows by name$"),
        (lambda: [method(), methods.Distill()], "use adapters='merged'"),
        (lambda: [methods.Distill(), method(adapters="merged")], "put Distill behind LoRA"),
    ],
)
def test_methods_that_do_not_fit_are_refused_at_the_start(make, message):
    with pytest.raises(ValueError, match=message):
        run(digit_stream(), make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "cold"}, "dense, frozen"),
        ({"adapters": "many"}, "shared, merged, per_task"),
        ({"identity": "inferred"}, "with adapters='per_task' only"),
        ({"adapters": "per_task", "identity": "told"}, "identity='told'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lora.LoRA(**options)


def test_a_network_with_adapters_is_refused_and_a_used_method_starts_afresh():
    stream, wanted = digit_stream(), method("dense", "per_task")
    runs = []
    for _ in range(2):
        learner = run(stream, [wanted])
        runs.append((everything(learner), learner.history.accuracy))
    assert same(*runs)
    with pytest.raises(ValueError, match=r"adapters already \(task_2, task_3\); `fold` or `remove`"):
        learner.fit(stream)
    with pytest.raises(ValueError, match="no layer is called 'body.9'"):
        run(stream, [lora.LoRA(2, patterns="body.9")])


def test_ranks_by_layer_and_the_network_afterwards():
    stream = digit_stream()
    learner = run(stream, [lora.LoRA({"body.1": 3}), methods.Replay(20)])
    assert lora.adapted(learner.model)["body.1"].rank("stream") == 3
    out = learner.predict(stream[0].test.x)
    lora.fold(learner.model)
    assert torch.allclose(learner.predict(stream[0].test.x), out, atol=1e-5)
    plain = models.build("mlp", stream, num_outputs=10, hidden=(16,))
    plain.load_state_dict(learner.model.state_dict())


# ---------------------------------------------------------------- saving and resuming


def assert_resumes(make, stream, path, every, position, step, **options):
    whole = make_learner(stream, make(), **options)
    whole.fit(stream)
    interrupted(make_learner(stream, make(), **options), stream, path, every, position, step)
    again = make_learner(stream, make(), model_seed=9, **options)  # its weights are others until the file is read
    again.resume(path)
    again.fit(stream)
    assert same(everything(again), everything(whole))
    for name in ("accuracy", "initial", "steps", "sizes", "losses", "remarks"):
        assert same(getattr(again.history, name), getattr(whole.history, name)), name
    assert same(again.optimizer.state_dict(), whole.optimizer.state_dict())
    assert torch.equal(again.predict(stream[0].test.x), whole.predict(stream[0].test.x))


RESUMED = {
    "alone": (lambda: [], {"model": "small_cnn"}),
    "replay, kept Adam": (lambda: [methods.Replay(20)], {"keep_optimizer": True, "weight_decay": 0.01}),
    "DER++, momentum, cosine, augmentation": (
        lambda: [methods.DERpp(20)],
        {"model": "small_cnn", "optimizer": momentum, "schedule": "cosine", "augment": augment.Affine()},
    ),
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("kind", ["class", "domain"])
@every_kind
def test_a_run_stopped_in_the_middle_of_task_2_ends_in_the_same_bytes(start, adapters, kind, case, tmp_path):
    more, options = RESUMED[case]
    make = lambda: [method(start, adapters, kind), *more()]  # noqa: E731
    assert_resumes(make, STREAMS[kind](), tmp_path / "run.pt", 5, 1, 5, **options)


@pytest.mark.parametrize("kind", ["task", "regression"])
@every_kind
def test_so_does_one_on_the_other_streams(start, adapters, kind, tmp_path):
    options = {"keep_optimizer": True, "optimizer": momentum, "lr": 0.02}
    assert_resumes(lambda: [method(start, adapters, kind)], STREAMS[kind](), tmp_path / "run.pt", 3, 2, 3, **options)


@pytest.mark.parametrize(("position", "step"), [(0, 5), (1, 0), (2, 0), (3, 0)])
@every_kind
def test_so_does_one_stopped_in_task_1_between_tasks_or_after_the_last(start, adapters, position, step, tmp_path):
    make = lambda: [method(start, adapters), methods.Replay(20)]  # noqa: E731
    path = tmp_path / "run.pt"
    assert_resumes(make, digit_stream(), path, 5 if step else None, position, step, keep_optimizer=True)


COMPANIONS = {
    "distillation": lambda: [method(adapters="merged"), methods.Distill(), methods.Replay(20)],
    "joint": lambda: [methods.Joint(), method("frozen")],
    "EWC": lambda: [method("frozen"), methods.EWC(10.0)],
    "GEM": lambda: [methods.GEM(20), method("frozen", "per_task")],
}


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("name", COMPANIONS)
def test_so_do_its_companions(name, position, tmp_path):
    assert_resumes(COMPANIONS[name], digit_stream(), tmp_path / "run.pt", 5, position, 5, model="small_cnn")


def test_a_run_with_other_adapters_is_not_resumed(tmp_path):
    stream, path = digit_stream(), tmp_path / "run.pt"
    interrupted(make_learner(stream, [method()]), stream, path, 5, 1, 5)
    for other in (
        lora.LoRA(3, 4.0),
        lora.LoRA(2, 8.0),
        lora.LoRA(2, 4.0, "body.1"),
        method("frozen"),
        method(rank_stabilized=True),
    ):
        with pytest.raises(ValueError, match="other settings"):
            make_learner(stream, [other]).resume(path)


# ---------------------------------------------------------------- what all this is for


def test_adapters_on_the_transformer_learn_with_few_weights():
    """Two tasks of digits: the second is learned by a few per cent of the weights, and replay keeps the first."""
    stream = digit_stream("class", 5, None).first(2)
    model = models.build("vit", stream, patch_size=4, width=32, depth=2)
    wanted = [lora.LoRA(4, 8.0, "blocks.*"), methods.Replay(50)]
    learner = Learner(model, wanted, lr=5e-3, batch_size=16, steps_per_task=60, show_progress=False)
    history = learner.fit(stream)
    count = lora.count_parameters(learner.model)
    assert count.share < 0.25
    assert history.accuracy[1, 1] > 0.8 and history.accuracy[1, 0] > 0.6
