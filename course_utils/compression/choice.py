"""Which of several measured networks to deploy: constraints, the Pareto front, and a choice that gives its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

TARGETS = ("speed", "size", "accuracy", "balanced")


@dataclass(frozen=True)
class Candidate:
    """A network that was measured: its size in megabytes, milliseconds a batch, and accuracy (a share)."""

    name: str
    size_mb: float
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class Constraints:
    """What the result must keep to; None asks for nothing. The drop is against the baseline, a share."""

    max_size_mb: float | None = None
    max_latency_ms: float | None = None
    min_accuracy: float | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        shares = {"min_accuracy": self.min_accuracy, "max_accuracy_drop": self.max_accuracy_drop}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: accuracies are shares, 0.95 for 95 %")
        for name, most in {"max_size_mb": self.max_size_mb, "max_latency_ms": self.max_latency_ms}.items():
            if most is not None and most <= 0:
                raise ValueError(f"{name}={most}: nothing is that small; give a number above 0, or None")

    def broken(self, candidate: Candidate, baseline: Candidate) -> list[str]:
        """What a candidate does not keep to, in words; empty if it keeps to everything."""
        found = []
        if self.max_size_mb is not None and candidate.size_mb > self.max_size_mb:
            found.append(f"{candidate.size_mb:.3g} MB, at most {self.max_size_mb:g} were asked for")
        if self.max_latency_ms is not None and candidate.latency_ms > self.max_latency_ms:
            found.append(f"{candidate.latency_ms:.3g} ms, at most {self.max_latency_ms:g} were asked for")
        if self.min_accuracy is not None and candidate.accuracy < self.min_accuracy:
            found.append(f"accuracy {candidate.accuracy:.1%}, at least {self.min_accuracy:.1%} was asked for")
        drop = baseline.accuracy - candidate.accuracy
        if self.max_accuracy_drop is not None and drop > self.max_accuracy_drop + 1e-12:
            found.append(
                f"{100 * drop:.1f} points of accuracy lost, at most {100 * self.max_accuracy_drop:g} were allowed"
            )
        return found

    def excess(self, candidate: Candidate, baseline: Candidate) -> float:
        """How far a candidate is from keeping to everything: 0 if it does; sizes and times count in factors of two."""
        total = 0.0
        if self.max_size_mb is not None:
            total += max(0.0, math.log2(candidate.size_mb / self.max_size_mb))
        if self.max_latency_ms is not None:
            total += max(0.0, math.log2(candidate.latency_ms / self.max_latency_ms))
        if self.min_accuracy is not None:
            total += max(0.0, 100 * (self.min_accuracy - candidate.accuracy))
        if self.max_accuracy_drop is not None:
            total += max(0.0, 100 * (baseline.accuracy - candidate.accuracy - self.max_accuracy_drop))
        return total


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        satisfied: whether it keeps to all constraints.
        warnings: what a user should know before deploying it: broken constraints, slower or larger than the baseline.
    """

    candidate: Candidate
    explanation: str
    satisfied: bool
    warnings: tuple[str, ...]


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats: nobody is at least as small, as fast and as accurate, and better in one of the three.

    Built in lesson 07, exercise 07.10.
    """
    return [one for one in candidates if not any(_dominates(other, one) for other in candidates)]


def _dominates(a: Candidate, b: Candidate) -> bool:
    pairs = [(a.size_mb, b.size_mb), (a.latency_ms, b.latency_ms), (-a.accuracy, -b.accuracy)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def choose(
    candidates: Sequence[Candidate],
    target: str = "balanced",
    constraints: Constraints | None = None,
    among: Collection[str] | None = None,
) -> Choice:
    """The best candidate for a target, of those that keep to the constraints.

    "speed" takes the fastest, "size" the smallest, "accuracy" the most accurate (of equals the smallest). "balanced" adds
    up factors of two in size and in speed, and takes off one for every point of accuracy that is lost.

    Args:
        candidates: measured together; the first one is the baseline, and may be chosen.
        among: names to choose from; default is all.

    Returns:
        A `Choice`. If none keeps to the constraints it is the one that comes closest, with `satisfied` False.

    Raises:
        ValueError: an unknown target, or no candidate.

    Built in lesson 07.
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is unknown; choose one of {', '.join(TARGETS)}")
    possible = [c for c in candidates if among is None or c.name in among]
    if not possible:
        raise ValueError("there is no candidate to choose from")
    rules, baseline = constraints or Constraints(), candidates[0]
    fitting = [c for c in possible if not rules.broken(c, baseline)]
    if fitting:
        best = max(fitting, key=lambda c: _merit(c, baseline, target))
    else:
        best = min(possible, key=lambda c: (rules.excess(c, baseline), *(-m for m in _merit(c, baseline, target))))
    warnings = _warnings(best, baseline, rules)
    reason = (
        f"{best.name} for {target}: {baseline.size_mb / best.size_mb:.1f} times smaller and "
        f"{baseline.latency_ms / best.latency_ms:.1f} times as fast as {baseline.name}, "
        f"{100 * (best.accuracy - baseline.accuracy):+.1f} points of accuracy; "
        f"{len(fitting)} of {len(possible)} candidates kept to the constraints."
    )
    if not fitting:
        reason += " None did: this one comes closest."
    if warnings:
        reason += " Note: " + "; ".join(warnings) + "."
    return Choice(best, reason, bool(fitting), tuple(warnings))


def _warnings(candidate: Candidate, baseline: Candidate, rules: Constraints) -> list[str]:
    found = rules.broken(candidate, baseline)
    if candidate.latency_ms > baseline.latency_ms:
        found.append(f"slower than {baseline.name}: {candidate.latency_ms:.3g} ms against {baseline.latency_ms:.3g}")
    if candidate.size_mb > baseline.size_mb:
        found.append(f"larger than {baseline.name}: {candidate.size_mb:.3g} MB against {baseline.size_mb:.3g}")
    return found


def checked_again(choice: Choice, baseline: Candidate, rules: Constraints, accuracy: float, on: str = "test") -> Choice:
    """A choice made on other images, held against the constraints on those that were kept back.

    Args:
        baseline: with its accuracy on the images kept back.
        accuracy: of the chosen one on them, a share.
        on: what these images are called.

    Returns:
        The same candidate, with what it breaks on these images among its warnings; then `satisfied` is False.
    """
    broken = rules.broken(replace(choice.candidate, accuracy=accuracy), baseline)
    fresh = [f"on the {on} images {text}" for text in broken if text not in choice.warnings]
    points = f"{100 * (accuracy - baseline.accuracy):+.1f} points of accuracy on the {on} images"
    said = f"{choice.explanation} Checked again: {points}"
    said += (
        f"; note: {'; '.join(fresh)}." if fresh else ", and it keeps to what it kept to." if choice.satisfied else "."
    )
    return Choice(choice.candidate, said, choice.satisfied and not broken, (*choice.warnings, *fresh))


def _merit(candidate: Candidate, baseline: Candidate, target: str) -> tuple[float, ...]:
    """More is better, the first number before the others."""
    smaller = math.log2(baseline.size_mb / candidate.size_mb)
    faster = math.log2(baseline.latency_ms / candidate.latency_ms)
    points = 100 * (candidate.accuracy - baseline.accuracy)
    if target == "balanced":
        return (smaller + faster + min(points, 0), points)
    first = {"speed": faster, "size": smaller, "accuracy": points}[target]
    return (first, points, smaller + faster)
