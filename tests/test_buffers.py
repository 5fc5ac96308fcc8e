"""Memories: uniform inclusion by chi-square, balance, capacity, groups, state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from core_helpers import same

from course_utils.methods.buffers import Buffer, ClassBalanced, Reservoir, occurrence


def offer(buffer: Buffer, ids, labels=None, groups=None, batch_size: int | None = None) -> None:
    ids = torch.as_tensor(ids)
    labels = torch.zeros_like(ids) if labels is None else torch.as_tensor(labels)
    groups = ids if groups is None else torch.as_tensor(groups)
    for part in torch.arange(len(ids)).split(batch_size or len(ids)):
        buffer.add({"x": ids[part], "y": labels[part], "group": groups[part]})


def uniform_p_value(included: np.ndarray, trials: int, kept: int) -> float:
    """p-value of "every one of n items is kept with the same probability", when each trial keeps `kept` of them.

    Drawing without replacement makes the counts a little too even for the usual chi-square; the factor undoes it.
    """
    n = len(included)
    expected = trials * kept / n
    statistic = ((included - expected) ** 2 / expected).sum() * (n - 1) / (n - kept)
    return scipy.stats.chi2.sf(statistic, n - 1)


def test_the_p_value_itself():
    rng = np.random.default_rng(0)
    fair = sum(np.isin(np.arange(40), rng.choice(40, 8, replace=False)) for _ in range(600))
    assert uniform_p_value(fair, 600, 8) > 1e-3
    first_is_safe = fair + np.eye(40)[0] * 60
    assert uniform_p_value(first_is_safe, 600, 8) < 1e-6


@pytest.mark.parametrize("batch_size", [1, 7, 16, 40])
def test_reservoir_inclusion_is_uniform(batch_size):
    trials, included = 600, np.zeros(40)
    for seed in range(trials):
        buffer = Reservoir(8, seed)
        offer(buffer, range(40), batch_size=batch_size)
        assert len(set(buffer.all()["x"].tolist())) == len(buffer) == 8
        included[buffer.all()["x"].numpy()] += 1
    assert uniform_p_value(included, trials, 8) > 1e-3


@pytest.mark.parametrize("batch_size", [5, 60])
def test_class_balanced_inclusion_is_uniform_within_each_class(batch_size):
    """Three classes of different size that come one after the other: the memory shrinks its share of each."""
    labels = np.repeat([0, 1, 2], [30, 18, 12])
    trials, included = 600, np.zeros(60)
    for seed in range(trials):
        buffer = ClassBalanced(12, seed)
        offer(buffer, range(60), labels, batch_size=batch_size)
        included[buffer.all()["x"].numpy()] += 1
    for label in range(3):
        mine = included[labels == label]
        assert mine.sum() == 4 * trials
        assert uniform_p_value(mine, trials, 4) > 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_class_balanced_counts_differ_by_at_most_one_where_available(seed):
    rng = np.random.default_rng(seed)
    capacity, classes = int(rng.integers(1, 40)), int(rng.integers(1, 9))
    buffer, offered = ClassBalanced(capacity, seed), Counter()
    for _ in range(6):
        labels = rng.integers(0, classes, rng.integers(1, 25))
        offer(buffer, np.arange(len(labels)) + 1000 * sum(offered.values()), labels)
        offered.update(labels.tolist())
        held = Counter(buffer.all()["y"].tolist())
        assert len(buffer) == min(capacity, sum(offered.values()))
        rest = [held[c] for c in offered if held[c] < offered[c]]  # classes that could have had more
        if rest:
            assert max(held.values()) - min(rest) <= 1


def test_fair_shares_computed_by_hand():
    buffer = ClassBalanced(10)
    offer(buffer, range(100), np.repeat([0, 1, 2], [90, 8, 2]))
    assert Counter(buffer.all()["y"].tolist()) == {0: 4, 1: 4, 2: 2}
    offer(buffer, range(100, 150), np.full(50, 3))
    assert sorted(Counter(buffer.all()["y"].tolist()).values()) == [2, 2, 3, 3]


def test_labels_may_differ_from_y():
    buffer = ClassBalanced(6)
    buffer.add({"x": torch.arange(30), "y": torch.randn(30)}, labels=torch.arange(30) // 10)
    assert Counter((buffer.all()["x"] // 10).tolist()) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize("batches", [1, 4])
def test_distinct_takes_one_frame_of_every_track_before_a_second(batches):
    ids = np.arange(120)
    labels, tracks = ids // 60, ids % 6  # two classes of six tracks; the track numbers are the same in both
    order = np.random.default_rng(0).permutation(120)
    for capacity, most in ((12, 1), (24, 2), (8, 1)):
        buffer = ClassBalanced(capacity, distinct=True)
        offer(buffer, ids[order], labels[order], tracks[order], batch_size=120 // batches)
        frames = Counter(zip(buffer.all()["y"].tolist(), buffer.all()["group"].tolist(), strict=True))
        assert max(frames.values()) == most
        assert sum(frames.values()) == capacity
    plain = ClassBalanced(12)
    offer(plain, ids[order], labels[order], tracks[order])
    assert len(set(zip(plain.all()["y"].tolist(), plain.all()["group"].tolist(), strict=True))) < 12


def test_distinct_groups_are_chosen_uniformly():
    """Eight tracks of three frames each, four slots: every track has the same chance."""
    trials, included = 600, np.zeros(8)
    for seed in range(trials):
        buffer = ClassBalanced(4, seed, distinct=True)
        offer(buffer, range(24), groups=np.arange(24) // 3)
        included[buffer.all()["group"].numpy()] += 1
    assert uniform_p_value(included, trials, 4) > 1e-3


@pytest.mark.parametrize("make", [Reservoir, ClassBalanced])
@pytest.mark.parametrize("capacity", [0, 1, 5, 1000])
def test_the_memory_never_exceeds_its_size(make, capacity):
    buffer = make(capacity)
    for step in range(20):
        offer(buffer, np.arange(7) + 7 * step, np.arange(7) % 3)
        assert len(buffer) == len(buffer.all()["x"]) == min(capacity, 7 * (step + 1))
        assert len(set(buffer.all()["x"].tolist())) == len(buffer)
        assert len(buffer.fields["x"]) == capacity  # preallocated, and it stays so


@pytest.mark.parametrize("make", [Reservoir, ClassBalanced])
def test_rows_stay_together(make):
    buffer = make(9)
    for start in range(0, 100, 10):
        ids = torch.arange(start, start + 10)
        buffer.add({"x": ids[:, None].repeat(1, 3), "y": ids % 4, "logits": ids.float() / 2})
    held = buffer.all()
    assert torch.equal(held["y"], held["x"][:, 0] % 4) and torch.equal(held["logits"], held["x"][:, 2].float() / 2)
    assert torch.equal(buffer.labels[:9], held["y"])


def test_sampling_is_without_replacement_and_uniform():
    buffer = Reservoir(12)
    offer(buffer, range(12))
    drawn = np.zeros(12)
    for _ in range(1000):
        ids = buffer.sample(5)["x"].tolist()
        assert len(set(ids)) == 5
        drawn[ids] += 1
    assert uniform_p_value(drawn, 1000, 5) > 1e-3
    assert sorted(buffer.sample(100)["x"].tolist()) == list(range(12))


@pytest.mark.parametrize("make", [Reservoir, ClassBalanced])
def test_a_restored_memory_goes_on_as_the_original(make, tmp_path):
    original, restored = make(10, 1), make(10, 2)
    offer(original, range(40), np.arange(40) % 3)
    original.sample(4)
    torch.save(original.state_dict(), tmp_path / "memory.pt")
    restored.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    for _ in range(3):
        assert same(original.sample(4), restored.sample(4))
        for buffer in (original, restored):
            offer(buffer, range(40, 60), np.arange(20) % 4)
        assert same(original.state_dict(), restored.state_dict())


def test_a_state_is_a_copy():
    buffer = Reservoir(3)
    offer(buffer, range(3))
    state = buffer.state_dict()
    offer(buffer, range(3, 300))
    assert sorted(state["fields"]["x"].tolist()) == [0, 1, 2]


def test_the_seed_decides_what_is_kept():
    def kept(seed):
        buffer = Reservoir(10, seed)
        offer(buffer, range(100))
        return sorted(buffer.all()["x"].tolist())

    assert kept(3) == kept(3) != kept(4)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="capacity=-1"):
        Reservoir(-1)
    buffer = Reservoir(4)
    offer(buffer, range(4))
    with pytest.raises(ValueError, match="it was offered"):
        buffer.add({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="saved memory holds 4 samples, this one 5"):
        Reservoir(5).load_state_dict(buffer.state_dict())
    with pytest.raises(ValueError, match="earlier run"):
        buffer.start(0)


def test_occurrence_against_a_loop():
    values = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(0))
    seen: Counter = Counter()
    expected = []
    for value in values.tolist():
        expected.append(seen[value])
        seen[value] += 1
    assert occurrence(values).tolist() == expected
    assert occurrence(torch.zeros(0, dtype=torch.int64)).tolist() == []
