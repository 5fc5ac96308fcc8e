"""Trackers: what was logged is read back from the files, and nothing goes over the network."""

from __future__ import annotations

import builtins
import json
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from core_helpers import digit_stream, make_learner

from course_utils import methods, tracking


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Nothing of a run may land outside: not the files, not W&B's settings and caches."""
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name))
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "x")  # so that what a tracker sets is taken back after the test
        monkeypatch.delenv(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def no_network(monkeypatch):
    """Any look-up of a name, and any connection but to this machine (W&B's own writer process), fails the test."""
    connect, calls = socket.socket.connect, []

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            calls.append(address)
            raise OSError(f"no network in this test: {address}")
        return connect(self, address)

    look_up = socket.getaddrinfo

    def local_names(host, *args, **kwargs):
        if host not in ("127.0.0.1", "::1", "localhost", None):
            calls.append(host)
            raise OSError(f"no network in this test: {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setattr(socket, "getaddrinfo", local_names)
    yield
    assert calls == []


def run(tracker):
    """Three tasks of 20 steps: losses are logged at steps 10 and 20 of each."""
    stream = digit_stream()
    history = make_learner(stream, [methods.Replay(20)], steps=20, tracker=tracker).fit(stream)
    tracker.finish()
    return history


def expected_losses(history) -> list[float]:
    return [losses[step] for losses in history.losses for step in (9, 19)]


def records_of(path):
    """Every record of a .wandb file: LevelDB's log format behind seven bytes of header.

    Blocks of 32 KiB hold chunks of (checksum 4, length 2, type 1) bytes and data; a record may be cut into a first,
    middle and last chunk (types 2, 3, 4) or be whole (1). Fewer than seven bytes at the end of a block are padding.
    """
    from wandb.proto import wandb_internal_pb2

    content, place, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def writer_commands() -> list[list[str]]:
    """Command lines of W&B's writer processes that this process started; Linux only, elsewhere none is found."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended meanwhile
            continue
        if parent == str(os.getpid()) and Path(command[0]).name == "wandb-core":
            found.append(command)
    assert found or not Path("/proc").exists()
    return found


def test_an_offline_wandb_run_holds_losses_accuracies_matrix_and_settings(tmp_path, no_network):
    tracker = tracking.open_tracker(
        "wandb", config={"memory": 20, "lr": 0.01}, directory=tmp_path / "runs", name="mine"
    )
    assert tracker.run.settings.mode == "offline" and tracker.run.offline
    # The writer is a process of its own, out of reach of `no_network`: W&B's switch for its reports has to be off.
    assert all("--no-observability" in command for command in writer_commands())
    history = run(tracker)
    assert (tmp_path / "runs") in tracker.directory.parents and tracker.directory.name.startswith("offline-run-")

    rows, config, names = [], {}, []
    for record in records_of(next(tracker.directory.glob("*.wandb"))):
        if record.HasField("history"):
            rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        if record.HasField("run"):
            names.append(record.run.display_name)
            config.update({u.key: json.loads(u.value_json) for u in record.run.config.update})
    assert (config["memory"], config["lr"]) == (20, 0.01) and names[0] == "mine"
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(expected_losses(history), rel=1e-6)
    logged = np.full((3, 3), np.nan)
    for row in rows:
        for key, value in row.items():
            if key.startswith("accuracy/task_"):
                logged[row["task"], int(key.removeprefix("accuracy/task_")) - 1] = value
    assert np.array_equal(logged, history.accuracy, equal_nan=True)
    assert [row["accuracy/mean"] for row in rows if "accuracy/mean" in row] == pytest.approx(
        [history.accuracy[i, : i + 1].mean() for i in range(3)]
    )

    table = next(row for row in rows if any(key.startswith("accuracy_matrix") for key in row))
    assert table
    stored = json.loads(next(tracker.directory.rglob("accuracy_matrix*.table.json")).read_text())
    assert stored["columns"] == ["task 1", "task 2", "task 3"]
    matrix = np.array(stored["data"], dtype=float)
    assert np.array_equal(matrix, history.accuracy, equal_nan=True)
    assert not list((tmp_path / "elsewhere").iterdir())  # nothing beside the folder that was asked for


def test_a_finished_wandb_run_is_on_disk_at_once(tmp_path):
    tracker = tracking.open_tracker("wandb", directory=tmp_path / "runs")
    tracker.log({"loss": 1.0})
    tracker.matrix("matrix", np.eye(3))
    written = next(tracker.directory.glob("*.wandb"))
    tracker.finish()
    at_once = tmp_path / "at_once.wandb"
    at_once.write_bytes(written.read_bytes())  # reading takes time, in which the writer would catch up
    kinds = [record.WhichOneof("record_type") for record in records_of(at_once)]
    assert kinds.count("history") == 2 and kinds[-1] == "exit"


def test_wandb_goes_online_only_when_asked(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(tracking, "WandbTracker", lambda project, config, directory, online, name: modes.append(online))
    tracking.open_tracker("wandb", directory=tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # being logged in is not asking
    tracking.open_tracker("wandb", directory=tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    tracking.open_tracker("wandb", directory=tmp_path)
    tracking.open_tracker("wandb", directory=tmp_path, online=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking.open_tracker("wandb", directory=tmp_path, online=True)
    assert modes == [False, False, True, False, True]


def test_tensorboard_files_hold_losses_accuracies_and_matrix(tmp_path, no_network):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = run(tracking.open_tracker("tensorboard", config={"memory": 20}, directory=tmp_path / "runs", name="mine"))
    events = EventAccumulator(str(tmp_path / "runs" / "mine"))
    events.Reload()
    losses = events.Scalars("loss")
    assert [e.value for e in losses] == pytest.approx(expected_losses(history), rel=1e-6)
    assert len({e.step for e in losses}) == len(losses)
    for j in range(3):
        found = [e.value for e in events.Scalars(f"accuracy/task_{j + 1}")]
        assert found == pytest.approx(history.accuracy[j:, j].tolist(), rel=1e-6)
    text = events.Tensors("accuracy_matrix/text_summary")[0].tensor_proto.string_val[0].decode()
    last = text.strip().splitlines()[-1].strip("|").split("|")
    assert last == ["after 3", *(f"{value:.3f}" for value in history.accuracy[2])]
    assert text.strip().splitlines()[2].endswith("||")  # after the first task the others are not measured: empty, not 0
    assert "memory" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


def test_no_tracker_writes_nothing_and_calls_nobody(tmp_path, no_network):
    before = sorted(tmp_path.rglob("*"))
    run(tracking.open_tracker())
    assert sorted(tmp_path.rglob("*")) == before


def test_tracking_does_not_change_the_run(tmp_path):
    tracked = run(tracking.open_tracker("tensorboard", directory=tmp_path / "runs"))
    assert tracked.losses == run(tracking.NoTracker()).losses


def test_an_unknown_tracker_is_met_with_the_choices():
    with pytest.raises(ValueError, match="none, wandb, tensorboard"):
        tracking.open_tracker("mlflow")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without_wandb(name, *args, **kwargs):
        if name == "wandb":
            raise ImportError("No module named 'wandb'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_wandb)
    with pytest.raises(ImportError, match="pip install wandb"):
        tracking.open_tracker("wandb", directory=tmp_path)
