"""`course grid`: every field is an option, a run is resumed, errors are one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from course_utils import cli, grid

from .helpers import SMALL


@pytest.fixture
def npz(tmp_path):
    generator = np.random.default_rng(0)
    path, y = tmp_path / "noise.npz", np.repeat(np.arange(6), 14)
    arrays = {"x": generator.integers(0, 256, (84, 28, 28), dtype=np.uint8), "y": y}
    np.savez(path, train_x=arrays["x"], train_y=y, test_x=arrays["x"], test_y=y)
    return path


def options(npz, **changes) -> list[str]:
    """The small configuration as options."""
    words = []
    for name, value in {**SMALL, "data": npz, "num_repeats": 2, **changes}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += ["--" + name.replace("_", "-"), *map(str, values)]
    return words


def test_every_field_of_the_configuration_is_an_option():
    parser = cli._parser()
    parsed = parser.parse_args(["grid", "run"])
    for field in dataclasses.fields(grid.GridConfig):
        assert hasattr(parsed, field.name)
        if field.name != "devices":
            assert getattr(parsed, field.name) == field.default, field.name
    parsed = parser.parse_args(["grid", "run", "--er", "--no-expert", "--widths", "1", "2", "3", "--lr", "0.5"])
    assert parsed.er is True and parsed.expert is False and parsed.widths == [1, 2, 3] and parsed.lr == 0.5


def test_run_resume_and_analyse(npz, tmp_path, capsys):
    folder = tmp_path / "results"
    call = ["grid", "run", *options(npz), "--results", str(folder)]
    assert cli.main([*call, "--dry-run"]) == 0
    assert "3 tasks of" in capsys.readouterr().out and not folder.exists()
    assert cli.main([*call, "--analyse"]) == 0
    said = capsys.readouterr().out
    assert "will write" in said and "cl.png" in said and grid.GridResults(folder).num_tasks == 3
    assert cli.main(call) == 0
    assert "all 3 tasks are there" in capsys.readouterr().out
    assert cli.main(["grid", "analyse", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "geometry.png").exists()
    assert cli.main(["grid", "run", *options(npz, lr=0.5), "--results", str(folder)]) == 1
    problem = capsys.readouterr().err
    assert problem.startswith("course: ") and "lr: 0.03 here, 0.5 there" in problem and problem.count("\n") == 1


def test_the_default_folder_says_data_and_algorithm():
    config = grid.GridConfig(data="imagenet_28_gray", num_tasks=100, er=True)
    assert str(grid.results_folder(config, "results")) == "results/imagenet_28_gray/SL_100_tasks_er"
    part = dataclasses.replace(config, first_repeat=32)
    assert str(grid.results_folder(part, "results")) == "results/imagenet_28_gray/SL_100_tasks_er_from_32"


def test_without_jax_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "course_utils.grid.data", None)
    monkeypatch.delattr(grid, "data", raising=False)
    assert cli.main(["grid", "run"]) == 1
    assert "pip install 'course_utils[jax]'" in capsys.readouterr().err


def test_the_course_command_starts_without_jax():
    code = "import sys; from course_utils import cli, grid; cli._parser(); sys.exit('jax' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_devices_are_cores_that_divide_the_repeats():
    assert grid.best_devices(1) == 1 and 8 % grid.best_devices(8) == 0 and grid.best_devices(8) > 1
    with pytest.raises(grid.GridError, match="it is too late for 64"):
        grid.use_devices(64)
    grid.use_devices(1)  # fewer than there are is no problem
