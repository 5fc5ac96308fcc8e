"""The results of an experiment: its records, statistics over seeds, and the table "your run | full run"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from course_utils.lessons import display
from course_utils.lessons.experiment import Recorded

Key = str | Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Results:
    """What an experiment gave.

    Attributes:
        name: the experiment's.
        title: for tables and figures.
        preset: "smoke", "quick" or "full".
        records: label -> seed -> record.
        full: the recorded full run to show beside these, or None if there is none here.
        live: whether these come from a run in this kernel (False: read from the results file).
    """

    name: str
    title: str
    preset: str
    records: dict[str, dict[int, dict[str, Any]]] = field(repr=False)
    full: Recorded | None = field(default=None, repr=False)
    live: bool = True

    @property
    def labels(self) -> tuple[str, ...]:
        """The conditions, in the order in which they were declared."""
        return tuple(self.records)

    @property
    def data_title(self) -> str:
        """The data that the records say they come from, e.g. "GTSRB"; empty if they do not say."""
        return _data_title(self.records)

    @property
    def sides(self) -> dict[str, Mapping[str, Mapping[int, dict[str, Any]]]]:
        """What stands side by side in a table: "your run", if these are one, and "full run", if there is one."""
        if not self.live:
            return {"full run": self.records}
        return {"your run": self.records} | ({"full run": self.full.values} if self.full else {})

    def values(self, label: str, key: Key) -> np.ndarray:
        """One entry of every seed's record: `(seeds, ...)`.

        Args:
            label: the condition.
            key: a key of the record, or a function of the record.

        Raises:
            KeyError: no such label or key; the message lists those there are.
        """
        return _values(self.records, label, key)

    def mean(self, label: str, key: Key) -> Any:
        """Mean over seeds: a float, or an array if the entry is one. NaN entries (not measured) stay NaN."""
        return _plain(self.values(label, key).mean(axis=0))

    def spread(self, label: str, key: Key) -> Any:
        """Standard deviation over seeds (n - 1 in the denominator); NaN with a single seed."""
        values = self.values(label, key)
        return _plain(values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan))

    def interval(self, label: str, key: Key) -> tuple[Any, Any]:
        """95 % confidence interval of the mean over seeds (Student's t); NaN with a single seed."""
        seeds = len(self.values(label, key))
        mean, spread = self.mean(label, key), self.spread(label, key)
        if seeds < 2:
            return spread, spread
        from scipy.stats import t

        half = t.ppf(0.975, seeds - 1) / math.sqrt(seeds) * spread
        return mean - half, mean + half

    def accuracy(self, label: str) -> np.ndarray:
        """The accuracy matrices, `(seeds, tasks, tasks)`, NaN where not measured."""
        return self.values(label, "accuracy").astype(float)

    def table(self, columns: Mapping[str, Key] | Sequence[str], digits: int = 1, caption: str = "") -> None:
        """Show a table: a row per condition and, for every column, your run and the recorded full run beside it.

        Args:
            columns: header -> key of the record, or function of the record, that gives one number; or a list of keys.
            digits: digits after the point.
            caption: a line below the table, before the note on where the full run comes from.
        """
        chosen: Mapping[str, Key] = columns if isinstance(columns, Mapping) else {name: name for name in columns}
        header = ["", *(f"{name}\n{side}" for name in chosen for side in self.sides)]
        rows = []
        for label in self.labels:
            row = [label]
            for key in chosen.values():
                for records in self.sides.values():
                    row.append(mean_and_spread(_values(records, label, key), digits) if label in records else "-")
            rows.append(row)
        display.table(header, rows, " ".join(part for part in (caption, self.note()) if part))

    def note(self) -> str:
        """On what data, when and with how many seeds the full run was recorded, or that there is none."""
        mine = f"Your run: {self.preset} preset, {self.data_title or 'data not named'}, {_seeds(self.records)}. "
        if not self.live:
            mine = ""
        if self.full is None:
            return mine + ("There is no recorded full run here." if self.live else "")
        data = _data_title(self.full.values) or "data not named"
        text = f"Full run: {data}, {_seeds(self.full.values)}, mean ± s.d., recorded {self.full.date}."
        if self.full.stale:
            text += f" Recorded with an older version of the code: {', '.join(self.full.stale)}."
        return mine + text


def _values(records: Mapping[str, Mapping[int, dict[str, Any]]], label: str, key: Key) -> np.ndarray:
    if label not in records:
        raise KeyError(f"there is no condition {label!r}; there are {', '.join(records)}")
    found = []
    for record in records[label].values():
        if isinstance(key, str) and key not in record:
            raise KeyError(f"the records of {label!r} have no {key!r}; they have {', '.join(record)}")
        found.append(record[key] if isinstance(key, str) else key(record))
    return np.asarray(found, dtype=float)


def _plain(value: np.ndarray) -> Any:
    return value if np.ndim(value) else float(value)


def mean_and_spread(values: ArrayLike, digits: int = 1) -> str:
    """Mean ± standard deviation of the seeds' values, `(seeds,)`, as text for a table; the value alone for a single seed.

    Raises:
        ValueError: more than one number a seed.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"a table's column needs one number per seed, got shape {values.shape[1:]} per seed")
    if np.isnan(values).all():
        return "not measured"
    text = f"{round(values.mean(), digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.0"
    return text if len(values) < 2 else f"{text} ± {values.std(ddof=1):.{digits}f}"


def _seeds(records: Mapping[str, Mapping[int, Any]]) -> str:
    counts = sorted({len(seeds) for seeds in records.values()})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} seed{'s' if number != '1' else ''}"


def _data_title(records: Mapping[str, Mapping[int, dict[str, Any]]]) -> str:
    titles = [record["data"]["title"] for seeds in records.values() for record in seeds.values() if "data" in record]
    return ", ".join(dict.fromkeys(titles))
