"""Compression: 8-bit integers, fewer channels, and what they cost. Built in lesson 07.

    result = compression.prune_model(model, 0.5, share_of="channels", train_fn=lambda m: compression.finetune(m, loader, teacher=model))
    result = compression.quantize_model(result["pruned_model"], loader, qat_epochs=2, teacher=model, path="small.onnx")
    rows = compression.benchmark_models({"fp32": model, "int8": "small.onnx"}, test_loader)
    results = compression.AutoOptimizer("balanced").optimize_model(model, loader, test_loader)

`Compress` is the method for a `Learner`. Needs the extra `compress`: pip install "course_utils[compress]".
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "affine": ("channel_scales", "dequantize", "levels", "quantize", "scale_and_zero_point"),
    "auto": ("AutoOptimizer",),
    "benchmark": (
        "benchmark_models",
        "in_pytorch",
        "interleaved",
        "machine",
        "peak_memory",
        "profile_hardware",
        "timing",
        "weight_bits",
    ),
    "blocks": ("block_influence", "block_names", "drop_blocks"),
    "channel_pruner": ("ChannelPruner",),
    "choice": ("Candidate", "Choice", "Constraints", "choose", "pareto"),
    "dependencies": ("Part", "shared_channels"),
    "deployment": ("ImageClassifier", "deployable"),
    "export": ("ExportError", "export_onnx"),
    "fake": ("FakeQuantize", "QuantConv2d", "QuantHead", "QuantLinear", "QuantizedLayer", "set_state"),
    "fold": ("fold_batchnorm", "folded_weights"),
    "half": ("HalfModel",),
    "heads": ("head_norms", "keep_heads"),
    "importance": ("channel_norms", "importance_of"),
    "inputs": ("find_image_shape",),
    "observers": ("Observer",),
    "preparation": ("calibrate", "integer_weights", "prepare", "quantized_layers"),
    "profiling": ("KINDS_OF_WORK", "node_times", "work_of"),
    "pruning": ("channel_ratio", "parameters", "prune_model"),
    "quantization": ("quantize_model", "signal_to_noise", "train_rounded"),
    "report": ("create_efficiency_report", "plot_efficiency_over_tasks", "plot_front", "plot_optimization_comparison"),
    "runtime": ("INTEGER_NODES", "Deployed", "nodes_run", "post_training_quantization"),
    "schedule": ("cubic_sparsity",),
    "storage": ("keep_full_shape", "load_pruned", "resize", "save_pruned", "shapes_of"),
    "stream": ("Compress",),
    "tracing": ("count_macs", "trace"),
    "training": ("Batches", "accuracy", "finetune"),
}
_PLACES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: none of the libraries is loaded before."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
