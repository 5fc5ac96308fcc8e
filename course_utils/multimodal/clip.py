"""The pair: an image tower and a text tower that meet in one space. Its classes are sentences, not rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils import models
from course_utils.models import HeadedModel
from course_utils.multimodal.contrastive import MAX_SCALE
from course_utils.multimodal.text import TextTransformer
from course_utils.multimodal.tokenizer import PAD, Tokenizer


class TextHead(nn.Module):
    """What stands between the towers: the projection of images, and the temperature. Built in lesson 05.

    Attributes:
        projection: `(dim, num_features)`, learned.
        log_scale: logarithm of 1 / temperature, learned. `scale` never exceeds 100.
        bias: zeros, `(num_outputs,)`: how many classes have been seen, in the place where other heads keep it.

    Source: Radford et al. 2021, section 2.5 (temperature 0.07 at the start, scale at most 100).
    """

    bias: Tensor

    def __init__(self, num_features: int, dim: int, temperature: float):
        super().__init__()
        if not 1 / MAX_SCALE <= temperature:
            raise ValueError(f"temperature={temperature} is below {1 / MAX_SCALE}: the scale would exceed {MAX_SCALE}")
        self.projection = nn.Parameter(torch.empty(dim, num_features))
        nn.init.normal_(self.projection, std=num_features**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.register_buffer("bias", torch.zeros(0))

    @property
    def num_outputs(self) -> int:
        return len(self.bias)

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100 whatever the parameter says."""
        return self.log_scale.clamp(max=math.log(MAX_SCALE)).exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring the parameter itself back: beyond the bound it would get no gradient and never return.

        A hair below it, because log(100) rounded to float32 lies beyond.
        """
        self.log_scale.clamp_(max=math.log(MAX_SCALE) - 1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """`(batch, num_features)` -> `(batch, dim)` of length 1."""
        return F.normalize(F.linear(features, self.projection), dim=1)

    def grow(self, num_outputs: int, generator: torch.Generator | None = None) -> None:
        """Let `num_outputs` classes compete. Nothing is drawn: a new class brings its sentences."""
        if num_outputs < self.num_outputs:
            raise ValueError(f"the head has {self.num_outputs} outputs and cannot shrink to {num_outputs}")
        self.bias = self.bias.new_zeros(num_outputs)


class CLIP(HeadedModel):
    """`forward(x)` gives scaled similarities to the classes seen so far, so that the learner needs no special case.

    Args:
        image_tower: from `models.build`, without outputs; its features are used.
        text_tower: a `TextTransformer`, or another module with `dim` and `context_length`, token ids to unit vectors.
        prompts: `(classes, descriptions, length)` token ids in the order of the head's columns, see `prompt_tokens`. A
            description that is all padding is none.
        temperature: at the start.

    A class is the mean of its descriptions' embeddings, brought back to length 1; it is kept until these change.
    In training, where it has to be computed anew and learns, it is one of its descriptions, and they take turns: with 143
    classes of seven sentences, a step would otherwise spend most of its time on reading.

    Source: Radford et al. 2021, section 2.3 and 3.1.4 (ensembles). Built in lesson 05.
    """

    head: Any
    prompts: Tensor
    turn: Tensor

    def __init__(self, image_tower: HeadedModel, text_tower: Any, prompts: Tensor, temperature: float = 0.07):
        super().__init__()
        if prompts.dim() != 3 or prompts.shape[2] > text_tower.context_length:
            raise ValueError(
                f"prompts have shape {tuple(prompts.shape)}; expected (classes, descriptions, length) with length at most "
                f"{text_tower.context_length}, as `prompt_tokens` gives it"
            )
        num_features = image_tower.head.num_features
        del image_tower.head  # nobody reads it here
        self.image, self.text = image_tower, text_tower
        self.head = TextHead(num_features, text_tower.dim, temperature)
        self.register_buffer("prompts", prompts)
        self.register_buffer("turn", torch.tensor(0))  # of the descriptions in training; a resumed run goes on with it
        self._kept: tuple[list[tuple[Tensor, bool]], Tensor] | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def features(self, x: Tensor) -> Tensor:
        return self.image.features(x)

    def encode_image(self, x: Tensor) -> Tensor:
        """`(batch, C, H, W)` in [0, 1] -> `(batch, dim)` of length 1."""
        return self.head(self.features(x))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """`(texts, length)` token ids -> `(texts, dim)` of length 1. A text that occurs often is computed once."""
        different, place = torch.unique(tokens, dim=0, return_inverse=True)
        return self.text(different)[place]

    def class_embeddings(self, count: int | None = None) -> Tensor:
        """One vector of length 1 for each of the first `count` classes, by default those seen: `(count, dim)`.

        In training mode with gradients that of one description, the next one in every call.
        """
        count = self.num_outputs if count is None else count
        if torch.is_grad_enabled():
            prompts = self.prompts[:count]
            if not self.training:
                return ensemble(self.text, prompts)
            numbers = (prompts != PAD).any(dim=2).sum(dim=1)  # (count,) descriptions of every class
            chosen = prompts[torch.arange(count, device=prompts.device), self.turn % numbers]
            self.turn += 1
            return self.text(chosen)
        state = [self.prompts, *self.text.parameters(), *self.text.buffers()]
        if self._kept is None or not _unchanged(self._kept[0], state):
            found = ensemble(self.text, self.prompts)
            self._kept = ([(tensor.detach().clone(), tensor.requires_grad) for tensor in state], found)
        return self._kept[1][:count]

    def forward(self, x: Tensor) -> Tensor:  # (batch, C, H, W) -> (batch, num_outputs)
        image = self.encode_image(x)
        out = self.head.scale * image @ self.class_embeddings().T
        self._last = (out, image) if torch.is_grad_enabled() else None
        return out

    def embedding_of(self, out: Tensor) -> Tensor:
        """The image embeddings `(batch, dim)` that the last training pass made on its way to `out`: no second pass.

        Raises:
            ValueError: the network has been called again since then.
        """
        if self._last is None or self._last[0] is not out:
            raise ValueError(
                "these outputs are not those of the last training pass: put Contrastive and TextReplay before methods "
                "that call the network in their loss, such as DERpp"
            )
        return self._last[1]

    def grow(self, num_outputs: int, generator: torch.Generator) -> None:
        """Let `num_outputs` classes compete.

        Raises:
            ValueError: there are no descriptions for so many.
        """
        if num_outputs > len(self.prompts):
            raise ValueError(
                f"{num_outputs} classes, but descriptions of {len(self.prompts)}: build the network with those of the whole stream"
            )
        self.head.grow(num_outputs)

    def train(self, mode: bool = True) -> CLIP:
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_kept": None}  # a copy must not hold on to a graph


def _unchanged(kept: list[tuple[Tensor, bool]], state: list[Tensor]) -> bool:
    return len(kept) == len(state) and all(
        now.requires_grad == learns and now.shape == before.shape and torch.equal(now, before)
        for (before, learns), now in zip(kept, state, strict=True)
    )


def ensemble(text_tower: nn.Module, prompts: Tensor) -> Tensor:
    """Prompt ensemble: the mean of a class's unit embeddings, normalised again.

    Args:
        text_tower: `(texts, length)` -> `(texts, dim)` of length 1.
        prompts: `(classes, descriptions, length)`; rows of padding are skipped.

    Returns:
        `(classes, dim)` of length 1.

    Source: Radford et al. 2021, section 3.1.4. Built in lesson 05.
    """
    present = (prompts != PAD).any(dim=2)  # (classes, descriptions)
    if not present.any(dim=1).all():
        missing = (~present.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"classes {missing} have no description; give every class at least one")
    embedded = text_tower(prompts[present])  # (all descriptions, dim)
    owner = present.nonzero()[:, 0]
    total = embedded.new_zeros(len(prompts), embedded.shape[1]).index_add(0, owner, embedded)
    return F.normalize(total / present.sum(dim=1, keepdim=True), dim=1)


def prompt_tokens(names: Sequence[str], descriptions: Mapping[str, Sequence[str]], tokenizer: Any) -> Tensor:
    """Token ids of every class's descriptions, `(classes, most descriptions, length)`, padded where a class has fewer.

    Args:
        names: classes in the order of the head's columns: `stream.class_names`.
        descriptions: class name -> sentences, such as `descriptions.of("gtsrb")`.
        tokenizer: texts -> `(texts, length)` ids, 0 for padding.

    Raises:
        ValueError: a class without descriptions, with its name.
    """
    missing = [name for name in names if not descriptions.get(name)]
    if missing or not names:
        raise ValueError(
            f"no descriptions of {', '.join(missing[:4]) or 'anything'}; "
            f"there are some of {', '.join(list(descriptions)[:4])} ... ({len(descriptions)} in all)"
        )
    most = max(len(descriptions[name]) for name in names)
    rows = [tokenizer(list(descriptions[name])) for name in names]
    tokens = rows[0].new_full((len(names), most, rows[0].shape[1]), PAD)
    for row, encoded in enumerate(rows):
        tokens[row, : len(encoded)] = encoded
    return tokens


def build_clip(
    data: Any,
    descriptions: Mapping[str, Sequence[str]],
    tokenizer: Tokenizer,
    image_tower: str = "small_cnn",
    seed: int = 0,
    *,
    dim: int = 64,
    temperature: float = 0.07,
    text: Mapping[str, Any] | None = None,
    num_outputs: int = 0,
    **options: Any,
) -> CLIP:
    """Build the pair for a stream or a data set. The weights are drawn from `seed` alone.

    Args:
        data: a `TaskStream` or a `Dataset`: its image shape, and the order of its classes.
        descriptions: class name -> sentences.
        tokenizer: build it from the texts that are trained on; other words are unknown to the network.
        image_tower: name for `models.build`; `options` are its options.
        dim: width of the common space.
        text: options of `TextTransformer`: width, depth, num_heads, pool.
        num_outputs: classes that compete at the start; with 0 the learner adds them task by task.

    Built in lesson 05.
    """
    names = data.class_names if hasattr(data, "class_names") else data.classes
    tower = models.build(image_tower, data, seed=seed, **options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 1)
        text_tower = TextTransformer(tokenizer.vocab_size, tokenizer.context_length, dim, **(text or {}))
        model = CLIP(tower, text_tower, prompt_tokens(names, descriptions, tokenizer), temperature)
    model.head.grow(num_outputs)
    return model
