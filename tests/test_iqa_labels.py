"""EVA's and AVA's label files in their real formats, and splits that never share a picture."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from course_utils import datasets
from course_utils.datasets import ava, eva, scored
from course_utils.datasets.dataset import DataCorrupt, DataNotFound

REAL = Path(os.environ.get("COURSE_DATA", "nowhere"))
VOTES = """image_id=user_id=score=difficulty=visual=composition=quality=semantic=vote_time=1=2=3=4
71=E1=7=3=3=3=3=4=12.5=1=0=0=1
71=E2=5=3=3=3=3=2=8.1=0=0=1=0
0071=E1=10=4=4=4=4=4=9=1=1=1=1
106=E2=0=1=1=1=1=1=3=0=0=0=0
71=E3=6=3=3=3=3=2=8.1=0=0=1=0
"""
CONTENT = '\ufeff"image_id","sort"\n"71","5"\n"106","6"\n"0071","1"\n"999","2"\n'


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- EVA -----------------------------------------------------------------------------------------------------------


def test_votes_become_mean_spread_and_histogram(tmp_path):
    content = write(tmp_path / "image_content_category.csv", CONTENT)
    labels = eva.read_eva_labels(write(tmp_path / "votes_filtered.csv", VOTES), content)
    assert labels.ids == ("71", "0071", "106")  # texts: two images
    assert labels.votes.tolist() == [3, 1, 1]
    np.testing.assert_allclose(labels.score, [0.6, 1.0, 0.0])
    np.testing.assert_allclose(labels.spread, [np.std([0.7, 0.5, 0.6]), 0, 0], atol=1e-12)
    assert labels.distribution.shape == (3, 11)
    np.testing.assert_allclose(labels.distribution[0, [5, 6, 7]], 1 / 3)
    assert [labels.categories[k] for k in labels.category] == ["still life", "animals", "other"]


def test_without_categories_all_are_photographs(tmp_path):
    labels = eva.read_eva_labels(write(tmp_path / "votes_filtered.csv", VOTES))
    assert labels.categories == ("photographs",) and set(labels.category) == {0}


def test_a_plain_csv_of_scores(tmp_path):
    path = write(tmp_path / "mine.csv", "image_id,score,category\na,2.5,human\nb,10,animals\n")
    labels = eva.read_eva_labels(path)
    np.testing.assert_allclose(labels.score, [0.25, 1])
    assert np.isnan(labels.spread).all() and np.isnan(labels.distribution).all()
    assert labels.categories == ("animals", "human") and labels.category.tolist() == [1, 0]
    labels = eva.read_eva_labels(write(tmp_path / "five.csv", "image_id,score\na,1\nb,4\n"), scale=(1, 5))
    np.testing.assert_allclose(labels.score, [0, 0.75])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VOTES.replace("E2=0=", "E2=11="), "line 5: the score is '11'; expected a whole number 0 to 10"),
        (VOTES.replace("E2=0=", "E2=4.5="), "the score is '4.5'"),
        (VOTES + "71=E9\n", "line 7 is cut short"),
        ("image_id=user_id=score\n", "has 0 rows"),
        (VOTES.replace("score=", "mark="), "without score"),
        ("image_id,score\na,x\n", "line 2: 'x' is no number"),
        ("image_id,score\na,11\n", r"the score 11 is outside 0 to 10; pass scale="),
        ("image_id,score\na,1\na,2\n", "names 1 images more than once"),
        ("name,score\na,1\n", "columns name, score, without image_id"),
    ],
)
def test_a_damaged_label_file_is_named_with_its_line(tmp_path, text, message):
    path = write(tmp_path / "labels.csv", text)
    with pytest.raises(DataCorrupt, match=message) as caught:
        eva.read_eva_labels(path)
    assert str(path) in str(caught.value)


def test_a_category_that_is_none_is_named(tmp_path):
    path = write(tmp_path / "content.csv", CONTENT.replace('"106","6"', '"106","7"'))
    with pytest.raises(DataCorrupt, match="line 3: sort is '7'; expected 1 to 6"):
        eva.read_categories(path)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".png"])
def test_names_may_have_the_ending_of_a_file(tmp_path, ending):
    named = write(tmp_path / "mine.csv", f"image_id,score\nm0{ending},2.5\nm.1,4\n")
    assert eva.read_eva_labels(named).ids == ("m0", "m.1")
    votes = write(tmp_path / "votes_filtered.csv", VOTES.replace("106=", f"106{ending}="))
    content = write(tmp_path / "content.csv", CONTENT.replace('"71"', f'"71{ending}"'))
    labels = eva.read_eva_labels(votes, content)
    assert labels.ids == ("71", "0071", "106")
    assert [labels.categories[k] for k in labels.category] == ["still life", "animals", "other"]
    entries = [{"image_id": f"a{ending}", "label": COUNTS}, {"image_id": "v1.5", "label": COUNTS}]
    assert ava.read_ava_labels(write(tmp_path / "list.json", json.dumps(entries))).ids == ("a", "v1.5")
    assert ava.read_ava_labels(write(tmp_path / "means.json", json.dumps({f"a{ending}": 5}))).ids == ("a",)
    table = write(tmp_path / "AVA.txt", LINE.replace("953619", f"953619{ending}"))
    assert ava.read_ava_labels(table).ids == ("953619",)
    with pytest.raises(DataCorrupt, match="names 1 images more than once"):
        eva.read_eva_labels(write(tmp_path / "twice.csv", f"image_id,score\na{ending},1\na,2\n"))


def test_a_label_that_does_not_name_its_image_is_refused_by_its_file(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "1.json", json.dumps({"image_id": "1", "label": COUNTS}))
    write(tmp_path / "deep" / "2.json", json.dumps({"label": COUNTS}))
    with pytest.raises(
        DataCorrupt, match=r"2\.json: 1 entries lack image_id or label.*expected .\"image_id\": \"953619\""
    ):
        ava.read_ava_labels(tmp_path)
    write(tmp_path / "deep" / "2.json", json.dumps({"image_id": "2"}))
    with pytest.raises(DataCorrupt, match=r"2\.json: 1 entries lack image_id or label"):
        ava.read_ava_labels(tmp_path)


def test_missing_files_say_where_to_put_them(tmp_path):
    with pytest.raises(DataNotFound, match=r"votes_filtered\.csv.*EVA_together\.zip\.001.*COURSE_DATA"):
        eva.read_eva_labels(tmp_path / "nothing.csv")
    with pytest.raises(DataNotFound, match=r"AVA\.txt.*COURSE_DATA"):
        ava.read_ava_labels(tmp_path / "nothing.json")


# ---- AVA -----------------------------------------------------------------------------------------------------------

COUNTS = [0, 1, 5, 17, 38, 36, 15, 6, 5, 1]  # the published example, image 953619
LINE = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n"


def by_hand(counts):
    votes = np.repeat((np.arange(1, 11) - 1) / 9, counts)
    return votes.mean(), votes.std()


def write_ava(folder: Path, form: str) -> Path:
    """One image's label in one of the forms."""
    shares = (np.array(COUNTS) / sum(COUNTS)).tolist()
    entry = {"image_id": "953619", "label": COUNTS}
    if form == "table":
        return write(folder / "AVA.txt", LINE)
    if form == "nested":
        (folder / "a" / "b").mkdir(parents=True)
        write(folder / "a" / "b" / "953619.json", json.dumps(entry))
        return folder
    if form == "packed":
        path = folder / "labels.json.gz"
        path.write_bytes(gzip.compress(json.dumps([entry]).encode()))
        return path
    content = {
        "list": [entry],
        "normalised": [{"image_id": 953619, "label": shares}],
        "dictionary": {"953619.jpg": COUNTS},
    }
    return write(folder / "labels.json", json.dumps(content[form]))


