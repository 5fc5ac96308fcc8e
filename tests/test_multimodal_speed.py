"""Measuring the data path: the same numbers by every path, medians of a known clock, honest precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from core_helpers import same, weights
from test_multimodal_stream import network, text_stream

from course_utils.multimodal import speed


def samples():
    fields = text_stream()[0].train.fields
    return fields["x"], fields["y"], fields["text"]


class Clock:
    """Every part of a step takes as many seconds as its number in the step; the third step is much slower."""

    def __init__(self):
        self.calls, self.time = 0, 0.0

    def __call__(self) -> float:
        step, moment = divmod(self.calls, 6)
        self.time += moment * (100.0 if step == 2 else 1.0)
        self.calls += 1
        return self.time


def test_both_ways_to_assemble_a_batch_give_the_same_numbers():
    x = torch.randint(0, 256, (20, 3, 5, 5), dtype=torch.uint8)
    index = torch.tensor([4, 4, 19, 0])
    one, once = speed.assemble(x, index, "one by one"), speed.assemble(x, index)
    assert torch.equal(one, once) and one.dtype == torch.float32
    assert torch.equal(once, x[index].float() / 255)
    with pytest.raises(ValueError, match="path='loader' is unknown; choose one of one by one, at once"):
        speed.assemble(x, index, "loader")


def test_times_are_medians_of_the_measured_steps():
    found = speed.measure(network(text_stream()), *samples(), batch_size=8, steps=5, warm_up=1, clock=Clock())
    assert found.milliseconds == pytest.approx(dict(zip(speed.STAGES, (1000, 2000, 3000, 4000, 5000), strict=True)))
    assert found.images_per_second == pytest.approx(8 / 15) and found.batch_size == 8


def test_the_warm_up_is_not_counted():
    class Slow(Clock):
        def __call__(self) -> float:
            step, moment = divmod(self.calls, 6)
            self.time += moment * (50.0 if step < 2 else 1.0)
            self.calls += 1
            return self.time

    found = speed.measure(network(text_stream()), *samples(), batch_size=4, steps=1, warm_up=2, clock=Slow())
    assert found.images_per_second == pytest.approx(4 / 15)


def test_the_network_stays_as_it_is_and_the_seed_decides():
    model = network(text_stream())
    before = weights(model)
    first, second = (speed.measure(model, *samples(), batch_size=8, steps=3, warm_up=0) for _ in range(2))
    assert same(weights(model), before)
    assert first.loss == second.loss
    assert speed.measure(model, *samples(), batch_size=8, steps=3, warm_up=0, seed=1).loss != first.loss
    assert set(first.milliseconds) == set(speed.STAGES) and first.images_per_second > 0


def test_paths_train_alike_and_bf16_nearly():
    model = network(text_stream())
    at_once, one_by_one, bf16 = (
        speed.measure(copy.deepcopy(model), *samples(), batch_size=16, steps=8, warm_up=0, **options)
        for options in ({}, {"path": "one by one"}, {"precision": "bf16"})
    )
    assert at_once.loss == one_by_one.loss
    assert bf16.loss == pytest.approx(at_once.loss, rel=0.05) and bf16.loss != at_once.loss


def test_half_precision_really_is_used():
    model, seen = network(text_stream()), {}
    for precision, dtype in speed.PRECISIONS.items():
        watched = copy.deepcopy(model)
        watched.text.register_forward_hook(lambda module, given, out: seen.setdefault("text", []).append(out.dtype))
        watched.image.dense = torch.nn.Identity()

        def linear(module, given, out):
            seen.setdefault("linear", []).append(out.dtype)

        watched.text.blocks[0].mlp.up.register_forward_hook(linear)
        speed.measure(watched, *samples(), batch_size=4, precision=precision, steps=1, warm_up=0)
        assert seen["linear"] == [dtype or torch.float32]
        seen.clear()
        assert all(p.dtype == torch.float32 for p in watched.parameters())


def test_rows_of_one_table():
    rows = speed.compare(
        network(text_stream()),
        *samples(),
        [{"path": "one by one"}, {}, {"precision": "bf16", "batch_size": 16}],
        batch_size=8,
        steps=2,
        warm_up=0,
    )
    assert [row["setting"] for row in rows] == [
        "fp32, batch of 8, one by one",
        "fp32, batch of 8, at once",
        "bf16, batch of 16, at once",
    ]
    assert rows[0]["times as fast"] == 1.0 and all(set(row) == set(rows[0]) for row in rows)
    assert rows[0]["device"].startswith("CPU, ")
    with pytest.raises(ValueError, match="leaves nothing to measure"):
        speed.compare(network(text_stream()), *samples(), [])


def test_what_cannot_be_measured_is_told():
    model = network(text_stream())
    with pytest.raises(ValueError, match="precision='int8' is unknown; choose one of fp32, bf16, fp16"):
        speed.measure(model, *samples(), precision="int8")
    with pytest.raises(ValueError, match="path='loader' is unknown"):
        speed.measure(model, *samples(), path="loader")
    with pytest.raises(ValueError, match="at least 1 step of 1 to 48 images"):
        speed.measure(model, *samples(), batch_size=49)
    with pytest.raises(ValueError, match="steps=0"):
        speed.measure(model, *samples(), batch_size=4, steps=0)
