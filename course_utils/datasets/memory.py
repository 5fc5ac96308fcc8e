"""Do the images fit into memory? Asked before the first one is decoded, because a killed process explains nothing."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.8  # of the free memory that images may take; the network and its activations need the rest
MEMINFO = Path("/proc/meminfo")
# Linux control groups, versions 2 and 1: (limit, used, statistics). A container sees its host's memory in MEMINFO.
GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)


class TooLarge(MemoryError):
    """The images do not fit into memory; the message says how much they need, how much is free and what would fit."""


def images_bytes(count: int, image_size: int) -> int:
    """Bytes of `count` uint8 images of (3, image_size, image_size)."""
    return count * 3 * image_size**2


def check_memory(count: int, image_size: int, what: str) -> None:
    """Raises TooLarge if `count` images take more than SHARE of the free memory. No check where that is not known."""
    free, need = free_memory(), images_bytes(count, image_size)
    if free is None or need <= SHARE * free:
        return
    fitting = int(SHARE * free) // images_bytes(1, image_size)
    side = int((SHARE * free / max(1, 3 * count)) ** 0.5)
    raise TooLarge(
        f"{what}: {count:,} images of {image_size}x{image_size} pixels need {_text(need)}, and {_text(free)} are free, of "
        f"which images may take {SHARE:.0%}; read fewer (limit, here at most {fitting:,}) or smaller ones (image_size, "
        f"here at most {side})"
    )


def free_memory() -> int | None:
    """Bytes that this process can still take without swapping; None where the system does not say."""
    known = [free for free in (_of_machine(), *(_of_group(*paths) for paths in GROUPS)) if free is not None]
    return min(known) if known else None


def _of_machine() -> int | None:
    if MEMINFO.is_file():
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    try:  # macOS says only how much there is at all
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_group(limit: Path, used: Path, statistics: Path) -> int | None:
    try:
        most, now = int(limit.read_text(encoding="ascii")), int(used.read_text(encoding="ascii"))
        rows = dict(line.split() for line in statistics.read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return None
    # Files that were read and are kept just in case count as used, and are given up on demand.
    return max(0, most - now + int(rows.get("inactive_file", 0)))


def _text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
