"""Quantize a network with one call: 8-bit integers with fine-tuning, or 16-bit floats."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.compression.benchmark import weight_bits
from course_utils.compression.deployment import without_adapters
from course_utils.compression.export import export_onnx
from course_utils.compression.fake import set_state
from course_utils.compression.half import HalfModel
from course_utils.compression.inputs import image_shape_of, repeatable
from course_utils.compression.preparation import calibrate, prepare
from course_utils.compression.training import finetune

DTYPES = ("qint8", "float16")


def quantize_model(
    model: nn.Module,
    train_loader: Iterable[Any] | None = None,
    dtype: str = "qint8",
    qat_epochs: float = 3,
    device: str = "cpu",
    *,
    image_shape: Sequence[int] | None = None,
    teacher: nn.Module | None = None,
    calibration_batches: int = 8,
    lr: float = 5e-4,
    path: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Quantize a copy of a network: calibrate, fine-tune with rounded numbers, write the real integers.

    "qint8": BatchNorm is folded, weights get 8 bits per channel, activations 8 bits; then `qat_epochs` of training in which
    everything is rounded (0 leaves it at post-training quantization). "float16" needs no data. It halves the file; on a GPU it is
    fast, on a CPU it is a storage format: the file is turned back into 32 bits when it is loaded. Adapters are written into the
    copy's weights first.

    Args:
        train_loader: batches of (images, labels); its first `calibration_batches` give the ranges.
        image_shape: (channels, height, width); default is the first usual size that the network takes.
        teacher: whose answers to imitate; default is `model` itself.
        lr: of the fine-tuning.
        path: where to write the ONNX file; otherwise it is only weighed.
        **options: of `prepare` (`bits`, `observer`, `skip`, `keep_first`, `symmetric`).

    Returns:
        "quantized_model", in eval mode, fake-quantized ("qint8": the integers are in the file) or in 16 bits; "metrics":
        `compression_ratio`, `sizes` ("original", "quantized": bytes of the ONNX files), `original_size_mb`,
        `quantized_size_mb`, `dtype`, `losses`; and "path".

    Raises:
        ValueError: an unknown dtype, or no data for "qint8".

    Source: Jacob et al. 2018. Built in lesson 07.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    if dtype == "qint8" and train_loader is None:
        raise ValueError("dtype='qint8' needs train_loader: ranges of activations come from data; 'float16' needs none")
    if qat_epochs < 0:
        raise ValueError(f"qat_epochs={qat_epochs}: give 0 for none, or passes over train_loader")
    if train_loader is not None:
        train_loader = repeatable(train_loader)
    model = without_adapters(model)
    shape = image_shape_of(model, image_shape)
    original = copy.deepcopy(model).to(device).eval()
    losses: list[float] = []
    if dtype == "float16":
        made: nn.Module = HalfModel(original).eval()
    else:
        assert train_loader is not None
        made = prepare(original, shape, **{"bits": weight_bits(), **options}).requires_grad_(True)
        calibrate(made, islice(train_loader, calibration_batches))
        if qat_epochs > 0:
            losses = train_rounded(made, train_loader, teacher=teacher or original, epochs=qat_epochs, lr=lr)
    with tempfile.TemporaryDirectory() as folder:
        before = export_onnx(original, Path(folder) / "original.onnx", shape).stat().st_size
        target = Path(path) if path is not None else Path(folder) / "quantized.onnx"
        written = original if dtype == "float16" else made
        after = export_onnx(written, target, shape, half=dtype == "float16").stat().st_size
    metrics = {
        "compression_ratio": before / after,
        "sizes": {"original": before, "quantized": after},
        "original_size_mb": before / 1e6,
        "quantized_size_mb": after / 1e6,
        "dtype": dtype,
        "losses": losses,
    }
    return {"quantized_model": made, "metrics": metrics, "path": None if path is None else target}


def train_rounded(model: nn.Module, loader: Iterable[Any], **options: Any) -> list[float]:
    """Quantization-aware training of a calibrated network, in place: ranges follow, then stay. See `finetune`."""
    set_state(model, "learn")
    losses = finetune(model, loader, **options)
    set_state(model, "fixed")
    model.eval()
    return losses


@torch.no_grad()
def signal_to_noise(exact: Tensor, rounded: Tensor) -> float:
    """How much of a tensor survives rounding, in decibels: `10 log10(mean(exact^2) / mean((exact - rounded)^2))`."""
    noise = (exact - rounded).square().mean()
    return float("inf") if noise == 0 else float(10 * torch.log10(exact.square().mean() / noise))