@pytest.mark.parametrize("form", ["table", "list", "normalised", "dictionary", "nested", "packed"])
def test_every_form_gives_the_same_label(tmp_path, form):
    labels = ava.read_ava_labels(write_ava(tmp_path, form))
    assert labels.ids == ("953619",)
    mean, spread = by_hand(COUNTS)
    np.testing.assert_allclose([labels.score[0], labels.spread[0]], [mean, spread])
    np.testing.assert_allclose(labels.distribution[0], np.array(COUNTS) / 124)
    assert labels.votes[0] == (0 if form == "normalised" else 124)


def test_mean_scores_without_histograms(tmp_path):
    labels = ava.read_ava_labels(write(tmp_path / "means.json", '{"a": 1, "b.jpg": 5.5, "c": 10}'))
    np.testing.assert_allclose(labels.score, [0, 0.5, 1])
    assert labels.ids == ("a", "b", "c") and np.isnan(labels.spread).all() and np.isnan(labels.distribution).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("AVA.txt", "1 953619 0 1 5\n", "line 1 has 5 fields.*expected 15 numbers"),
        ("AVA.txt", LINE + LINE, "more than once"),
        ("l.json", '[{"image_id": "a", "label": [1, 2, 3]}]', "image a: the label is .1, 2, 3.; expected 10 counts"),
        ("l.json", '[{"image_id": "a", "label": [0,0,0,0,0,0,0,0,0,0]}]', "not all zero"),
        ("l.json", '[{"image_id": "a", "label": [-1,0,0,0,0,0,0,0,0,9]}]', "none negative"),
        ("l.json", '{"a": 11}', "image a: the mean score is 11; expected 1 to 10"),
        ("l.json", '[{"image": "a"}]', "1 entries lack image_id or label"),
        ("l.json", '[{"image_id": "a", "la', "is not whole JSON"),
        ("l.json", "3", "holds a int"),
        ("l.json", "[]", "holds no labels"),
    ],
)
def test_a_damaged_ava_file_is_named(tmp_path, name, text, message):
    with pytest.raises(DataCorrupt, match=message):
        ava.read_ava_labels(write(tmp_path / name, text))


