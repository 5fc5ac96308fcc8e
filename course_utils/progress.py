"""Progress bars that are quiet where nobody watches."""

from __future__ import annotations

import os
from typing import Any


def wanted(show: bool | None = None) -> bool:
    """Whether to draw a bar: as asked, otherwise unless CI or COURSE_QUIET is set."""
    if show is not None:
        return show
    return not (os.environ.get("CI") or os.environ.get("COURSE_QUIET"))


def bar(total: int, description: str, show: bool | None = None, initial: int = 0) -> Any:
    """A `tqdm.auto` bar of `total` steps; draws nothing when it is not wanted."""
    if not wanted(show):
        from tqdm import tqdm as quiet  # tqdm.auto would still create a notebook widget

        return quiet(total=total, initial=initial, disable=True)
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=initial, desc=description, leave=False)
