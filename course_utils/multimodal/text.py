"""A small text transformer: token ids in, one unit vector a text out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.models.vit import Block
from course_utils.multimodal.tokenizer import END, PAD

POOLINGS = ("end", "mean")


class TextTransformer(nn.Module):
    """Word embeddings, learned positions, the ViT's blocks with padding masked out, a projection, unit length.

    Padding is never looked at: a text gives the same vector whatever number of padding tokens follows. There is no
    dropout: a run depends on nothing but its seed.

    Args:
        vocab_size: number of token ids, `tokenizer.vocab_size`.
        context_length: longest text in tokens.
        dim: width of the embedding that is shared with images.
        width, depth, num_heads: of the transformer; `depth=0` is a bag of words.
        pool: "mean" of the words' outputs, or that of the "end" token, which has looked at all others.
        position_scale: standard deviation of the positions at the start, where words have 1 / sqrt(width).

    Source: Radford et al. 2021, section 2.4, here with attention in both directions. Built in lesson 05.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        dim: int = 64,
        width: int = 64,
        depth: int = 2,
        num_heads: int = 4,
        pool: str = "mean",
        position_scale: float = 0.02,
    ):
        super().__init__()
        if pool not in POOLINGS:
            raise ValueError(f"pool={pool!r} is unknown; choose one of {', '.join(POOLINGS)}")
        self.pool, self.context_length, self.dim = pool, context_length, dim
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(1, context_length, width))
        self.blocks = nn.ModuleList(TextBlock(width, num_heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim, bias=False)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        nn.init.normal_(self.positions, std=position_scale)
        nn.init.normal_(self.project.weight, std=width**-0.5)

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """One vector a token, for cross-attention, and where the words are.

        Args:
            tokens: `(texts, length)` ids of any integer type, length at most `context_length`.

        Returns:
            `(texts, length, width)`, and a mask `(texts, length)` that is True where there is no padding.

        Raises:
            ValueError: the texts are too long or not two-dimensional.
        """
        if tokens.dim() != 2 or tokens.shape[1] > self.context_length:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; expected (texts, length) with length at most "
                f"{self.context_length}: encode them with the tokenizer that this tower was built for"
            )
        tokens = tokens.long()
        real = tokens != PAD  # (texts, length)
        x = self.words(tokens) + self.positions[:, : tokens.shape[1]]
        for block in self.blocks:
            x = block(x, real)
        return self.norm(x), real

    def forward(self, tokens: Tensor) -> Tensor:
        """`(texts, length)` token ids -> `(texts, dim)` of length 1."""
        x, real = self.hidden(tokens)
        if self.pool == "end":
            place = (tokens == END).int().argmax(dim=1)  # the first end token
            pooled = x[torch.arange(len(x), device=x.device), place]
        else:
            share = real.to(x.dtype) / real.sum(dim=1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("tl,tlw->tw", share, x)
        return F.normalize(self.project(pooled), dim=1)


class TextBlock(Block):
    """The ViT's block, reading words only. `(texts, length, width)` and the mask `(texts, length)` to the former's shape."""

    def forward(self, x: Tensor, real: Tensor) -> Tensor:  # type: ignore[override]
        x = x + self._attend(self.norm1(x), real)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, real: Tensor) -> Tensor:
        attention = self.attention
        query, key, value = (attention._split(layer(x)) for layer in (attention.query, attention.key, attention.value))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        return attention.out(found.transpose(1, 2).flatten(2))
