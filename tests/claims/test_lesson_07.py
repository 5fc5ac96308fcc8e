"""The claims of lesson 07, as inequalities with margins: full runs from the record. Times are ratios within one run.

Letters are those of the prose in `solutions/07_compression.py`.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import full_results

from course_utils import compression
from course_utils.lessons.experiments import lesson_07 as lesson
from course_utils.lessons.experiments import lesson_07_figures as figures


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("07_compression", lesson, "Fashion-MNIST")


@pytest.fixture
def front(full):
    """(version, key) -> one value a seed."""
    return lambda name, key: full["front"].values("the small CNN", lambda record: record["rows"][name][key])


@pytest.fixture
def vit(full):
    return lambda name, key: full["vit"].values("the ViT", lambda record: record["rows"][name][key])


def points(front, name, key="accuracy"):
    """Points of accuracy against the network in floats, one value a seed."""
    return 100 * (front(name, key) - front("fp32", key))


def test_claim_a_sixteen_bits_and_zeros_save_no_time_and_channels_with_integers_do(front):
    assert np.allclose(front("fp16", "size_ratio"), 2, atol=0.05)
    assert (front("half of the weights zero", "size_ratio") == 1).all()
    for name in ("fp16", "half of the weights zero"):
        for key in ("speedup", "speedup_32"):
            assert np.abs(front(name, key) - 1).max() < 0.06
    small = "50% pruned, int8 trained"
    assert front(small, "size_ratio").min() > 14 and front(small, "speedup").min() > 4
    assert -1 < points(front, small).min() and points(front, small).max() < -0.3


def test_the_goal_eight_times_smaller_and_three_and_a_half_times_as_fast_for_two_points(front):
    small = "50% pruned, int8 trained"
    assert front(small, "size_ratio").min() > 8 and front(small, "speedup").min() > 3.5
    assert points(front, small).min() > -2 and front("fp32", "accuracy").min() > 0.9


def test_claim_c_integers_alone_cost_nothing_and_training_helps_the_narrow_ones(front):
    for name in ("int8", "int8, trained", "ONNX Runtime's int8"):
        assert np.abs(points(front, name)).max() < 0.3
    assert front("int8", "size_ratio").min() > 3.8 and np.allclose(front("int8", "speedup"), 2.3, atol=0.15)
    assert (front("int8", "speedup") / front("int8, first layer too", "speedup")).min() > 1.2
    assert (front("int8", "speedup") / front("ONNX Runtime's int8", "speedup")).min() > 1.4
    for ratio in ("30%", "50%", "70%"):
        gain = 100 * (front(f"{ratio} pruned, int8 trained", "accuracy") - front(f"{ratio} pruned", "accuracy"))
        assert 0 < gain.min() and gain.max() < 0.5
    assert (front("int8", "integer_nodes") == 4).all()


def test_the_library_leaves_batchnorms_in_floats_and_ours_folds_them(full):
    for record in full["front"].records["the small CNN"].values():
        nodes = {name: record["rows"][name]["nodes"] for name in ("int8", "ONNX Runtime's int8")}
        assert "BatchNormalization" not in nodes["int8"] and nodes["ONNX Runtime's int8"]["BatchNormalization"] == 3


def test_claim_f_fewer_channels_than_fit_are_no_faster(front):
    """9, 19 and 38 channels of 70 % pruned against 16, 32 and 64 of 50 %; 22, 44 and 89 of 30 %."""
    for kind in (", int8", ", int8 trained"):
        assert (front(f"50% pruned{kind}", "speedup") / front(f"70% pruned{kind}", "speedup")).min() > 1.01
    assert (front("50% pruned", "macs") / front("70% pruned", "macs")).min() > 2.7
    assert front("30% pruned", "speedup").max() < 1.4 < 2 < (front("fp32", "macs") / front("30% pruned", "macs")).min()


def test_claim_f_what_is_chosen_depends_on_what_is_wanted(full):
    found = figures.candidates(full["front"])
    rules = compression.Constraints(max_accuracy_drop=0.02)
    chosen = {t: compression.choose(found, t, rules).candidate.name for t in ("speed", "size", "accuracy", "balanced")}
    assert chosen["speed"].startswith("50% pruned, int8") and chosen["size"].startswith("70% pruned, int8")
    assert "pruned" not in chosen["accuracy"]
    # A processor on which integers are slow: the choice for speed flips to floats.
    slow = [compression.Candidate(c.name, c.size_mb, c.latency_ms * (5 if "int8" in c.name else 1), c.accuracy) for c in found]  # fmt: skip
    assert "int8" not in compression.choose(slow, "speed", rules).candidate.name
    beaten = ["half of the weights zero", "ONNX Runtime's int8", "int8, first layer too"]
    beaten += ["30% pruned", "50% pruned", "70% pruned"]
    for scored in ("validation", "accuracy"):
        front = {candidate.name for candidate in compression.pareto(figures.candidates(full["front"], scored))}
        assert not front & set(beaten)
    row = figures.rows_of(full["front"])["70% pruned, int8 trained"]
    assert 37 < row["size_ratio"] < 38 and round(1000 * row["size_mb"]) == 38


def test_claim_h_a_transformer_loses_blocks_and_gains_little_from_integers_alone(vit, front):
    small = "half of the blocks, half as wide, int8 trained"
    assert len(vit("fp32", "accuracy")) == 3 and np.allclose(vit("fp32", "accuracy"), 0.881, atol=0.001)
    assert np.allclose(vit("int8", "speedup"), 1.4, atol=0.05) and front("int8", "speedup").min() > 2
    assert vit(small, "size_ratio").min() > 11.5 and vit(small, "speedup").min() > 3.6
    lost = -points(vit, small)
    assert lost.min() > 0.9 and lost.max() < 1.2
    assert (vit(small, "accuracy") - vit("half of the blocks, half as wide", "accuracy")).min() > 0.006


def test_claim_a_thirty_per_cent_and_sixteen_bits(full):
    def measured(name, key):
        return full["half"].values("the small CNN", lambda record: record["rows"][name][key])

    both = "30% pruned, fp16"
    assert len(measured(both, "size_ratio")) == 3 and measured(both, "size_ratio").min() > 4
    assert (100 * (measured("fp32", "accuracy") - measured(both, "accuracy"))).max() < 0.85
    assert measured(both, "speedup").min() > 1.2 and measured(both, "speedup").max() < 1.4
    assert measured("fp16", "speedup").max() < 1.1


def test_claim_i_small_in_a_stream_forgets_no_more_than_the_same_steps_without_cuts(full):
    stream = full["stream"]
    acc = {label: stream.values(label, "acc") for label in stream.labels}
    forgetting = {label: stream.values(label, "forgetting") for label in stream.labels}
    assert np.abs(acc["replay, int8 at the end"] - acc["replay"]).max() < 0.2
    assert np.abs(forgetting["replay, int8 at the end"] - forgetting["replay"]).max() < 0.2
    small = "replay, pruned and int8"
    assert (acc[small] - acc["replay"]).min() > 0.85 and (acc[small] - acc["replay"]).max() < 1.7
    assert (forgetting[small] - forgetting["replay"]).max() < 0
    assert np.abs(acc[small] - acc["replay, more steps"]).max() < 0.5
    assert stream.values(small, "size_ratio").min() > 14 and stream.values(small, "speedup").min() > 3.4
    assert acc["fine-tuning"].max() < 21 and (acc["joint"] - acc["replay"]).min() > 2


def test_the_design_tasks_limits_can_be_kept(full, front):
    size, latency, accuracy = lesson.LIMITS["fashion_mnist"]
    assert front("int8", "size_mb").min() > size / 1000
    for ratio in ("30%", "50%", "70%"):
        name = f"{ratio} pruned, int8 trained"
        assert front(name, "size_mb").max() < size / 1000 and front(name, "validation").min() > accuracy + 0.01
    assert latency == 1.0


def test_claim_b_channels_need_their_own_scale_below_four_bits(full):
    bits = full["bits"]
    place = {bit: number for number, bit in enumerate(lesson.BITS)}
    lost = {label: bits.values(label, "fp32")[:, None] - bits.values(label, "accuracy") for label in bits.labels}
    layer, channel = lost["one scale a layer"], lost["one scale a channel"]
    for bit in (4, 5, 6, 7, 8):
        assert max(layer[:, place[bit]].max(), channel[:, place[bit]].max()) < 1.5
    assert 3 < layer[:, place[3]].min() and layer[:, place[3]].max() < 10.5
    assert 1 < channel[:, place[3]].min() and channel[:, place[3]].max() < 4
    assert bits.values("one scale a layer", "accuracy")[:, place[2]].max() < 13
    assert bits.values("one scale a channel", "accuracy")[:, place[2]].min() > 45


def test_claim_e_macs_promise_more_than_one_image_gets(full):
    def measured(name, key="one image"):
        return full["macs"].values("untrained", lambda record: record["rows"][name][key])

    promised = measured("fp32 88%", "promised")
    assert (promised > 50).all() and measured("fp32 88%").max() < 10
    half = measured("fp32 50%", "promised")
    assert 2.7 < measured("fp32 50%").min() and measured("fp32 50%").max() < 3.4 < half.min()
    assert (measured("fp32 88%") / measured("int8 88%")).min() > 1.1
    assert (measured("int8 50%") / measured("fp32 50%")).min() > 1.4
    call = full["macs"].values("untrained", lambda record: record["call"]["one image"])
    assert 1 / 27 < call.min() and call.max() < 1 / 22
    assert (measured("fp32 50%", "32 images") > 0.9 * half).all() and measured("fp32 88%", "32 images").max() < 20


def test_claim_e_multiplying_is_not_all_and_does_not_shrink_as_promised(full):
    def work(name, kind):
        return full["macs"].values("untrained", lambda record: record["work"][name][kind])

    def share(name, kind):
        return work(name, kind) / sum(work(name, other) for other in compression.KINDS_OF_WORK)

    faster = work("fp32 0%", "multiplying") / work("fp32 88%", "multiplying")
    assert 12 < faster.min() and faster.max() < 17
    assert (work("fp32 0%", "pooling, activations") / work("fp32 88%", "pooling, activations")).max() < 3.2
    assert share("fp32 0%", "pooling, activations").max() < 0.12
    assert 0.28 < share("fp32 88%", "pooling, activations").min() and 0.1 < share("fp32 88%", "the call").min()
    assert (work("int8 88%", "multiplying") / work("fp32 88%", "multiplying")).min() > 1.3


def test_claim_h_longer_training_does_not_help_the_transformer(full, vit):
    passes = full["passes"]
    as_they_are, moved = (
        {part: passes.values(label, part) for part in ("train", "test")}
        for label in ("the images as they are", "moved images")
    )
    assert as_they_are["train"].min() > 99.9 and len(as_they_are["test"]) == 2
    assert (as_they_are["test"] - 100 * vit("fp32", "accuracy").mean()).max() < 0.6
    assert moved["test"].max() < 87.5 and moved["train"].max() < 89


def test_claim_d_norms_matter_before_mending_and_little_after_it(full):
    norms = full["norms"]
    half = 1
    group, ways = ("L1, all that goes", "L2, all that goes"), list(norms.labels)
    cut = {label: norms.values(label, "cut")[:, half] for label in ways}
    mended = {label: norms.values(label, "mended") for label in ways}  # (seeds, 30 %, 50 %, 70 % gone)
    own = "L1, own weights"
    worse, better = (choose(*(cut[label] for label in group)) for choose in (np.minimum, np.maximum))
    assert worse.min() > 64 and better.max() < 76 and (worse - cut[own]).min() > 4
    assert (cut[own] - cut["chance"]).min() > 0.5 and cut["chance"].max() < 45
    assert len(set(np.sign(cut[group[0]] - cut[group[1]]))) == 2
    assert np.abs(mended[group[0]] - mended[group[1]])[:, half].max() < 0.25
    behind = {label: (np.minimum(*(mended[one] for one in group)) - mended[label])[:, half] for label in ways}
    assert 0.1 < behind[own].min() and behind[own].max() < 0.5
    assert 0.25 < behind["chance"].min() and behind["chance"].max() < 0.7


def test_claim_g_integers_are_chosen_for_a_wide_network_and_refused_for_a_narrow_one(full):
    auto = full["auto"]
    wide, narrow = auto.records["the small CNN"], auto.records["a narrow CNN"]
    lost = []
    for run in wide.values():
        best = run["kinds"]["best"]
        assert best["satisfied"] and best["name"] in ("int8 pruned 50%", "int8 pruned 75%")
        lost.append(100 * (run["candidates"]["fp32"]["accuracy"] - run["candidates"]["int8 pruned 75%"]["accuracy"]))
        assert (best["name"] == "int8 pruned 75%") == (lost[-1] <= 2)
    assert 1.5 < min(lost) < 2 < max(lost) < 2.5
    for run in narrow.values():
        latency = {name: row["latency_ms"] for name, row in run["candidates"].items()}
        assert "fp16" in run["kinds"]["best"]["name"] and latency["int8"] > 1.1 * latency["fp32"]
