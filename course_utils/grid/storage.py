"""Results on disk: one folder a task, written under another name and renamed, read without trusting what it holds.

task_007/
    weights.npy            float32 (L, R, D); metadata.json says which array lies where (`network.unflatten`)
    representations.npy    float32 (P, R, T_eval, S, hidden), at P of the L log points
    binary_labels.npy      uint8 (P, R, T_eval, S)
    metrics.pkl            loss, accuracy (L, R, T_eval); train_loss, train_accuracy (L, R); eval_tasks, steps, task
    expert_metrics.pkl     train_loss, train_acc, test_loss, test_acc (L, R)
    final_weights.npy      float32 (R, D), only where the last step is not a log point
    metadata.json          the configuration, the class pairs, the layout of the weights, size and sha256 of the rest
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.grid.config import GridConfig, GridError

METADATA = "metadata.json"
FORMAT = 1
PROTOCOL = 4  # of pickle: fixed, so that the same results are the same bytes


def task_name(task: int) -> str:
    """The folder of a task, "task_007"."""
    return f"task_{task:03d}"


def write_task(
    folder: Path, task: int, arrays: Mapping[str, np.ndarray], tables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> Path:
    """Write one task's folder: all of it or nothing, whenever the program is killed.

    arrays: file name without .npy -> array. tables: file name without .pkl -> dict of arrays and numbers.
    The same contents are the same bytes: no clock, no host name.
    """
    target = folder / task_name(task)
    temporary = folder / f".{task_name(task)}.part"
    if temporary.exists():  # a run was killed while it wrote this
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    for name, array in arrays.items():
        with open(temporary / f"{name}.npy", "wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            _flush(file)
    for name, table in tables.items():
        with open(temporary / f"{name}.pkl", "wb") as file:
            pickle.dump(table, file, protocol=PROTOCOL)
            _flush(file)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(temporary.iterdir())}
    with open(temporary / METADATA, "w", encoding="utf-8") as text:
        json.dump({"format": FORMAT, "task": task, **metadata, "files": files}, text, indent=1)
        text.write("\n")
        _flush(text)
    os.replace(temporary, target)
    return target


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metadata(folder: Path) -> dict[str, Any]:
    """metadata.json of a task's folder. Raises GridError if it is missing, damaged or of another format."""
    path = Path(folder) / METADATA
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GridError(f"{folder} is not the folder of a task: it has no {METADATA}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GridError(
            f"{path} is damaged ({error}); delete {folder} and run again: the task is trained anew"
        ) from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or "config" not in metadata:
        raise GridError(f"{path} was not written by this version of the grid; take another results folder")
    return metadata


def verify_task(folder: Path) -> dict[str, Any]:
    """The metadata of a task, after its files are found to be as they were written. Raises GridError naming the file."""
    metadata = read_metadata(folder)
    cure = f"delete {folder} and all later tasks, then run again: they are trained anew"
    for name, expected in metadata["files"].items():
        path = Path(folder) / name
        if not path.exists():
            raise GridError(f"{path} is missing; {cure}")
        if path.stat().st_size != expected["bytes"]:
            raise GridError(f"{path} has {path.stat().st_size} bytes, {expected['bytes']} were written; {cure}")
        if _digest(path) != expected["sha256"]:
            raise GridError(f"{path} is not what was written (its checksum differs); {cure}")
    return metadata


def finished_tasks(folder: Path, config: GridConfig, images: str) -> int:
    """How many tasks of this very experiment are finished in `folder`, every file checked.

    images: digest of the images. Raises GridError where the folder holds another experiment, a damaged task or a gap.
    """
    found = sorted(int(path.name[5:]) for path in Path(folder).glob("task_[0-9][0-9][0-9]*") if path.is_dir())
    for place, task in enumerate(found):
        if place != task:
            raise GridError(f"{folder} has {task_name(task)} but not {task_name(place)}; delete what follows the gap")
        metadata = verify_task(Path(folder) / task_name(task))
        differences = GridConfig.from_dict(metadata["config"]).differences(config)
        if metadata["data"]["images"] != images:
            differences.append("the images of the data set")
        if differences:
            raise GridError(
                f"{folder} holds another experiment: {'; '.join(differences)}. Take another folder, or the same settings"
            )
    return len(found)


def read_arrays(folder: Path, name: str, mmap: bool = True) -> np.ndarray:
    """An .npy file of a task's folder, as a read-only view of the file unless `mmap` is False."""
    path = Path(folder) / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except FileNotFoundError:
        raise GridError(f"{path} is missing; was this run told not to write it?") from None
    except ValueError as error:
        raise GridError(f"{path} is damaged ({error})") from None


class _Restricted(pickle.Unpickler):
    """Reads arrays, numbers, strings and containers of them, and calls nothing else."""

    ALLOWED = frozenset(
        {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise GridError(f"it asks for {module}.{name}; a results file holds arrays, numbers and strings alone")
        return super().find_class(module, name)


def read_table(path: Path) -> dict[str, Any]:
    """A .pkl file of results. Raises GridError for a file that is damaged or holds anything but arrays and numbers."""
    try:
        table = _Restricted(io.BytesIO(Path(path).read_bytes())).load()
    except FileNotFoundError:
        raise GridError(f"{path} is missing") from None
    except GridError as error:
        raise GridError(f"{path} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises almost anything
        raise GridError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if not isinstance(table, dict):
        raise GridError(f"{path} holds a {type(table).__name__}, not a table")
    return table
