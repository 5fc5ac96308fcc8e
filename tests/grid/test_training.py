"""Training: against an independent PyTorch loop, one repeat against many, one device against four."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import grid
from course_utils.grid import data
from course_utils.grid.network import Network, flatten, unflatten
from course_utils.grid.rules import perturb, replay, unsupervised
from course_utils.grid.training import ORDER, Layout, Program, evaluator, train_task, trainer

from .helpers import DEVICES, config, contents, images, run

NO_MEMORY = np.zeros((1, 1, 28, 28), np.uint8)


def start(asked, form="patches"):
    """Network, weights (R, D), keys (R,) and the first task's tensors."""
    network = Network.of(asked, form)
    keys = data.repeat_keys(asked)
    vectors = jax.vmap(lambda key: flatten(network.init(key)))(keys)
    pairs = data.class_pairs(asked, 8)
    x, y = data.task_tensors(images().train, pairs[:, 0])
    return network, vectors, keys, pairs, x, y


def fresh(state):
    """Other weights, (R, D)."""
    return jax.vmap(lambda key: flatten(state[0].init(jax.random.fold_in(key, 99))))(state[2])


def train(program, state, layout=None, task=0, rates=(0.03, 0.03), memory=NO_MEMORY):
    _, vectors, keys, pairs, x, y = state
    put = (layout or Layout()).put
    return trainer(program, layout or Layout())(
        put(vectors),
        put(fresh(state)),
        put(keys),
        put(x, 1),
        put(y, 1),
        put(pairs),
        put(memory, None),
        np.int32(task),
        np.float32(rates),
    )


class TorchCNN(nn.Module):
    """The network of the grid, written anew, with weights from its pytree."""

    def __init__(self, params, pooling):
        super().__init__()
        self.pooling = pooling
        self.convs = nn.ModuleList()
        for name in ("conv1", "conv2", "conv3"):
            kernel = torch.tensor(np.asarray(params[name]["kernel"])).permute(3, 2, 0, 1)
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride=2 if pooling == "stride" else 1, padding=1)
            conv.weight.data, conv.bias.data = kernel.contiguous(), torch.tensor(np.asarray(params[name]["bias"]))
            self.convs.append(conv)
        for name in ("dense1", "dense2"):
            kernel = torch.tensor(np.asarray(params[name]["kernel"])).T
            layer = nn.Linear(kernel.shape[1], kernel.shape[0])
            layer.weight.data, layer.bias.data = kernel.contiguous(), torch.tensor(np.asarray(params[name]["bias"]))
            setattr(self, name, layer)

    def forward(self, x):
        x = x[:, None].float() / 127.5 - 1
        for conv in self.convs:
            x = F.relu(conv(x))
            if self.pooling == "max":
                x = F.max_pool2d(x, 3)
        # The grid flattens pixels first and channels last.
        x = x.mean((2, 3)) if self.pooling == "max" else x.permute(0, 2, 3, 1).flatten(1)
        return self.dense2(F.relu(self.dense1(x)))

    def vector(self):
        """In the documented order: layers by name, bias before kernel, channels last."""
        parts = []
        for conv in self.convs:
            parts += [conv.bias, conv.weight.permute(2, 3, 1, 0)]
        for layer in (self.dense1, self.dense2):
            parts += [layer.bias, layer.weight.T]
        return torch.cat([part.detach().reshape(-1) for part in parts]).numpy()


