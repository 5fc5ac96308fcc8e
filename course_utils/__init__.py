"""Continual Learning, Hands-On: the helper package of the course.

Everything loads on first use, so that `import course_utils` stays instant:
torch and matplotlib are imported by the module that needs them, when it is asked for.

    from course_utils import start, check, hint, points     # the classroom
    from course_utils import datasets, streams, models, methods, metrics, Learner
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> (module, attribute); no attribute means the module itself
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "start": ("lessons.course", "start"),
    "check": ("lessons.checking", "check"),
    "hint": ("lessons.checking", "hint"),
    "points": ("lessons.checking", "points"),
    "Learner": ("learner", "Learner"),
    "REPOSITORY": ("repository", "REPOSITORY"),
    "compression": ("compression", None),
    "datasets": ("datasets", None),
    "streams": ("streams", None),
    "models": ("models", None),
    "methods": ("methods", None),
    "lora": ("lora", None),
    "metrics": ("metrics", None),
    "multimodal": ("multimodal", None),
    "objectives": ("objectives", None),
    "quality": ("quality", None),
    "tracking": ("tracking", None),
    "plots": ("plots", None),
    "widgets": ("widgets", None),
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"course_utils has no {name!r}; it has {', '.join(_PUBLIC)}")
    module_name, attribute = _PUBLIC[name]
    module = importlib.import_module(f"{__name__}.{module_name}")
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
