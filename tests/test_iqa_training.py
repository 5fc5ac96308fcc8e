"""`course iqa`: trains for real, resumes to the same bytes, prepares labels, compares models, and names what is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import stats

from course_utils import cli, quality
from course_utils.learner import Learner
from course_utils.quality import training
from course_utils.quality.config import IQAConfig, load_config, template


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch, request):
    """A small demo, drawn once, without progress bars."""
    monkeypatch.setenv("COURSE_CACHE", str(request.getfixturevalue("drawn")))
    monkeypatch.setenv("COURSE_QUIET", "1")
    monkeypatch.setattr(training, "DEMO", {"train": 24, "validation": 12, "test": 24})
    monkeypatch.setattr(training, "DEMO_SIZE", 32)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("iqa_drawn")


def demo(folder: Path, **settings) -> IQAConfig:
    options = {"epochs": 2, "batch_size": 8, "tracker": "none", "checkpoint_every": 2, **settings}
    return IQAConfig(demo=True, output_dir=str(folder), **options)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_the_demo_trains_and_writes_everything(tmp_path, capsys):
    arguments = (
        "iqa train --demo --epochs 1 --batch_size 8 --cl_strategy ewc --backbone mobilenet_v3_small --output_dir"
    )
    assert cli.main([*arguments.split(), str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "EVA stand-in (procedural) then AVA stand-in (procedural): ewc, mobilenet_v3_small; test images" in shown
    assert "stability_index" in shown and "tensorboard --logdir" in shown
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"checkpoint.pt", "config.json", "logs", "model.pt", "results.json"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["standin"] is True and np.array(results["srcc"], dtype=float).shape == (2, 2)
    assert set(results["summary"]) == {"mean_srcc", "plasticity_index", "stability_index", "forgetting"}
    assert all(low is None or low <= estimate <= high for estimate, low, high in results["intervals"])
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))


def test_tensorboard_holds_loss_and_scores(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    quality.train(demo(tmp_path / "run", tracker="tensorboard", epochs=4))
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "naive"))
    events.Reload()
    tags = {f"{name}/{part}" for name in SCIPYS for part in ("task_1", "task_2", "mean")}
    assert set(events.Tags()["scalars"]) == {"loss", "task", *tags}  # and nothing is called an accuracy
    assert events.Tags()["tensors"] == ["config/text_summary", "srcc_matrix/text_summary"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name in SCIPYS:
        for task in range(2):
            logged = [event.value for event in events.Scalars(f"{name}/task_{task + 1}")]
            assert logged == pytest.approx([row[task] for row in results[name]], abs=1e-6)
        means = [results[name][0][0], np.mean(results[name][1])]
        assert [event.value for event in events.Scalars(f"{name}/mean")] == pytest.approx(means, abs=1e-6)


# With an independent library, on what the checkpoint recorded.
SCIPYS = {
    "srcc": lambda p, y: stats.spearmanr(p, y).statistic,
    "plcc": lambda p, y: stats.pearsonr(p, y).statistic,
    "kendall": lambda p, y: stats.kendalltau(p, y).statistic,
    "rmse": lambda p, y: float(np.sqrt(((p - y) ** 2).sum() / len(y))),
}


@pytest.mark.parametrize(
    "changed", [{"cl_strategy": "packnet"}, {"loss": "emd", "score": "distribution"}, {"loss": "fidelity"}]
)
def test_all_four_measures_are_those_of_the_recorded_predictions(tmp_path, capsys, changed):
    options = [text for name, value in changed.items() for text in (f"--{name}", value)]
    arguments = f"iqa train --demo --epochs 4 --batch_size 8 --tracker none --output_dir {tmp_path / 'run'}"
    assert cli.main([*arguments.split(), *options]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["methods"][-1]["predictions"]
    stream = quality.load_stream(demo(tmp_path, **changed))
    shown = capsys.readouterr().out
    for i in range(2):
        numbers = []
        for j in range(2):
            truth = quality.true_score(stream[j].test.y).double().numpy()
            for name, scipys in SCIPYS.items():
                assert results[name][i][j] == pytest.approx(scipys(saved[i][j].numpy(), truth), abs=1e-6), name
            numbers.append("  ".join(f"{results[name][i][j]:5.3f}" for name in SCIPYS))
        lines = [line for line in shown.splitlines() if line.startswith(f"  {results['tasks'][i]}")]
        assert [line.endswith(row) for line, row in zip(lines, numbers, strict=True)] == [True, True]
    assert "SRCC   PLCC   KRCC   RMSE" in shown


@pytest.mark.parametrize("strategy", ["naive", "l2", "joint", "replay", "packnet", "ewc"])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, monkeypatch, strategy):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    quality.train(demo(whole, cl_strategy=strategy))

    class Interrupted(Exception):
        pass

    update, count = Learner.update, [0]

    def stops(self, loss):
        count[0] += 1
        if count[0] == 10:  # in the middle of the second task, between two checkpoints
            raise Interrupted
        update(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", stops)
        with pytest.raises(Interrupted):
            quality.train(demo(broken, cl_strategy=strategy))
    assert not (broken / "results.json").exists()
    quality.train(demo(broken, cl_strategy=strategy), resume=True)
    for name in ("results.json", "model.pt"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name


def test_resuming_a_run_that_never_began_begins_it(tmp_path):
    assert quality.train(demo(tmp_path / "run", epochs=1), resume=True)["steps"] == [3, 3]


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    quality.train(demo(tmp_path / "run", epochs=1))
    before = (tmp_path / "run" / "results.json").read_bytes()
    with pytest.raises(quality.ConfigError, match="holds a run already; go on with --resume"):
        quality.train(demo(tmp_path / "run", epochs=1))
    with pytest.raises(quality.ConfigError, match="epochs: 1 then, 2 now; lr: 0.001 then, 0.01 now"):
        quality.train(demo(tmp_path / "run", epochs=2, lr=0.01), resume=True)
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_the_seed_decides_weights_and_batches(tmp_path, monkeypatch):
    learners = []
    fit = training.Learner.fit
    monkeypatch.setattr(
        training.Learner, "fit", lambda learner, *a, **k: learners.append(learner) or fit(learner, *a, **k)
    )
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        quality.train(demo(tmp_path / name, seed=seed, epochs=1))
    assert [learner.seed for learner in learners] == [3, 3, 4]
    first, again, other = (learner.initial_model.state_dict() for learner in learners)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.positive_vector"], other["head.positive_vector"])
    results = [(tmp_path / name / "model.pt").read_bytes() for name in ("first", "again", "other")]
    assert results[0] == results[1] != results[2]


def test_categories_and_histograms(tmp_path):
    config = demo(tmp_path / "run", stream="categories", loss="emd", score="distribution", epochs=1)
    results = quality.train(config)
    assert results["tasks"][:2] == ["animals", "architecture and city"] and len(results["srcc"]) == 6


def test_the_seeds_flags_train_on_files(tmp_path, capsys):
    """The four paths of the seed document, with real files behind them."""
    generator = np.random.default_rng(0)
    names = [str(number) for number in range(40)]
    for part in ("eva", "ava"):
        (tmp_path / part).mkdir()
        for name in names:
            Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(
                tmp_path / part / f"{name}.jpg"
            )
    scores = "".join(f"{name},{generator.uniform(0, 10):.2f}\n" for name in names)
    (tmp_path / "labels.csv").write_text("image_id,score\n" + scores)
    labels = [{"image_id": name, "label": generator.integers(1, 20, 10).tolist()} for name in names]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    arguments = {
        "eva_image_dir": tmp_path / "eva", "eva_label_file": tmp_path / "labels.csv", "ava_image_dir": tmp_path / "ava",
        "ava_label_file": tmp_path / "labels.json", "backbone": "resnet18", "cl_strategy": "l2", "epochs": 1,
        "batch_size": 16, "image_size": 32, "tracker": "none", "output_dir": tmp_path / "run",
    }  # fmt: skip
    flags = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    assert cli.main(["iqa", "train", *flags]) == 0
    assert "EVA then AVA: l2, resnet18; test images after each task" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["standin"] is False


# ---- settings --------------------------------------------------------------------------------------------------------


def test_the_template_is_a_config_with_the_defaults(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    assert cli.main(["iqa", "config", str(path)]) == 0
    assert load_config(path, {}) == IQAConfig()
    assert set(yaml.safe_load(template())) == {setting.name for setting in dataclasses.fields(IQAConfig)}
    assert cli.main(["iqa", "config", str(path)]) == 1  # never over an existing file
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["iqa", "config"]) == 0 and capsys.readouterr().out == template()


def test_options_win_over_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 3\nbackbone: resnet18\ndemo: true\n")
    config = load_config(path, {"epochs": 5, "backbone": None, "demo": False})
    assert (config.epochs, config.backbone, config.demo) == (5, "resnet18", False)
    assert load_config(None, {"lr": 1}).lr == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "epoch is no setting, did you mean epochs?"),
        ("epochs: many", "epochs: 'many' is not a whole number"),
        ("epochs: 0", "epochs: 0 is too small; use at least 1"),
        ("epochs: true", "epochs: True is not a whole number"),
        ("lr: 1e-3", "lr: '1e-3' is not a number .YAML reads 1e-3 as text"),
        ("strength: -1", "strength: -1 is negative"),
        ("lr: 0", "lr: 0 is not a learning rate"),
        (
            "backbone: vgg16",
            "backbone: 'vgg16' is unknown; choose one of resnet18, mobilenet_v3_small, efficientnet_b0",
        ),
        ("cl_strategy: lwf", "cl_strategy: 'lwf' is unknown; choose one of naive, l2, ewc, packnet, replay, joint"),
        ("demo: 'yes please'", "demo: 'yes please' is not true or false"),
        ("loss: emd", "the loss 'emd' and the score 'distribution' go together"),
        ("- epochs", "holds a list; expected lines of the form"),
        ("epochs: [3", "is not YAML"),
        ("demo: false", "eva_image_dir, eva_label_file, ava_image_dir, ava_label_file: not given"),
        ("eva_image_dir: a\neva_label_file: b", "ava_image_dir, ava_label_file: not given .2 of the paths are."),
        (
            "eva_image_dir: away\neva_label_file: away\nava_image_dir: away\nava_label_file: away",
            "eva_image_dir: there is no away; check the path, or use --demo",
        ),
    ],
)
def test_config_errors_name_the_setting(tmp_path, text, message, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(text + "\n")
    with pytest.raises(quality.ConfigError, match=message):
        load_config(path, {}).check_data()
    assert cli.main(["iqa", "train", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("course: ") and "Traceback" not in error


def test_a_missing_config_file_says_how_to_get_one(tmp_path):
    with pytest.raises(quality.ConfigError, match=r"there is no config file .*; `course iqa config .*` writes one"):
        load_config(tmp_path / "config.yaml", {})


def test_unknown_strategies_list_the_known_ones():
    with pytest.raises(quality.ConfigError, match="choose one of naive, l2, ewc, packnet, replay, joint"):
        quality.strategy("lwf")
    assert [method.strength for method in quality.strategy("ewc", 3.0)] == [3.0] and quality.strategy("naive") == []


# ---- labels and the table --------------------------------------------------------------------------------------------


def test_prepared_labels_read_back_the_same(tmp_path, capsys):
    from course_utils.datasets.ava import read_ava_labels
    from course_utils.datasets.eva import read_eva_labels

    votes = tmp_path / "votes_filtered.csv"
    rows = "".join(f"{image}=E{user}={(image * 7 + user) % 11}\n" for image in range(30) for user in range(5))
    votes.write_text("image_id=user_id=score\n" + rows)
    content = tmp_path / "image_content_category.csv"
    content.write_text('\ufeff"image_id","sort"\n' + "".join(f'"{image}","{image % 6 + 1}"\n' for image in range(30)))
    out = tmp_path / "made" / "labels.csv"
    assert cli.main(["iqa", "prepare", str(votes), "--categories_file", str(content), "--output", str(out)]) == 0
    assert "30 images" in capsys.readouterr().out
    first, again = read_eva_labels(votes, content), read_eva_labels(out)
    assert first.ids == again.ids and first.categories == again.categories
    for field in ("score", "spread", "category"):
        np.testing.assert_allclose(getattr(first, field), getattr(again, field), atol=1e-6)

    table = tmp_path / "AVA.txt"
    table.write_text("1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n")
    assert cli.main(["iqa", "prepare", str(table), "--output", str(tmp_path / "labels.json")]) == 0
    np.testing.assert_allclose(read_ava_labels(tmp_path / "labels.json").score, read_ava_labels(table).score, atol=1e-6)


def test_scores_on_another_scale_are_brought_to_ten(tmp_path, capsys):
    from course_utils.datasets.eva import read_eva_labels

    stars, out = tmp_path / "stars.csv", tmp_path / "labels.csv"
    stars.write_text("image_id,score,spread\na,1,\nb,4,0.8\nc,5,0.4\n")
    wanted = ["iqa", "prepare", str(stars), "--scale", "1", "5", "--output", str(out)]
    assert cli.main(wanted) == 0
    assert "mean score 5.83 of 10" in capsys.readouterr().out
    made = read_eva_labels(out)
    np.testing.assert_allclose(made.score, [0, 0.75, 1])
    np.testing.assert_allclose(made.spread, [np.nan, 0.2, 0.1])
    stars.write_text("image_id,score\na,7\n")
    assert cli.main(wanted) == 1 and "--scale LOWEST HIGHEST" in capsys.readouterr().err
    assert read_eva_labels(out).ids == made.ids  # what was there stays


@pytest.mark.parametrize(
    ("name", "content", "scale", "text"),
    [
        ("stars.csv", "image_id,score\na,3\n", ("5", "1"), "the lowest possible score, then the highest"),
        ("stars.csv", "image_id,score\na,3\n", ("0", "inf"), "the lowest possible score, then the highest"),
        ("votes.csv", "image_id=user_id=score\n1=E1=3\n", ("1", "5"), "holds votes, which have a scale of their own"),
        ("AVA.txt", "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n", ("1", "5"), "AVA's counts have a scale"),
    ],
)
def test_scales_that_cannot_be(name, content, scale, text, tmp_path, capsys):
    (tmp_path / name).write_text(content)
    out = tmp_path / "labels.csv"
    assert cli.main(["iqa", "prepare", str(tmp_path / name), "--scale", *scale, "--output", str(out)]) == 1
    assert text in capsys.readouterr().err and not out.exists()


def test_what_cannot_be_prepared_is_said(tmp_path, capsys):
    table = tmp_path / "AVA.txt"
    table.write_text("1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n")
    assert cli.main(["iqa", "prepare", str(table), "--output", str(tmp_path / "labels.xml")]) == 1
    assert "write a .csv or a .json" in capsys.readouterr().err
    scores = tmp_path / "scores.csv"
    scores.write_text("image_id,score\na,3\n")
    assert cli.main(["iqa", "prepare", str(scores), "--output", str(tmp_path / "labels.json")]) == 1
    assert "mean scores only; write a .csv" in capsys.readouterr().err
    assert not (tmp_path / "labels.json").exists()


def test_compare_prints_the_table(capsys):
    assert cli.main("iqa compare --image_size 32 --runs 1 --no-memory --backbone mobilenet_v3_small".split()) == 0
    shown = capsys.readouterr().out
    assert "| Model | Parameters | MACs | Inference Time |" in shown and "32x32 pixels, CPU" in shown
    assert "not measured" in shown
    assert cli.main("iqa compare --image_size 8".split()) == 1
    assert "image_size: 8 must be at least 32" in capsys.readouterr().err
