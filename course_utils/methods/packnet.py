"""PackNet: every task gets weights of its own, packed into one network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils.methods.base import Method

IDENTITIES = (None, "inferred", "given")


def keep_mask(weights: Tensor, free: Tensor, prune: float) -> Tensor:
    """Which of the free weights a task keeps: the `1 - prune` of largest magnitude, at least one.

    Args:
        weights: any shape. `free`: bool of that shape, the weights that no earlier task owns.
        prune: share of the free weights that is given back, 0 to 1.

    Returns:
        bool of that shape, True only where `free` is.

    Source: Mallya & Lazebnik 2018, section 3.1. Built in lesson 03, exercise 03.6.
    """
    count = max(1, round((1 - prune) * int(free.sum())))
    ranked = weights.abs().masked_fill(~free, -1).flatten()
    mask = torch.zeros_like(ranked, dtype=torch.bool)
    mask[ranked.topk(count).indices] = True
    return mask.view_as(free) & free


class PackNet(Method):
    """Train with the free weights, give the small ones back, train on with the rest, and freeze them for good.

    Convolutions and dense layers are shared out weight by weight. Biases, normalisation layers and their running
    statistics belong to the first task and stay as it left them. Rows of the head belong to the task that brought
    them (in domain-incremental streams the head is shared out like the layers). A task is answered with its own and
    all earlier weights, so its outputs stay the same to the last bit whatever is learned later.

    Which task a test image is from has to be *known*. Task-incremental streams tell. Elsewhere it is a choice:

    Args:
        prune: share of its weights that a task gives back.
        retrain: share of a task's steps that comes after pruning. The budget does not grow.
        identity: None refuses streams that do not tell the task at test time. "inferred" answers every image with
            the task whose outputs are the most confident (classification). "given" tells it although the stream does
            not (domain-incremental): an oracle. Both leave a remark in the history.

    Raises:
        ValueError: an option out of range, the identity is needed and not arranged for, or no free weights are left.

    Source: Mallya & Lazebnik 2018. Built in lesson 03.
    """

    settings = ("prune", "retrain", "identity")

    def __init__(self, prune: float = 0.75, retrain: float = 0.5, identity: str | None = None):
        if not 0 <= prune < 1 or not 0 <= retrain < 1:
            raise ValueError(f"prune={prune} and retrain={retrain} must be at least 0 and below 1")
        if identity not in IDENTITIES:
            raise ValueError(f"identity={identity!r} is unknown; choose None, 'inferred' or 'given'")
        self.prune, self.retrain, self.identity = prune, retrain, identity
        self.name = "packnet" if identity is None else f"packnet, task {identity}"
        self.owner: dict[str, Tensor] = {}  # name -> number of the owning task, from 1; 0 is free
        self.columns: list[tuple[int, int]] = []  # of every task begun, for inference
        self.pruned = False
        self.held: dict[str, Tensor] | None = None  # values that no step may change
        self.network: nn.Module | None = None  # the learner's own, while it is scored

    # ------------------------------------------------------------------ sharing out

    def before_task(self, learner, task):
        if task.index == 0:
            self._check_identity(learner)
            self.owner, self.columns = {}, []
        start = 0 if task.index == 0 or learner.stream.scenario == "domain" else learner.stream[task.index - 1].outputs
        self.columns.append((start, task.outputs))

    def batch(self, learner, batch):
        number = learner.task.index + 1
        if learner.step == 0:  # the head has grown
            self._claim(learner, number)
            self.pruned, self.held = False, None
        if self.held is None:
            self.held = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
        if number > 1:  # running statistics belong to the first task
            for module in learner.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return batch

    def _claim(self, learner, number: int) -> None:
        """Give an owner to what is new: nobody (0) for shared weights, this task for the rest."""
        for name, parameter in learner.model.named_parameters():
            shared = self._is_shared(learner, name, parameter)
            if self._has_columns(learner, name):
                owner = torch.zeros_like(parameter, dtype=torch.int16)
                for task, (start, stop) in enumerate(self.columns, start=1):
                    owner[start:stop] = task
                self.owner[name] = owner
            elif name not in self.owner:
                self.owner[name] = torch.full_like(parameter, 0 if shared else number, dtype=torch.int16)
            if shared and not (self.owner[name] == 0).any():
                raise ValueError(
                    f"PackNet has no free weight left in {name} ({parameter.numel():,} weights) for task {number}: "
                    f"with prune={self.prune} every task keeps {1 - self.prune:.0%} of what is free; "
                    "choose a larger prune or a larger network"
                )

    @staticmethod
    def _has_columns(learner, name: str) -> bool:
        """Whether each row of this parameter is an output of one task."""
        return name.startswith("head.") and learner.stream.scenario != "domain"

    def _is_shared(self, learner, name: str, parameter: Tensor) -> bool:
        return parameter.dim() > 1 and not self._has_columns(learner, name)

    def _trainable(self, name: str, number: int) -> Tensor:
        mine = self.owner[name] == number
        return mine if self.pruned else mine | (self.owner[name] == 0)

    def after_backward(self, learner, batch):
        for name, parameter in learner.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= self._trainable(name, learner.task.index + 1)

    @torch.no_grad()
    def after_step(self, learner, batch):
        number = learner.task.index + 1
        assert self.held is not None  # set in `batch`
        for name, parameter in learner.model.named_parameters():
            # Momentum and weight decay move weights without gradient.
            parameter.copy_(torch.where(self._trainable(name, number), parameter, self.held[name]))
        if learner.step == max(1, round((1 - self.retrain) * learner.total_steps)):
            self._prune(learner, number)

    def _prune(self, learner, number: int) -> None:
        for name, parameter in learner.model.named_parameters():
            if self._is_shared(learner, name, parameter):
                free = self.owner[name] == 0
                kept = keep_mask(parameter, free, self.prune)
                self.owner[name][kept] = number
                parameter.masked_fill_(free & ~kept, 0.0)
        self.pruned, self.held = True, {name: p.detach().clone() for name, p in learner.model.named_parameters()}

    # ------------------------------------------------------------------ answering

    def _check_identity(self, learner) -> None:
        scenario, kind = learner.stream.scenario, learner.stream.objective
        if scenario == "task":
            if self.identity is not None:
                raise ValueError(
                    f"PackNet(identity={self.identity!r}) on a task-incremental stream, which tells the task of every "
                    "test image: use identity=None"
                )
            return
        possible = [] if scenario == "class" else ["'given'"]
        possible += [] if kind == "regression" else ["'inferred'"]
        if f"'{self.identity}'" not in possible:
            raise ValueError(
                f"PackNet(identity={self.identity!r}) on a {scenario}-incremental {kind} stream: it must know the task "
                f"of every test image. Use a task-incremental stream, or identity={' or '.join(possible)}"
            )

    def weights_of(self, network: nn.Module, number: int) -> dict[str, Tensor]:
        """What task `number` (from 1) is answered with: name -> tensor, zero where it does not use a weight.

        The head has the rows of that time only: a wider matrix product may round its sums differently.
        """
        unfinished = number == len(self.columns) and not self.pruned  # it still trains all free weights
        weights = {}
        for name, parameter in network.named_parameters():
            owner = self.owner[name]
            used = (owner <= number) & ((owner > 0) | unfinished)
            weights[name] = torch.where(used, parameter.detach(), 0.0)
            if name.startswith("head."):
                weights[name] = weights[name][: self.columns[number - 1][1]]
        return weights

    def before_eval(self, learner, task):
        self._restore(learner)  # after a scoring that was interrupted
        if learner.position == learner.step == 0:  # nothing is learned yet; an earlier run may have left owners
            return
        told = None if self.identity == "inferred" else min(task.index + 1, len(self.columns))
        self.network, learner.model = learner.model, Packed(self, learner.model, told)

    def after_eval(self, learner, task):
        if self.network is None:
            return
        self._restore(learner)
        remark = f"PackNet: the task of every test image is {self.identity}"
        if self.identity is not None and remark not in learner.history.remarks:
            learner.history.remarks.append(remark)

    def _restore(self, learner) -> None:
        if self.network is not None:
            learner.model, self.network = self.network, None

    def state_dict(self):
        owner = {name: value.clone() for name, value in self.owner.items()}
        return {"owner": owner, "columns": [list(pair) for pair in self.columns], "pruned": self.pruned}

    def load_state_dict(self, learner, state):
        self.owner = {name: value.to(learner.device) for name, value in state["owner"].items()}
        self.columns = [(a, b) for a, b in state["columns"]]
        self.pruned, self.held = state["pruned"], None


class Packed(nn.Module):
    """The network while it is scored. Its weights stay as they are: a task sees a copy with others masked.

    Args:
        told: number of the task to answer for, from 1; None answers every image with the task whose best output
            has the highest probability.
    """

    def __init__(self, packnet: PackNet, network: nn.Module, told: int | None):
        super().__init__()
        self.packnet, self.network = packnet, network
        self.numbers = range(1, len(packnet.columns) + 1) if told is None else [told]
        self.training = network.training  # `predict` restores the mode that it finds here

    def forward(self, x: Tensor) -> Tensor:  # (batch, ...) -> (batch, outputs), lowest where another task answers
        answers, confidences = [], []
        for number in self.numbers:
            out = functional_call(self.network, self.packnet.weights_of(self.network, number), (x,))
            columns = slice(*self.packnet.columns[number - 1])
            answer = out.new_full((len(x), self.network.num_outputs), torch.finfo(out.dtype).min)
            answer[:, columns] = out[:, columns]
            answers.append(answer)
            confidences.append(answer.softmax(dim=1).amax(dim=1))
        chosen = torch.stack(confidences).argmax(dim=0)  # (batch,)
        return torch.stack(answers)[chosen, torch.arange(len(x), device=x.device)]
