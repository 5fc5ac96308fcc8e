"""LoRA in a stream: learn densely once, then adapt with few weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from course_utils import seeding
from course_utils.lora.model import (
    Ranks,
    absorb,
    adapted,
    adapter_state_dict,
    adapters,
    in_use,
    inject,
    keep_apart,
    load_adapter_state_dict,
    use,
)
from course_utils.methods import Distill, Method, PackNet, Quadratic
from course_utils.models import HeadedModel

STARTS = ("dense", "frozen")
KINDS = ("shared", "merged", "per_task")
IDENTITIES = (None, "inferred", "given")
PLACE = 11  # of the factors' random numbers among those derived from the learner's seed


class LoRA(Method):
    """Freeze the network and learn in low-rank adapters; the head goes on learning.

    BatchNorm's running statistics belong to the base: while adapters learn they stay as they are.

    Args:
        rank: of every update, or name of the layer -> rank (`allocate_ranks`).
        alpha: the update is scaled by `alpha / rank`.
        patterns: which layers, see `matching`; None is all dense layers and convolutions.
        start: "dense" trains the whole network on the first task, as every other method does, and adapts from the
            second task on. "frozen" adapts from the first: for a network that was trained before.
        adapters: "shared", one adapter for the whole stream; "merged", each task's adapter is written into the weights
            at its end and the next begins from zero; "per_task", each task has its own beside the others, with a head of
            its own: what it has learned stays to the last bit.
        identity: with "per_task" the task of a test image has to be known. None for task-incremental streams, which
            tell. "inferred" answers with the task whose outputs are the most confident (classification). "given"
            tells it although the stream does not (domain-incremental): an oracle. Both leave a remark in the history.
        rank_stabilized: scale by `alpha / sqrt(rank)` instead.

    After `fit` the adapters are in `learner.model`, but `learner.model.state_dict()` holds the base alone: that is how a
    run resumes. `fold(learner.model)` leaves a plain network with the adapter in its weights.

    Beside it in the list, rehearsal works (`Replay`, `DERpp`, `AGEM`, `GEM`), and behind it, with "merged", `Distill`. `Joint`
    and `GDumb` start afresh: put them before it, with start="frozen". Methods that know weights by name (`L2`, `EWC`,
    `SI`, `MAS`) need "frozen" and "shared", where the names stay the same.

    Raises:
        ValueError: an unknown option, an identity that is needed and not arranged for, a method that does not fit beside
            it, or a network that has adapters already.

    Source: Hu et al. 2022; merging and starting again is ReLoRA's (Lialin et al. 2023). Built in lesson 04.
    """

    settings = ("rank", "alpha", "patterns", "start", "adapters", "identity", "rank_stabilized")

    def __init__(
        self,
        rank: Ranks = 8,
        alpha: float = 8.0,
        patterns: str | Sequence[str] | None = None,
        *,
        start: str = "dense",
        adapters: str = "shared",
        identity: str | None = None,
        rank_stabilized: bool = False,
    ):
        for label, value, choices in (("start", start, STARTS), ("adapters", adapters, KINDS)):
            if value not in choices:
                raise ValueError(f"{label}={value!r} is unknown; choose one of {', '.join(choices)}")
        if identity not in IDENTITIES or (identity is not None and adapters != "per_task"):
            raise ValueError(
                f"identity={identity!r} with adapters={adapters!r}: choose None, 'inferred' or 'given', the latter two "
                "with adapters='per_task' only"
            )
        self.rank: Ranks = {k: int(r) for k, r in rank.items()} if isinstance(rank, Mapping) else int(rank)
        self.alpha, self.rank_stabilized = float(alpha), rank_stabilized
        self.patterns = [patterns] if isinstance(patterns, str) else None if patterns is None else list(patterns)
        self.start, self.adapters, self.identity = start, adapters, identity
        self.name = f"lora, {adapters}" + ("" if identity is None else f", task {identity}")
        self.columns: list[tuple[int, int]] = []  # of every task begun, for inference
        self.heads: list[dict[str, Tensor]] = []  # of every task finished, with "per_task"
        self.learned: nn.Module | None = None  # the network of the task before
        self.network: nn.Module | None = None  # the learner's own, while it is scored

    # ------------------------------------------------------------------ adapters come and go

    def before_task(self, learner, task):
        self._restore(learner)
        if task.index == 0:
            self._check(learner)
            self.columns, self.heads = [], []
        elif learner.model is not self.learned and (self.start == "dense" or self.adapters == "per_task"):
            raise ValueError(
                "LoRA: another method starts every task with a fresh network, so there is nothing to adapt; "
                "use start='frozen' with adapters='shared' or 'merged'"
            )
        if self.adapters == "per_task" and task.index > 0:
            self.heads.append({name: p.detach().clone() for name, p in learner.model.head.named_parameters()})
        first = 0 if task.index == 0 or learner.stream.scenario == "domain" else learner.stream[task.index - 1].outputs
        self.columns.append((first, task.outputs))
        self.learned = learner.model
        if task.index > 0 or self.start == "frozen":
            self._begin(learner, task.index)

    def _begin(self, learner, index: int) -> None:
        """The adapter that learns task `index`."""
        seed = seeding.derive(learner.seed, index, PLACE)
        name = self._adapter(index + 1)
        if name not in adapters(learner.model):
            self._inject(learner, str(name), seed)
        elif self.adapters == "merged":
            absorb(learner.model)  # what a method behind this one did after the last task
            generator = torch.Generator().manual_seed(seed)
            for layer in adapted(learner.model).values():
                layer.reset(str(name), generator)
                for factor in (layer.lora_A[name], layer.lora_B[name]):
                    learner.optimizer.state.pop(factor, None)  # momentum of another adapter

    def _inject(self, learner, name: str, seed: int = 0) -> None:
        inject(
            learner.model, self.patterns, self.rank, self.alpha,
            name=name, rank_stabilized=self.rank_stabilized, seed=seed,
        )  # fmt: skip
        keep_apart(learner.model)

    def _adapter(self, number: int) -> str | None:
        """Name of the adapter that task `number` (from 1) is answered with, None for the dense base."""
        if self.start == "dense" and number == 1:
            return None
        return f"task_{number}" if self.adapters == "per_task" else "stream"

    def train_set(self, learner, task, data):
        if (task.index > 0 or self.start == "frozen") and not adapted(learner.model):
            raise ValueError("LoRA: a method behind it has replaced the network; put LoRA last among these two")
        return data

    def batch(self, learner, batch):
        if adapted(learner.model):
            for module in learner.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return batch

    def after_task(self, learner, task, data):
        if self.adapters == "merged":
            absorb(learner.model)

    # ------------------------------------------------------------------ what fits together

    def _check(self, learner) -> None:
        if adapted(learner.model):
            raise ValueError(
                f"LoRA: the network has adapters already ({', '.join(adapters(learner.model))}); "
                "`fold` or `remove` them first"
            )
        names_stay = self.start == "frozen" and self.adapters == "shared"
        for method in learner.methods:
            if isinstance(method, PackNet) or (isinstance(method, Quadratic) and not names_stay):
                cure = "" if isinstance(method, PackNet) else "; use start='frozen' and adapters='shared'"
                raise ValueError(
                    f"LoRA and {method.name}: weights come and go, which {method.name} knows by name{cure}"
                )
            behind = learner.methods.index(method) > learner.methods.index(self)
            if isinstance(method, Distill) and not (self.adapters == "merged" and behind):
                raise ValueError(
                    f"LoRA(adapters={self.adapters!r}) and distill: a teacher is saved without adapters; "
                    "use adapters='merged', and put Distill behind LoRA"
                )
        self._check_identity(learner.stream)

    def _check_identity(self, stream) -> None:
        if self.adapters != "per_task":
            return
        possible = {"task": ["None"], "class": [], "domain": ["'given'"]}[stream.scenario]
        if stream.scenario != "task" and stream.objective == "classification":
            possible = [*possible, "'inferred'"]
        if repr(self.identity) not in possible:
            raise ValueError(
                f"LoRA(adapters='per_task', identity={self.identity!r}) on a {stream.scenario}-incremental "
                f"{stream.objective} stream: it must know the task of every test image. "
                f"Use identity={' or '.join(possible) or 'nothing: a task-incremental stream'}"
            )

    # ------------------------------------------------------------------ answering

    def before_eval(self, learner, task):
        self._restore(learner)  # after a scoring that was interrupted
        if self.adapters != "per_task" or learner.position == learner.step == 0:
            return
        told = None if self.identity == "inferred" else min(task.index + 1, len(self.columns))
        self.network, learner.model = learner.model, Routed(self, learner.model, told)

    def after_eval(self, learner, task):
        if self.network is None:
            return
        self._restore(learner)
        remark = f"LoRA: the task of every test image is {self.identity}"
        if self.identity is not None and remark not in learner.history.remarks:
            learner.history.remarks.append(remark)

    def _restore(self, learner) -> None:
        if self.network is not None:
            learner.model, self.network = self.network, None

    def answer(self, network: nn.Module, number: int, x: Tensor) -> Tensor:
        """Outputs of task `number` (from 1) with its own adapter and its own head, `(batch, outputs of that time)`."""
        current = in_use(network)
        try:
            use(network, self._adapter(number))
            if number > len(self.heads):  # the task that is being learned, or was learned last
                return network(x)
            head = {f"head.{name}": value for name, value in self.heads[number - 1].items()}
            return functional_call(network, head, (x,))
        finally:
            use(network, current)

    # ------------------------------------------------------------------ saving

    def state_dict(self):
        network = self.learned
        saved = {} if network is None else {name: adapter_state_dict(network, name) for name in adapters(network)}
        heads = [{name: value.clone() for name, value in head.items()} for head in self.heads]
        return {"adapters": saved, "heads": heads, "columns": [list(pair) for pair in self.columns]}

    def load_state_dict(self, learner, state):
        self.columns = [(a, b) for a, b in state["columns"]]
        self.heads = [{name: value.to(learner.device) for name, value in head.items()} for head in state["heads"]]
        self.learned, self.network = learner.model, None
        for name, adapter in state["adapters"].items():
            self._inject(learner, name)
            load_adapter_state_dict(learner.model, adapter, name)


class Routed(nn.Module):
    """The network while it is scored with one adapter per task.

    Args:
        told: number of the task to answer for, from 1; None answers every image with the task whose best output has
            the highest probability.
    """

    def __init__(self, lora: LoRA, network: HeadedModel, told: int | None):
        super().__init__()
        self.lora, self.network = lora, network
        self.numbers = range(1, len(lora.columns) + 1) if told is None else [told]
        self.training = network.training  # `predict` restores the mode that it finds here

    def forward(self, x: Tensor) -> Tensor:  # (batch, ...) -> (batch, outputs), lowest where another task answers
        answers, confidences = [], []
        for number in self.numbers:
            out = self.lora.answer(self.network, number, x)
            columns = slice(*self.lora.columns[number - 1])
            answer = out.new_full((len(x), self.network.num_outputs), torch.finfo(out.dtype).min)
            answer[:, columns] = out[:, columns]
            answers.append(answer)
            confidences.append(answer.softmax(dim=1).amax(dim=1))
        chosen = torch.stack(confidences).argmax(dim=0)  # (batch,)
        return torch.stack(answers)[chosen, torch.arange(len(x), device=x.device)]
