"""The claims of lesson 08, as inequalities with margins: over the 8 or 32 repeats of the recorded runs, which share
nothing, and live over 16 repeats for what the quick preset must show.

Letters are those of the prose in `solutions/08_jax_grid.py`. Where a sentence speaks of an interval, it is the 95 %
interval over repeats, by SciPy.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
from helpers import ROOT, full_results

from course_utils.lessons import experiment, storage
from course_utils.lessons.experiments import lesson_08 as lesson
from course_utils.lessons.results import Results

FIRST, EARLY, LAST, LATE, ALL = "first", "early", "last", "late", "all"
BINS = {FIRST: slice(0, 1), EARLY: slice(2, 3), LAST: slice(-1, None), LATE: slice(-3, None), ALL: slice(None)}


@pytest.fixture(scope="module")
def full():
    """Experiment -> Results of the recorded full run."""
    return full_results("08_jax_grid", lesson, "Tiny-ImageNet 28x28 grey")


def live(name, labels):
    """Results of some conditions of the quick preset, run here."""
    entry = lesson.EXPERIMENTS[name]
    configs = entry.configurations("quick")
    records = {label: {0: storage.from_json(experiment.run_one(entry, configs[label], 0))} for label in labels}
    return Results(name, entry.title, "quick", records)


def measure(results, label, name, bins=ALL):
    """A measure within each repeat, the mean over some bins; (R,)."""
    return np.nanmean(np.array(results.records[label][0]["measures"][name], dtype=float)[BINS[bins]], axis=0)


def interval(values):
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return values.mean() - half, values.mean() + half


# ---- the choice -------------------------------------------------------------------------------------------------------


def test_the_settings_are_those_that_the_recorded_choice_gives(full):
    assert lesson.chosen(full["choice"].records, "lr") == lesson.RATE
    assert lesson.chosen(full["choice"].records, "perturb") == lesson.AMOUNT


def test_the_choice_sees_no_test_image_and_no_repeat_of_the_results():
    configs = lesson.EXPERIMENTS["choice"].configurations("full")
    used = [config for name in ("short", "long") for config in lesson.EXPERIMENTS[name].configurations("full").values()]
    reported = max(config.get("first_repeat", 0) + config["num_repeats"] for config in used)
    assert all(config["first_repeat"] >= reported for config in configs.values())
    images = lesson.load("glyphs", 80)
    apart = lesson.held_out(images)
    assert apart.train.shape[1] == 64 and apart.test.shape[1] == 16
    np.testing.assert_array_equal(np.concatenate([apart.train, apart.test], axis=1), images.train)


def test_full_runs_are_kept_under_what_they_depend_on_and_others_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "results_folder", lambda: tmp_path / "results")

    def kept(seed=0, **changes):
        with lesson.place({"keep": True, "lr": 0.1, **changes}, seed) as folder:
            return folder

    assert kept() == kept() and kept().parent == tmp_path / "build" / "grid" / "lesson_08"
    assert len({kept(), kept(seed=1), kept(lr=0.2)}) == 3
    before = kept()
    monkeypatch.setattr(lesson.codehash, "module_hash", lambda name: f"other code of {name}")
    assert kept() != before
    with lesson.place({"lr": 0.1}, 0) as folder:
        folder.mkdir()
    assert not folder.parent.exists() and not folder.is_relative_to(tmp_path)


# ---- the claims -------------------------------------------------------------------------------------------------------


def test_claim_a_the_ratios_of_the_recorded_benchmark():
    kept = json.loads((ROOT / "results" / "benchmark_grid.json").read_text(encoding="utf-8"))
    times = {row["form"]: row["times_ours"] for row in kept["rows"] if row["repeats"] == 32}
    assert times["lax.conv, vmap in a scan"] > 15
    assert min(value for form, value in times.items() if form.startswith("PyTorch")) > 2
    loop, called = times["lax.conv, a loop over one model"], times["lax.conv, vmap, a call a step"]
    assert called / loop > 2 and times["lax.conv, vmap in a scan"] / called > 3
    ours = next(row for row in kept["rows"] if row["repeats"] == 32 and row["form"].startswith("the grid"))
    assert ours["share_of_peak"] > 1 / 3


def test_claim_b_repeats_of_one_learner_lie_far_apart_because_of_their_classes(full):
    short = full["short"]
    first, expert = (measure(short, "SL", name, FIRST) for name in ("own", "expert"))
    assert len(first) == 32 and np.ptp(first) > 0.2
    assert np.ptp(measure(short, "SL", "own")) > 0.05
    both = (np.array(short.records["SL"][0]["measures"][name], dtype=float) for name in ("own", "expert"))
    assert min(np.corrcoef(own, other)[0, 1] for own, other in zip(*both, strict=True)) > 0.5
    assert np.corrcoef(first, expert)[0, 1] > 0.5
    assert np.abs(interval(measure(short, "SL", "own") - measure(short, "SL", "expert"))).max() < 0.01


def test_claim_c_replay_remembers_a_little_for_sure_and_costs_more_on_the_current_task(full):
    short = full["short"]
    past = {label: measure(short, label, "past", LAST) for label in short.labels}
    assert 0.48 < interval(past["SL"])[0] and interval(past["SL"])[1] < 0.52
    low, high = interval(past["SL + replay"] - past["SL"])
    assert low > 0.01 and high < 0.05
    cost = measure(short, "SL", "own") - measure(short, "SL + replay", "own")
    assert interval(cost)[0] > 0.05
    assert measure(short, "SL + replay", "train_accuracy", LAST).min() > 0.98
    # the model answer of reflection 2
    assert interval(measure(short, "SL + replay", "dormant_fraction", LAST))[1] < 0.05
    rank = [measure(short, "SL + replay", "effective_rank", place) for place in (FIRST, LAST)]
    assert interval(rank[1] - rank[0])[0] > 0
    for label in ("SL", "SL + shrink and perturb"):  # nothing is left to lose
        assert np.abs(np.array(interval(measure(full["long"], label, "past", LAST))) - 0.5).max() < 0.02


def test_claim_d_plain_learning_loses_plasticity_and_shrink_and_perturb_keeps_it(full):
    long = full["long"]
    expert = {place: measure(long, "SL", "expert", place) for place in (FIRST, LATE)}

    def gap(label, place):
        return measure(long, label, "own", place) - expert[place]

    assert interval(gap("SL", FIRST))[0] > -0.01
    assert gap("SL", LATE).mean() < -0.02 and interval(gap("SL", LATE))[1] < 0
    assert gap("SL, slower", LATE).mean() < -0.02 and interval(gap("SL, slower", LATE))[1] < 0
    assert np.abs(interval(gap("SL + shrink and perturb", LATE))).max() < 0.01
    kept = gap("SL + shrink and perturb", LATE) - gap("SL", LATE)
    assert interval(kept)[0] > 0.01
    assert gap("SL", LATE).max() < 0  # every repeat
    assert measure(long, "SL", "own", LAST).min() < 0.57  # one is almost at chance
    assert interval(gap("SL, head reset", LATE))[1] < 0 < interval(gap("SL, head reset", FIRST))[0]
    assert abs(expert[LATE].mean() - expert[FIRST].mean()) < 0.01
    fit = [measure(long, "SL", "train_accuracy", place).mean() for place in (FIRST, LAST)]
    assert fit[0] > 0.96 and fit[1] < 0.85


def test_claim_e_units_die_ranks_fall_weights_grow_and_shrink_and_perturb_stops_it(full):
    long, name = full["long"], "SL + shrink and perturb"
    dormant = [measure(long, "SL", "dormant_fraction", place) for place in (FIRST, LAST)]
    assert dormant[0].mean() < 0.05 and interval(dormant[1])[0] > 0.6 and dormant[1].mean() > 0.7
    rank = [measure(long, "SL", "effective_rank", place) for place in (FIRST, LAST)]
    assert rank[1].mean() < rank[0].mean() / 3
    size = [measure(long, "SL", "weight_rms", place) for place in (FIRST, LAST)]
    assert (size[1] / size[0]).min() > 1.5
    assert measure(long, name, "dormant_fraction", LAST).max() < 0.01
    assert measure(long, name, "weight_rms", LAST).max() < size[0].min()
    assert interval(measure(long, name, "effective_rank", FIRST) - rank[0])[1] < 0
    assert (
        interval(measure(long, "SL, slower", "weight_rms", LAST) / measure(long, "SL, slower", "weight_rms", FIRST))[1]
        < 1.6
    )
    reset = {name: measure(long, "SL, head reset", name, LAST) for name in ("dormant_fraction", "effective_rank")}
    assert reset["dormant_fraction"].mean() < 0.35 and reset["effective_rank"].mean() > rank[0].mean()
    assert measure(long, "SL, head reset", "train_accuracy", LAST).min() > 0.9
    assert measure(long, "SL", "dormant_fraction", EARLY).mean() > 0.5  # tasks 21 to 30
    level = measure(long, "SL", "own", EARLY) - measure(long, "SL", "expert", EARLY)
    assert interval(level)[0] > -0.02
    same = measure(long, name, "own", FIRST) - measure(long, "SL", "own", FIRST)
    assert interval(same)[0] < 0 < interval(same)[1]


def test_claim_f_capacity_rises_while_accuracy_falls(full):
    long, name = full["long"], "SL + shrink and perturb"
    dimension = [measure(long, "SL", "dimension", place) for place in (FIRST, LATE)]
    assert interval(dimension[0] - dimension[1])[0] > 1
    assert measure(long, "SL", "capacity", LATE).mean() > 2 * measure(long, name, "capacity", LATE).mean()
    assert interval(measure(long, "SL", "capacity", LATE) - measure(long, name, "capacity", LATE))[0] > 0


@pytest.mark.slow
def test_the_quick_preset_shows_forgetting_and_what_replay_does():
    quick = live("short", ("SL", "SL + replay"))
    past = {label: measure(quick, label, "past", LAST) for label in quick.labels}
    assert past["SL"].mean() < 0.65 and measure(quick, "SL", "own", LAST).mean() > 0.85
    gain = past["SL + replay"] - past["SL"]
    price = measure(quick, "SL", "own", LAST) - measure(quick, "SL + replay", "own", LAST)
    assert interval(gain)[0] > 0.05 and interval(gain - price)[0] > 0
    assert quick.records["SL"][0]["data"]["source"] == "standin"


@pytest.mark.slow
def test_the_quick_preset_shows_no_loss_of_plasticity():
    long = live("long", ("SL",))
    assert (measure(long, "SL", "own", LATE) - measure(long, "SL", "expert", LATE)).mean() > 0
