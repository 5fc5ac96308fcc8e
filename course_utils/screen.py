"""What kind of screen the reader has: a notebook or a terminal, and whether anyone is there to use a control."""

from __future__ import annotations

import os
import sys


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code (a terminal's IPython does not count)."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def static() -> bool:
    """Whether nobody is there to move a slider: CI or `COURSE_STATIC=1` is set, or this is no notebook."""
    return not in_notebook() or any(
        os.environ.get(name, "") not in ("", "0", "false") for name in ("CI", "COURSE_STATIC")
    )
