"""In a process of its own: open one file, answer a few times, and print the most memory that it took. Without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path


def main(text: str) -> None:
    """`text` is JSON: `path` of an ONNX file ("" for none at all), `shape` of a batch."""
    import numpy as np
    import onnxruntime

    config = json.loads(text)
    x = np.zeros(config["shape"], dtype=np.float32)
    if config["path"]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(config["path"], options, providers=["CPUExecutionProvider"])
        for _ in range(3):
            session.run(None, {session.get_inputs()[0].name: x})
    print(json.dumps(held_bytes()))


def held_bytes() -> int:
    """The most memory that this process has held. `ru_maxrss` would do on macOS only: on Linux a child inherits its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) * 1024
    import resource  # not on Windows, where this measurement cannot be made

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
