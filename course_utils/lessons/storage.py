"""The results file of a lesson: `results/NN_slug.json`, where all numbers in prose and slides come from.

One file per lesson, committed:

    {"lesson": slug, "recorded": date, "hardware": …, "versions": {…},
     "data": {name: {"name": …, "source": …, "title": …}, …},
     "experiments": {name: {label: {"config": {…}, "key": hash, "seeds": {"0": record, …}}}}}

The file is written to a temporary name and renamed after every finished run, so a killed run loses at most the one
it was in. Keys are made in `codehash.py`, runs in `records.py`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any


class RecordError(Exception):
    """A results file cannot be read or written, or a record does not fit into one. The message says what to do."""


# ---- numbers in JSON ---------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """`value` as JSON holds it: arrays and tensors become lists, NaN ("not measured") becomes null.

    Raises:
        RecordError: infinite numbers, or something that is neither a number, text, list nor mapping.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return to_json(value.tolist())
    if isinstance(value, float):
        if math.isinf(value):
            raise RecordError("a record holds an infinite number; record NaN for what was not measured")
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | int | bool):
        return value
    raise RecordError(f"a record holds a {type(value).__name__}; it may hold numbers, text, lists and mappings")


def from_json(value: Any) -> Any:
    """What `to_json` made, with null as NaN again."""
    if isinstance(value, dict):
        return {key: from_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    return math.nan if value is None else value


# ---- files -------------------------------------------------------------------------------------------------------


def results_folder() -> Path | None:
    """`results/` of the course's checkout: the one the package or the working folder lies in; None if there is none."""
    here = Path(__file__).resolve().parents[2]
    for root in (here, Path.cwd(), *Path.cwd().parents):
        if (root / "pyproject.toml").is_file() and (root / "solutions").is_dir():
            return root / "results"
    return None


def read(slug: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The lesson's results file, or None if there is none.

    Raises:
        RecordError: the file is there and is not a results file of this lesson.
    """
    folder = folder or results_folder()
    path = folder / f"{slug}.json" if folder else None
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path.name} is not JSON ({error}); restore it, or delete it and record again") from None
    if not isinstance(content, dict) or content.get("lesson") != slug or "experiments" not in content:
        raise RecordError(f"{path.name} is not a results file of lesson {slug}; restore it or delete it")
    return content


def store(
    slug: str, experiment: str, label: str, config: Mapping[str, Any], record_key: str, seed: int,
    record: Mapping[str, Any], folder: Path | None = None,
) -> None:  # fmt: skip
    """Add one record to the lesson's results file. Records of the same label with another key are stale and go.

    A record may hold `"data": {"name", "source", "title"}` (see `experiment.describe`): the file lists it at its top.

    Raises:
        RecordError: there is no checkout to write into, or the record does not fit into JSON.
    """
    folder = folder or results_folder()
    if folder is None:
        raise RecordError("there is no checkout of the course here, so there is no results/ folder to record into")
    content = read(slug, folder) or {"lesson": slug, "data": {}, "experiments": {}}
    content |= {"recorded": date.today().isoformat(), "hardware": hardware(), "versions": versions()}
    clean = to_json(record)
    if isinstance(clean.get("data"), dict):
        content["data"][clean["data"]["name"]] = clean["data"]
    entry = content["experiments"].setdefault(experiment, {}).get(label)
    if entry is None or entry["key"] != record_key:
        entry = {"config": to_json(config), "key": record_key, "seeds": {}}
    entry["seeds"][str(seed)] = clean
    entry["seeds"] = dict(sorted(entry["seeds"].items(), key=lambda item: int(item[0])))
    content["experiments"][experiment][label] = entry
    _write_atomically(folder / f"{slug}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes it private, and git would keep the difference from its neighbours
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def hardware() -> str:
    """The machine in a few words, with no name of its own."""
    torch: Any = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores {platform.machine()}, {gpu}"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "torch", "torchvision"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found
