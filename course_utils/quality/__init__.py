"""Image quality: scores instead of classes, on the same learner and with the same methods. Built in lesson 06.

    stream = quality.dataset_stream([datasets.load("eva"), datasets.load("ava")])
    model = quality.build_scorer("mobilenet_v3_small", score="cosine")
    recorder = quality.RecordPredictions()
    learner = Learner(model, [methods.EWC(1.0), recorder], objective=quality.QualityObjective(), batch_size=32, epochs=10)
    history = learner.fit(stream)                                   # history.accuracy holds SRCCs
    quality.quality_summary(history.accuracy, recorder.predictions)

Names load on first use, because the `course` command imports this package and must start without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

# public name -> the module that has it
_PUBLIC: dict[str, str] = {
    "AVADataset": "course_utils.datasets.ava",
    "BACKBONES": "course_utils.quality.models",
    "ConfigError": "course_utils.quality.config",
    "EVADataset": "course_utils.datasets.eva",
    "FALSIFYING": "course_utils.quality.transforms",
    "IQAConfig": "course_utils.quality.config",
    "Interval": "course_utils.quality.metrics",
    "ModelCost": "course_utils.quality.comparison",
    "QualityAugment": "course_utils.quality.transforms",
    "QualityHead": "course_utils.quality.models",
    "QualityModel": "course_utils.quality.models",
    "QualityObjective": "course_utils.quality.objective",
    "RecordPredictions": "course_utils.quality.metrics",
    "Scores": "course_utils.quality.models",
    "bootstrap_interval": "course_utils.quality.metrics",
    "build_learner": "course_utils.quality.training",
    "build_scorer": "course_utils.quality.models",
    "category_stream": "course_utils.quality.streams",
    "compare_models": "course_utils.quality.comparison",
    "compute_ranking_loss": "course_utils.quality.losses",
    "cosine_similarity_loss": "course_utils.quality.losses",
    "count_macs": "course_utils.quality.comparison",
    "dataset_stream": "course_utils.quality.streams",
    "emd_loss": "course_utils.quality.losses",
    "expected_score": "course_utils.quality.objective",
    "fidelity_loss": "course_utils.quality.losses",
    "kendall": "course_utils.quality.metrics",
    "load_config": "course_utils.quality.config",
    "load_stream": "course_utils.quality.training",
    "mean_srcc": "course_utils.quality.metrics",
    "plasticity_index": "course_utils.quality.metrics",
    "plcc": "course_utils.quality.metrics",
    "plcc_loss": "course_utils.quality.losses",
    "preference": "course_utils.quality.losses",
    "prepare": "course_utils.quality.preparation",
    "keep_apart": "course_utils.quality.sharing",
    "quality_summary": "course_utils.quality.metrics",
    "rmse": "course_utils.quality.metrics",
    "split_of": "course_utils.datasets.scored",
    "srcc": "course_utils.quality.metrics",
    "stability_index": "course_utils.quality.metrics",
    "strategy": "course_utils.quality.training",
    "table": "course_utils.quality.comparison",
    "test_transform": "course_utils.quality.transforms",
    "train": "course_utils.quality.training",
    "train_transform": "course_utils.quality.transforms",
    "true_score": "course_utils.quality.objective",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"course_utils.quality has no {name!r}; it has {', '.join(_PUBLIC)}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
