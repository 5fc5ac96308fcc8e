"""Where data lie on this machine, and how to write there so that a killed run leaves nothing that a later run trusts.

`$COURSE_DATA` is only read. Everything this package writes goes under `cache_folder()`, first under a temporary name
and then renamed: a rename happens completely or not at all.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from course_utils.datasets.dataset import DataCorrupt

MARKER = ".complete"
PARTIAL = ".partial-"
DIGEST = "sha256"  # name of the member of a cached .npz that holds the checksum of all the others


def cache_folder() -> Path:
    """The folder to write to: `$COURSE_CACHE`, or `data/cache` of the checkout, or `~/.cache/course_utils`."""
    if os.environ.get("COURSE_CACHE"):
        return Path(os.environ["COURSE_CACHE"]).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "data").is_dir():
        return checkout / "data" / "cache"
    return Path.home() / ".cache" / "course_utils"


def data_folders() -> list[Path]:
    """Folders searched for data sets, in order: `$COURSE_DATA` (only read), then the cache.

    Raises FileNotFoundError if `$COURSE_DATA` names a folder that does not exist: a typo must not fall back silently.
    """
    folders = [cache_folder()]
    if os.environ.get("COURSE_DATA"):
        data = Path(os.environ["COURSE_DATA"]).expanduser()
        if not data.is_dir():
            raise FileNotFoundError(
                f"COURSE_DATA={data} is not a folder; set it to the folder that holds the data sets, or unset it"
            )
        folders.insert(0, data)
    return folders


def offline() -> bool:
    """True when `$COURSE_OFFLINE` forbids downloads (any value but an empty one, "0", "false" or "no")."""
    return os.environ.get("COURSE_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def fingerprint(paths: list[Path]) -> str:
    """Short text that changes when one of the files or folders is replaced (path, size and time of change)."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        size = 0 if path.is_dir() else status.st_size  # a folder's size depends on the file system
        digest.update(f"{path.resolve()}|{size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


# --- arrays ---------------------------------------------------------------------------------------------------------


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to `path` (.npz, uncompressed) with their checksum, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            np.savez(file, **arrays, **{DIGEST: _digest(arrays)})  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote. Raises DataCorrupt if a single byte of an array differs."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        expected = arrays.pop(DIGEST)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataCorrupt(f"{path} is not a complete cache file ({error}); delete it, it will be made again") from error
    if not np.array_equal(_digest(arrays), expected):
        raise DataCorrupt(f"{path} does not match its own checksum; delete it, it will be made again")
    return arrays


def cached_arrays(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays kept under `key`, or `make()`, kept for the next time.

    A damaged cache file is made again, with a warning. A cache that cannot be written to costs time, not the lesson.
    """
    path = cache_folder() / "arrays" / f"{key}.npz"
    if path.is_file():
        try:
            return load_arrays(path)
        except DataCorrupt as error:
            warnings.warn(f"{error} (making it again now)", RuntimeWarning, stacklevel=2)
    arrays = make()
    try:
        save_arrays(path, arrays)
    except OSError as error:
        warnings.warn(f"cannot keep {path} ({error}); the next load will be slow again", RuntimeWarning, stacklevel=2)
    return arrays


def _digest(arrays: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}|{array.dtype.str}|{array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return np.frombuffer(digest.digest(), dtype=np.uint8)


# --- folders --------------------------------------------------------------------------------------------------------


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target`, with a completion marker, when the block ends without an error.

    A `target` without the marker is what an older or killed program left: it is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent)
    temporary = _temporary(target)
    temporary.mkdir()
    try:
        yield temporary
        (temporary / MARKER).write_text("complete\n", encoding="utf-8")
        if is_complete(target):  # another process was faster: both folders hold the same
            return
        if target.exists():
            shutil.rmtree(target)
        try:
            os.replace(temporary, target)
        except OSError:  # it was faster only just now
            if not is_complete(target):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """True if `new_folder` finished this folder."""
    return (folder / MARKER).is_file()


def _temporary(target: Path) -> Path:
    """A name beside `target` that no other process uses. (`tempfile` would make it unreadable for classmates.)"""
    return target.with_name(f"{target.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")


def _remove_leftovers(folder: Path, older_than: float = 24 * 3600.0) -> None:
    """Delete what killed runs left in `folder`; young leftovers may belong to a run that is still at work."""
    for path in folder.glob(f"*{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > older_than:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def unpack_tar(archive: Path, folder: Path) -> None:
    """Unpack a .tar.* archive into `folder`, files and folders only, nothing outside of it.

    Raises DataCorrupt for a damaged or truncated archive, a link, or a member that would land outside `folder`.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise DataCorrupt(
                        f"{archive} holds {member.name!r}, which is a link, a device or outside the archive's folder; "
                        "expected plain files and folders: get the archive again from its publisher"
                    )
                path = folder.joinpath(*name.parts)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # isfile() is true
                data = content.read()
                if len(data) != member.size:
                    raise EOFError(f"{member.name} is cut short")
                path.write_bytes(data)
            _check_end(tar)
    except DataCorrupt:
        raise
    except OSError as error:
        if error.errno is not None:  # a full disk or a missing permission is not the archive's fault
            raise
        raise _broken_archive(archive, error) from error
    except Exception as error:  # lzma, gzip, zlib and tarfile each have exceptions of their own
        raise _broken_archive(archive, error) from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Read what follows the last member. tarfile takes a damaged header in the middle for the end of the archive.

    Past its first end block (512 zeros, already read) a whole archive holds zeros only, and reading them to the end
    lets gzip, bz2 and xz compare their checksum.
    """
    assert tar.fileobj is not None  # it was opened from a file
    length = 0
    while block := tar.fileobj.read(2**20):
        length += len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError("a damaged header in the middle")
    if not length:
        raise EOFError("the end mark is missing")


def _broken_archive(archive: Path, error: Exception) -> DataCorrupt:
    return DataCorrupt(
        f"{archive} ({archive.stat().st_size:,} bytes) is damaged or incomplete ({type(error).__name__}: {error}); "
        "expected a whole .tar archive: delete it and get it again"
    )
