"""Ranks by importance and by complexity, and what training takes in memory."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_helpers import same, weights
from torch.nn import functional as F

from course_utils import lora, models
from course_utils.lora import memory

DATA = SimpleNamespace(image_shape=(1, 12, 12))


def random_importance(seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    values = rng.exponential(size=rng.integers(2, 12)) ** 2
    return {f"layer{index}": float(value) for index, value in enumerate(values)}


# ---------------------------------------------------------------- a budget of ranks


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_spent_exactly_within_the_bounds(seed):
    importance, rng = random_importance(seed), np.random.default_rng(seed)
    most = {name: int(rng.integers(3, 30)) for name in importance}
    minimum = int(rng.integers(0, 3))
    for budget in range(minimum * len(most), sum(most.values()) + 1, 7):
        ranks = lora.allocate_ranks(importance, budget, minimum=minimum, maximum=most)
        assert sum(ranks.values()) == budget and list(ranks) == list(importance)
        assert all(minimum <= ranks[name] <= most[name] for name in ranks)


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_that_matters_more_never_gets_less_and_a_larger_budget_takes_from_none(seed):
    importance, before = random_importance(seed), None
    for budget in range(len(importance), 8 * len(importance)):
        ranks = lora.allocate_ranks(importance, budget)
        for a, b in itertools.permutations(importance, 2):
            assert ranks[a] >= ranks[b] or importance[a] <= importance[b]
        assert before is None or all(ranks[name] >= before[name] for name in ranks)
        before = ranks


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_layers_does_not_matter(seed):
    importance = {**random_importance(seed), "tie": 1.0, "another tie": 1.0}
    names = list(np.random.default_rng(seed).permutation(list(importance)))
    shuffled = lora.allocate_ranks({str(name): importance[name] for name in names}, 40)
    assert shuffled == lora.allocate_ranks(importance, 40) and list(shuffled) == names
    renamed = lora.allocate_ranks({f"x{n}": v for n, v in random_importance(seed).items()}, 40)
    assert {n[1:]: r for n, r in renamed.items()} == lora.allocate_ranks(random_importance(seed), 40)


@pytest.mark.parametrize("value", [0.0, 1e-12, 3.0])
def test_equal_importance_is_the_uniform_rank(value):
    importance = dict.fromkeys("abcdef", value)
    assert set(lora.allocate_ranks(importance, 24).values()) == {4}
    assert sorted(lora.allocate_ranks(importance, 26).values()) == [4, 4, 4, 4, 5, 5]


def test_shares_follow_importance():
    """Against the shares themselves: with much to spend and no bound, ranks are proportional to importance."""
    importance = {"a": 1.0, "b": 2.0, "c": 5.0}
    assert lora.allocate_ranks(importance, 80, minimum=0) == {"a": 10, "b": 20, "c": 50}
    for seed in range(10):
        importance = random_importance(seed)
        total = sum(importance.values())
        ranks = lora.allocate_ranks(importance, 300, minimum=0)
        assert all(abs(ranks[name] - 300 * value / total) < 2 for name, value in importance.items())
    # By Sainte-Laguë's own rule: seats are the largest quotients by 1, 3, 5, ...
    quotients = sorted(((v / d, name) for name, v in importance.items() for d in range(1, 81, 2)), reverse=True)[:40]
    seats = {name: sum(winner == name for _, winner in quotients) for name in importance}
    assert lora.allocate_ranks(importance, 40, minimum=0) == seats


def test_a_full_layer_leaves_its_share_to_the_others():
    assert lora.allocate_ranks({"a": 100.0, "b": 1.0, "c": 1.0}, 12, maximum={"a": 4, "b": 9, "c": 9}) == {
        "a": 4, "b": 4, "c": 4,
    }  # fmt: skip
    assert lora.allocate_ranks({"a": 1.0, "b": 0.0, "c": 0.0}, 10, maximum=4) == {"a": 4, "b": 3, "c": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": 1.0, "b": 1.0}, 1), "budget=1 does not fit 2 layers of rank 1 to 1"),
        (({"a": 1.0, "b": 1.0}, 9, 4), "together they take 2 to 8"),
        (({"a": math.nan, "b": 1.0}, 4), "importance={'a': nan}"),
        (({"a": -1.0, "b": 1.0}, 4), "importance={'a': -1.0}"),
        (({}, 4), "importance={}"),
    ],
)
def test_impossible_budgets_are_refused(arguments, message):
    importance, budget, *maximum = arguments
    with pytest.raises(ValueError, match=message):
        lora.allocate_ranks(importance, budget, maximum=maximum[0] if maximum else None)


# ---------------------------------------------------------------- importance and complexity of a task


def batches(count: int = 3):
    generator = torch.Generator().manual_seed(0)
    sizes = (4, 8, 5)[:count]
    return [
        (torch.rand(n, 1, 12, 12, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes
    ]


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "vit"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_the_mean_loss_and_leave_the_network_alone(name, frozen):
    model = models.build(name, DATA, num_outputs=3, **({"patch_size": 4, "width": 8} if name == "vit" else {}))
    reference = models.build(name, DATA, num_outputs=3, **({"patch_size": 4, "width": 8} if name == "vit" else {}))
    if frozen:
        lora.inject(model, rank=1)  # B is zero, so it computes the same
    learns = [p.requires_grad for p in model.parameters()]
    before = weights(model)
    gradients = lora.layer_gradients(model, batches(), F.cross_entropy)
    assert same(weights(model), before) and [p.requires_grad for p in model.parameters()] == learns
    assert model.training and all(p.grad is None for p in model.parameters())
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    F.cross_entropy(reference.eval()(x), y).backward()
    sensitive = lora.sensitivity(model, gradients)
    assert set(gradients) == set(lora.candidates(reference)) == set(sensitive)
    for layer, gradient in gradients.items():
        weight = reference.get_submodule(layer).weight
        assert torch.allclose(gradient, weight.grad.flatten(1), atol=1e-6)
        expected = np.abs(weight.detach().numpy() * weight.grad.numpy()).mean()
        assert sensitive[layer] == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_gradients_of_nothing_and_of_a_merged_network_are_refused():
    model = models.build("mlp", DATA, num_outputs=3)
    with pytest.raises(ValueError, match="no batch"):
        lora.layer_gradients(model, [], F.cross_entropy)
    lora.inject(model, rank=1)
    lora.merge(model)
    with pytest.raises(ValueError, match="unmerge them"):
        lora.layer_gradients(model, batches(), F.cross_entropy)


def test_directions_hold_the_energy():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.double))[0] for _ in range(2))
    values = torch.tensor([4.0, 3.0, 2.0, 1.0, 0, 0, 0, 0], dtype=torch.double)  # squares 16, 9, 4, 1 of 30
    matrix = u @ values.diag() @ v
    for energy, expected in ((0.5, 1), (0.54, 2), (0.8, 2), (0.84, 3), (0.9, 3), (0.97, 4), (1.0, 4)):
        assert lora.directions(matrix, energy) == expected, energy
    assert lora.directions(1e-9 * matrix, 0.9) == 3  # the size does not matter
    assert lora.directions(torch.zeros(3, 4)) == 0 and lora.directions(torch.eye(4), 0.75) == 3
    assert lora.directions(matrix.reshape(8, 2, 2, 2), 0.9) == 3
    with pytest.raises(ValueError, match="energy=0"):
        lora.directions(matrix, 0)


def test_the_rank_of_a_task_is_the_median_layers():
    gradients = {"a": torch.eye(2), "b": torch.eye(5), "c": torch.eye(9)}
    assert lora.task_rank(gradients, 1.0) == 5
    assert lora.task_rank(gradients, 1.0, maximum=4) == 4 and lora.task_rank(gradients, 1.0, minimum=7) == 7
    assert lora.task_rank({"a": torch.zeros(3, 3)}) == 1
    assert lora.task_rank({"a": torch.eye(2), "b": torch.eye(5)}, 1.0) == 4  # 3.5 is rounded up
    with pytest.raises(ValueError, match="no gradient"):
        lora.task_rank({})


def test_a_task_with_more_classes_needs_more_directions():
    model = models.build("mlp", DATA, num_outputs=10, hidden=(64, 64))
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(10, 1, 12, 12, generator=generator)

    def rank(classes):
        y = torch.arange(200) % classes
        x = centres[y] + 0.05 * torch.randn(200, 1, 12, 12, generator=generator)
        return lora.task_rank(lora.layer_gradients(model, [(x, y)], F.cross_entropy), 0.99)

    assert rank(2) < rank(10)


def test_ranks_of_measured_importance_can_be_injected():
    model = models.build("vit", DATA, num_outputs=3, patch_size=4, width=16, depth=2)
    pattern = "blocks.*"
    importance = lora.sensitivity(model, lora.layer_gradients(model, batches(), F.cross_entropy, pattern))
    most = lora.full_ranks(model, pattern)
    assert set(most.values()) == {16}
    ranks = lora.allocate_ranks(importance, 2 * len(importance), maximum=most)
    lora.inject(model, rank=ranks)
    found = {name: layer.rank("default") for name, layer in lora.adapted(model).items()}
    assert found == ranks and sum(ranks.values()) == 24 and len(set(ranks.values())) > 1
    convolution = lora.full_ranks(models.build("resnet18", DATA), ["conv1", "layer1.0.conv1"])
    assert convolution == {"conv1": 9, "layer1.0.conv1": 64}


# ---------------------------------------------------------------- memory


@pytest.fixture(scope="module")
def measured():
    options = {"hidden": (2000, 2000)}
    wanted = {"batch_size": 4, "steps": 2, "options": options}
    return {rank: memory.training_memory("mlp", (1, 28, 28), rank=rank, **wanted) for rank in (None, 4)}


@pytest.mark.slow
def test_optimizer_state_and_gradients_shrink_by_the_exact_factor(measured):
    dense, small = measured[None], measured[4]
    layers = [(784, 2000), (2000, 2000)]
    assert dense.trainable == dense.total == sum((a + 1) * b for a, b in [*layers, (2000, 10)])
    assert small.trainable == sum(4 * (a + b) for a, b in layers) + 2001 * 10
    assert small.total == dense.total + sum(4 * (a + b) for a, b in layers)
    for took in (dense, small):
        assert took.gradient_bytes == 4 * took.trainable and took.optimizer_bytes == 8 * took.trainable


@pytest.mark.slow
def test_the_peak_is_measured_beyond_what_an_empty_process_holds(measured):
    """A network of 22 MB in float32: weights, gradients and Adam's two moments make four of it, LoRA has one."""
    dense, small = measured[None], measured[4]
    size = 4 * dense.total
    assert 3.5 * size < dense.peak_bytes < 9 * size
    assert 0.7 * size < small.peak_bytes < dense.peak_bytes - 2 * size


@pytest.mark.slow
def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no model is called 'transformer'"):
        memory.training_memory("transformer", (1, 28, 28))
    with pytest.raises(ValueError, match="steps=0"):
        memory.training_memory("mlp", (1, 28, 28), steps=0)


def test_the_peak_of_this_process_is_no_less_than_what_it_holds():
    before = memory.peak_bytes()
    block = torch.ones(50_000_000 // 4)
    assert memory.peak_bytes() >= block.numel() * 4 and memory.peak_bytes() >= before
    row = memory.as_row(memory.TrainingMemory(1000, 2000, 2**20, 2**21, 2**22))
    assert row == {
        "trainable (thousand)": 1, "total (thousand)": 2, "gradient (MB)": 1, "optimizer (MB)": 2, "peak (MB)": 4,
    }  # fmt: skip