# ---- splits and histograms -------------------------------------------------------------------------------------------


def test_the_published_split_depends_on_the_name_alone():
    names = [str(number) for number in range(5000)]
    found = [scored.split_of(name) for name in names]
    shares = {kind: found.count(kind) / 5000 for kind in ("train", "validation", "test")}
    assert shares["test"] == pytest.approx(0.2, abs=0.02) and shares["validation"] == pytest.approx(0.1, abs=0.02)
    published = {"71": "train", "106": "validation", "132": "test", "225": "validation", "953619": "train"}
    assert {name: scored.split_of(name) for name in published} == published  # for ever
    assert sum(scored.split_of(name, seed=1) == kind for name, kind in zip(names, found, strict=True)) < 4000


def test_versions_of_a_reference_picture_stay_together():
    for reference in range(1, 26):
        ids = [f"{'iI'[level % 2]}{reference:02d}_{kind:02d}_{level}" for kind in (1, 24) for level in range(1, 6)]
        assert len({scored.split_of(name) for name in ids}) == 1
    assert scored.reference_of("i04_17_5") == scored.reference_of("I04_01_1") == "i04"
    assert scored.reference_of("953619") == "953619" and scored.reference_of("my_01_photo") == "my_01_photo"


def test_an_official_test_list_is_kept(tmp_path):
    labels = ava.read_ava_labels(write(tmp_path / "m.json", json.dumps({str(k): 5 for k in range(200)})))
    rows = scored.split_labels(labels, test_ids=["3", "77"])
    assert [labels.ids[row] for row in rows["test"]] == ["3", "77"]
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(200))


def test_rebinning_keeps_mass_and_mean():
    generator = np.random.default_rng(0)
    histograms = generator.dirichlet(np.ones(11), size=7)
    ten = scored.rebin(histograms, 10)
    np.testing.assert_allclose(ten.sum(axis=1), 1)
    np.testing.assert_allclose(ten @ np.linspace(0, 1, 10), histograms @ np.linspace(0, 1, 11))
    np.testing.assert_allclose(scored.rebin(histograms, 11), histograms, atol=1e-12)


