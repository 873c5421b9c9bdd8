"""A file or a folder is whole or absent: written beside its place, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from smsa.errors import UserError

STAGING = ".staging"  # what is being written; no pattern of checkpoints or outputs matches it
LOCK = "run.lock"  # a run is at work here
RUN_RECORD = "run.json"  # written last: with it, a run is finished


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(values: object, path: str | Path) -> None:
    """Write plain values as indented UTF-8 JSON: a file that is there with all of its bytes, or not at all."""
    unfinished = Path(f"{path}.tmp")
    with naming(Path(path)):
        try:
            unfinished.write_bytes(json.dumps(values, indent=2, ensure_ascii=False, default=str).encode() + b"\n")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def update_json(path: Path, **changes: object) -> None:
    """Change some values of a JSON file."""
    write_json(json.loads(path.read_bytes()) | changes, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of writing name the path, which the system does not where the disk is full.

    Raises:
        OSError: in place of the one without a name.
        UserError: in place of what torch and safetensors raise where a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        if not isinstance(error, SafetensorError) and "inline_container" not in reason:  # torch's writer
            raise
        raise UserError(f"{path} could not be written, perhaps for want of space: {reason}") from error


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Lend a new, empty folder inside `folder`; it is gone at the end, for after a failure it may fill the disk."""
    staging = folder / STAGING
    with naming(staging):
        shutil.rmtree(staging, ignore_errors=True)  # what a killed process was writing
        staging.mkdir()  # and not its parents: a folder that is gone is no place to write to
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def make_readable(path: Path) -> None:
    """Give a file the mode of any new file; safetensors lets only its owner read one."""
    umask = os.umask(0)
    os.umask(umask)
    with suppress(OSError):  # the disk may have no modes, as those of clouds and of Windows
        path.chmod(0o666 & ~umask)


def publish(staging: Path, folder: Path, last: str) -> None:
    """Move what has been written from `staging` to `folder`, synced; the file called `last` says that all is there."""
    for path in staging.rglob("*"):
        if path.is_file():
            make_readable(path)
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
    (folder / last).unlink(missing_ok=True)  # from here on, what stood there before is no longer whole
    for path in sorted(staging.iterdir(), key=lambda path: path.name == last):
        os.replace(path, folder / path.name)


def require_empty(folder: str | Path, way_out: str, ours: tuple[str, ...] = (STAGING,)) -> None:
    """Refuse an output folder that holds anything but `ours`, which a run leaves that was killed at its start.

    Raises:
        UserError: with the way out.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: {way_out}.")
    names = sorted({path.name for path in folder.iterdir()} - {*ours}) if folder.exists() else []
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{folder} is not empty ({listed}): {way_out}.")
