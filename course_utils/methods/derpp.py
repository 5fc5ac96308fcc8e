"""Dark Experience Replay++: replay samples together with the answers the model gave when it saw them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from course_utils.methods.base import Method
from course_utils.methods.buffers import Reservoir
from course_utils.methods.replay import start_buffer


class DERpp(Method):
    """Add `alpha * MSE(logits, stored logits) + beta * loss(logits, labels)` on replayed samples.

    Samples enter a reservoir the first time they are met, with the logits from before that step. A head
    that grows makes new logits wider than stored ones: only the stored columns are compared. Replay starts
    with the second task, so that the first task is the same for every method.

    Args:
        memory: number of stored samples, over all tasks.
        alpha: weight of the stored logits.
        beta: weight of the stored labels. `alpha=0, beta=0` is fine-tuning.
        batch_size: replayed samples for each of the two terms; default as many as current ones.
        refresh: store the logits of the model at the end of the sample's task instead of those from its
            first sight. With several epochs a task the first ones come from a model that knew nothing yet.
        seed: of the memory's own generator; default follows the learner's seed.

    Source: Buzzega et al. 2020, eq. 6 (there with one epoch a task).
    """

    name = "derpp"
    settings = ("memory", "alpha", "beta", "batch_size", "refresh", "seed")

    def __init__(self, memory=200, alpha=0.5, beta=0.5, batch_size=None, refresh=False, seed=None):
        self.buffer = Reservoir(memory)
        self.memory, self.seed = memory, seed
        self.alpha, self.beta, self.batch_size, self.refresh = alpha, beta, batch_size, refresh
        self.met = torch.zeros(0, dtype=torch.bool)
        self.fresh: dict[str, torch.Tensor] = {}

    def before_task(self, learner, task):
        start_buffer(self.buffer, learner, task, self.seed)
        self.met = torch.zeros(len(task.train), dtype=torch.bool)

    def _stored(self, learner):
        stored = self.buffer.sample(self.batch_size or learner.batch_size)
        stored = {name: value.to(learner.device) for name, value in stored.items()}
        return stored, learner.model(learner.inputs(stored["x"]))

    def loss(self, learner, batch, out, loss):
        self.fresh = {**batch, "logits": out.detach()}  # before the step
        if learner.task.index == 0 or len(self.buffer) == 0:
            return loss
        if self.alpha:
            stored, now = self._stored(learner)
            known = torch.arange(now.shape[1], device=now.device) < stored["width"][:, None]  # (batch, outputs)
            past = stored["logits"][:, : now.shape[1]]
            loss = loss + self.alpha * F.mse_loss(now[known], past[known])
        if self.beta:
            stored, now = self._stored(learner)
            loss = loss + self.beta * learner.objective.loss(learner.visible(now, stored["task"]), stored["y"])
        return loss

    def after_step(self, learner, batch):
        new = ~self.met[self.fresh["index"].cpu()] & ~self.fresh["replayed"].cpu()
        if new.any():
            self.met[self.fresh["index"].cpu()[new]] = True
            self._offer(learner, {name: value[new.to(value.device)] for name, value in self.fresh.items()})
        self.fresh = {}

    def _offer(self, learner, rows):
        logits = rows["logits"]
        padded = F.pad(logits, (0, learner.stream.num_outputs - logits.shape[1]))
        width = torch.full((len(logits),), logits.shape[1])
        self.buffer.add({"x": rows["x"], "y": rows["y"], "task": rows["task"], "logits": padded, "width": width})

    def after_task(self, learner, task, data):
        if not self.refresh or len(self.buffer) == 0:
            return
        stored = self.buffer.all()
        mine = torch.nonzero(stored["task"] == task.index).flatten()
        if len(mine):
            logits = learner.predict(stored["x"][mine])
            self.buffer.fields["logits"][mine, : logits.shape[1]] = logits.cpu()
            self.buffer.fields["width"][mine] = logits.shape[1]

    def state_dict(self):
        return {"buffer": self.buffer.state_dict(), "met": self.met.clone()}

    def load_state_dict(self, learner, state):
        self.buffer.load_state_dict(state["buffer"])
        self.met = state["met"].clone()
