"""Fashion-MNIST, 28x28 grey, ten kinds of clothing, read and downloaded through torchvision.

Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms, 2017. Data card: data/fashion_mnist.md.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

import numpy as np

from course_utils.datasets import cache
from course_utils.datasets.dataset import DataCorrupt, Dataset, Split, choose_groups, own_group

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
RAW = Path("FashionMNIST") / "raw"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
COUNTS = {"train": 60_000, "test": 10_000}
VALIDATION_FRACTION = 1 / 12  # 5,000 of the 60,000 training images


def find() -> Path | None:
    """Root folder (torchvision's `root`) that holds the unpacked files, or None. Packed files are unpacked first.

    Raises DataCorrupt for a packed file that is damaged, and when some of the four files are there and others not.
    """
    names = [name for pair in FILES.values() for name in pair]
    for folder in cache.data_folders():
        raw = folder / RAW
        if all((raw / name).is_file() for name in names):
            return folder
        packed = [raw / f"{name}.gz" for name in names]
        missing = [path.name for path in packed if not path.is_file()]
        if not missing:
            return _unpack(packed)
        if len(missing) < len(packed):
            raise DataCorrupt(
                f"{raw} lacks {', '.join(missing)}; expected four .gz files: "
                "delete the folder and run `course data get fashion_mnist`"
            )
    return None


def download() -> Path:
    """Fetch the four files from the publisher into the cache (torchvision checks their MD5 sums); returns the root."""
    from torchvision.datasets import FashionMNIST

    target = cache.cache_folder() / "downloads" / "fashion_mnist"
    if not cache.is_complete(target):
        with cache.new_folder(target) as folder:
            FashionMNIST(str(folder), train=True, download=True)
    return target


def found_download() -> Path | None:
    """Root folder of an earlier `download()`, or None."""
    target = cache.cache_folder() / "downloads" / "fashion_mnist"
    return target if cache.is_complete(target) else None


def load(root: Path, source: str) -> Dataset:
    """Images (1, 28, 28): 55,000 training, 5,000 validation (stratified, seeded) and 10,000 test images."""
    raw_files = [root / RAW / name for pair in FILES.values() for name in pair]
    key = f"fashion_mnist-v1-{cache.fingerprint(raw_files)}"
    arrays = cache.cached_arrays(key, lambda: _read(root))
    splits = {
        split: Split(arrays[f"{split}_x"], arrays[f"{split}_y"], own_group(arrays[f"{split}_x"], start))
        for split, start in (("train", 0), ("test", COUNTS["train"]))
    }
    train = splits["train"]
    in_validation = choose_groups(train.y, train.group, VALIDATION_FRACTION, seed=0)
    return Dataset(
        name="fashion_mnist",
        train=train.select(~in_validation),
        validation=train.select(in_validation),
        test=splits["test"],
        classes=CLASSES,
        source=source,
    )


def _unpack(packed: list[Path]) -> Path:
    """Unpack the .gz files into the cache, once; returns the root folder torchvision wants."""
    root = cache.cache_folder() / "unpacked" / f"fashion_mnist-{cache.fingerprint(packed)}"
    if cache.is_complete(root):
        return root
    with cache.new_folder(root) as folder:
        (folder / RAW).mkdir(parents=True)
        for path in packed:
            try:
                with gzip.open(path) as source, open(folder / RAW / path.stem, "wb") as target:
                    shutil.copyfileobj(source, target)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataCorrupt(
                    f"{path} ({path.stat().st_size:,} bytes) is damaged or incomplete ({error}); "
                    "delete it and run `course data get fashion_mnist`"
                ) from error
    return root


def _read(root: Path) -> dict[str, np.ndarray]:
    from torchvision.datasets import FashionMNIST

    arrays = {}
    for split, names in FILES.items():
        files = " and ".join(str(root / RAW / name) for name in names)
        cure = "delete the folder and run `course data get fashion_mnist`"
        try:
            dataset = FashionMNIST(str(root), train=split == "train", download=False)
            x, y = dataset.data.numpy(), dataset.targets.numpy()
        except Exception as error:  # torchvision asserts, indexes and reshapes: a bad file can fail in many ways
            raise DataCorrupt(f"cannot read {files} ({type(error).__name__}: {error}); {cure}") from error
        expected = (COUNTS[split], 28, 28)
        if x.shape != expected or y.shape != expected[:1]:
            raise DataCorrupt(f"{files} hold images {x.shape} and labels {y.shape}; expected images {expected}; {cure}")
        if y.min() < 0 or y.max() >= len(CLASSES):
            raise DataCorrupt(f"{files}: labels run from {y.min()} to {y.max()}, expected 0 to 9; {cure}")
        arrays[f"{split}_x"] = x[:, None].astype(np.uint8)  # (N, 1, 28, 28)
        arrays[f"{split}_y"] = y.astype(np.int64)
    return arrays
