"""Experiments and their records: keys, atomic files, resumption, statistics and tables."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys

import numpy as np
import pytest

from course_utils import start
from course_utils.lessons import codehash, experiment, records, storage
from course_utils.lessons.experiment import Experiment
from course_utils.lessons.results import Results, mean_and_spread
from course_utils.lessons.storage import RecordError

LESSON = "00_start_here"

TOY = '''
"""A toy lesson's experiments."""
import math
import toy_library
from course_utils.lessons.experiment import Experiment

OFFSET = 1.0
UNUSED = 5

def helper(value):
    """Adds the offset."""
    return value + OFFSET  # a comment

def unrelated():
    return 0

def run(config, seed, using):
    if config.get("fail") and seed == 1:
        raise ArithmeticError("diverged")
    value = using["double"](config["value"]) if using else helper(config["value"])
    return {"score": value + seed, "accuracy": [[0.5 + 0.1 * seed, math.nan], [0.25, 0.75]],
            "data": {"name": "toy", "source": "local", "title": "Toy"}}

def conditions(preset):
    return {"low": {"value": 1}, "high": {"value": 10 if preset == "full" else 5}}

EXPERIMENTS = {
    "toy": Experiment("toy", run, conditions, code=["toy_library"], title="Toy"),
    "failing": Experiment("failing", run, {"bad": {"value": 1, "fail": True}}, code=["toy_library"]),
}
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy experiments as the module of lesson 00, with results under `tmp_path`; call it to change the source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "results"
    monkeypatch.setattr(storage, "results_folder", lambda: folder)
    (tmp_path / "toy_library.py").write_text("def used():\n    return 1\n")

    def write(text: str = TOY, library: str = ""):
        (tmp_path / "toy_experiments.py").write_text(text)
        if library:
            (tmp_path / "toy_library.py").write_text(library)
        for name in ("toy_experiments", "toy_library"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        codehash.module_hash.cache_clear()
        codehash.function_hash.cache_clear()
        module = importlib.import_module("toy_experiments")
        monkeypatch.setattr(experiment, "lesson_module", lambda lesson: module)
        return module

    sys.dont_write_bytecode, before = (
        True,
        sys.dont_write_bytecode,
    )  # rewritten within a second, it would look unchanged
    write.folder = folder
    write()
    yield write
    sys.dont_write_bytecode = before
    for name in ("toy_experiments", "toy_library"):
        sys.modules.pop(name, None)


def stored(toy) -> dict:
    return json.loads((toy.folder / f"{LESSON}.json").read_text())


def run_all(only=("toy",), jobs=1) -> int:
    return records.run_full(LESSON, jobs=jobs, only=only, module="toy_experiments")


# ---- JSON --------------------------------------------------------------------------------------------------------


def test_nan_goes_through_json_as_null_and_back():
    record = {"accuracy": np.array([[0.5, np.nan]]), "n": np.int64(3), "name": "x", "ok": True, "seconds": (1.5,)}
    text = json.dumps(storage.to_json(record), allow_nan=False)
    assert json.loads(text) == {"accuracy": [[0.5, None]], "n": 3, "name": "x", "ok": True, "seconds": [1.5]}
    back = storage.from_json(json.loads(text))
    assert back["accuracy"][0][0] == 0.5 and math.isnan(back["accuracy"][0][1])


@pytest.mark.parametrize(
    ("value", "message"), [(math.inf, "infinite"), (np.array([-np.inf]), "infinite"), ({1, 2}, "set")]
)
def test_what_json_cannot_hold_is_refused(value, message):
    with pytest.raises(RecordError, match=message):
        storage.to_json({"loss": value})


# ---- keys --------------------------------------------------------------------------------------------------------


def key(toy, text: str = TOY, library: str = "") -> str:
    entry = toy(text, library).EXPERIMENTS["toy"]
    return entry.key(entry.configurations("full")["high"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Adds the offset.", "Adds what it should."),
        ("  # a comment", ""),
        ("return value + OFFSET", "return (value\n            + OFFSET)"),
        ("UNUSED = 5", "UNUSED = 6"),
        ("return 0", "return 1"),
        ('{"value": 1}, "high"', '{"value": 2}, "medium": {"value": 3}, "high"'),
        ('title="Toy"', 'title="A toy"'),
    ],
)
def test_prose_layout_and_unrelated_code_leave_a_key_as_it_is(toy, old, new):
    assert old in TOY
    assert key(toy) == key(toy, TOY.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value + OFFSET", "value - OFFSET"),
        ("OFFSET = 1.0", "OFFSET = 2.0"),
        ("value + seed", "value + 2 * seed"),
        ("10 if preset", "11 if preset"),
        ('using["double"]', 'using["triple"]'),
    ],
)
def test_code_and_configuration_change_a_key(toy, old, new):
    assert old in TOY
    assert key(toy) != key(toy, TOY.replace(old, new))


def test_the_modules_that_an_experiment_names_are_in_its_key(toy):
    before = key(toy, library="def used():\n    return 1\n")
    assert key(toy, library='"""Now with words."""\n\ndef used():\n    """More."""\n    return 1  # why\n') == before
    assert key(toy, library="def used():\n    return 2\n") != before


