"""Scorers with every method of the course, augmentation that leaves labels true, streams, and the table of costs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import Learner, methods, quality
from course_utils.datasets import scored
from course_utils.datasets.standins import photos
from course_utils.methods import fisher_diagonal


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """EVA's and AVA's part, 24 training images each, drawn once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("drawn")))
        return photos.load("eva", 24, 12, 24, size=32), photos.load("ava", 24, 12, 24, size=32)


def learner(model=None, with_methods=(), steps=2, **options):
    model = model or quality.build_scorer(score="both", dim=16)
    options = {"objective": quality.QualityObjective(), **options}
    return Learner(model, with_methods, lr=1e-3, batch_size=8, steps_per_task=steps, show_progress=False, **options)


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", quality.BACKBONES)
def test_embeddings_have_length_one_and_scores_are_cosines(backbone):
    model = quality.build_scorer(backbone, dim=12, score="both").eval()
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, out, scores = model.features(x), model(x), model.scores(x)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    v = model.head.positive_vector[0]
    cosine = torch.stack([row @ v / v.norm() for row in z]).detach()
    torch.testing.assert_close(scores.cosine, (1 + cosine) / 2)
    torch.testing.assert_close(scores.regression, z @ model.head.weight[0] + model.head.bias[0])
    torch.testing.assert_close(out[:, 0], (scores.cosine + scores.regression) / 2)
    for name in ("cosine", "regression"):
        alone = quality.build_scorer(backbone, dim=12, score=name).eval()
        other = {"cosine": "regression", "regression": "cosine"}[name]
        with torch.no_grad():
            found = alone.scores(x)
        assert getattr(found, other) is None and getattr(found, name).shape == (3,)


def test_the_length_of_the_positive_vector_does_not_count():
    model = quality.build_scorer(dim=8, score="cosine").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        model.head.positive_vector *= 7
        torch.testing.assert_close(model(x), before)


