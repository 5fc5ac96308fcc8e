"""Memories of images, of images with their captions, or of captions alone, compared at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_utils import seeding
from course_utils.methods import Method
from course_utils.methods.buffers import ClassBalanced
from course_utils.methods.replay import balance_labels
from course_utils.multimodal.contrastive import similarity
from course_utils.multimodal.tokenizer import PAD
from course_utils.multimodal.training import choose
from course_utils.streams import Samples, join

PLACE = 19  # of the memory's random numbers among those derived from a seed
KEPT = ("x", "y", "task", "group")
# What a memory keeps of a sample. "embedding" is the caption's, as it was at the end of its task.
CONTENTS = {
    "image": KEPT,
    "image+text": (*KEPT, "text"),
    "text": ("y", "task", "group", "text"),
    "text+embedding": ("y", "task", "group", "text", "embedding"),
}


def bytes_of(fields: Mapping[str, Tensor], names: Sequence[str] | None = None) -> int:
    """Bytes of one sample: the sum over some fields of one row's numbers times their size.

    Args:
        fields: tensors with one row a sample, such as `task.train.fields`.
        names: which; default is all.

    Raises:
        ValueError: a field that is not there.
    """
    wanted = list(fields) if names is None else list(names)
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise ValueError(f"no field {', '.join(missing)}; there are {', '.join(fields)}")
    return sum(fields[name][:1].numel() * fields[name].element_size() for name in wanted)


def samples_within(budget: int, fields: Mapping[str, Tensor], dim: int = 64) -> dict[str, int]:
    """How many samples fit into a memory of `budget` bytes, for every kind of content that these samples allow.

    Labels, task numbers and groups are counted too; the memory's own bookkeeping (16 bytes a sample, in every kind) is not.

    Args:
        budget: bytes.
        fields: of the stream's training samples; without `text` only images can be kept.
        dim: width of a stored embedding, in 4-byte floats.

    Returns:
        Content -> number of samples.

    Built in lesson 05.
    """
    all_fields = {**fields, "embedding": torch.zeros(1, dim)}
    kinds = [kind for kind, names in CONTENTS.items() if all(name in all_fields for name in names)]
    return {kind: budget // bytes_of(all_fields, CONTENTS[kind]) for kind in kinds}


class TextReplay(Method):
    """A class-balanced memory of fixed size in bytes: how much does a caption cost, and what does it bring?

    With images in it, it is `Replay`: from the second task on stored samples join every batch. Where the memory holds no
    captions and the batch needs some, a description of the label's class is taken, which costs no memory.

    Without images, stored captions cannot join a batch. They take part as sentences: the current images have to prefer
    their own classes' captions to the stored ones (cross-entropy over the descriptions and the stored captions), and with
    stored embeddings the text tower is held where it was: plus `anchor` times the mean squared distance.

    Args:
        budget: bytes of the memory, labels included.
        content: "image", "image+text", "text" or "text+embedding".
        batch_size: stored samples per step; default as many as current ones.
        weight: of the captions' term, with content "text" and "text+embedding".
        anchor: of the distance to stored embeddings within it.
        seed: of the memory's own generator; default follows the learner's seed.

    Put it before `Contrastive`. Stored captions need a `CLIP`.

    Built in lesson 05.
    """

    name = "text_replay"
    settings = ("budget", "content", "batch_size", "weight", "anchor", "seed")

    def __init__(
        self,
        budget: int = 200_000,
        content: str = "image+text",
        batch_size: int | None = None,
        weight: float = 1.0,
        anchor: float = 10.0,
        seed: int | None = None,
    ):
        if content not in CONTENTS:
            raise ValueError(f"content={content!r} is unknown; choose one of {', '.join(CONTENTS)}")
        if budget < 0 or weight < 0 or anchor < 0:
            raise ValueError(f"budget={budget}, weight={weight}, anchor={anchor}: none may be below 0")
        self.budget, self.content, self.batch_size, self.seed = int(budget), content, batch_size, seed
        self.weight, self.anchor = float(weight), float(anchor)
        self.buffer = ClassBalanced(0)
        self.generator = torch.Generator()  # of the descriptions that stand in for captions

    @property
    def memory(self) -> int:
        """Samples that fit into the budget; 0 before the first task."""
        return self.buffer.capacity

    def before_task(self, learner, task):
        if task.index > 0:
            return
        self.buffer.start(0)  # refuses a used one
        fields = task.train.fields
        if "text" in CONTENTS[self.content] and "text" not in fields:
            raise ValueError(f"content={self.content!r} needs captions: make the stream with `multimodal.with_text`")
        if "x" not in CONTENTS[self.content] and not hasattr(learner.model, "encode_text"):
            raise ValueError(
                f"content={self.content!r} holds sentences alone; it needs a network that reads them, `CLIP`"
            )
        dim = len(learner.model.head.projection) if "embedding" in CONTENTS[self.content] else 1
        seed = seeding.derive(learner.seed, 0, PLACE) if self.seed is None else self.seed
        self.buffer = ClassBalanced(samples_within(self.budget, fields, dim)[self.content], seed)
        self.generator.manual_seed(seeding.derive(seed, PLACE))

    def batch(self, learner, batch):
        if "x" not in CONTENTS[self.content] or not self._in_use(learner):
            return batch
        stored = self._sample(learner)
        count = len(stored["y"])
        stored["replayed"], stored["index"] = torch.ones(count, dtype=torch.bool), torch.full((count,), -1)
        if "text" in batch and "text" not in stored:
            prompts = getattr(learner.model, "prompts", None)
            if prompts is None:  # a network that reads nothing
                stored["text"] = batch["text"].new_full((count, batch["text"].shape[1]), PAD)
            else:
                drawn = torch.rand(count, generator=self.generator)
                stored["text"] = choose(prompts.cpu(), stored["y"], drawn)
        return join(batch, stored)

    def loss(self, learner, batch, out, loss):
        if "x" in CONTENTS[self.content] or self.weight == 0 or not self._in_use(learner):
            return loss
        stored = {name: value.to(learner.device) for name, value in self._sample(learner).items()}
        model = learner.model
        image, text = model.embedding_of(out), model.encode_text(stored["text"])
        seen = learner.visible(out, batch["task"])  # (batch, competing), already scaled
        logits = torch.cat([seen, similarity(image, text, model.head.scale)], dim=1)
        # A stored caption may describe the image's own class (a class that comes again): that is no mistake.
        own = batch["y"][:, None] == stored["y"][None, :]
        logits = logits.masked_fill(F.pad(own, (seen.shape[1], 0)), torch.finfo(logits.dtype).min)
        term = F.cross_entropy(logits, batch["y"])
        if "embedding" in stored:
            term = term + self.anchor * (text - stored["embedding"]).square().sum(dim=1).mean()
        return loss + self.weight * term

    def after_task(self, learner, task, data: Samples):
        names = [name for name in CONTENTS[self.content] if name != "embedding"]
        fields = {name: data.fields[name] for name in names}
        if "embedding" in CONTENTS[self.content]:
            with torch.no_grad():
                fields["embedding"] = learner.model.encode_text(fields["text"].to(learner.device)).cpu()
        self.buffer.add(fields, labels=balance_labels(learner, data.fields))

    def _in_use(self, learner: Any) -> bool:
        return learner.task.index > 0 and len(self.buffer) > 0

    def _sample(self, learner: Any) -> dict[str, Tensor]:
        return self.buffer.sample(learner.batch_size if self.batch_size is None else self.batch_size)

    def state_dict(self):
        return {
            "capacity": self.buffer.capacity,
            "buffer": self.buffer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, learner, state):
        self.buffer = ClassBalanced(state["capacity"])
        self.buffer.load_state_dict(state["buffer"])
        self.generator.set_state(state["generator"])
