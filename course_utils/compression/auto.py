"""An optimizer that measures: candidates are made, timed and scored on this machine, and one is chosen for a reason."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from course_utils.compression.benchmark import benchmark_models, check_device, profile_hardware, weight_bits
from course_utils.compression.blocks import block_names, drop_blocks
from course_utils.compression.channel_pruner import ChannelPruner
from course_utils.compression.choice import TARGETS, Candidate, Choice, Constraints, checked_again, choose, pareto
from course_utils.compression.deployment import without_adapters
from course_utils.compression.export import export_onnx
from course_utils.compression.half import HalfModel
from course_utils.compression.inputs import image_shape_of, repeatable
from course_utils.compression.preparation import calibrate, images_of, prepare
from course_utils.compression.pruning import parameters
from course_utils.compression.quantization import train_rounded
from course_utils.compression.tracing import count_macs
from course_utils.compression.training import finetune

PRECISIONS = ("fp32", "fp16", "int8")


class AutoOptimizer:
    """Makes a network small and fast, as far as it pays on this machine.

    Rules of thumb say "INT8 for size, FP16 for speed". Whether they hold depends on the network and the processor: integers slow
    some networks down. So every candidate is measured before one is chosen.

    Args:
        target_metric: "speed", "size", "accuracy" or "balanced", see `choice.choose`.
        device: "cpu", where ONNX Runtime runs the files. Anything else is refused, see `benchmark.check_device`.
        max_size_mb, max_latency_ms, min_accuracy: what the result must keep to; None asks for nothing.
        max_accuracy_drop: accuracy that may be lost against the baseline, a share; default 0.02.
        ratios: shares of the channels to prune, ascending. 0 is always among the candidates.
        depth: of a transformer, the same share of its blocks goes, too (one stays): its narrow layers are soon too small for
            a processor to gain from making them smaller.
        precisions: of "fp32", "fp16" and "int8".
        epochs: of fine-tuning after every cut, and again with rounded numbers.
        threads, batch_size: as the network will be used.
        memory: also run every file in a process of its own, for its peak memory: some tenths of a second a candidate.
        measure: replaces `benchmark_models`; for tests.

    Raises:
        ValueError: an unknown target or precision, a device other than "cpu", or ratios outside of [0, 1).

    Built in lesson 07.
    """

    def __init__(
        self,
        target_metric: str = "balanced",
        device: str = "cpu",
        *,
        max_size_mb: float | None = None,
        max_latency_ms: float | None = None,
        min_accuracy: float | None = None,
        max_accuracy_drop: float | None = 0.02,
        ratios: Sequence[float] = (0.25, 0.5, 0.75),
        precisions: Sequence[str] = PRECISIONS,
        depth: bool = True,
        epochs: float = 1.0,
        lr: float = 1e-3,
        threads: int = 1,
        batch_size: int = 1,
        memory: bool = True,
        measure: Callable[..., Mapping[str, Mapping[str, Any]]] = benchmark_models,
    ):
        if isinstance(precisions, str) or not isinstance(ratios, Sequence):
            raise ValueError(f"precisions={precisions!r}, ratios={ratios!r}: give lists, as in ['int8'] and [0.5]")
        unknown = sorted(set(precisions) - set(PRECISIONS))
        if target_metric not in TARGETS or unknown:
            raise ValueError(
                f"target_metric={target_metric!r}, precisions={tuple(precisions)}: choose a target of {', '.join(TARGETS)} "
                f"and precisions of {', '.join(PRECISIONS)}"
            )
        if list(ratios) != sorted(ratios) or not all(0 <= ratio < 1 for ratio in ratios):
            raise ValueError(f"ratios={tuple(ratios)}: give shares in [0, 1), ascending")
        check_device(device)
        self.target_metric, self.device = target_metric, device
        self.constraints = Constraints(max_size_mb, max_latency_ms, min_accuracy, max_accuracy_drop)
        self.ratios = [ratio for ratio in ratios if ratio > 0]
        self.precisions = tuple(dict.fromkeys(("fp32", *precisions)))
        self.epochs, self.lr, self.threads, self.batch_size = epochs, lr, threads, batch_size
        self.depth, self.memory, self.measure = depth, memory, measure

    def optimize_model(
        self,
        model: nn.Module,
        train_loader: Iterable[Any],
        test_loader: Iterable[Any],
        validation_loader: Iterable[Any] | None = None,
        *,
        image_shape: Sequence[int] | None = None,
        folder: str | Path | None = None,
    ) -> dict[str, Any]:
        """Make and measure all candidates, and choose.

        Args:
            model: trained; it stays as it is, and is the teacher of all candidates. Adapters are folded into a copy.
            train_loader: batches of (images, labels) to fine-tune on and to calibrate with.
            test_loader: what the result is scored on.
            validation_loader: what the choice looks at; without it the choice looks at the test images, and says so.
            folder: keep the files here.

        Returns:
            "baseline", "quantized", "pruned", "combined" (the best of each kind for the target; quantized and pruned both in
            the last) and "best" (the choice among all), each with "model", "metrics", "name", "choice" (a `Choice`), "satisfied"
            and "warnings" (broken constraints, slower or larger than the baseline, nothing of this kind among the candidates).
            With a validation_loader "metrics" has the accuracy on the test images, constraints are held against it again, and what
            it breaks is among the warnings. "choice" and "explanation", in words, are those of "best"; "candidates" and
            "pareto", lists of `Candidate`; "hardware".
        """
        model = without_adapters(model)
        shape = image_shape_of(model, image_shape)
        for loader, title in ((train_loader, "train_loader"), (test_loader, "test_loader")):
            repeatable(loader, title)
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(folder if folder is not None else temporary)
            made = self._candidates(model, train_loader, shape)
            files = {
                name: export_onnx(network, place / f"{name.replace(' ', '_').replace('%', '')}.onnx", shape, half=half)
                for name, (network, half) in made.items()
            }
            options = {"image_shape": shape, "threads": self.threads, "batch_size": self.batch_size}
            rows = dict(self.measure(files, validation_loader or test_loader, **options, memory=self.memory))
            scored = rows
            if validation_loader is not None:
                scored = dict(self.measure(files, test_loader, **options, rounds=1, runs=1, seconds=0, memory=False))
        candidates = [
            Candidate(name, row["size_bytes"] / 1e6, row["latency_ms"], row["accuracy"]) for name, row in rows.items()
        ]
        found = {candidate.name: candidate for candidate in candidates}
        metrics = {name: {**row, "accuracy": scored[name]["accuracy"]} for name, row in rows.items()}
        for name, (network, _) in made.items():
            metrics[name].update(parameters=parameters(network), macs=count_macs(network, shape))
            metrics[name]["path"] = None if folder is None else metrics[name].get("path")

        def chosen(names: Sequence[str]) -> Choice:
            """The best of these for the target, against the baseline."""
            made = choose(candidates, self.target_metric, self.constraints, among=names)
            if validation_loader is None:
                return made
            first = replace(candidates[0], accuracy=scored[candidates[0].name]["accuracy"])
            return checked_again(made, first, self.constraints, scored[made.candidate.name]["accuracy"])

        def entry(choice: Choice, *warnings: str) -> dict[str, Any]:
            name = choice.candidate.name
            network, half = made[name]
            return {
                "model": HalfModel(network) if half else network,
                "metrics": metrics[name],
                "name": name,
                "choice": choice,
                "satisfied": choice.satisfied,
                "warnings": (*warnings, *choice.warnings),
            }

        def best_of(label: str, kind: Callable[[str], bool]) -> dict[str, Any]:
            names = [name for name in found if kind(name)]
            if names:
                return entry(chosen(names))
            asked = f"precisions={self.precisions}, ratios={tuple(self.ratios)}"
            return entry(chosen([candidates[0].name]), f"nothing {label} was made with {asked}; this is the baseline")

        best = chosen(list(found))
        hardware = profile_hardware()
        on = "" if validation_loader is not None else " It was chosen on the images that it is scored on."
        return {
            "baseline": entry(chosen([candidates[0].name])),
            "quantized": best_of("quantized", lambda name: "fp32" not in name and "pruned" not in name),
            "pruned": best_of("pruned", lambda name: name.startswith("fp32") and "pruned" in name),
            "combined": best_of("both quantized and pruned", lambda name: "fp32" not in name and "pruned" in name),
            "best": entry(best),
            "choice": best,
            "explanation": f"{best.explanation}{on}",
            "candidates": candidates,
            "pareto": pareto(candidates),
            "hardware": hardware,
        }

    def _candidates(
        self, model: nn.Module, loader: Iterable[Any], shape: tuple[int, ...]
    ) -> dict[str, tuple[nn.Module, bool]]:
        """Name -> (network, stored in 16 bits?), narrower and narrower: each cut starts from the one before."""
        teacher = copy.deepcopy(model).eval()
        made: dict[str, tuple[nn.Module, bool]] = {}
        narrow = copy.deepcopy(teacher)
        for ratio in (0.0, *self.ratios):
            if ratio > 0:
                narrow = copy.deepcopy(narrow).requires_grad_(True)
                left, before = len(block_names(narrow)), len(block_names(teacher))
                if self.depth and before - int(ratio * before) < left:
                    drop_blocks(narrow, left - (before - int(ratio * before)), images_of(next(iter(loader))))
                    finetune(narrow, loader, epochs=self.epochs, lr=self.lr, teacher=teacher)
                ChannelPruner(narrow, ratio, shape, original=teacher).step()
                finetune(narrow, loader, epochs=self.epochs, lr=self.lr, teacher=teacher)
                narrow.eval()
            ending = f" pruned {ratio:.0%}" if ratio > 0 else ""
            for precision in self.precisions:
                network = narrow
                if precision == "int8":
                    network = prepare(narrow, shape, bits=weight_bits()).requires_grad_(True)
                    calibrate(network, islice(loader, 8))
                    train_rounded(network, loader, teacher=teacher, epochs=self.epochs, lr=self.lr / 2)
                made[precision + ending] = (network, precision == "fp16")
        return made