def test_seeds_give_bytes_and_leave_the_global_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (quality.build_scorer(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("backbone", quality.BACKBONES)
def test_training_draws_nothing_from_the_global_state(backbone):
    model = quality.build_scorer(backbone, dim=8)
    state = torch.random.get_rng_state()
    model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_weights_of_torchvision_fit(tmp_path):
    from torchvision.models import mobilenet_v3_small

    theirs = mobilenet_v3_small()
    torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    model = quality.build_scorer("mobilenet_v3_small", weights=tmp_path / "mine.pth")
    for mine, other in zip(model.body.parameters(), theirs.features.parameters(), strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(ValueError, match="do not fit torchvision's resnet18"):
        quality.build_scorer("resnet18", weights=tmp_path / "mine.pth")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        quality.build_scorer("resnet18", weights=tmp_path / "no.pth")
    with pytest.raises(ValueError, match="is unknown for resnet18; choose IMAGENET1K_V1"):
        quality.build_scorer("resnet18", weights="IMAGENET")


def test_weights_are_not_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"resnet18-.*COURSE_OFFLINE forbids its download.*weights=None"):
        quality.build_scorer("resnet18", weights="DEFAULT")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="choose one of resnet18, mobilenet_v3_small, efficientnet_b0"):
        quality.build_scorer("vgg")
    with pytest.raises(ValueError, match="choose one of cosine, regression, both, distribution"):
        quality.build_scorer(score="sum")
    with pytest.raises(AttributeError, match="course_utils.quality has no 'scorer'"):
        quality.scorer  # noqa: B018
    assert set(quality.__all__) <= set(dir(quality)) and all(getattr(quality, name) for name in quality.__all__)


# ---- streams and methods ---------------------------------------------------------------------------------------------


def test_streams_hold_float_scores(parts):
    stream = quality.dataset_stream(parts)
    assert stream.scenario == "domain" and stream.objective == "regression" and stream.num_outputs == 1
    for task, data in zip(stream, parts, strict=True):
        assert np.array_equal(task.train.y.numpy(), data.train.score) and task.train.x.dtype == torch.uint8
        assert set(task.test.fields["task"].tolist()) == {task.index}
    spread = quality.dataset_stream(parts, targets="spread")
    assert np.array_equal(spread[1].test.y[:, 1].numpy(), parts[1].test.spread)
    shares = quality.dataset_stream(parts, targets="distribution")
    assert shares.num_outputs == 10 and shares[0].train.y.shape == (24, 10)  # EVA's 11 levels become 10
    torch.testing.assert_close(quality.true_score(shares[0].train.y), torch.from_numpy(parts[0].train.score))


def test_categories_become_tasks(parts):
    stream = quality.category_stream(parts[0], order=[5, 0, 2])
    assert [task.name for task in stream] == ["other", "animals", "human"]
    assert len(stream[0].train) == 4 and len(quality.category_stream(parts[0])) == 6
    with pytest.raises(ValueError, match="at least two different ones"):
        quality.category_stream(parts[0], order=[1, 1])


def test_a_limit_takes_whole_groups(parts):
    stream = quality.dataset_stream(parts, limit=8, seed=1)
    assert [len(task.train) for task in stream] == [8, 8] and len(stream[0].test) == 24
    assert all((task.train.fields["group"].unique(return_counts=True)[1] == 2).all() for task in stream)


def test_streams_refuse_what_would_lie(parts):
    from dataclasses import replace

    from course_utils import datasets

    eva, ava = parts
    leaking = replace(ava, train=eva.test, name="leaking")
    with pytest.raises(ValueError, match="all 24 pictures that leaking.* trains on are held out in EVA"):
        quality.dataset_stream([eva, leaking])
    with pytest.raises(ValueError, match="has classes and no scores"):
        quality.dataset_stream([datasets.load("digits")])
    unknown = replace(eva, train=replace(eva.train, spread=np.full(24, np.nan, np.float32)))
    with pytest.raises(ValueError, match="does not have the spread of all images; use targets='score'"):
        quality.dataset_stream([unknown], targets="spread")
    with pytest.raises(ValueError, match="targets='votes' is unknown"):
        quality.dataset_stream(parts, targets="votes")


def both(one, other):
    """Two splits as one, with ten levels."""
    levels = [scored.rebin(split.distribution, 10).astype(np.float32) for split in (one, other)]
    fields = {name: [getattr(split, name) for split in (one, other)] for name in scored.FIELDS}
    fields["distribution"] = levels
    return scored.ScoredSplit(**{name: np.concatenate(values) for name, values in fields.items()})


def test_what_one_data_set_holds_out_no_other_trains_on(parts):
    """Pictures of EVA's part in splits of another set: they leave training and validation, and no test set changes."""
    from dataclasses import replace

    eva, ava = parts
    nothing = {"train": 0, "validation": 0}
    cases = {  # what the other set has too -> what has to go from it
        ("train", "test"): {"train": 24, "validation": 0},
        ("train", "validation"): {"train": 12, "validation": 0},
        ("train", "train"): nothing,
        ("validation", "test"): {"train": 0, "validation": 24},
        ("validation", "validation"): nothing,
    }
    for (split, of_eva), left_out in cases.items():
        other = replace(ava, name="other", **{split: both(getattr(ava, split), getattr(eva, of_eva))})
        for data in ([eva, other], [other, eva]):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                stream = quality.dataset_stream(data)
            place = data.index(other)
            assert stream.info["left_out"][place] == left_out and stream.info["left_out"][1 - place] == nothing
            counts = [f"{left_out[name]} of {len(getattr(other, name))} {name}" for name in ("train", "validation")]
            told = "other stand-in (procedural): " + f"{counts[0]}ing and {counts[1]} pictures"
            said = [str(warning.message).partition(" are left out")[0] for warning in caught]
            assert said == ([] if left_out == nothing else [told])
            if left_out != nothing:
                assert torch.equal(getattr(stream[place], split).x, torch.from_numpy(getattr(ava, split).x))
            assert [len(task.test) for task in stream] == [24, 24] and len(stream[1 - place].train) == 24
    held_out = replace(ava, test=both(ava.test, eva.train.select(np.arange(20))))
    with pytest.warns(RuntimeWarning, match="EVA stand-in .*: 20 of 24 training and 0 of 12 validation"):
        stream = quality.dataset_stream([eva, held_out])
    assert [len(task.train) for task in stream] == [4, 24] and len(stream[1].test) == 44


@pytest.mark.parametrize("name", ["naive", "l2", "ewc", "packnet", "replay", "joint"])
def test_every_strategy_runs_with_the_courses_own_methods(name, parts):
    recorder = quality.RecordPredictions()
    history = learner(with_methods=[*quality.strategy(name, 1.0, 10), recorder]).fit(quality.dataset_stream(parts))
    assert history.accuracy.shape == (2, 2) and np.isfinite(history.losses).all()
    for i in range(2):
        for j in range(2):
            expected = quality.srcc(recorder.predictions[i][j], parts[j].test.score)
            assert history.accuracy[i, j] == pytest.approx(expected, nan_ok=True)
    if name == "packnet":  # the first task's answers stay the same to the last bit
        assert np.array_equal(recorder.predictions[0][0], recorder.predictions[1][0])
        assert quality.stability_index(recorder.predictions) == pytest.approx(1)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0"])
def test_ewc_takes_the_fisher_of_every_backbone(backbone, parts):
    run = learner(quality.build_scorer(backbone, dim=8), [methods.EWC(1.0, samples=4)], steps=1)
    run.fit(quality.dataset_stream(parts[:1]))
    importance, _ = run.methods[0].terms[0]
    assert set(importance) == {name for name, _ in run.model.named_parameters()}
    assert all(torch.isfinite(value).all() and (value >= 0).all() for value in importance.values())
    assert importance["head.positive_vector"].sum() > 0


def test_the_fisher_is_that_of_a_gaussian_and_batchnorm_stands_still(parts):
    run = learner(steps=1)
    stream = quality.dataset_stream(parts[:1])
    run.fit(stream)
    before = {name: value.clone() for name, value in run.model.named_buffers()}
    data = stream[0].train.subset(torch.arange(3))
    found = fisher_diagonal(run, data, labels="all", samples=None)
    expected = torch.zeros_like(run.model.project.weight)
    run.model.eval()
    for x in data.x:  # slow and obvious: (d output / d weight / noise)^2, averaged
        run.model.zero_grad()
        run.model(x[None].float() / 255).sum().backward()
        expected += (run.model.project.weight.grad / run.objective.noise).square() / 3
    torch.testing.assert_close(found["project.weight"], expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in run.model.named_buffers())


@pytest.mark.parametrize(("loss", "score"), [("fidelity", "cosine"), ("plcc", "regression"), ("emd", "distribution")])
def test_other_losses_go_through_the_same_loop(loss, score, parts):
    objective = quality.QualityObjective(loss)
    stream = quality.dataset_stream(parts, targets=objective.targets)
    run = learner(quality.build_scorer(score=score, dim=8), [methods.EWC(1.0, samples=8)], objective=objective)
    history = run.fit(stream)
    assert np.isfinite(history.losses).all()
    with pytest.raises(ValueError, match="the scorer has 1 outputs, the stream wants 10"):
        learner().fit(quality.dataset_stream(parts, targets="distribution"))


def test_the_recorder_must_be_last(parts):
    with pytest.raises(ValueError, match="must be the last of the methods"):
        learner(with_methods=[quality.RecordPredictions(), methods.L2(1.0)]).fit(quality.dataset_stream(parts))
    with pytest.raises(ValueError, match="split='train'"):
        quality.RecordPredictions("train")


# ---- augmentation ----------------------------------------------------------------------------------------------------


def test_augmentation_moves_pixels_and_changes_none():
    x = torch.rand(40, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    augment = quality.QualityAugment(shift=3)
    out = augment(x, torch.Generator().manual_seed(1))
    assert torch.equal(out, augment(x, torch.Generator().manual_seed(1))) and out.shape == x.shape
    assert all(torch.isin(after, before).all() for before, after in zip(x, out, strict=True))
    inner = [image[:, 3:-3, 3:-3] for image in x]
    offsets = set()
    for image, view in zip(inner, out, strict=True):
        for flipped in (False, True):
            wanted = image.flip(2) if flipped else image
            for top in range(7):
                for left in range(7):
                    if torch.equal(view[:, top : top + 14, left : left + 18], wanted):
                        offsets.add((top, left, flipped))
    assert len(offsets) > 20 and {flipped for *_, flipped in offsets} == {False, True}
    still = quality.QualityAugment(shift=0, flip=False)
    assert torch.equal(still(x, torch.Generator()), x)
    with pytest.raises(ValueError, match="shift=-1"):
        quality.QualityAugment(-1)


@pytest.mark.parametrize("name", quality.FALSIFYING)
def test_falsifying_augmentations_change_pixels(name):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = quality.FALSIFYING[name](x, 0.5)
    assert changed.shape == x.shape and (changed - x).abs().mean() > 0.01
    assert 0 <= changed.min() and changed.max() <= 1 + 1e-6


def test_transforms_of_a_data_set():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    assert torch.equal(quality.test_transform()(image), image / 255)
    assert quality.train_transform(seed=1, shift=2)(image).shape == (3, 16, 16)


# ---- costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "published"), [("resnet18", 1814), ("mobilenet_v3_small", 56), ("efficientnet_b0", 386)]
)
def test_macs_are_the_published_ones(backbone, published):
    """torchvision's own tables, in millions, less the classifier that is cut off."""
    model = quality.build_scorer(backbone)
    assert quality.count_macs(model, 224) / 1e6 == pytest.approx(published, rel=0.03)
    assert model.training


def test_macs_agree_with_torchinfo():
    from torchinfo import summary

    model = quality.build_scorer("resnet18", dim=8)
    theirs = summary(model.body, (1, 3, 64, 64), verbose=0).total_mult_adds
    # torchinfo also counts one for each number of a BatchNorm layer, and nothing behind the body.
    norms = sum(module.weight.numel() for module in model.body.modules() if isinstance(module, nn.BatchNorm2d))
    assert quality.count_macs(model, 64) - 8 * 512 - 8 == pytest.approx(theirs, abs=3 * norms)


@pytest.mark.slow
def test_the_table_has_every_column():
    costs = quality.compare_models(["mobilenet_v3_small"], image_size=32, runs=2)
    (cost,) = costs
    assert cost.parameters == sum(p.numel() for p in quality.build_scorer().parameters())
    assert 0 < cost.milliseconds <= cost.slow_milliseconds
    assert 3e6 < cost.memory_bytes < 3e8 or cost.memory_bytes == -1  # at least its own four megabytes of weights
    text = quality.table(costs)
    for word in ("Model", "Parameters", "MACs", "Inference Time", "Peak memory", "mobilenet_v3_small", "32x32"):
        assert word in text
    with pytest.raises(ValueError, match="image_size=16 must be at least 32"):
        quality.compare_models(image_size=16)
