"""The claims of lesson 04, as inequalities with margins: full runs from the record (three seeds), and what the quick preset
must show, live over three seeds.

Letters are those of the prose in `solutions/04_lora.py`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from helpers import full_results, watch_fits

from course_utils import lora
from course_utils.lessons import experiment, storage
from course_utils.lessons.exercises.lesson_04_ranks import old_at_equal_new
from course_utils.lessons.experiments import lesson_04 as lesson
from course_utils.lessons.results import Results

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("04_lora", lesson, "Fashion-MNIST", memory="Random images", gpu_memory="Random images")


@cache
def quick_run(name, label, seed):
    """One record of the quick preset, run here once."""
    entry = lesson.EXPERIMENTS[name]
    return storage.from_json(experiment.run_one(entry, entry.configurations("quick")[label], seed))


def live(name, labels):
    """Results of some conditions of the quick preset, with three seeds."""
    records = {label: {seed: quick_run(name, label, seed) for seed in SEEDS} for label in labels}
    return Results(name, lesson.EXPERIMENTS[name].title, "quick", records)


def test_learning_rate_and_rank_are_those_that_the_recorded_choice_gives(full):
    """One learning rate for all methods: the best mean of both; then the best rank."""
    choice = {label: full["choice"].mean(label, "validation") for label in full["choice"].labels}
    rates = {
        factor: (choice[f"replay, lr x {factor}"] + choice[f"LoRA + replay, rank 4, lr x {factor}"]) / 2
        for factor in (0.3, 1, 3)
    }
    assert max(rates, key=rates.get) == 1
    ranks = {rank: choice[f"LoRA + replay, rank {rank}, lr x 1"] for rank in (2, 4, 8)}
    assert max(ranks, key=ranks.get) == lesson.ADAPTER["rank"]


def test_no_run_of_the_choice_looks_at_a_test_image_or_a_later_task(monkeypatch):
    seen = watch_fits(monkeypatch, lesson.Learner)
    entry = lesson.EXPERIMENTS["choice"]
    for config in entry.configurations("smoke").values():
        entry.run(dict(config), 0, None)
    assert seen == [("validation", 2)] * len(entry.configurations("smoke"))


def test_claim_a_with_replay_adapters_reach_what_all_weights_reach_and_without_it_nothing_helps(full):
    stream = full["stream"]
    assert stream.values("LoRA", "acc").max() < 21 and stream.values("fine-tuning", "acc").max() < 21
    assert (stream.values("LoRA + replay", "acc") - stream.values("replay", "acc")).min() > -1
    assert (stream.values("replay", "forgetting") - stream.values("LoRA + replay", "forgetting")).min() > 1
    assert stream.mean("replay", "learned") > stream.mean("LoRA + replay", "learned")
    assert stream.mean("LoRA + replay", "trainable") / stream.mean("replay", "trainable") < 0.065
    for label in ("replay", "LoRA + replay"):
        assert (stream.values(label, "told") - stream.values(label, "acc")).min() > 20
        assert round(stream.mean(label, "told")) == 96
    assert (stream.values("LoRA", "told") - stream.values("fine-tuning", "told")).min() > 3
    assert (stream.values("joint", "acc") - stream.values("replay", "acc")).min() > 5


@pytest.mark.slow
def test_claim_a_in_the_quick_preset():
    quick = live("stream", ("replay", "LoRA + replay"))
    assert (quick.values("replay", "acc") - quick.values("LoRA + replay", "acc")).mean() > 5


def at_equal(results, label, target):
    """Accuracy on the old task, one value a seed."""
    return np.array(
        [old_at_equal_new(record["new"], record["old"], target) for record in results.records[label].values()]
    )


def test_claim_b_a_small_learning_rate_forgets_no_more_than_lora(full):
    adapt = full["adapt"]
    assert (at_equal(adapt, "rank 4", 80) - at_equal(adapt, "all weights", 80)).min() > 5
    slow = "all weights, lr x 0.1"
    assert abs(adapt.mean(slow, "final_new") - adapt.mean("rank 4", "final_new")) < 1.5
    assert (adapt.values(slow, "final_old") - adapt.values("rank 4", "final_old")).min() > 2


def test_claim_b_in_the_quick_preset():
    quick = live("adapt", ("all weights", "all weights, lr x 0.1", "rank 4"))
    fast, slow, low = (at_equal(quick, name, 70) for name in ("all weights", "all weights, lr x 0.1", "rank 4"))
    assert np.nanmean(low - fast) > 0
    assert np.nanmean(slow - low) > -3


def test_claim_c_a_low_rank_learns_though_the_dense_change_is_not_of_low_rank(full):
    adapt = full["adapt"]
    new = {label: adapt.values(label, "final_new") for label in adapt.labels}
    assert (new["rank 1"] - new["head alone"]).min() > 15
    assert adapt.mean("rank 1", "trainable") < 0.02 * adapt.mean("all weights", "trainable")
    assert (new["all weights"] - new["rank 4"]).max() < 5
    assert (new["rank 16"] - new["rank 4"]).mean() < 1
    energy = adapt.values("all weights", "spectrum") ** 2
    held = energy[:, :4].sum(axis=1) / energy.sum(axis=1)
    assert 0.3 < held.min() and held.max() < 0.4


def test_claim_d_places_differ_only_in_where_they_stop_on_the_same_path(full):
    adapt = full["adapt"]
    places = ("rank 4", "attention alone, rank 9", "MLP alone, rank 7", "ranks by importance")
    assert np.ptp([adapt.mean(label, "final_new") for label in places]) < 4
    assert np.ptp([at_equal(adapt, label, 80).mean() for label in places]) < 4
    for record in adapt.records["ranks by importance"].values():
        ranks = record["ranks"]
        assert ranks == lora.allocate_ranks(record["importance"], 4 * len(ranks))
        attention = [rank for name, rank in ranks.items() if ".attention." in name]
        first = [rank for name, rank in ranks.items() if name.startswith(("blocks.0.", "blocks.1."))]
        assert sum(attention) > 0.75 * sum(ranks.values()) and sum(first) > 0.5 * sum(ranks.values())
        assert 0.16 < 1 - record["trainable"] / adapt.mean("rank 4", "trainable") < 0.21


def test_claim_e_in_full_the_base_hardly_matters_even_with_few_images(full):
    stream, bases, scarce = full["stream"], full["bases"], full["scarce"]
    random = bases.values("LoRA + replay, on random", "acc")
    means = [bases.mean(label, "acc") for label in bases.labels]
    means += [stream.mean(label, "acc") for label in ("replay", "LoRA + replay")]
    assert np.ptp(means) < 4
    assert abs(random.mean() - stream.mean("LoRA + replay", "acc")) < 1.5
    assert (bases.values("LoRA + replay, on glyphs", "acc") - random).min() > 1
    few = scarce.values("LoRA + replay, on random", "acc")
    for name in ("glyphs", "Tiny-ImageNet"):
        assert (scarce.values(f"LoRA + replay, on {name}", "acc") - few).min() < 0, name
    for record in bases.records["LoRA + replay, on Tiny-ImageNet"].values():
        assert record["base"]["source"] in ("local", "download")


@pytest.mark.slow
def test_claim_e_in_the_quick_preset():
    quick = live("bases", ("LoRA + replay, on random", "LoRA + replay, on glyphs", "replay, from glyphs"))
    dense = live("stream", ("replay",))
    acc = {label: quick.values(label, "acc") for label in quick.labels}
    assert (acc["LoRA + replay, on glyphs"] - acc["LoRA + replay, on random"]).mean() > 8
    assert (acc["replay, from glyphs"] - dense.values("replay", "acc")).mean() > 2


def test_claim_f_one_adapter_per_task_keeps_everything_and_has_to_be_told(full):
    kinds = full["kinds"]
    acc = {label: kinds.values(label, "acc") for label in kinds.labels}
    assert (kinds.values("one per task, task told", "forgetting") == 0).all()
    assert (acc["one per task, task told"] - acc["all weights, task told"]).min() > 8
    for label in ("one shared, task told", "one, merged each time, task told"):
        assert (acc[label] - acc["all weights, task told"]).max() < 5
    assert acc["one per task, task guessed"].max() < 60
    for record in kinds.records["one per task, task guessed"].values():
        assert record["remarks"] == ["LoRA: the task of every test image is inferred"]


def test_claim_g_memory_follows_activations_in_the_small_network_and_weights_in_the_large_one(full):
    memory = full["memory"]

    def peak(network, batch, label):
        return memory.mean(f"{network}, batch of {batch}, {label}", "peak")

    assert peak("ViT", 64, "rank 4") > 0.9 * peak("ViT", 64, "all weights")
    assert peak("ResNet-18", 64, "rank 4") < 0.7 * peak("ResNet-18", 64, "all weights")
    assert peak("ResNet-18", 1, "rank 4") < 0.4 * peak("ResNet-18", 1, "all weights")
    for label in memory.labels:
        assert memory.mean(label, "optimizer") == pytest.approx(2 * memory.mean(label, "gradient"))


def test_claim_h_a_mixed_batch_does_not_depend_on_the_number_of_tenants(full):
    """Ratios within one run, and answers that agree: not a timing of this machine."""
    serving = full["serving"]
    few, many = (serving.records[label][0] for label in ("4 tenants", "32 tenants"))
    for record in (few, many):
        assert 1.3 < record["times"]["one mixed batch"] < 1.8
        assert max(record["differs"].values()) < 1e-4 * record["scale_of_answers"]
    assert few["times"]["a merged copy each"] < few["times"]["one mixed batch"]
    assert many["times"]["a merged copy each"] > many["times"]["one mixed batch"]
    assert many["times"]["switch adapters"] > 5 * many["times"]["one mixed batch"]
    assert round(100 * few["kilobytes"]["one adapter"] / few["kilobytes"]["one network"]) == 6


def test_claim_i_longer_training_and_another_network_turn_the_order(full):
    short, long, resnet, resnet_long = (full[name] for name in ("stream", "long", "resnet", "resnet_long"))
    assert (long.values("joint", "acc") - short.values("joint", "acc")).min() > 5
    assert (short.values("LoRA + replay", "acc") - long.values("LoRA + replay", "acc")).min() > 5
    assert 0 < short.mean("replay", "acc") - long.mean("replay", "acc") < 4
    assert (long.values("replay", "acc") - long.values("LoRA + replay", "acc")).min() > 1
    ahead = resnet.values("LoRA + replay", "acc") - resnet.values("replay", "acc")
    assert ahead.min() > 0 and ahead.mean() > 1.5
    assert resnet_long.mean("LoRA + replay", "acc") - resnet_long.mean("replay", "acc") > 2
    for results in (short, long, resnet, resnet_long):
        assert min(results.values(label, "told").min() for label in ("replay", "LoRA + replay")) > 94


def test_claim_i_memory_on_a_gpu(full):
    def share(network, batch):
        peak = [
            full["gpu_memory"].mean(f"{network}, batch of {batch}, {label}", "peak")
            for label in ("rank 4", "all weights")
        ]
        return peak[0] / peak[1]

    assert share("ResNet-18", 1) < 0.25 and 0.4 < share("ResNet-18", 64) < 0.55
    assert 0.9 < share("ViT", 64) < 1 and 1 < share("ViT", 1024) < 1.1
    assert share("ResNet-18", 1024) > 0.9
    assert all("H100" in record["device"] for seeds in full["gpu_memory"].records.values() for record in seeds.values())