def test_a_package_is_hashed_with_all_its_modules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "toy_package" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "deep.py").write_text("VALUE = 1\n")
    before = codehash.module_hash("toy_package")
    (package / "deep.py").write_text("VALUE = 2\n")
    codehash.module_hash.cache_clear()
    assert codehash.module_hash("toy_package") != before


def test_a_missing_module_or_function_is_named(toy):
    with pytest.raises(RecordError, match="names the module 'no_such_module'"):
        codehash.module_hash("no_such_module")
    with pytest.raises(RecordError, match="top level of toy_experiments; got '<lambda>'"):
        codehash.function_hash("toy_experiments", "<lambda>")


# ---- files -------------------------------------------------------------------------------------------------------


def test_full_runs_are_stored_once_and_found_again(toy, capsys):
    assert run_all() == 6  # two conditions, seeds 0 to 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith(f"[1/6] {LESSON} · toy · low · seed 0")
    content = stored(toy)
    assert content["lesson"] == LESSON and content["data"]["toy"]["title"] == "Toy"
    assert content["recorded"] and content["hardware"] and "python" in content["versions"]
    high = content["experiments"]["toy"]["high"]
    assert high["config"] == {"value": 10} and high["seeds"]["2"]["score"] == 13.0
    assert high["seeds"]["0"]["accuracy"][0][1] is None
    assert run_all() == 0


def test_a_killed_run_goes_on_where_it_stood(toy):
    run_all()
    content = stored(toy)
    del content["experiments"]["toy"]["high"]["seeds"]["1"]
    (toy.folder / f"{LESSON}.json").write_text(json.dumps(content))
    assert run_all() == 1
    assert list(stored(toy)["experiments"]["toy"]["high"]["seeds"]) == ["0", "1", "2"]


def test_stale_records_are_reported_and_replaced_seed_by_seed(toy):
    run_all()
    changed = toy(TOY.replace("value + OFFSET", "value - OFFSET"))
    entry = changed.EXPERIMENTS["toy"]
    assert experiment.recorded(LESSON, entry).stale == ("low", "high")
    label, config, new_key, seed = next(iter(experiment.missing(LESSON, entry)))
    storage.store(LESSON, "toy", label, config, new_key, seed, experiment.run_one(entry, config, seed))
    assert list(stored(toy)["experiments"]["toy"]["low"]["seeds"]) == ["0"]  # old and new never stand side by side
    assert experiment.recorded(LESSON, entry).stale == ("high",)
    assert run_all() == 5
    assert experiment.recorded(LESSON, entry).stale == ()


def test_one_failing_run_costs_only_itself_and_is_named(toy):
    with pytest.raises(RecordError, match=r"1 of 3 runs failed:\n  failing · bad · seed 1: ArithmeticError: diverged"):
        run_all(only=["failing"])
    assert list(stored(toy)["experiments"]["failing"]["bad"]["seeds"]) == ["0", "2"]


def test_workers_give_the_same_records_as_this_process(toy):
    run_all(jobs=1)
    alone = stored(toy)["experiments"]
    (toy.folder / f"{LESSON}.json").unlink()
    assert run_all(jobs=2) == 6
    together = stored(toy)["experiments"]
    for content in (alone, together):
        for entry in content["toy"].values():
            for record in entry["seeds"].values():
                record.pop("wall_seconds")
    assert alone == together