def test_a_picture_in_two_splits_is_refused():
    from course_utils.datasets.rated import to_split

    labels = scored.from_histograms(["a", "b"], np.ones((2, 10)))
    split = to_split(np.zeros((2, 3, 16, 16), np.uint8), labels)
    with pytest.raises(ValueError, match="2 groups of images are in train and in validation"):
        scored.scored_dataset("mine", {"train": split, "validation": split, "test": split}, ("photographs",), "arrays")


def test_scores_outside_the_unit_interval_are_refused():
    from course_utils.datasets.rated import to_split

    labels = scored.from_histograms(["a"], np.ones((1, 10)))
    labels.score[0] = 7
    with pytest.raises(ValueError, match="scores run from 7 to 7; expected 0 to 1"):
        to_split(np.zeros((1, 3, 16, 16), np.uint8), labels)


def test_without_files_eva_is_a_labelled_standin(tmp_path, monkeypatch):
    (tmp_path / "eva").mkdir()
    write(tmp_path / "eva" / "image_content_category.csv", CONTENT)  # all that a folder without votes has
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    from course_utils.datasets.standins import photos

    monkeypatch.setattr(photos, "DEFAULTS", {})
    few = photos.load("eva", 12, 12, 12)
    monkeypatch.setattr(datasets, "_standin", lambda name: few)
    with pytest.warns(datasets.StandInWarning, match="going on with the procedural stand-in 'photos'"):
        assert datasets.load("eva").title == "EVA stand-in (procedural)"
    for name in ("eva", "ava"):
        with pytest.raises(DataNotFound, match=f"the folder {name} where COURSE_DATA points"):
            datasets.load(name, allow_standin=False)
        with pytest.raises(DataNotFound, match="not fetched by the course"):
            datasets.load(name, "download")


# ---- the real files --------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "eva" / eva.CONTENT).is_file(), reason="COURSE_DATA has no table of EVA")
def test_evas_real_categories():
    content = eva.read_categories(REAL / "eva" / eva.CONTENT)
    assert np.bincount(list(content.values())).tolist() == [906, 948, 1034, 1012, 928, 273]
    assert content["71"] == 4 and all(isinstance(name, str) and name.isdigit() for name in content)


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "iqa-labels").is_dir(), reason="COURSE_DATA has no vote histograms")
def test_avas_and_tids_real_histograms():
    labels = ava.read_ava_labels(REAL / "iqa-labels" / "ava_labels_test.json.gz")
    assert len(labels) == 25_551 and labels.ids[0] == "231893"
    counts = [2, 8, 19, 36, 76, 52, 16, 9, 3, 2]
    np.testing.assert_allclose([labels.score[0], labels.spread[0]], by_hand(counts))
    assert 1 + 9 * labels.score.mean() == pytest.approx(5.38, abs=0.02)  # AVA's mean score
    tid = ava.read_ava_labels(REAL / "iqa-labels" / "tid_labels_train.json.gz")
    assert len(tid) == 2640 and len({scored.reference_of(name) for name in tid.ids}) == 22


@pytest.mark.real_data
@pytest.mark.skipif(
    not (REAL / "eva" / eva.CONTENT).is_file() or not (REAL / "iqa-labels").is_dir(),
    reason="COURSE_DATA lacks EVA or AVA",
)
def test_evas_photographs_are_avas_and_the_split_knows_it():
    """Two splits drawn apart would test on what was trained on; the split by name does not."""
    content = eva.read_categories(REAL / "eva" / eva.CONTENT)
    labels = ava.read_ava_labels(REAL / "iqa-labels" / "ava_labels_test.json.gz")
    shared = set(content) & set(labels.ids)
    assert len(shared) > 500  # in a tenth of AVA
    generator = np.random.default_rng(0)
    apart = [set(generator.permutation(sorted(names))[: len(names) // 5]) for names in (content, labels.ids)]
    assert len(shared & (apart[0] - apart[1])) > 50
    rows = scored.split_labels(labels)
    trained = {labels.ids[row] for row in rows["train"]}
    assert not {name for name in content if scored.split_of(name) == "test"} & trained