@pytest.mark.parametrize("form", ["patches", "lax"])
@pytest.mark.parametrize("pooling", ["stride", "max"])
@pytest.mark.parametrize(("momentum", "l2"), [(0.0, 0.0), (0.9, 0.01)])
def test_the_steps_of_the_grid_are_those_of_pytorch(form, pooling, momentum, l2):
    asked = config(pooling=pooling, momentum=momentum, l2=l2, num_repeats=2)
    state = start(asked, form)
    network, vectors, keys, _, x, y = state
    log = train(Program.of(asked, network), state, rates=(0.05, 0.2))
    for repeat in range(2):
        model = TorchCNN(jax.tree.map(lambda a, r=repeat: a[r], unflatten(vectors, network.layout)), pooling)
        groups = [
            {"params": [p for name, p in model.named_parameters() if not name.startswith("dense2")], "lr": 0.05},
            {"params": model.dense2.parameters(), "lr": 0.2},
        ]
        optimizer = torch.optim.SGD(groups, momentum=momentum, weight_decay=l2)
        order = np.array(data.batches(jax.random.fold_in(keys[repeat], ORDER), 24, 8, 6))
        losses = []
        for number, rows in enumerate(order):
            loss = F.cross_entropy(model(torch.tensor(x[rows, repeat])), torch.tensor(y[rows, repeat]).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if number in (2, 5):
                np.testing.assert_allclose(log.weights[repeat, number // 3], model.vector(), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(log.train_loss[repeat], np.reshape(losses, (2, 3)).mean(1), rtol=1e-5)
    assert np.abs(np.asarray(log.weights[:, 0]) - vectors).max() > 1e-3  # they have moved


def test_evaluation_is_that_of_pytorch():
    asked = config(num_repeats=2)
    network, vectors, _, pairs, *_ = start(asked)
    x, y = data.task_tensors(images().test, pairs[:, 1])
    rows = data.subsample(asked, pairs)[1]
    loss, accuracy, hidden = evaluator(network, Layout())(vectors[:, None], x, y, rows)
    assert loss.shape == (2, 1) and hidden.shape == (2, 1, 6, 7)
    for repeat in range(2):
        model = TorchCNN(jax.tree.map(lambda a, r=repeat: a[r], unflatten(vectors, network.layout)), "stride")
        seen = []
        model.dense2.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        logits, labels = model(torch.tensor(x[:, repeat])), torch.tensor(y[:, repeat]).long()
        np.testing.assert_allclose(loss[repeat, 0], F.cross_entropy(logits, labels).item(), rtol=1e-5)
        assert accuracy[repeat, 0] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
        np.testing.assert_allclose(hidden[repeat, 0], seen[0].detach()[rows[:, repeat]], rtol=1e-4, atol=1e-5)


def test_repeats_at_once_are_the_repeats_one_by_one():
    asked = config(er=True, pl=True)
    state = start(asked)
    network, vectors, keys, pairs, x, y = state
    program, memory = Program.of(asked, network), images().train[:, :4]
    mapped = train(program, state, Layout(1, "map"), task=1, memory=memory)
    chunked = train(program, state, Layout(1, "map", 3), task=1, memory=memory)
    vmapped = train(program, state, Layout(1, "vmap"), task=1, memory=memory)
    for repeat in range(4):
        alone = jax.jit(train_task, static_argnums=0)(
            program,
            vectors[repeat],
            fresh(state)[repeat],
            keys[repeat],
            x[:, repeat],
            y[:, repeat],
            pairs[repeat],
            memory,
            1,
            np.float32([0.03, 0.03]),
        )
        for several in (mapped, chunked, vmapped):
            jax.tree.map(
                lambda a, b, r=repeat: np.testing.assert_allclose(a[r], b, rtol=1e-5, atol=1e-6), several, alone
            )


@pytest.mark.parametrize("axis", ["map", "vmap"])
def test_four_devices_give_what_one_gives(axis):
    asked = config(num_repeats=8)
    state = start(asked)
    program = Program.of(asked, state[0])
    one, four = (train(program, state, Layout(devices, axis)) for devices in (1, DEVICES))
    assert len(four.weights.sharding.device_set) == DEVICES
    same = (
        np.testing.assert_array_equal
        if axis == "map"
        else lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    )
    jax.tree.map(lambda a, b: same(np.asarray(a), np.asarray(b)), one, four)


@pytest.mark.parametrize("form", ["patches", "lax"])
def test_the_program_for_four_devices_holds_no_collective(form):
    asked = config(num_repeats=8, er=True, pl=True)
    state = start(asked, form)
    network, vectors, keys, pairs, x, y = state
    layout = Layout(DEVICES, "vmap")
    put = layout.put
    arguments = (
        put(vectors),
        put(vectors),
        put(keys),
        put(x, 1),
        put(y, 1),
        put(pairs),
        put(images().train, None),
        np.int32(1),
        np.float32([0.1, 0.1]),
    )
    text = trainer(Program.of(asked, network), layout).lower(*arguments).compile().as_text()
    collective = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast")
    assert not collective.search(text)
    # The same words are found where there is one.
    mean = jax.jit(lambda w: jnp.broadcast_to(w.mean(0), w.shape), out_shardings=put(vectors).sharding)
    assert collective.search(mean.lower(put(vectors)).compile().as_text())


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(grid.GridError, match=f"devices=8, but jax sees {DEVICES}.*use devices={DEVICES}"):
        Layout(8).put(np.zeros(8))


def test_log_points_are_moments_of_one_and_the_same_training():
    """Logging more or less often, or stopping earlier, changes nothing but what is kept."""
    often, seldom, short = config(log_frequency=1), config(log_frequency=4), config(steps_per_task=3)
    logs = [train(Program.of(asked, Network.of(asked, "patches")), start(asked)) for asked in (often, seldom, short)]
    assert logs[0].weights.shape[1] == 6 and logs[1].weights.shape[1] == 1
    for other, pairs in ((logs[1], [(3, 0)]), (logs[2], [(2, 0)])):
        for mine, theirs in pairs:
            np.testing.assert_allclose(logs[0].weights[:, mine], other.weights[:, theirs], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logs[0].final, logs[0].weights[:, -1])
    np.testing.assert_allclose(logs[1].final, logs[0].final, rtol=1e-5, atol=1e-6)  # 2 steps after its last log point


def test_the_expert_is_a_fresh_plain_learner(tmp_path):
    """Its curve is that of a one-task run with its keys and weights, whatever the learner does."""
    odd = run(tmp_path / "odd", {"er": True, "pl": True, "l2": 0.1, "head": "reset", "momentum": 0.9, "lr": 0.2})
    plain = run(tmp_path / "plain", {})
    for task in range(3):
        mine, other = (grid.GridResults(folder).expert(task) for folder in (odd, plain))
        assert set(mine) == {"train_loss", "train_acc", "test_loss", "test_acc"}
        assert all(mine[key].shape == (2, 4) for key in mine)
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])
    # A fresh learner: fresh weights from the expert's key, then plain SGD on this task alone.
    asked = config()
    network = Network.of(asked, "patches")
    pairs, keys = data.class_pairs(asked, 8), data.repeat_keys(asked)
    for task in (0, 2):
        fold = jax.vmap(jax.random.fold_in, (0, None))
        mine = fold(fold(fold(keys, data.TASK), task), 3)
        fresh = jax.vmap(lambda key: flatten(network.init(key)))(fold(mine, 0))
        x, y = data.task_tensors(images().train, pairs[:, task])
        log = train(Program.of(asked, network), (network, fresh, mine, pairs, x, y))
        tx, ty = data.task_tensors(images().test, pairs[:, task])
        loss, accuracy, _ = evaluator(network, Layout())(log.weights, tx, ty, data.subsample(asked, pairs)[task])
        expert = grid.GridResults(plain).expert(task)
        np.testing.assert_allclose(expert["test_loss"], np.asarray(loss).T, rtol=1e-4)
        np.testing.assert_allclose(expert["test_acc"], np.asarray(accuracy).T, atol=1e-6)
        np.testing.assert_allclose(expert["train_loss"], np.asarray(log.train_loss).T, rtol=1e-4)


def test_replay_draws_what_the_repeat_has_met_with_its_labels():
    memory = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 5, 28, 28), np.uint8)  # the class as pixel
    memory = memory * 10 + np.arange(5, dtype=np.uint8)[:, None, None]
    pairs = np.array([[6, 1], [0, 3], [5, 2]])
    x, y, weights = replay.sample(jax.random.key(0), memory, pairs, jnp.int32(2), 500)
    assert weights.tolist() == [1.0] * 500
    found = {(int(label), int(image[0, 0]) // 10) for label, image in zip(y, np.asarray(x), strict=True)}
    assert found == {(0, 6), (1, 1), (0, 0), (1, 3)}
    assert {int(image[0, 0]) % 10 for image in np.asarray(x)} == set(range(5))
    counts = np.unique(np.asarray(x)[:, 0, 0] // 10, return_counts=True)[1]
    assert counts.min() > 90  # about 125 each
    *_, none = replay.sample(jax.random.key(0), memory, pairs, jnp.int32(0), 7)
    assert none.tolist() == [0.0] * 7


def test_replay_leaves_the_first_task_as_it_is_and_the_mean_right():
    asked = config(er=True, num_repeats=2)
    state = start(asked)
    memory = images().train[:, :4]
    plain = train(Program.of(config(num_repeats=2), state[0]), state)
    first = train(Program.of(asked, state[0]), state, memory=memory)
    later = train(Program.of(asked, state[0]), state, task=2, memory=memory)
    np.testing.assert_allclose(plain.weights, first.weights, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(plain.weights - later.weights)).max() > 1e-3
    np.testing.assert_allclose(plain.train_loss, first.train_loss, rtol=1e-5)


def test_shrink_and_perturb_per_task_is_the_formula_and_spares_the_first_task():
    asked = config(pl=True, shrink=0.3, perturb=0.2, steps_per_task=1, log_frequency=1, lr=0.0, readout_lr=0.0)
    state = start(asked)
    network, vectors, keys, *_ = state
    program = Program.of(asked, network)
    np.testing.assert_array_equal(train(program, state, rates=(0, 0)).final, vectors)
    moved = train(program, state, task=1, rates=(0, 0)).final
    np.testing.assert_allclose(moved, 0.7 * np.asarray(vectors) + 0.2 * np.asarray(fresh(state)), atol=1e-6)


def test_every_task_is_perturbed_by_another_fresh_network(tmp_path):
    """With nothing kept and no training, a run with pl gives the fresh networks themselves."""
    still = {"lr": 0.0, "readout_lr": 0.0, "pl": True, "shrink": 1.0, "perturb": 1.0, "expert": False}
    results = grid.GridResults(run(tmp_path / "still", still))
    kernels = [results.weights(task)["dense1"]["kernel"][-1] for task in range(3)]  # (R, inputs, hidden)
    flat = np.concatenate([kernel.reshape(4, -1) for kernel in kernels])
    together = np.corrcoef(flat) - np.eye(12)
    assert np.abs(together).max() < 0.2  # no two repeats, no two tasks share a network
    np.testing.assert_allclose(flat.std(axis=1), kernels[0].shape[1] ** -0.5, rtol=0.1)


def test_shrink_and_perturb_per_step_acts_after_every_step_with_new_noise():
    asked = config(pl=True, shrink=0.1, perturb=0.0, perturb_every="step", log_frequency=1)
    state = start(asked)
    log = train(Program.of(asked, state[0]), state, rates=(0, 0))
    for step in range(6):
        np.testing.assert_allclose(log.weights[:, step], 0.9 ** (step + 1) * np.asarray(state[1]), rtol=1e-4, atol=1e-7)
    noisy = config(pl=True, shrink=0.0, perturb=0.1, perturb_every="step", log_frequency=1)
    moves = np.diff(np.asarray(train(Program.of(noisy, state[0]), state, rates=(0, 0)).weights), axis=1)
    assert np.abs(moves).max() > 0.01 and np.abs(moves[:, 0] - moves[:, 1]).max() > 0.01


def test_the_noise_of_a_step_has_the_size_of_fresh_weights():
    network = Network((16, 32, 64), 64, "stride", "patches")
    params = network.init(jax.random.key(0))
    drawn = perturb.noise(params, jax.random.key(1))
    for name, layer in params.items():
        assert (drawn[name]["bias"] == 0).all() and (layer["bias"] == 0).all()
        assert drawn[name]["kernel"].std() == pytest.approx(float(layer["kernel"].std()), rel=0.15), name
        correlation = np.corrcoef(np.ravel(drawn[name]["kernel"]), np.ravel(layer["kernel"]))[0, 1]
        assert abs(correlation) < 0.3
    assert not np.array_equal(drawn["conv2"]["kernel"], perturb.noise(params, jax.random.key(2))["conv2"]["kernel"])


def test_a_reset_head_starts_every_task_at_zero_and_a_kept_one_goes_on():
    for head in ("keep", "reset"):
        asked = config(head=head, steps_per_task=1, log_frequency=1)
        state = start(asked)
        final = unflatten(train(Program.of(asked, state[0]), state, rates=(0, 0)).final, state[0].layout)
        assert bool((final["dense2"]["kernel"] == 0).all()) == (head == "reset")
        before = unflatten(state[1], state[0].layout)
        np.testing.assert_array_equal(final["dense1"]["kernel"], before["dense1"]["kernel"])


def test_ojas_rule_finds_the_principal_subspace():
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.standard_normal((9, 9)))[0]
    x = jnp.asarray(generator.standard_normal((4000, 9)) * np.array([3, 2.5, 2, 1, 0.5, 0.4, 0.3, 0.2, 0.1]) @ basis.T)
    weights = jnp.asarray(0.1 * generator.standard_normal((9, 3)))
    for _ in range(2000):
        weights = weights + 0.02 * unsupervised.oja(x, weights)
    np.testing.assert_allclose(weights.T @ weights, np.eye(3), atol=1e-3)
    covariance = np.asarray(x.T @ x) / len(x)
    top = np.linalg.eigh(covariance)[1][:, -3:]
    np.testing.assert_allclose(weights @ weights.T, top @ top.T, atol=1e-2)


def test_the_unsupervised_layer_never_sees_a_label():
    asked = config(ul=True, ul_lr=0.01)
    state = start(asked)
    network, vectors, keys, pairs, x, y = state
    program = Program.of(asked, network)
    kernels = []
    for labels in (y, 1 - y):
        log = train(program, (network, vectors, keys, pairs, x, labels))
        kernels.append(unflatten(log.final, network.layout))
    before = unflatten(vectors, network.layout)
    first, second = kernels
    np.testing.assert_array_equal(first["conv1"]["kernel"], second["conv1"]["kernel"])
    np.testing.assert_array_equal(first["conv1"]["bias"], before["conv1"]["bias"])
    assert np.abs(np.asarray(first["conv1"]["kernel"] - before["conv1"]["kernel"])).max() > 1e-4
    assert np.abs(np.asarray(first["conv2"]["kernel"] - second["conv2"]["kernel"])).max() > 1e-4


def test_a_new_rule_is_one_file(monkeypatch):
    """Signs of the gradient, as a rule of its own: a module with `gradient`, and its name."""
    import sys
    from types import ModuleType

    from course_utils.grid import config as settings
    from course_utils.grid.rules import sl

    module = ModuleType("course_utils.grid.rules.signs")

    def gradient(network, params, x, y, weights):
        descent, loss, accuracy = sl.gradient(network, params, x, y, weights)
        return jax.tree.map(jnp.sign, descent), loss, accuracy

    module.gradient = gradient
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(settings.CHOICES, "rule", ("SL", "signs"))
    asked = config(rule="signs", steps_per_task=1, log_frequency=1)
    state = start(asked)
    moved = np.abs(np.asarray(train(Program.of(asked, state[0]), state, rates=(0.01, 0.01)).final - state[1]))
    np.testing.assert_allclose(moved[moved > 1e-4], 0.01, rtol=1e-3)


def test_plain_sl_and_its_expert_share_compiled_code():
    asked = config()
    network = Network.of(asked, "patches")
    assert Program.of(asked, network) == Program.expert(asked, Network.of(asked, "patches"))
    assert trainer(Program.of(asked, network), Layout()) is trainer(Program.expert(asked, network), Layout())
    assert Program.of(config(er=True), network) != Program.expert(asked, network)


def test_slices_of_the_repeats_are_the_whole(tmp_path):
    options = {"er": True, "pl": True, "num_repeats": 4}
    whole = grid.GridResults(run(tmp_path / "whole", options))
    parts = [
        grid.GridResults(run(tmp_path / f"from {first}", {**options, "num_repeats": count, "first_repeat": first}))
        for first, count in ((0, 1), (1, 3))
    ]
    for task in range(3):
        assert (np.concatenate([part.pairs for part in parts]) == whole.pairs).all()
        np.testing.assert_array_equal(np.concatenate([part.vectors(task) for part in parts], 1), whole.vectors(task))
        for key in ("accuracy", "loss", "train_loss"):
            np.testing.assert_array_equal(
                np.concatenate([part.metrics(task)[key] for part in parts], 1), whole.metrics(task)[key]
            )
        np.testing.assert_array_equal(
            np.concatenate([part.representations(task) for part in parts], 1), whole.representations(task)
        )


def test_a_run_on_four_devices_writes_what_one_writes(tmp_path):
    one, four = (contents(run(tmp_path / str(n), {"devices": n, "er": True})) for n in (1, 4))
    assert {name: data for name, data in one.items() if "metadata" not in name} == {
        name: data for name, data in four.items() if "metadata" not in name
    }
