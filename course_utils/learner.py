"""The learner: a model, some methods, and the one training loop of the course."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils import objectives, progress, seeding
from course_utils.history import History
from course_utils.streams import Samples, Task, TaskStream
from course_utils.tracking import NoTracker, Tracker

Batch = dict[str, Tensor]
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SCHEDULES = ("constant", "cosine")
EVALUATION_BATCH = 512
LOG_EVERY = 10  # steps
PROGRESS_EVERY = 25  # steps


class Learner:
    """Trains a model on a stream, task by task, with methods hooked into one loop.

    Args:
        model: from `models.build`; it is trained in place. Methods that start afresh use a copy made here.
        methods: in the order in which their hooks run; an empty list is fine-tuning.
        lr: learning rate.
        batch_size: current samples per step (replay adds its own).
        epochs: budget per task in passes over what is trained on; or
        steps_per_task: the same budget in steps. Give one of the two.
        seed: of the batches, the augmentation and the new rows of the head. Nothing else is random.
        objective: by default the one that the stream names.
        optimizer: "adam", "adamw", "sgd", or a function `(parameters, lr=) -> Optimizer`.
        weight_decay: of a named optimizer.
        keep_optimizer: keep its state from task to task (grown parameters start with zeros) instead of a
            fresh optimizer for every task.
        augment: `(x, generator) -> x` on float images `(batch, C, H, W)` in [0, 1]; current and replayed alike.
        schedule: "constant", or "cosine" down to zero within each task.
        tracker: from `tracking.open_tracker`; default records nothing.
        device: default is the model's.
        show_progress: True, False, or None for "unless in CI".

    Raises:
        ValueError: the budget is missing or given twice, or a name is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        methods: Sequence[Any] = (),
        *,
        lr: float = 1e-3,
        batch_size: int = 64,
        epochs: float | None = None,
        steps_per_task: int | None = None,
        seed: int = 0,
        objective: objectives.Objective | None = None,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
        weight_decay: float = 0.0,
        keep_optimizer: bool = False,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        schedule: str = "constant",
        tracker: Tracker | None = None,
        device: str | torch.device | None = None,
        show_progress: bool | None = None,
    ):
        if (epochs is None) == (steps_per_task is None):
            raise ValueError(f"epochs={epochs}, steps_per_task={steps_per_task}: give exactly one of the two budgets")
        if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={optimizer!r} is unknown; choose one of {', '.join(OPTIMIZERS)} or a function")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
        self.device = torch.device(device or next(model.parameters()).device)
        self.model: Any = model.to(self.device)
        self.initial_model = copy.deepcopy(model)
        self.methods = list(methods)
        self.batch_size, self.epochs, self.steps_per_task = batch_size, epochs, steps_per_task
        self.lr, self.seed = float(lr), int(seed)  # plain numbers: a NumPy scalar could be saved but not loaded
        self.augment, self.schedule = augment, schedule
        self.optimizer_name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "custom")
        self.weight_decay = weight_decay
        self.make_optimizer: Callable[..., Any] = optimizer if callable(optimizer) else self._named_optimizer
        self.keep_optimizer = keep_optimizer
        self.objective: Any = objective
        self.tracker: Tracker = tracker or NoTracker()
        self.show_progress = show_progress

        self.optimizer: Any = None
        self.stream: Any = None
        self.task: Any = None
        self.step = 0  # steps done in the current task
        self.position = 0  # index of the task to learn or to go on with
        self.history = History(0)
        self.task_loss: Any = None  # the task's own loss of this step, without any method's terms
        self.total_steps = 0  # steps that the current task may take
        self.permutation: tuple[Any, Tensor] = (None, torch.empty(0))
        self._losses: list[Tensor] = []
        self._resume_from: dict[str, Any] | None = None

    # ------------------------------------------------------------------ the loop

    def train(self, data: Samples, until: int) -> None:
        """THE training loop of the course: every method of every lesson hooks into these lines."""
        while self.step < until:
            batch = self.draw(data)  # a dict of tensors: x, y, task, ...
            for method in self.methods:
                batch = method.batch(self, batch)  # replay adds stored samples
            batch["input"] = self.inputs(batch["x"])  # uint8 to [0, 1], augmented
            out = self.model(batch["input"])  # (batch, outputs)
            loss = self.task_loss = self.objective.loss(self.visible(out, batch["task"]), batch["y"])
            for method in self.methods:
                loss = method.loss(self, batch, out, loss)  # distillation, penalties
            self.optimizer.zero_grad()
            loss.backward()
            for method in self.methods:
                method.after_backward(self, batch)  # gradient surgery
            self.update(loss)  # the optimizer's step
            for method in self.methods:
                method.after_step(self, batch)

    def draw(self, data: Samples) -> Batch:
        """The batch of the current step: always `batch_size` samples, one random permutation after the other.

        A pure function of (seed, task, step), so a resumed run draws what the uninterrupted one would have.
        Adds the fields `index` (row in `data`) and `replayed` (False).
        """
        size, first = len(data), self.step * self.batch_size
        if size == 0:
            raise ValueError(f"task {self.task.index + 1} ({self.task.name}) has no training samples")
        rows = []
        while first < (self.step + 1) * self.batch_size:
            epoch, start = divmod(first, size)
            stop = min(size, start + (self.step + 1) * self.batch_size - first)
            rows.append(self._permutation(epoch, size)[start:stop])
            first += stop - start
        index = torch.cat(rows)
        batch = {**data[index], "index": index, "replayed": torch.zeros(len(index), dtype=torch.bool)}
        return {name: value.to(self.device) for name, value in batch.items()}

    def _permutation(self, epoch: int, size: int) -> Tensor:
        place = (self.task.index, epoch, size)
        if self.permutation[0] != place:
            generator = seeding.generator(self.seed, self.task.index, 0, epoch)
            self.permutation = (place, torch.randperm(size, generator=generator))
        return self.permutation[1]

    def inputs(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Float inputs of the network: uint8 images become [0, 1]; in training they are augmented.

        Args:
            x: `(batch, ...)` uint8 or float.
            generator: of the augmentation; default is one derived from (seed, task, step).
        """
        x = x.to(self.device)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if self.augment is None or not torch.is_grad_enabled():
            return x
        return self.augment(x, generator or seeding.generator(self.seed, self.task.index, 2, self.step))

    def visible(self, out: Tensor, task: Tensor) -> Tensor:
        """The outputs that compete: `(batch, outputs)` -> `(batch, competing)`.

        Class-incremental: all classes seen so far. Task-incremental: those of the sample's own task, the
        others set so low that they get no probability. Domain-incremental: all.

        Args:
            task: `(batch,)` task index of every sample.
        """
        if self.stream.scenario == "class":
            return out[:, : self.task.outputs]
        if self.stream.scenario == "domain":
            return out
        columns = torch.arange(out.shape[1], device=out.device)
        bounds = torch.tensor([t.columns for t in self.stream], device=out.device)[task]  # (batch, 2)
        mine = (columns >= bounds[:, :1]) & (columns < bounds[:, 1:])
        return out.masked_fill(~mine, torch.finfo(out.dtype).min)

    def old_columns(self, task: Task) -> list[tuple[int, int]]:
        """(start, stop) of the groups of outputs that compete among each other before `task` is learned."""
        if self.stream.scenario == "class":
            return [(0, self.stream[task.index - 1].outputs)]
        if self.stream.scenario == "task":
            return [past.columns for past in self.stream.tasks[: task.index]]
        return [task.columns]

    def update(self, loss: Tensor) -> None:
        """The optimizer's step, with the schedule, the step count and the log."""
        if self.schedule == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * self.step / self.total_steps))
        self.optimizer.step()
        self.step += 1
        value = loss.detach()
        self._losses.append(value)
        if self.step % LOG_EVERY == 0:
            self._check_finite(value)
            self.tracker.log({"loss": value.item(), "task": self.task.index})

    def _check_finite(self, loss: Tensor | float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {self.step} of task {self.task.index + 1}: "
                f"lower lr={self.lr} or the strength of the penalty"
            )

    def budget(self, samples: int) -> int:
        """Steps for a training set of this size: `steps_per_task`, or as many as make `epochs` passes."""
        if self.steps_per_task is not None:
            return self.steps_per_task
        return max(1, math.ceil(samples * float(self.epochs or 0) / self.batch_size))

    # ------------------------------------------------------------------ the stream

    def fit(
        self,
        stream: TaskStream,
        *,
        evaluate: str = "test",
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
    ) -> History:
        """Learn every task of the stream in turn, scoring all tasks seen so far after each.

        After `resume`, goes on where the saved run stopped.

        Args:
            evaluate: the split to score on: "test", or "validation" while you choose hyperparameters.
            checkpoint: file to save to after every task, and every `checkpoint_every` steps within one.

        Returns:
            The run's `History`, also kept as `learner.history`.
        """
        if evaluate not in ("test", "validation", "train"):
            raise ValueError(f"evaluate={evaluate!r}; choose 'test', 'validation' or 'train'")
        self._begin_stream(stream, evaluate)
        while self.position < len(stream):
            task = stream[self.position]
            self._learn_task(task, checkpoint, checkpoint_every)
            for seen in stream if stream.scenario == "domain" else stream.tasks[: task.index + 1]:
                self.history.sizes[seen.index] = len(getattr(seen, evaluate))
                self.history.accuracy[task.index, seen.index] = self.score(getattr(seen, evaluate), seen)
            self._log_scores(task)
            self.position, self.step = self.position + 1, 0
            if checkpoint:
                self.save(checkpoint)
        return self.history

    def _begin_stream(self, stream: TaskStream, evaluate: str) -> None:
        self.stream = stream
        if self.objective is None:
            self.objective = (
                objectives.Regression() if stream.objective == "regression" else objectives.Classification()
            )
        if self._resume_from is not None:
            self._restore(self._resume_from)
            return
        self.position, self.step, self.history = 0, 0, History(len(stream))
        if stream.scenario == "domain":  # the outputs exist from the start: forward transfer has a meaning
            self.task = stream[0]
            self._grow(stream[0])
            self.history.initial[:] = [self.score(getattr(task, evaluate), task) for task in stream]

    def _learn_task(self, task: Task, checkpoint: str | Path | None, every: int | None) -> None:
        started = time.perf_counter()
        self.task = task
        if self.step == 0:
            for method in self.methods:
                method.before_task(self, task)
            self._grow(task)
        data = task.train
        for method in self.methods:
            data = method.train_set(self, task, data)
        self.total_steps = self.budget(len(task.train))
        for method in self.methods:
            self.total_steps = method.steps(self, task, data, self.total_steps)
        every = every or self.total_steps
        self.model.train()
        with progress.bar(self.total_steps, f"task {task.index + 1}/{len(self.stream)}", self.show_progress) as bar:
            while self.step < self.total_steps:
                # Up to the next multiple of either interval.
                stops = [self.step - self.step % interval + interval for interval in (every, PROGRESS_EVERY)]
                self.train(data, min(self.total_steps, *stops))
                bar.update(self.step - bar.n)
                if checkpoint and self.step % every == 0 and self.step < self.total_steps:
                    self.save(checkpoint)
        self._check_finite(self._losses[-1] if self._losses else 0.0)
        for method in self.methods:
            method.after_task(self, task, task.train)
        self.history.losses[task.index] += torch.stack(self._losses).tolist() if self._losses else []
        self._losses = []
        self.history.steps[task.index] = self.total_steps
        self.history.seconds[task.index] += time.perf_counter() - started

    def _log_scores(self, task: Task) -> None:
        row = self.history.accuracy[task.index]
        values = {f"accuracy/task_{j + 1}": float(v) for j, v in enumerate(row) if v == v}
        values["accuracy/mean"] = float(row[: task.index + 1].mean())
        self.tracker.log({**values, "task": task.index})
        if task.index == len(self.stream) - 1:
            self.tracker.matrix("accuracy_matrix", self.history.accuracy)

    def _named_optimizer(self, parameters: list[nn.Parameter], lr: float) -> Any:
        return OPTIMIZERS[self.optimizer_name](parameters, lr=lr, weight_decay=self.weight_decay)

    def _grow(self, task: Task) -> None:
        """Widen the head and make the optimizer, in this order: an older one would not know the new rows."""
        before = [p for p in self.model.parameters() if p.requires_grad]
        if task.outputs > self.model.num_outputs:
            self.model.grow(task.outputs, seeding.generator(self.seed, task.index, 3))
            self.model.to(self.device)
        after = [p for p in self.model.parameters() if p.requires_grad]
        old, self.optimizer = self.optimizer, self.make_optimizer(after, lr=self.lr)
        if self.keep_optimizer and old is not None and len(before) == len(after):
            for past, now in zip(before, after, strict=True):
                self.optimizer.state[now] = {k: _widen(v, now) for k, v in old.state.get(past, {}).items()}

    # ------------------------------------------------------------------ scoring

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Outputs of the model in eval mode, `(N, ...)` uint8 or float -> `(N, outputs)`; the mode is restored."""
        training = self.model.training
        self.model.eval()
        out = torch.cat([self.model(self.inputs(part)) for part in x.split(EVALUATION_BATCH)])
        self.model.train(training)
        return out

    def score(self, samples: Samples, task: Task) -> float:
        """The objective's score on samples of one task, in this scenario, after what has been learned so far."""
        if len(samples) == 0:
            return float("nan")
        for method in self.methods:
            method.before_eval(self, task)
        out = self.visible(self.predict(samples.x), samples.fields["task"].to(self.device))
        for method in self.methods:
            method.after_eval(self, task)
        return self.objective.score(out, samples.y.to(self.device))

    # ------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, Any]:
        """Everything a run in the middle of a task needs to end in the same bytes."""
        history = self.history.to_dict()
        history["losses"][min(self.position, len(self.history) - 1)] += [float(v) for v in self._losses]
        return {
            "run": self._fingerprint(),
            "position": self.position,
            "step": self.step,
            "num_outputs": self.model.num_outputs,
            "model": self.model.state_dict(),
            "initial_model": self.initial_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": history,
            "methods": [method.state_dict() for method in self.methods],
        }

    def save(self, path: str | Path) -> None:
        """Write the state, under another name first: an interrupted save leaves the previous file whole."""
        temporary = Path(f"{path}.part")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), temporary)
        os.replace(temporary, path)

    def resume(self, path: str | Path) -> None:
        """Take up a saved run; the next `fit` on the same stream goes on where it stopped.

        Build the learner as for the first run (same model, methods, settings), then `resume`, then `fit`.

        Raises:
            ValueError: the file is of a run with other settings, or not a saved run at all.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            run = dict(dict(state)["run"])
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a whole saved run ({error}); delete it and start again") from error
        mine = {k: v for k, v in self._fingerprint().items() if k != "stream"}
        other = {k: (v, run.get(k)) for k, v in mine.items() if run.get(k) != v}
        if other:
            changed = ", ".join(f"{k}: here {a!r}, saved {b!r}" for k, (a, b) in other.items())
            raise ValueError(f"{path} was saved by a run with other settings ({changed}); build the same learner")
        self._resume_from = state

    def _restore(self, state: dict[str, Any]) -> None:
        if state["run"]["stream"] != self._fingerprint()["stream"]:
            raise ValueError(f"the saved run was on {state['run']['stream']}, this is {self._fingerprint()['stream']}")
        self._resume_from = None
        self.initial_model.load_state_dict(state["initial_model"])
        self.model = copy.deepcopy(self.initial_model)
        self.model.grow(state["num_outputs"], torch.Generator())
        self.model.to(self.device).load_state_dict(state["model"])
        self.position, self.step = state["position"], state["step"]
        self.history = History.from_dict(state["history"])
        self._losses = []
        self.task = self.stream[min(self.position, len(self.stream) - 1)]
        for method, saved in zip(self.methods, state["methods"], strict=True):
            method.load_state_dict(self, saved)
        self.optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad], lr=self.lr)
        self.optimizer.load_state_dict(state["optimizer"])

    def _fingerprint(self) -> dict[str, Any]:
        names = ("lr", "batch_size", "epochs", "steps_per_task", "seed", "schedule", "keep_optimizer")
        stream = None
        if self.stream is not None:
            sizes = [len(task.train) for task in self.stream]
            stream = f"{self.stream.title}, {self.stream.scenario}-incremental, training samples {sizes}"
        methods = [{"name": m.name, **{key: getattr(m, key) for key in m.settings}} for m in self.methods]
        count = sum(parameter.numel() for parameter in self.initial_model.parameters())
        return {
            **{name: getattr(self, name) for name in names},
            "model": f"{type(self.initial_model).__name__} of {count:,} parameters before it grows",
            "optimizer": self.optimizer_name,
            "weight_decay": self.weight_decay,
            "augment": None if self.augment is None else getattr(self.augment, "__name__", type(self.augment).__name__),
            "methods": methods,
            "stream": stream,
        }


def _widen(value: Any, like: Tensor) -> Any:
    """Optimizer state of a grown parameter: what was known, zeros for the new rows; step counts as they are."""
    if not isinstance(value, Tensor) or value.shape == like.shape or value.dim() == 0:
        return value
    wide = torch.zeros_like(like)
    wide[: len(value)] = value
    return wide
