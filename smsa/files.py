"""Write files and folders that are whole or absent: beside their place first, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from smsa.errors import UserError

STAGING = ".staging"  # files being written; no pattern for checkpoints or outputs matches it
LOCK = "run.lock"  # present while a run uses the folder
RUN_RECORD = "run.json"  # written last: it marks a finished run


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(values: object, path: str | Path) -> None:
    """Write plain values as indented UTF-8 JSON; the file is whole or absent."""
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
    """Add the path to write errors; the system does not name it when the disk is full.

    Raises:
        OSError: with the path, in place of one without.
        UserError: in place of what torch and safetensors raise if they cannot write a file.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        if not isinstance(error, SafetensorError) and "inline_container" not in reason:  # torch's writer
            raise
        raise UserError(f"{path} could not be written, perhaps because the disk is full: {reason}") from error


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Make an empty folder inside `folder`, and remove it at the end: after a failure it may fill the disk."""
    staging = folder / STAGING
    with naming(staging):
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
        staging.mkdir()  # not its parents: fail if `folder` is gone
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def make_readable(path: Path) -> None:
    """Give a file the usual mode of new files; safetensors lets only the owner read its files."""
    umask = os.umask(0)
    os.umask(umask)
    with suppress(OSError):  # some disks have no modes, as on clouds and Windows
        path.chmod(0o666 & ~umask)


def publish(staging: Path, folder: Path, last: str) -> None:
    """Sync the files in `staging` and move them to `folder`; the file `last` follows, and shows that all are there."""
    for path in staging.rglob("*"):
        if path.is_file():
            make_readable(path)
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
    (folder / last).unlink(missing_ok=True)  # from here on, the folder's earlier content is incomplete
    for path in sorted(staging.iterdir(), key=lambda path: path.name == last):
        os.replace(path, folder / path.name)


def require_empty(folder: str | Path, way_out: str, ours: tuple[str, ...] = (STAGING,)) -> None:
    """Refuse an output folder that holds anything but `ours`, the files of a run that was killed at its start.

    Raises:
        UserError: with `way_out`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: {way_out}.")
    names = sorted({path.name for path in folder.iterdir()} - {*ours}) if folder.exists() else []
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{folder} is not empty ({listed}): {way_out}.")
