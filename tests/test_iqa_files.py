"""`course iqa train` on image files: lists of test images, every setting arrives, and what is wrong is said in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import cli, datasets, quality
from course_utils.datasets import memory, scored
from course_utils.quality import training
from course_utils.quality.config import IQAConfig

COUNT = 60
NAMES = [str(number) for number in range(COUNT)]
SPLIT = {name: scored.split_of(name) for name in NAMES}


def of(split: str) -> list[str]:
    return [name for name in NAMES if SPLIT[name] == split]


# Pictures that the split by name wants for training, for validation and for testing: the list is not the split's.
LISTED = [*of("train")[:3], of("validation")[0], of("test")[0]]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("COURSE_QUIET", "1")


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """`eva` and `ava` as a user would put them in place: the same pictures, with other votes, all of one size."""
    generator = np.random.default_rng(0)
    for part in ("eva", "ava"):
        (tmp_path / part / "images").mkdir(parents=True)
    for name in NAMES:
        picture = Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        for part in ("eva", "ava"):
            picture.save(tmp_path / part / "images" / f"{name}.png")
    scores = "".join(f"{name},{generator.uniform(0, 10):.2f}\n" for name in NAMES)
    (tmp_path / "eva" / "labels.csv").write_text("image_id,score\n" + scores)
    labels = [{"image_id": name, "label": generator.integers(1, 20, 10).tolist()} for name in NAMES]
    (tmp_path / "ava" / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def settings(files: Path, **changed) -> dict:
    return {
        "eva_image_dir": str(files / "eva" / "images"), "eva_label_file": str(files / "eva" / "labels.csv"),
        "ava_image_dir": str(files / "ava" / "images"), "ava_label_file": str(files / "ava" / "labels.json"),
        "epochs": 1, "batch_size": 8, "image_size": 32, "tracker": "none", "output_dir": str(files / "run"), **changed,
    }  # fmt: skip


def command(files: Path, *more: str, **changed) -> int:
    flags = [text for name, value in settings(files, **changed).items() for text in (f"--{name}", str(value))]
    return cli.main(["iqa", "train", *flags, *more])


def official(folder: Path) -> Path:
    path = folder / "generic_test.jpgl"
    path.write_text("".join(f"{name}.jpg\n" for name in LISTED))
    return path


def pictures(stream, *splits: str) -> set[bytes]:
    """The pixels of every picture in these splits of any task: names and groups do not matter to a network."""
    return {image.numpy().tobytes() for task in stream for split in splits for image in getattr(task, split).x}


def keeps_apart(stream) -> bool:
    tested = pictures(stream, "test")
    return not pictures(stream, "train") & (tested | pictures(stream, "validation")) and not (
        pictures(stream, "validation") & tested
    )


# ---- the official test list ------------------------------------------------------------------------------------------

LEFT_OUT = {"EVA": {"train": 3, "validation": 1}, "AVA": {"train": len(of("test")) - 1, "validation": 0}}


def test_a_run_with_the_official_list_trains_on_nothing_that_is_tested(files, capsys):
    path = official(files)
    with pytest.warns(RuntimeWarning, match=r"EVA: 3 of \d+ training and 1 of \d+ validation pictures are left out"):
        assert command(files, ava_test_list=path) == 0
    shown = capsys.readouterr().out
    assert "left out of EVA, because another task holds them out: 3 train and 1 validation images" in shown
    assert f"left out of AVA, because another task holds them out: {len(of('test')) - 1} train" in shown
    results = json.loads((files / "run" / "results.json").read_text())
    assert dict(zip(results["tasks"], results["left_out"], strict=True)) == LEFT_OUT
    with pytest.warns(RuntimeWarning, match="are left out"):
        stream = quality.load_stream(IQAConfig(**settings(files, ava_test_list=str(path))))
    assert keeps_apart(stream)
    # Each keeps the test images that it is published with, and nothing else went.
    assert len(stream[0].test) == len(of("test")) and len(stream[1].test) == len(LISTED)
    assert len(stream[0].train) == len(of("train")) - 3 and len(stream[0].validation) == len(of("validation")) - 1
    listed_validation = sum(SPLIT[name] == "validation" for name in LISTED)
    assert len(stream[1].validation) == len(of("validation")) - listed_validation
    assert len(stream[1].train) == COUNT - len(LISTED) - len(stream[1].validation) - (len(of("test")) - 1)


def test_without_a_list_nothing_is_left_out(files, recwarn):
    stream = quality.load_stream(IQAConfig(**settings(files)))
    assert keeps_apart(stream) and stream.info["left_out"] == [{"train": 0, "validation": 0}] * 2
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
    assert [len(task.train) for task in stream] == [len(of("train"))] * 2


@pytest.mark.parametrize("order", [("eva", "ava"), ("ava", "eva")])
@pytest.mark.parametrize("with_list", [True, False])
def test_loaded_data_sets_make_a_stream_in_both_orders(files, order, with_list, recwarn):
    if with_list:
        official(files / "ava")  # `load` finds it by itself
    for _ in range(2):  # read, then from the cache
        loaded = [datasets.load(name) for name in order]
        assert len(loaded[order.index("ava")].test) == (len(LISTED) if with_list else len(of("test")))
        stream = quality.dataset_stream(loaded)
        assert keeps_apart(stream)
        found = dict(zip([task.name for task in stream], stream.info["left_out"], strict=True))
        nothing = {"train": 0, "validation": 0}
        assert found == (LEFT_OUT if with_list else {"EVA": nothing, "AVA": nothing})
    warned = {str(entry.message).split(":")[0] for entry in recwarn if "are left out" in str(entry.message)}
    assert warned == ({"EVA", "AVA"} if with_list else set())


def test_reading_by_split_changes_no_split_and_copies_no_image(files):
    place = files / "ava" / "images", files / "ava" / "labels.json"
    plain, ordered = (quality.AVADataset(*place, image_size=32, by_split=flag) for flag in (False, True))
    data = ordered.to_dataset()
    for split in ("train", "validation", "test"):
        one, other = getattr(plain.to_dataset(), split), getattr(data, split)
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("x", "score", "group", "y"))
        assert np.shares_memory(other.x, ordered.images)


# ---- every setting arrives -------------------------------------------------------------------------------------------


def test_every_option_of_the_command_reaches_the_run(monkeypatch):
    """The other tests show what `train` makes of a setting; this one, that the command passes each of them on."""
    given = {
        "eva_image_dir": ".", "eva_label_file": ".", "eva_categories_file": ".", "ava_image_dir": ".",
        "ava_label_file": ".", "ava_test_list": ".", "demo": True, "stream": "categories", "backbone": "resnet18",
        "weights": "w.pth", "score": "distribution", "loss": "emd", "cl_strategy": "replay", "strength": 2.5, "memory": 7,
        "epochs": 3, "batch_size": 5, "lr": 0.02, "image_size": 48, "limit": 9, "on_problem": "refuse", "sizes": "skip",
        "seed": 4, "output_dir": "out", "tracker": "none", "checkpoint_every": 6,
    }  # fmt: skip
    assert set(given) == {setting.name for setting in dataclasses.fields(IQAConfig)}
    assert all(value != getattr(IQAConfig(), name) for name, value in given.items())
    seen = []
    nothing = {"data": "", "tasks": [""], "left_out": [], "summary": {}}
    nothing |= {name: [[0.0]] for name in ("srcc", "plcc", "kendall", "rmse")}
    monkeypatch.setattr(training, "train", lambda config, resume: seen.append((config, resume)) or nothing)
    flags = [text for name, value in given.items() if name != "demo" for text in (f"--{name}", str(value))]
    assert cli.main(["iqa", "train", "--demo", "--resume", *flags]) == 0
    assert [(dataclasses.asdict(config), resume) for config, resume in seen] == [(given, True)]


@pytest.fixture
def learners(monkeypatch) -> list:
    """Every learner that trains, after it has."""
    found, fit = [], training.Learner.fit

    def spy(learner, *arguments, **options):
        found.append(learner)
        return fit(learner, *arguments, **options)

    monkeypatch.setattr(training.Learner, "fit", spy)
    return found


def test_the_learning_rate_is_the_optimizers(files, learners):
    assert command(files, lr=0.02) == 0
    assert [group["lr"] for group in learners[0].optimizer.param_groups] == [0.02]


def test_the_weights_are_what_training_starts_from(files, learners):
    body = quality.build_scorer(seed=77).body
    from torchvision.models import mobilenet_v3_small

    other = mobilenet_v3_small()
    other.features.load_state_dict(body.state_dict())
    torch.save(other.state_dict(), files / "mine.pth")
    assert command(files, weights=files / "mine.pth") == 0
    started = learners[0].initial_model.body.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in body.state_dict().items())


def test_training_images_are_augmented_and_test_images_are_not(files, learners, monkeypatch):
    augmented, call = [], quality.QualityAugment.__call__

    def spy(augment, x, generator):
        augmented.append(len(x))
        return call(augment, x, generator)

    monkeypatch.setattr(quality.QualityAugment, "__call__", spy)
    assert command(files) == 0
    assert augmented == [8] * int(learners[0].history.steps.sum())  # one batch a step, and no evaluation


@pytest.mark.parametrize("size", [6, 20])
def test_replay_stores_as_many_images_as_asked(files, learners, size):
    assert command(files, cl_strategy="replay", memory=size) == 0
    (replay, _) = learners[0].methods
    assert replay.buffer.capacity == len(replay.buffer) == size


def test_the_limit_is_of_every_data_set(files):
    stream = quality.load_stream(IQAConfig(**settings(files, limit=30)))
    assert [sum(len(getattr(task, split)) for split in ("train", "validation", "test")) for task in stream] == [30, 30]


@pytest.mark.parametrize("part", ["eva", "ava"])
def test_unreadable_images_stop_the_run_if_asked(files, part, capsys):
    (files / part / "images" / f"{of('train')[0]}.png").write_bytes(b"<html>404</html>")
    assert command(files, on_problem="refuse") == 1
    assert f"1 not images: {of('train')[0]}" in capsys.readouterr().err and not (files / "run").exists()
    with pytest.warns(RuntimeWarning, match=f"1 of {COUNT} images"):
        assert command(files) == 0
    recorded = json.loads((files / "run" / "config.json").read_text())["training_images"]
    assert recorded == {"EVA": len(of("train")) - (part == "eva"), "AVA": len(of("train")) - (part == "ava")}


def test_images_of_another_size_are_what_the_run_was_told(files, capsys):
    name = of("train")[1]
    Image.new("RGB", (64, 48)).save(files / "ava" / "images" / f"{name}.png")
    assert command(files, sizes="refuse") == 1
    assert f"1 are not 40x40: {name} 64x48" in capsys.readouterr().err
    with pytest.warns(RuntimeWarning, match=f"{name} 64x48. They are left out"):
        stream = quality.load_stream(IQAConfig(**settings(files, sizes="skip")))
    assert len(stream[1].train) == len(of("train")) - 1
    with pytest.warns(UserWarning, match=f"1 are not 40x40: {name} 64x48. All are brought to 32x32 pixels"):
        stream = quality.load_stream(IQAConfig(**settings(files)))
    assert len(stream[1].train) == len(of("train"))


# ---- what is wrong, in one line --------------------------------------------------------------------------------------


def test_too_many_images_are_refused_before_one_is_decoded(files, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)  # 60 images of 32x32 need 184,320 bytes
    monkeypatch.setattr("course_utils.datasets.photographs.read_photograph", None)
    assert command(files) == 1
    error = capsys.readouterr().err
    assert "60 images of 32x32 pixels need 0.2 MB, and 0.1 MB are free" in error
    assert "here at most 26" in error and "--limit or --image_size" in error and "Traceback" not in error
    monkeypatch.undo()
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)
    assert [len(task.test) > 0 for task in quality.load_stream(IQAConfig(**settings(files, limit=26)))] == [True, True]


def trouble(files: Path, kind: str) -> dict:
    (files / "empty.pth").write_bytes(b"")
    (files / "other.jpgl").write_text("nobody\n")
    (files / "all.jpgl").write_text("\n".join(NAMES[:-12]))
    content = "".join(f'"{name}","{1 + (name == "1")}"\n' for name in NAMES)
    (files / "content.csv").write_text('"image_id","sort"\n' + content)
    return {
        "spread": {"loss": "fidelity"},
        "weights": {"weights": "IMAGENET"},
        "no weights": {"weights": files / "empty.pth"},
        "limit": {"limit": 0},
        "no list": {"ava_test_list": files / "no.jpgl"},
        "nothing listed": {"ava_test_list": files / "other.jpgl"},
        "categories": {"stream": "categories", "eva_categories_file": files / "content.csv"},
        "output": {"output_dir": files / "content.csv"},
        "lr": {"lr": 1e30, "epochs": 12},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("spread", "stream: EVA does not have the spread of all images.*--loss"),
        ("weights", "weights: weights='IMAGENET' is unknown.*--weights"),
        ("no weights", "weights: .*give others with --weights"),
        ("limit", "limit: 0 leaves no images; use at least 1"),
        ("no list", "ava_test_list: there is no .*no.jpgl; check the path"),
        ("nothing listed", "leave none for test; give more images, or another list of test images"),
        ("categories", "stream: category 'architecture and city' of EVA has .* images.*--stream"),
        ("output", "output_dir: .*content.csv is a file; choose another folder"),
        ("lr", "lr, strength: the loss is .* use a smaller one and another --output_dir"),
    ],
)
def test_what_cannot_be_trained_is_said_without_a_traceback(files, kind, message, capsys):
    assert command(files, **trouble(files, kind)) == 1
    error = capsys.readouterr().err
    assert error.startswith("course: ")
    assert re.search(message, error), error


def test_resuming_after_files_were_lost_is_refused(files, capsys):
    assert command(files) == 0
    (files / "ava" / "images" / f"{of('train')[2]}.png").unlink()
    with pytest.warns(RuntimeWarning, match="1 missing"):
        assert command(files, "--resume") == 1
    assert "put the files back as they were, or choose another folder" in capsys.readouterr().err


def test_one_folder_and_one_table_of_scores_are_enough(files, capsys):
    """Somebody's own photographs: no AVA, no categories."""
    config = {name: value for name, value in settings(files, stream="eva").items() if not name.startswith("ava")}
    assert (
        cli.main(["iqa", "train", *(text for name, value in config.items() for text in (f"--{name}", str(value)))]) == 0
    )
    results = json.loads((files / "run" / "results.json").read_text())
    assert np.shape(results["plcc"]) == (1, 1)
    assert cli.main(["iqa", "train", "--stream", "eva", "--output_dir", str(files / "other")]) != 0
    assert "eva_image_dir, eva_label_file: not given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 rows and the columns none"), ("image_id,score\né,3\n".encode("latin-1"), "is not UTF-8 text")],
)
def test_an_empty_table_and_another_encoding_are_named(files, content, message):
    (files / "eva" / "labels.csv").write_bytes(content)
    with pytest.raises(datasets.DataCorrupt, match=message):
        training.load_stream(IQAConfig(**settings(files)))


def test_a_learning_rate_that_is_no_number_is_refused_before_anything_is_written(files):
    assert command(files, lr="nan") != 0
    assert not (files / "run").exists()


def test_a_photograph_is_turned_as_the_camera_says():
    from course_utils.datasets.photographs import read_photograph

    pixels = np.zeros((40, 40, 3), dtype=np.uint8)
    pixels[:20] = 255  # bright above
    upright, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    content = io.BytesIO()
    upright.save(content, "PNG", exif=exif)
    x, _ = read_photograph(content.getvalue(), 40)
    assert x[:, :, 30:].min() == 255 and x[:, :, :10].max() == 0  # what was above is now on the right


def test_a_config_may_be_written_into_a_new_folder(tmp_path):
    assert cli.main(["iqa", "config", str(tmp_path / "new" / "config.yaml")]) == 0
    assert (tmp_path / "new" / "config.yaml").is_file()
