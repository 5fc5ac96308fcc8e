"""Fusion: the patches of an image look things up in the words of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.methods import Method
from course_utils.models import ExpandableHead, HeadedModel, SmallCNN
from course_utils.models.vit import Block
from course_utils.multimodal.clip import prompt_tokens
from course_utils.multimodal.text import TextTransformer
from course_utils.multimodal.tokenizer import PAD, Tokenizer


class Looked(NamedTuple):
    """What patches looked at.

    Attributes:
        weights: `(batch, heads, patches, tokens)`; over the tokens they sum to 1, padding gets 0.
        tokens: `(tokens,)` ids, or `(batch, tokens)` where every image had a text of its own.
        owner: `(tokens,)` class whose description a token is part of, or None.
        grid: rows and columns of the patches; their product is `patches`.
    """

    weights: Tensor
    tokens: Tensor
    owner: Tensor | None
    grid: tuple[int, int]

    def maps(self, columns: Tensor | Sequence[int], size: tuple[int, int] | None = None) -> Tensor:
        """How much of every patch's attention goes to some tokens, as a picture: `(batch, height, width)` in [0, 1].

        Args:
            columns: indices of the tokens, or a bool mask: `looked.owner == 3` is everything that describes class 3.
            size: height and width to enlarge to, the image's; default is the grid itself.
        """
        share = self.weights[..., torch.as_tensor(columns, device=self.weights.device)].sum(dim=-1).mean(dim=1)
        grid = share.unflatten(1, self.grid)  # (batch, rows, columns), row by row
        if size is None:
            return grid
        return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)


class CrossAttention(nn.Module):
    """Queries from the image, keys and values from a text: `softmax(Q K^T / sqrt(width per head)) V` in every head.

    Source: Vaswani et al. 2017, eq. 1 and section 3.2.3 (encoder-decoder attention). Built in lesson 05.
    """

    def __init__(self, width: int, text_width: int, num_heads: int):
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide width={width}; every head needs the same width")
        self.num_heads = num_heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(text_width, width), nn.Linear(text_width, width)

    def forward(self, image: Tensor, text: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """What was found, and how much every patch looked at every token.

        Args:
            image: `(batch, patches, width)`.
            text: `(batch or 1, tokens, text width)`.
            real: `(batch or 1, tokens)`, False for padding.

        Returns:
            `(batch, patches, width)` and `(batch, heads, patches, tokens)`.
        """
        query = self.query(image).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, patches, each)
        key = self.key(text).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        value = self.value(text).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        weights = logits.masked_fill(~real[:, None, None, :], float("-inf")).softmax(dim=3)
        return self.out((weights @ value).transpose(1, 2).flatten(2)), weights


class Fusion(HeadedModel):
    """Patches from convolutions, one cross-attention into a text, one block among patches, an expandable head.

    The text is the same for every image: the descriptions of all classes seen so far, one after the other. So it cannot
    tell which class an image belongs to. With `use_text = False` the cross-attention is left out.

    Args:
        image_shape: (channels, height, width).
        prompts: `(classes, descriptions, length)` token ids in the order of the head's columns, see `prompt_tokens`. The
            first `per_class` descriptions of a class are read.
        vocab_size: of the tokenizer.
        width: of a patch and of a word.
        widths: channels of the convolutions; each halves the picture: 28x28 gives 7x7 patches with two.
        per_class: descriptions of a class that make up the text.

    Source: the idea of Lu et al. 2019 (ViLBERT), co-attention, in one direction. Built in lesson 05.
    """

    prompts: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        prompts: Tensor,
        vocab_size: int,
        width: int = 64,
        widths: Sequence[int] = (32, 64),
        num_heads: int = 4,
        text_depth: int = 1,
        per_class: int = 1,
    ):
        super().__init__()
        if not 1 <= per_class <= prompts.shape[1]:
            raise ValueError(f"per_class={per_class}: there are 1 to {prompts.shape[1]} descriptions of a class")
        cnn = SmallCNN(image_shape, widths=widths)
        self.body = cnn.body[:-1]  # without flattening: (batch, channels, rows, columns)
        rows, columns = image_shape[1], image_shape[2]
        for _ in widths:
            rows, columns = -(-rows // 2), -(-columns // 2)
        self.grid = (rows, columns)
        self.lift = nn.Linear(widths[-1], width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, rows * columns, width))
        self.text = TextTransformer(vocab_size, prompts.shape[2], width, width, text_depth, num_heads)
        del self.text.project  # single words are read, not sentences
        self.norm = nn.LayerNorm(width)
        self.look = CrossAttention(width, width, num_heads)
        self.block = Block(width, num_heads, 2 * width)
        self.last_norm = nn.LayerNorm(width)
        self.head = ExpandableHead(width)
        self.per_class = per_class
        self.use_text = True
        self.register_buffer("prompts", prompts)
        self._last: tuple[Tensor, Tensor] | None = None

    def patches(self, x: Tensor) -> Tensor:
        """`(batch, C, H, W)` -> `(batch, patches, width)`, row by row; nothing of a text in them."""
        seen = self.body(x.contiguous(memory_format=torch.channels_last))
        return self.lift(seen.flatten(2).transpose(1, 2)) + self.positions

    def class_text(self) -> tuple[Tensor, Tensor]:
        """The text that all images get: `(classes * descriptions, length)` ids, and the class of every row."""
        known = self.prompts[: self.num_outputs, : self.per_class]
        owner = torch.arange(len(known), device=known.device)[:, None].expand(-1, known.shape[1])
        present = (known != PAD).any(dim=2)
        return known[present], owner[present]

    def features(self, x: Tensor) -> Tensor:
        return self.answer_from(self.patches(x))[0]

    def answer_from(
        self, patches: Tensor, text: Tensor | None = None, use_text: bool | None = None
    ) -> tuple[Tensor, Looked | None]:
        """Features from patches, and what they looked at.

        Args:
            patches: from `patches`.
            text: `(batch, length)` token ids, one text an image. Default is the text that all images get. Texts chosen
                by the label answer the question that is asked: never at test time.
            use_text: default is the attribute.

        Returns:
            `(batch, width)`, and None where no text was read.
        """
        looked = None
        if self.use_text if use_text is None else use_text:
            found, looked = self._look(patches, text)
            patches = patches + found
        return self.last_norm(self.block(patches)).mean(dim=1), looked

    def _look(self, patches: Tensor, text: Tensor | None) -> tuple[Tensor, Looked]:
        owner = None
        if text is None:
            tokens, owner = self.class_text()
            if len(tokens) == 0:
                raise ValueError("no class has been seen yet, so there is no text to look at; `grow` first")
        else:
            if len(text) != len(patches):
                raise ValueError(f"{len(text)} texts for {len(patches)} images; give one text an image, or none")
            tokens = text
        words, real = self.text.hidden(tokens)
        if owner is not None:  # all descriptions are one text of one row
            words, real = words[real][None], torch.ones(1, int(real.sum()), dtype=torch.bool, device=real.device)
            there = tokens != PAD
            owner, tokens = owner[:, None].expand_as(tokens)[there], tokens[there]
        found, weights = self.look(self.norm(patches), words, real)
        return found, Looked(weights, tokens, owner, self.grid)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        patches = self.patches(x)
        out = self.head(self.answer_from(patches, text)[0])
        self._last = (out, patches) if torch.is_grad_enabled() else None
        return out

    def attend(self, x: Tensor) -> tuple[Tensor, Looked]:
        """Outputs `(batch, num_outputs)` and attention for drawing; in the mode in which the network is."""
        features, looked = self.answer_from(self.patches(x), use_text=True)
        assert looked is not None
        return self.head(features), looked

    def patches_of(self, out: Tensor) -> Tensor:
        """The patches that the last training pass made on its way to `out`.

        Raises:
            ValueError: the network has been called again since then.
        """
        if self._last is None or self._last[0] is not out:
            raise ValueError(
                "these outputs are not those of the last training pass: put TextPaths before methods that call the network"
            )
        return self._last[1]

    def grow(self, num_outputs: int, generator: torch.Generator) -> None:
        """Widen the head, and the text by the new classes' descriptions.

        Raises:
            ValueError: there are no descriptions for so many classes.
        """
        if num_outputs > len(self.prompts):
            raise ValueError(
                f"{num_outputs} classes, but descriptions of {len(self.prompts)}; build it for the whole stream"
            )
        super().grow(num_outputs, generator)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a copy must not hold on to a graph


def build_fusion(
    data: Any, descriptions: Mapping[str, Sequence[str]], tokenizer: Tokenizer, seed: int = 0, **options: Any
) -> Fusion:
    """Build `Fusion` for a stream or a data set. The weights are drawn from `seed` alone.

    Args:
        data: a `TaskStream` or a `Dataset`: its image shape, and the order of its classes.
        descriptions: class name -> sentences.
        **options: of `Fusion`.
    """
    names = data.class_names if hasattr(data, "class_names") else data.classes
    prompts = prompt_tokens(names, descriptions, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Fusion(tuple(data.image_shape), prompts, tokenizer.vocab_size, **options)


class TextPaths(Method):
    """Train `Fusion` on other ways to answer too, so that it can do without the text.

    The loss becomes `without * L(no text) + captions * L(own caption) + (1 - without - captions) * loss`.

    Args:
        without: weight of answers from the image alone.
        captions: weight of answers from the image and its own `text`. The caption is drawn from the label: this path
            learns to read the answer off it and is of no use at test time, which is what it is here to show.

    Built in lesson 05.
    """

    name = "text_paths"
    settings = ("without", "captions")

    def __init__(self, without: float = 0.5, captions: float = 0.0):
        if min(without, captions) < 0 or without + captions > 1:
            raise ValueError(f"without={without}, captions={captions}: neither below 0, together at most 1")
        self.without, self.captions = without, captions

    def before_task(self, learner, task):
        if self.captions and "text" not in task.train.fields:
            raise ValueError("TextPaths(captions=...) needs captions: make the stream with `multimodal.with_text`")

    def loss(self, learner, batch, out, loss):
        model = learner.model
        patches = model.patches_of(out)
        total = (1 - self.without - self.captions) * loss
        ways = ((self.without, None, False), (self.captions, batch.get("text"), True))
        for weight, text, use_text in ways:
            if weight:
                answer = model.head(model.answer_from(patches, text, use_text)[0])
                total = total + weight * learner.objective.loss(learner.visible(answer, batch["task"]), batch["y"])
        return total
