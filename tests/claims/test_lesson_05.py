"""The claims of lesson 05, as inequalities with margins: full runs from the record (three seeds), and what the quick preset
must show, live.

Letters are those of the prose in `solutions/05_clip.py`.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import full_results

from course_utils.lessons import experiment
from course_utils.lessons.experiments import lesson_05 as lesson
from course_utils.lessons.experiments.told import told_accuracy


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("05_clip", lesson, "Fashion-MNIST", signs="GTSRB")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_label_aware_targets_make_a_class_one_even_block(seed):
    """The spread of cosines among images and captions of one class, after 60 steps of both losses."""
    spread = {}
    for aware in (False, True):
        cosines, labels = lesson.similarities("digits", aware, steps=60, seed=seed)
        same = labels[:, None] == labels[None, :]
        spread[aware] = max(cosines[np.ix_(labels == label, labels == label)].std() for label in set(labels))
        assert cosines[same].mean() > cosines[~same].mean() + 0.2
    assert spread[False] > 3 * spread[True]


def test_swapped_sentences_are_those_of_another_class_and_none_is_lost():
    right, swapped = (lesson.texts_of({"data": "digits", "swapped": swap}) for swap in (False, True))
    assert list(swapped) == list(right) and sorted(swapped.values()) == sorted(right.values())
    assert all(swapped[name] != right[name] for name in right)


def test_held_out_signs_are_never_shown_and_their_sentences_never_read(monkeypatch):
    shown = []
    monkeypatch.setattr(lesson.Learner, "fit", lambda learner, stream: shown.append(stream))
    trained = lesson.train_pair({**lesson.SIGNS["smoke"], "weight": 0.5, "label_aware": True, "invented": 25}, seed=1)
    (stream,) = shown
    names = {trained.data.classes[label] for label in trained.held_out}
    assert len(names) == 8 and not names & set(stream.class_names) and len(stream.class_names) == 43 - 8 + 25
    words = lesson.tokenizer_of({name: trained.texts[name] for name in stream.class_names})
    assert trained.tokenizer.ids == words.ids


def test_with_the_task_told_only_its_own_outputs_compete():
    """The third output wins everywhere; within the first task the right one does."""
    y = torch.tensor([0, 1, 1])
    out = torch.nn.functional.one_hot(y, 4).float()
    out[:, 2] = 9
    task = SimpleNamespace(columns=(0, 2), test=SimpleNamespace(x=None, y=y))
    learner = SimpleNamespace(predict=lambda x: out)
    assert told_accuracy(learner, task) == 1
    task.columns = (0, 4)
    assert told_accuracy(learner, task) == 0


@pytest.mark.slow
def test_claim_b_in_the_quick_preset_rows_without_memory_keep_more():
    entry = lesson.EXPERIMENTS["meaning"]
    configs = entry.configurations("quick")
    told = {
        label: [experiment.run_one(entry, configs[label], seed)["told"] for seed in (0, 1, 2)]
        for label in ("rows", "sentences")
    }
    assert (np.array(told["rows"]) - np.array(told["sentences"])).min() > 10


def test_claim_a_language_does_not_help_to_remember(full):
    stream = full["stream"]
    acc = {label: stream.values(label, "acc") for label in stream.labels}
    assert round(acc["vision + replay"].mean()) == 76
    ahead = acc["CLIP + replay"] - acc["vision + replay"]
    assert -2 < ahead.mean() < 0
    assert 0.5 < (acc["CLIP + replay"] - acc["CLIP + text-augmented replay"]).mean() < 1.5
    assert (acc["vision + replay"] - acc["fusion + replay"]).min() > 2
    with_replay = [label for label in stream.labels if "replay" in label]
    assert len(with_replay) == 4
    for label in with_replay:
        assert (acc["joint"] - acc[label]).mean() > 14 and (acc[label] - acc["fine-tuning"]).min() > 45
        assert stream.values(label, "told").min() > 94
    without = stream.values("fusion + replay", "acc_without_text")
    assert abs(without - acc["fusion + replay"]).max() < 0.5  # section 8: the text at test time hardly matters
    assert (stream.values("vision + replay", "told") - stream.values("CLIP + replay", "told")).min() > 0.5


def test_claim_b_the_wrong_sentences_do_as_well(full):
    meaning = full["meaning"]
    ahead = meaning.values("swapped sentences + replay", "acc") - meaning.values("sentences + replay", "acc")
    assert ahead.min() > 0 and ahead.max() < 2
    told = meaning.values("swapped sentences + replay", "told") - meaning.values("sentences + replay", "told")
    assert abs(told).max() < 1.5
    for label in ("sentences", "swapped sentences"):
        assert (meaning.values(label, "told") - meaning.values("rows", "told")).min() > 8
    for label in ("rows", "sentences", "swapped sentences"):
        assert meaning.values(label, "acc").max() < 21


def test_claim_c_two_held_out_garments_are_told_apart_and_not_found_among_ten(full):
    closed = full["closed"]
    (label,) = closed.labels
    assert closed.values(label, "between the two").min() > 80
    among = np.sort(closed.values(label, "among all"))
    assert among[-1] < 30 and among[1] < 2
    assert closed.values(label, "seen, among all").min() > 80
    held_out = [tuple(record["held_out"]) for record in closed.records[label].values()]
    assert len(set(held_out)) == 3


def test_claim_d_invented_signs_lift_held_out_combinations_above_the_plate(full):
    def held_out(label, question="held out, among themselves", way="all sentences"):
        return full["signs"].values(label, lambda record: record[way][question])

    alone, both = "the real signs alone", "real and invented signs"
    plate = full["signs"].values(both, "plate")
    assert (held_out(alone) < plate).sum() == 2 and held_out(alone).mean() < plate.mean()
    assert (held_out(both) - held_out(alone)).min() > 7
    assert (held_out(both) - plate).min() > 2 and round(held_out(both).mean()) == 61
    assert held_out(both, "held out, among all").max() < 25
    assert (held_out(alone, "seen, among all") - held_out(both, "seen, among all")).min() > 3
    for label in (alone, both):
        gain = held_out(label) - held_out(label, way="one sentence")
        assert 0 < gain.min() and gain.max() < 3
    turns = [
        share
        for record in full["signs"].records[both].values()
        for name, share in record["by class"].items()
        if name in ("turn left ahead", "turn right ahead")
    ]
    assert len(turns) == 3 and max(turns) < 10
    assert len({tuple(record["held_out"]) for record in full["signs"].records[both].values()}) == 3


def test_claim_e_a_blank_image_with_its_caption_is_recognised(full):
    leak = full["leak"]
    (label,) = leak.labels
    honest = np.maximum(leak.values(label, "image alone"), leak.values(label, "all classes' text"))
    assert leak.values(label, "own caption").min() > 99 and (leak.values(label, "own caption") - honest).min() > 17
    assert leak.values(label, "blank image, own caption").min() > 90


def test_claim_e_in_the_quick_preset():
    entry = lesson.EXPERIMENTS["leak"]
    (config,) = entry.configurations("quick").values()
    record = experiment.run_one(entry, config, 0)
    assert record["blank image, own caption"] > 25 and record["own caption"] > record["image alone"]


def test_claim_f_captions_alone_are_no_memory(full):
    memories = full["memories"]
    none = memories.mean("no memory", "acc")
    for label in ("text", "text+embedding"):
        assert abs(memories.values(label, "acc") - none).max() < 1
    assert memories.mean("text", "stored") > 10 * memories.mean("image", "stored")
    assert 0.03 < 1 - memories.mean("image+text", "stored") / memories.mean("image", "stored") < 0.05
    assert memories.mean("image", "acc") > memories.mean("image+text", "acc")
    told = {label: memories.mean(label, "told") for label in memories.labels}
    assert told["text"] < told["no memory"] < told["text+embedding"]
    again = memories.values("image", "acc") - full["stream"].values("CLIP + replay", "acc")
    assert abs(again.mean()) < 1 and 1.5 < abs(again).max() < 2.5  # the same settings, run twice on a GPU


def test_claim_g_sixteen_bits_help_one_device_and_not_the_other(full):
    speed = full["speed"]
    gpu = {row["setting"]: row["images/s"] for row in speed.records["GPU"][0]["rows"]}
    cpu = {row["setting"]: row["images/s"] for row in speed.records["CPU"][0]["rows"]}
    assert "H100" in speed.records["GPU"][0]["device"] and speed.records["CPU"][0]["device"].startswith("CPU")
    for batch in (64, 256, 2048):
        whole = gpu[f"fp32, batch of {batch}, at once"]
        assert all(gpu[f"{half}, batch of {batch}, at once"] < 1.05 * whole for half in ("bf16", "fp16"))
    assert gpu["fp32, batch of 2048, at once"] > 15 * gpu["fp32, batch of 64, at once"]
    assert 7 < gpu["fp32, batch of 2048, one by one"] / gpu["fp32, batch of 64, one by one"] < 9
    assert gpu["fp32, batch of 2048, at once"] > 2 * gpu["fp32, batch of 2048, one by one"]
    gain = {
        batch: cpu[f"bf16, batch of {batch}, at once"] / cpu[f"fp32, batch of {batch}, at once"] for batch in (64, 256)
    }
    assert 1.05 < gain[64] < gain[256] and 1.4 < gain[256] < 1.8
    for batch in (64, 256):
        assert cpu[f"fp16, batch of {batch}, at once"] < cpu[f"fp32, batch of {batch}, at once"] / 10


def test_the_networks_cost_what_the_table_says(full):
    (record,) = full["cost"].records["three networks"].values()
    assert record["training"]["vision"] == record["answering"]["vision"] == 1
    assert record["parameters"]["fusion"] < record["parameters"]["vision"] < record["parameters"]["CLIP"]
    assert 1.1 < record["training"]["CLIP"] < 1.3 and 0.95 < record["answering"]["CLIP"] < 1.1
    assert (
        1.7 < record["training"]["fusion"] < 2.3 and record["parameters"]["fusion"] < record["parameters"]["vision"] / 2
    )
