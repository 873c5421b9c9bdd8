"""A file or a folder is whole or absent: written beside its place, synced to the disk, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGING = ".staging"  # what is being written; no pattern of checkpoints or outputs matches it
_REMOVED = ".removed-"


def hash_file(path: Path) -> tuple[str, int]:
    """Get sha256 and size."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def dump_json(values: dict) -> bytes:
    """Render plain values as indented UTF-8 JSON."""
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"


def write_json(values: dict, path: str | Path) -> None:
    """Write plain values as `dump_json` renders them."""
    Path(path).write_bytes(dump_json(values))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of writing say the path, which the system leaves out where the disk is full."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there with all of its bytes, or not at all, whatever happens."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            with staged.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """See to it that a rename is on the disk."""
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stage(folder: Path) -> Path:
    """Get a new, empty folder inside `folder`, for files to be written before they are moved to their place."""
    staging = folder / STAGING
    with naming(staging):
        if staging.exists():
            shutil.rmtree(staging)
        staging.mkdir()
    return staging


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Lend a folder as `stage` makes it; it is gone at the end, for after a failure it may be what fills the disk."""
    staging = stage(folder)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """See to it that all in a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        else:
            sync_folder(path)
    sync_folder(folder)


def publish(staging: Path, folder: Path, last: str) -> None:
    """Move what has been written from `staging` to `folder`; the file called `last` says that all is there."""
    _make_readable(staging)
    sync_files(staging)
    (folder / last).unlink(missing_ok=True)  # from here on, what stood there before is no longer whole
    for path in sorted(staging.iterdir(), key=lambda path: path.name == last):
        os.replace(path, folder / path.name)
    sync_folder(folder)


def _make_readable(folder: Path) -> None:
    """Give files the mode of new ones: safetensors lets its owner alone read a file."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def replace_files(staging: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Put files that have been written to `staging` in place of those of `folder`, one by one in this order."""
    _make_readable(staging)
    sync_files(staging)
    for name in names:
        os.replace(staging / name, folder / name)
    sync_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that at no moment half of it is to be seen."""
    doomed = folder.with_name(f"{_REMOVED}{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed was writing or removing in `folder`."""
    for leftover in (folder / STAGING, *folder.glob(f"{_REMOVED}*")):
        shutil.rmtree(leftover, ignore_errors=True)
