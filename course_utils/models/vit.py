"""A small Vision Transformer: an image is a sentence of patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.models.head import ExpandableHead, HeadedModel

POOLINGS = ("token", "mean")


class ViT(HeadedModel):
    """Patches, learned positions, pre-norm blocks, an expandable head.

    About 0.68 million parameters on 28x28 images. There is no dropout: a run depends on nothing but its seed. Linear
    layers are called `blocks.0.attention.query`, `.key`, `.value`, `.out`, `blocks.0.mlp.up` and `.down`, and so on.

    Args:
        image_shape: (channels, height, width).
        patch_size: side of a patch in pixels; has to divide height and width.
        width: numbers per token.
        depth: number of blocks.
        num_heads: heads of the attention; has to divide `width`.
        mlp_ratio: hidden width of a block's MLP, in multiples of `width`.
        pool: what the head sees: "token", an extra class token, or "mean" of the patches.
        standardize: bring every image to mean 0 and standard deviation 1 first.

    Raises:
        ValueError: a size that does not divide, or an unknown pooling.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", eqs. 1 to 4; pre-norm blocks. Built in lesson 04.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch_size: int = 7,
        width: int = 96,
        depth: int = 6,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        pool: str = "token",
        standardize: bool = True,
    ):
        super().__init__()
        channels, height, image_width = image_shape
        if patch_size < 1 or height % patch_size or image_width % patch_size:
            fitting = [str(p) for p in range(1, height + 1) if height % p == 0 and image_width % p == 0]
            raise ValueError(
                f"patch_size={patch_size} does not divide images of {height}x{image_width}; "
                f"choose one of {', '.join(fitting)}"
            )
        if pool not in POOLINGS:
            raise ValueError(f"pool={pool!r} is unknown; choose one of {', '.join(POOLINGS)}")
        self.pool = pool
        self.normalize = nn.GroupNorm(1, channels, affine=False) if standardize else nn.Identity()
        self.patches = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)
        num_tokens = (height // patch_size) * (image_width // patch_size) + (pool == "token")
        self.token = nn.Parameter(torch.empty(1, 1, width)) if pool == "token" else None
        self.positions = nn.Parameter(torch.empty(1, num_tokens, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads, round(mlp_ratio * width)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = ExpandableHead(width)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=0.02)
        if self.token is not None:
            nn.init.normal_(self.token, std=0.02)

    def features(self, x: Tensor) -> Tensor:  # (batch, C, H, W) -> (batch, width)
        tokens = self.patches(self.normalize(x)).flatten(2).transpose(1, 2)  # (batch, patches, width), row by row
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        return tokens[:, 0] if self.pool == "token" else tokens.mean(dim=1)


class Block(nn.Module):
    """Attention, then an MLP; each reads normalised tokens and adds what it found. `(batch, tokens, width)` to the same."""

    def __init__(self, width: int, num_heads: int, hidden: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(width), FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention, `softmax(Q K^T / sqrt(width per head)) V` in every head.

    `(batch, tokens, width)` to the same. Source: Vaswani et al. 2017, eq. 1.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide width={width}; every head needs the same width")
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(query, key, value)  # (batch, heads, tokens, width per head)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:  # (batch, tokens, width) -> (batch, heads, tokens, width per head)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """The same two dense layers with GELU for every token: `(batch, tokens, width)` to the same."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))
