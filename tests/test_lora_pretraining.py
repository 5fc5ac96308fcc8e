"""A base is trained once, kept, and fits the network that it was trained as."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from helpers import ROOT

from course_utils import Learner, datasets, lora, models, streams

TINY = {"patch_size": 4, "width": 16, "depth": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def test_a_base_is_trained_once_and_read_afterwards(digits, monkeypatch):
    first = lora.pretrained_base(digits, "vit", epochs=1, limit=20, show_progress=False, **TINY)
    monkeypatch.setattr(Learner, "fit", lambda *a, **o: pytest.fail("trained again"))
    again = lora.pretrained_base(digits, "vit", epochs=1, limit=20, show_progress=False, **TINY)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert not any(name.startswith("head.") for name in first)


@pytest.mark.parametrize("change", [{"epochs": 2}, {"seed": 1}, {"lr": 1e-2}, {"limit": 10}, {"depth": 2}])
def test_other_settings_are_another_base(digits, change):
    settings = {"epochs": 1, "limit": 20, "show_progress": False, **TINY}
    first = lora.pretrained_base(digits, "vit", **settings)
    other = lora.pretrained_base(digits, "vit", **{**settings, **change})
    assert first.keys() != other.keys() or any(not torch.equal(first[name], other[name]) for name in first)


def test_a_base_knows_its_classes_and_brings_them_to_a_fresh_network(digits):
    """On frozen features of the base a new head learns the digits better than on random features."""
    base = lora.pretrained_base(digits, "vit", epochs=12, lr=3e-3, show_progress=False, patch_size=2, width=32, depth=1)
    options = {"patch_size": 2, "width": 32, "depth": 1}

    def probe(model):
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        learner = Learner(model, lr=1e-2, epochs=3, show_progress=False)
        return learner.fit(streams.class_incremental(digits, 1)).accuracy[0, 0]

    loaded = lora.load_base(models.build("vit", digits, seed=5, **options), base)
    for name, value in loaded.state_dict().items():
        assert name.startswith("head.") or torch.equal(value, base[name])
    assert probe(loaded) > probe(models.build("vit", digits, seed=5, **options)) + 0.1


def test_a_base_of_another_network_is_refused_and_changes_nothing(digits):
    base = lora.pretrained_base(digits, "vit", epochs=1, limit=5, show_progress=False, **TINY)
    for options in ({"width": 32}, {"depth": 2}):
        model = models.build("vit", digits, **{**TINY, **options})
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match="another network"):
            lora.load_base(model, base)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_resized_images_are_means_of_areas(digits):
    small = lora.resized(digits, (1, 4, 4))
    expected = digits.test.x.reshape(-1, 1, 4, 2, 4, 2).astype(float).mean(axis=(3, 5))
    assert np.abs(small.test.x - expected).max() <= 0.5
    assert small.image_shape == (1, 4, 4) and small.title == digits.title
    assert np.array_equal(small.train.y, digits.train.y) and len(small.validation) == len(digits.validation)
    with pytest.raises(ValueError, match="1 channels, 3 were asked for"):
        lora.resized(digits, (3, 4, 4))


def script():
    """`data/pretrain_base.py` as a module."""
    spec = importlib.util.spec_from_file_location("pretrain_base", ROOT / "data" / "pretrain_base.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains_what_the_lesson_would_read(tmp_path, digits, capsys):
    out = tmp_path / "base.pt"
    settings = ["--set", "patch_size=4", "--set", "width=16", "--set", "depth=1", "--limit", "5", "--epochs", "1"]
    assert script().main(["--data", "digits", *settings, "--out", str(out)]) == 0
    assert "kept in the course's cache" in capsys.readouterr().out
    expected = lora.pretrained_base(digits, "vit", epochs=1.0, limit=5, show_progress=False, **TINY)
    saved = torch.load(out, weights_only=True)
    assert saved.keys() == expected.keys() and all(torch.equal(saved[name], expected[name]) for name in saved)


def test_the_script_says_what_is_wrong(capsys):
    assert script().main(["--data", "nothing"]) == 1
    assert "unknown data set 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script().main(["--set", "width"])
    assert "write name=value" in capsys.readouterr().err
