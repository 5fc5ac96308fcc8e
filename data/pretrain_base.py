#!/usr/bin/env python3
"""Train a base for lesson 04 beforehand: a network that knows every class of a data set, for adapters to stand on.

    python data/pretrain_base.py --set patch_size=7       # what the full preset stands on: Tiny-ImageNet grey
    python data/pretrain_base.py --data glyphs --set patch_size=7
    python data/pretrain_base.py --model resnet18 --set stem=strided

Without --data: Tiny-ImageNet grey where it can be had, else the drawn glyphs.

The lesson does the same by itself when it needs a base, so this only saves the wait later; the settings have to be the
same, or it trains another one. The weights go into the
course's cache (`COURSE_CACHE`, `data/cache` by default), which git ignores; with `--out FILE` also into a state dict of
your own. Nothing that is trained here is part of the project.
"""

from __future__ import annotations

import argparse
import ast
import sys
from typing import Any

from course_utils import datasets


def option(text: str) -> tuple[str, Any]:
    """`name=value` of `models.build`; a value that is not a Python literal stays text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write name=value, such as stem=strided")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", default="auto", help="name of a data set; auto: tiny_imagenet_gray, else glyphs")
    parser.add_argument("--model", default="vit", help="as in models.build; default vit")
    parser.add_argument("--set", type=option, action="append", default=[], metavar="NAME=VALUE", help="of the model")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="at most so many training images a class")
    parser.add_argument("--size", type=int, help="side in pixels that images are shrunk to, 8 for the digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file for a state dict, beside the cache")
    chosen = parser.parse_args(arguments)
    try:
        name = "tiny_imagenet_gray" if chosen.data == "auto" else chosen.data
        data = datasets.load(name, allow_standin=chosen.data == "auto")
    except (datasets.DataNotFound, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    import torch

    from course_utils import lora

    if chosen.size:
        data = lora.resized(data, (data.image_shape[0], chosen.size, chosen.size))
    print(f"a {chosen.model} on {data.title}: {len(data.train):,} images, {data.num_classes} classes")
    base = lora.pretrained_base(
        data, chosen.model, epochs=chosen.epochs, lr=chosen.lr, limit=chosen.limit, seed=chosen.seed, **dict(chosen.set)
    )
    print(f"{sum(value.numel() for value in base.values()):,} numbers, kept in the course's cache")
    if chosen.out:
        torch.save(base, chosen.out)
        print(f"and in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
