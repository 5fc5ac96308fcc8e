"""Files in ONNX Runtime: open, answer, look at what it really runs, and its own quantization after training."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from course_utils.compression.export import INPUT
from course_utils.compression.preparation import images_of

INTEGER_NODES = (
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
    "QGemm",
    "MatMulIntegerToFloat",
    "QLinearGemm",
)


class Deployed:
    """A file as ONNX Runtime runs it on the CPU. Called like a network: floats `(batch, C, H, W)` in, logits out.

    Args:
        path: of an ONNX file.
        threads: that one image may use.
        optimized: also write the graph as it is after ONNX Runtime's own changes; see `nodes_run`.
        profile: write the time of every node to a file of this name, with an ending; see `profiling.node_times`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an ONNX file.
    """

    def __init__(
        self, path: str | Path, threads: int = 1, optimized: str | Path | None = None, profile: str | Path | None = None
    ):
        import onnxruntime

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {path}; write it with `export_onnx`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "INVALID_PROTOBUF" not in str(error):
                raise
            raise ValueError(f"{path} is not an ONNX file; write one with `export_onnx`") from error
        self.input = self.session.get_inputs()[0].name

    def __call__(self, x: Tensor | np.ndarray) -> np.ndarray:
        images = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        return self.session.run(None, {self.input: np.ascontiguousarray(images, dtype=np.float32)})[0]

    def accuracy(self, batches: Iterable[Any]) -> float:
        """Share of right answers over batches of (images, labels), between 0 and 1."""
        right = total = 0
        for batch in batches:
            labels = batch["y"] if isinstance(batch, dict) else batch[1]
            right += int((self(images_of(batch)).argmax(axis=1) == np.asarray(labels)).sum())
            total += len(labels)
        if total == 0:
            raise ValueError("no image to score; give a loader of (images, labels)")
        return right / total


def nodes_run(path: str | Path) -> Counter[str]:
    """Kind -> number of the nodes that ONNX Runtime runs: after its optimizer, on this machine.

    A file full of QuantizeLinear can still run in floats. `QLinearConv`, `QGemm` and the others in `INTEGER_NODES`
    are what integers look like.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        Deployed(path, optimized=optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def post_training_quantization(source: str | Path, target: str | Path, batches: Iterable[Any]) -> Path:
    """ONNX Runtime's own static quantization of a 32-bit file: the library's path, without training.

    Unsigned activations and signed weights per channel, the pair that CPUs multiply fastest.

    Args:
        batches: representative images, alone or with labels.

    Built in lesson 07.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[Any] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.images, None)
            return None if batch is None else {INPUT: images_of(batch).float().cpu().numpy()}

    quantize_static(
        str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return Path(target)
