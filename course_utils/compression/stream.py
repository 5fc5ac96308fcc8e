"""Compression in a stream: pruned a little after every task, quantized with samples of all tasks, and watched for forgetting."""

from __future__ import annotations

import copy
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from course_utils import metrics, seeding
from course_utils.compression.benchmark import MEGABYTE, weight_bits
from course_utils.compression.channel_pruner import ChannelPruner
from course_utils.compression.deployment import deployable, prunable
from course_utils.compression.export import export_onnx
from course_utils.compression.preparation import calibrate, prepare
from course_utils.compression.pruning import channels, parameters
from course_utils.compression.runtime import Deployed
from course_utils.compression.schedule import cubic_sparsity
from course_utils.compression.storage import keep_full_shape, resize, shapes_of
from course_utils.compression.training import finetune_in_stream
from course_utils.compression.watching import costs, scores
from course_utils.lora.model import adapted, fold, remove
from course_utils.methods import Method, PackNet, Quadratic
from course_utils.streams import Samples

PLACE = 13  # of the fine-tuning's random numbers among those derived from the learner's seed
TIMES = ("end", "each task")
SPLITS = ("train", "validation", "test")
NEEDED = ("x", "y", "task")  # of a stored sample, to learn from it


class Compress(Method):
    """Prune the network gradually across the tasks, and deploy a quantized copy.

    After task i of T the share `cubic_sparsity(i, T, target_sparsity)` of every layer's channels is gone for good, and a few steps
    of fine-tuning, on this task's images and the memory's, with the network before the cut as a teacher, mend what was cut. The
    network goes on learning in floats, smaller than before. What is deployed is a copy: quantized, with ranges from samples of
    all tasks (a range that was measured on the last task alone would clip the others).

    Args:
        target_sparsity: share of the channels that is gone after the last task.
        enable_pruning, enable_quantization: do it at all.
        quantization_dtype: "qint8" or "float16".
        prune_per_task: gradually; False cuts once, after the last task.
        quantize: "end", after the last task, or "each task". Before the end the floats are what is deployed.
        finetune_steps: after every cut. They come on top of the task's own steps, and a remark in the history says so.
        qat_steps: of training with rounded numbers, for every quantized copy; 0 is post-training quantization.
        lr: of both.
        calibration: samples that give the ranges.
        track_efficiency: time every deployed file, too.
        track_memory: also run it in a process of its own, for its peak memory: about a second a task.
        evaluate: the split that deployed files are scored on.
        folder: keep the files here: `task_1.onnx`, ...
        batch_size: of the fine-tuning, half of it from the memory.

    Put it behind `Replay` (or another method with a `buffer`), whose memory it uses: without one it only knows the last task,
    and says so in a remark. With `LoRA` use adapters="merged". A run with `LoRA` behind it resumes anywhere. With `LoRA` in
    front of it the run resumes between tasks only, and a save within a task is refused: a saved run is loaded in the order of
    the list, and narrow adapters do not fit a network that is cut only afterwards. It works with the networks of lesson 05,
    too: of a `CLIP` the image tower is deployed, of a `Fusion` all but the reader of its fixed text.

    Attributes:
        rows: one dictionary a task: `task`, `kind`, `size_mb`, `parameters`, `sparsity` (share of the channels that was asked
            for), `channels_gone` (share that is gone of the outputs of all convolutions and dense layers, also of those that
            have to keep their width, such as the one in front of a pair's projection; 0 means that nothing was cut),
            `accuracy` (mean over tasks seen, of the very file), `forgetting`, `size_ratio`; with `track_efficiency`
            `latency_ms`, `latency_p95_ms`, `fps`, `speedup`; with `track_memory` `memory_mb` (peak, above a process without a
            network). The two ratios are against the network after the first task, before any cut, in floats.
        accuracy: `(tasks, tasks)`, of the deployed files; NaN where nothing was measured.
        deployed: path of the last file, if `folder` is given.

    `learner.model` is the narrow network; its `state_dict()` is filled up with zeros to the old widths, so that a run can resume.
    To keep the network itself use `save_pruned`.

    Raises:
        ValueError: an unknown option, or a method beside it that knows weights by name.

    Built in lesson 07.
    """

    name = "compress"
    settings = (
        "target_sparsity", "enable_pruning", "enable_quantization", "quantization_dtype", "prune_per_task", "quantize",
        "finetune_steps", "qat_steps", "lr", "calibration", "batch_size",
    )  # fmt: skip

    def __init__(
        self,
        target_sparsity: float = 0.5,
        *,
        enable_pruning: bool = True,
        enable_quantization: bool = True,
        quantization_dtype: str = "qint8",
        prune_per_task: bool = True,
        quantize: str = "end",
        finetune_steps: int = 100,
        qat_steps: int = 0,
        lr: float = 1e-3,
        calibration: int = 512,
        track_efficiency: bool = True,
        track_memory: bool = False,
        evaluate: str = "test",
        folder: str | Path | None = None,
        batch_size: int = 64,
    ):
        if quantize not in TIMES or quantization_dtype not in ("qint8", "float16"):
            raise ValueError(
                f"quantize={quantize!r}, quantization_dtype={quantization_dtype!r}: choose {' or '.join(TIMES)}, and qint8 or float16"
            )
        if evaluate not in SPLITS:
            raise ValueError(f"evaluate={evaluate!r} is no split; choose one of {', '.join(SPLITS)}")
        if not 0 <= target_sparsity < 1 or min(finetune_steps, qat_steps) < 0 or calibration < 1:
            raise ValueError(
                f"target_sparsity={target_sparsity}, finetune_steps={finetune_steps}, qat_steps={qat_steps}, "
                f"calibration={calibration}: a share in [0, 1), no negative steps, at least one sample"
            )
        self.target_sparsity, self.enable_pruning = float(target_sparsity), enable_pruning
        self.enable_quantization, self.quantization_dtype = enable_quantization, quantization_dtype
        self.prune_per_task, self.quantize, self.finetune_steps = prune_per_task, quantize, finetune_steps
        self.qat_steps, self.lr, self.calibration, self.batch_size = qat_steps, float(lr), calibration, batch_size
        self.track_efficiency, self.track_memory, self.evaluate = track_efficiency, track_memory, evaluate
        self.folder = None if folder is None else Path(folder)
        self._start(0)

    def _start(self, tasks: int) -> None:
        self.rows: list[dict[str, Any]] = []
        self.accuracy = np.full((tasks, tasks), np.nan)
        self.deployed: Path | None = None
        self.gone = 0.0  # share of the channels that was removed so far
        self.pruned: nn.Module | None = None  # the network that it was removed from
        # The file of the network after the first task, before any cut, in floats: what sizes and times are compared with.
        self.whole = b""

    # ------------------------------------------------------------------ the hooks

    def before_task(self, learner, task):
        if task.index == 0:
            self._check(learner)
            self._start(len(learner.stream))
            self.behind_adapters = self._behind_adapters(learner)

    def after_task(self, learner, task, data):
        last = task.index == len(learner.stream) - 1
        if task.index == 0:
            self.whole = self._whole(learner)
        memory = self._memory(learner, data, task.index)
        if self.enable_pruning:
            self._prune(learner, task, data, memory)
        integers = self.enable_quantization and (last or self.quantize == "each task")
        with tempfile.TemporaryDirectory() as temporary:
            path = (self.folder or Path(temporary)) / f"task_{task.index + 1}.onnx"
            self._deploy(learner, task, data, memory, path, integers)
            self._watch(learner, task, path, self.quantization_dtype if integers else "float32")
        self.deployed = path if self.folder is not None else None

    def _check(self, learner) -> None:
        if not self.enable_pruning:
            return
        if learner.keep_optimizer:
            raise ValueError("Compress: keep_optimizer=True knows weights that a cut removes; leave it False")
        for method in learner.methods:
            if isinstance(method, (Quadratic, PackNet)):
                raise ValueError(
                    f"Compress and {method.name}: {method.name} knows weights by their place, which a cut changes; "
                    "use enable_pruning=False, or rehearsal instead"
                )
            if getattr(method, "adapters", "merged") != "merged":
                raise ValueError(
                    f"Compress with LoRA(adapters={method.adapters!r}): adapters have the widths of the layers that are cut; "
                    "use adapters='merged', or enable_pruning=False"
                )

    def _behind_adapters(self, learner) -> bool:
        """Whether a method that gives the network adapters stands in front of this one, and so is loaded first."""
        in_front = takewhile(lambda method: method is not self, learner.methods)
        return self in learner.methods and any(hasattr(method, "adapters") for method in in_front)

    def _memory(self, learner, data: Samples, index: int) -> Samples:
        """Samples of all tasks so far, as far as somebody stored them; otherwise the task's own."""
        for method in learner.methods:
            buffer = getattr(method, "buffer", None)
            if buffer is not None and len(buffer) and set(NEEDED) <= set(buffer.fields):
                data = Samples({name: data.fields[name] for name in data.fields if name in buffer.fields})
                stored = Samples({name: buffer.all()[name] for name in data.fields})
                if bool((stored.fields["task"] == index).any()):
                    return stored
                own = self._draw(learner, data, max(1, len(stored) // max(1, index)))
                return Samples.concat([stored, own])  # its method runs behind this one
        if index > 0:
            self._remark(learner, "Compress: no memory, so it was fine-tuned and calibrated on the last task alone")
        return data

    def _draw(self, learner, samples: Samples, count: int) -> Samples:
        generator = seeding.generator(learner.seed, learner.task.index, PLACE)
        return samples.subset(torch.randperm(len(samples), generator=generator)[:count])

    def _remark(self, learner, text: str) -> None:
        if text not in learner.history.remarks:
            learner.history.remarks.append(text)

    # ------------------------------------------------------------------ smaller

    def _prune(self, learner, task, data: Samples, memory: Samples) -> None:
        count = len(learner.stream)
        step = task.index + 1 if self.prune_per_task else (count if task.index == count - 1 else 0)
        wanted = cubic_sparsity(step, count, self.target_sparsity)
        if learner.model is not self.pruned:
            self.gone, self.pruned = 0.0, learner.model  # the first task, or a method that starts afresh
        if adapted(learner.model):
            self._fold(learner)
        if wanted <= self.gone:
            return
        learns = {name: p.requires_grad for name, p in learner.model.named_parameters()}
        teacher = copy.deepcopy(learner.model)
        full = shapes_of(learner.initial_model)
        learner.model.requires_grad_(True)
        shape, original = tuple(learner.stream.image_shape), prunable(learner.initial_model)
        ChannelPruner(prunable(learner.model), wanted, shape, original=original).step()
        self.gone = wanted
        keep_full_shape(learner.model, full)
        if self.finetune_steps:
            self._remark(learner, f"Compress: {self.finetune_steps} more steps after every cut")
            self._mend(learner, learner.model, data, memory, teacher)
        for name, parameter in learner.model.named_parameters():
            parameter.requires_grad_(learns[name])
            parameter.grad = None

    def _mend(self, learner, network, data: Samples, memory: Samples, teacher: nn.Module, rounded=False) -> None:
        """Fine-tuning after a cut, or with rounded numbers; each has random numbers of its own."""
        steps, lr = (self.qat_steps, self.lr / 2) if rounded else (self.finetune_steps, self.lr)
        generator = seeding.generator(learner.seed, learner.task.index, PLACE, 2 if rounded else 1)
        same = {"batch_size": self.batch_size, "generator": generator, "rounded": rounded}
        finetune_in_stream(learner, network, data, memory, teacher=teacher, steps=steps, lr=lr, **same)

    def _fold(self, learner) -> None:
        """Adapters into the weights, for good: the next task gets new ones.

        What is saved now has to fit the network as it was built, which learns densely and has an optimizer to match.
        The next task makes its own optimizer in any case.
        """
        fold(learner.model)
        as_built = {name: p.requires_grad for name, p in learner.initial_model.named_parameters()}
        for name, parameter in learner.model.named_parameters():
            parameter.requires_grad_(as_built[name])
        learner.optimizer = learner.make_optimizer(
            [p for p in learner.model.parameters() if p.requires_grad], lr=learner.lr
        )

    # ------------------------------------------------------------------ deployed

    def _deploy(self, learner, task, data: Samples, memory: Samples, path: Path, integers: bool) -> None:
        network: nn.Module = deployable(learner.model)
        shape = tuple(learner.stream.image_shape)
        if integers and self.quantization_dtype == "qint8":
            teacher = network
            network = prepare(network, shape, bits=weight_bits()).requires_grad_(True)
            shown = self._draw(learner, memory, self.calibration)
            calibrate(network, shown.x.split(64))
            if self.qat_steps:
                self._mend(learner, network, data, memory, teacher, rounded=True)
        export_onnx(network, path, shape, half=integers and self.quantization_dtype == "float16")
        self._size = {"parameters": parameters(network), "size_mb": path.stat().st_size / MEGABYTE}
        left = channels(prunable(learner.model)) / channels(prunable(learner.initial_model))
        self._size["channels_gone"] = 1 - left

    def _whole(self, learner) -> bytes:
        with tempfile.TemporaryDirectory() as temporary:
            path = export_onnx(deployable(learner.model), Path(temporary) / "whole.onnx", learner.stream.image_shape)
            return path.read_bytes()

    def _watch(self, learner, task, path: Path, kind: str) -> None:
        run = Deployed(path)
        self.accuracy[task.index, : task.index + 1] = scores(learner, run, task.index, self.evaluate)
        matrix = self.accuracy[: task.index + 1, : task.index + 1]
        row = {"task": task.index + 1, "kind": kind, **self._size, "sparsity": self.gone}
        if self.gone and row["channels_gone"] == 0 and task.index == len(learner.stream) - 1:
            self._remark(
                learner, "Compress: no layer could be made narrower, all that there are have to keep their width"
            )
        row["accuracy"] = float(matrix[-1].mean())
        row["forgetting"] = float(metrics.forgetting(matrix)) if task.index > 0 else 0.0
        row |= costs(run, self.whole, learner.stream.image_shape, self.track_efficiency, self.track_memory)
        self.rows.append(row)

    def get_efficiency_summary(self) -> dict[str, Any]:
        """The last task's row: its `size_ratio` and `speedup` are against the network before any cut, in floats."""
        self._fitted()
        return dict(self.rows[-1])

    def _fitted(self) -> None:
        if not self.rows:
            raise ValueError("nothing has been deployed yet; fit a stream first")

    def print_efficiency_report(self) -> None:
        """What was deployed after every task, as a table."""
        from course_utils.compression.report import markdown_table

        self._fitted()
        print(markdown_table(self.rows))

    # ------------------------------------------------------------------ saving

    def state_dict(self):
        return {
            "gone": self.gone,
            "whole": torch.from_numpy(np.frombuffer(self.whole, dtype=np.uint8).copy()),
            "shapes": self._shapes(),
            "rows": [dict(row) for row in self.rows],
            "accuracy": self.accuracy.tolist(),
        }

    def _shapes(self) -> dict[str, list[int]]:
        """Name -> shape of the narrow network, of its base while it carries adapters: those are LoRA's to save."""
        if self.pruned is None:
            return {}
        network = self.pruned
        if adapted(network):
            if self.gone > 0 and self.behind_adapters:
                raise ValueError(
                    "Compress behind LoRA cannot save a run within a task: narrow adapters would be loaded before the network is "
                    "cut; put Compress in front of LoRA in the list of methods, or save between tasks only (checkpoint_every=None)"
                )
            network = copy.deepcopy(network)
            remove(network)
        return {name: list(shape) for name, shape in shapes_of(network).items()}

    def load_state_dict(self, learner, state):
        self.behind_adapters = self._behind_adapters(learner)
        self._start(len(learner.stream))
        self.rows, self.gone = [dict(row) for row in state["rows"]], state["gone"]
        self.whole = state["whole"].numpy().tobytes()
        self.accuracy = np.array(state["accuracy"], dtype=float).reshape(self.accuracy.shape)
        if state["gone"] > 0:
            resize(learner.model, {name: tuple(shape) for name, shape in state["shapes"].items()})
            keep_full_shape(learner.model, shapes_of(learner.initial_model))
            self.pruned = learner.model
