"""The hooks a method may override. A method is what it changes in the loop, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from course_utils.learner import Learner
    from course_utils.streams import Samples, Task

Batch = dict[str, Tensor]


class Method:
    """Base of all methods: every hook does nothing.

    Hooks get explicit arguments and return the new batch or loss, so that methods compose in a list
    and their order can be read off it. A batch is a dict of tensors: `x` (uint8 images), `y`, `task`,
    `group`, `replayed` (bool), and after the batch hooks `input` (float images, augmented).

    The order within one task is
    `before_task → (head grows, optimizer is made) → train_set → [batch → loss → after_backward → after_step]*
    → after_task → (before_eval → after_eval)*`.
    """

    name = "method"
    settings: tuple[str, ...] = ()  # names of plain attributes that a resumed run must share with the saved one

    def before_task(self, learner: Learner, task: Task) -> None:
        """Before the head grows: the place to copy a teacher or to start afresh."""

    def train_set(self, learner: Learner, task: Task, data: Samples) -> Samples:
        """What to train on. Must not change any state: it is called again when a saved run resumes."""
        return data

    def steps(self, learner: Learner, task: Task, data: Samples, steps: int) -> int:
        """How many steps the task may take; `data` is what `train_set` returned. Only joint training changes it."""
        return steps

    def batch(self, learner: Learner, batch: Batch) -> Batch:
        """Change the batch, before images become floats: replay adds samples."""
        return batch

    def loss(self, learner: Learner, batch: Batch, out: Tensor, loss: Tensor) -> Tensor:
        """Map the loss so far to the loss to minimise; `learner.task_loss` stays the task's own."""
        return loss

    def after_backward(self, learner: Learner, batch: Batch) -> None:
        """Edit the gradients."""

    def after_step(self, learner: Learner, batch: Batch) -> None:
        """After the optimizer's step."""

    def after_task(self, learner: Learner, task: Task, data: Samples) -> None:
        """After the last step of a task: fill memories, measure importance. `data` is the task's own training set."""

    def before_eval(self, learner: Learner, task: Task) -> None:
        """Before the model is scored on a task."""

    def after_eval(self, learner: Learner, task: Task) -> None:
        """After the model was scored on a task."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive a save in the middle of a stream: tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, learner: Learner, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; the learner's model is restored already."""