def test_an_interrupted_write_leaves_the_old_file_whole(toy, monkeypatch):
    run_all()
    before = (toy.folder / f"{LESSON}.json").read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                storage.store(LESSON, "toy", "low", {"value": 1}, "key", 9, {"score": 1})
        assert (toy.folder / f"{LESSON}.json").read_bytes() == before
        assert [file.name for file in toy.folder.iterdir()] == [f"{LESSON}.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"lesson": "01_forgetting", "experiments": {}}'])
def test_a_broken_results_file_is_named_and_never_taken_for_empty(toy, text):
    toy.folder.mkdir()
    path = toy.folder / f"{LESSON}.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=f"{LESSON}.json"):
        run_all()
    assert path.read_text() == text


def test_unknown_names_are_refused_with_the_known_ones(toy):
    with pytest.raises(ValueError, match=r"no experiment \['tpy'\]; it has toy, failing"):
        run_all(only=["tpy"])
    with pytest.raises(ValueError, match="no experiment 'tpy'; it has toy, failing"):
        start(LESSON, preset="smoke").experiment("tpy")


def test_without_a_checkout_nothing_is_recorded_and_lessons_still_run(toy, monkeypatch, capsys):
    monkeypatch.setattr(storage, "results_folder", lambda: None)
    with pytest.raises(RecordError, match="no checkout"):
        run_all()
    results = start(LESSON, preset="full").experiment("toy")
    assert results.live and results.mean("high", "score") == 12
    capsys.readouterr()
    results.table(["score"])
    assert "There is no recorded full run here." in capsys.readouterr().out


def test_the_results_folder_is_the_checkouts(tmp_path, monkeypatch):
    found = storage.results_folder()
    assert found is not None and (found.parent / "course_utils").is_dir()
    monkeypatch.setattr(storage, "__file__", str(tmp_path / "site-packages/course_utils/lessons/storage.py"))
    monkeypatch.chdir(tmp_path)
    assert storage.results_folder() is None
    (tmp_path / "solutions").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    assert storage.results_folder() == tmp_path / "results"


# ---- course.experiment and its results ---------------------------------------------------------------------------


def test_quick_runs_live_with_the_students_function(toy):
    course = start(LESSON, preset="quick")
    results = course.experiment("toy", using={"double": lambda value: 2 * value})
    assert results.live and results.labels == ("low", "high")
    assert results.mean("high", "score") == 10  # 2 x 5
    assert results.data_title == "Toy"
    assert not toy.folder.exists()  # only full runs are recorded


def test_full_fills_the_cache_and_then_reads_it(toy):
    first = start(LESSON, preset="full").experiment("toy")
    assert not first.live and first.mean("high", "score") == 12  # seeds 0 to 2
    content = stored(toy)
    content["experiments"]["toy"]["high"]["seeds"]["0"]["score"] = 100.0
    (toy.folder / f"{LESSON}.json").write_text(json.dumps(content))
    again = start(LESSON, preset="full")
    assert again.experiment("toy").values("high", "score").tolist() == [100, 12, 13]
    assert again.experiment("toy", live=True).mean("high", "score") == 12


def test_recorded_is_none_before_and_the_full_run_after(toy):
    course = start(LESSON, preset="quick")
    assert course.recorded("toy") is None
    run_all()
    found = course.recorded("toy")
    assert found.accuracy("low").shape == (3, 2, 2) and np.isnan(found.accuracy("low")[:, 0, 1]).all()
    assert found.mean("low", "score") == 3


def test_statistics_over_seeds():
    scores = [1.0, 2.0, 6.0]
    results = Results("toy", "", "full", {"a": {seed: {"score": score} for seed, score in enumerate(scores)}})
    assert results.mean("a", "score") == 3
    assert results.spread("a", "score") == pytest.approx(np.std(scores, ddof=1))
    low, high = results.interval("a", "score")
    half = 4.302653 * np.std(scores, ddof=1) / math.sqrt(3)  # t(0.975, 2), from a table
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert results.mean("a", lambda record: 2 * record["score"]) == 6
    single = Results("toy", "", "quick", {"a": {0: {"score": 1.0}}})
    assert math.isnan(single.spread("a", "score")) and math.isnan(single.interval("a", "score")[0])
    with pytest.raises(KeyError, match="no condition 'b'; there are a"):
        results.values("b", "score")
    with pytest.raises(KeyError, match="no 'scor'; they have score"):
        results.values("a", "scor")


def test_the_table_puts_the_full_run_beside_yours(toy, capsys):
    run_all()
    results = start(LESSON, preset="quick").experiment("toy")
    capsys.readouterr()
    results.table({"score": "score"}, digits=1, caption="Toy scores.")
    text = capsys.readouterr().out
    assert "score · your run  score · full run" in text
    assert " ".join(text.splitlines()[2].split()) == "high 6.0 12.0 ± 1.0"
    assert "Toy scores. Your run: quick preset, Toy, 1 seed. Full run: Toy, 3 seeds, mean ± s.d., recorded " in text
    assert "older version" not in text

    toy(TOY.replace("value + OFFSET", "value - OFFSET"))
    results = start(LESSON, preset="quick").experiment("toy")
    capsys.readouterr()
    results.table(["score"])
    assert "Recorded with an older version of the code: low, high." in capsys.readouterr().out
    with pytest.raises(ValueError, match="one number per seed"):
        results.table(["accuracy"])


def test_a_table_of_the_record_alone_says_full_run(toy, capsys):
    run_all()
    results = start(LESSON, preset="full").experiment("toy")
    assert list(results.sides) == ["full run"]
    capsys.readouterr()
    results.table({"score": "score"}, digits=1)
    text = capsys.readouterr().out
    assert "score · full run" in text and "your run" not in text.lower()


def test_a_table_in_html_is_escaped_and_says_what_was_not_measured(monkeypatch):
    from course_utils.lessons import display

    shown = []
    monkeypatch.setattr(display, "show", lambda markup, text: shown.append((markup, text)))
    Results("toy", "", "quick", {"<b>": {0: {"score": math.nan}}}).table(["score"])
    markup, text = shown[0]
    assert "&lt;b&gt;" in markup and "<b>" not in markup and "not measured" in text


def test_an_experiment_declared_with_plain_conditions_has_default_seeds():
    entry = Experiment("x", lambda config, seed, using: {}, {"a": {"value": 1}})
    assert entry.configurations("quick") == {"a": {"value": 1}} and entry.seeds["full"] == [0, 1, 2]


def test_a_mean_that_rounds_to_zero_has_no_sign():
    assert mean_and_spread([-0.04]) == "0.0" and mean_and_spread([-0.04, 0.0]) == "0.0 ± 0.0"
    assert mean_and_spread([-0.06]) == "-0.1" and mean_and_spread([-0.04], digits=2) == "-0.04"
