"""A checkpoint is whole or absent: written aside, hashed, put on the disk, and only then given its name.

OUTPUT/checkpoint-<step>/manifest.json  size and sha256 of each file, the settings, and what it was made with
OUTPUT/damaged-checkpoint-<step>/       one that is not what its manifest says, kept out of the way
OUTPUT/run.lock, OUTPUT/running.json    the run that writes here now
OUTPUT/.staging/                        what is being written
OUTPUT/run.json                         the run is finished
"""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from smsa.distributed import noticing_loss, on_first, require_shared
from smsa.errors import UserError
from smsa.files import (
    STAGING,
    hash_file,
    naming,
    remove_folder,
    remove_leftovers,
    sync_files,
    sync_folder,
    write_whole,
)
from smsa.training.settings import find_changed, require_same_settings

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RUN_RECORD = "run.json"  # written last: with it, the run is finished
N_KEPT = 2  # the newest, and one to fall back on; the best epoch of each is kept besides
N_ON_DISK = 4  # at the most at a time: two, the best of both (which is then a third), and one being written
OWNER_SECONDS = 5  # that a run which has just taken the lock has to say who it is
_PREFIX, _DAMAGED, _LOCK, _OWNER = "checkpoint-", "damaged-", "run.lock", "running.json"
_OF_NO_RUN = {_LOCK, _OWNER, STAGING}  # what a run leaves that was killed before it had anything to keep
_WAY_OUT = "go on with it by --resume auto, or choose another --output_dir"


class DamagedCheckpointError(UserError):
    """A checkpoint is not what was written, or none of a run is whole."""


class NotWrittenError(OSError):
    """Something could not be written; what was there before is as it was."""


class Checkpoints:
    """The checkpoints of one run in its output folder; one process at a time may write them.

    Args:
        output_dir: the folder.
        settings: plain values on which the result of the run depends, by name.
        environment: plain values that may change within a run but can move the last bits of its result.
    """

    def __init__(
        self,
        output_dir: str | Path,
        settings: dict | None = None,
        environment: dict | None = None,
    ):
        self.output_dir = Path(output_dir)
        self.settings, self.environment = settings or {}, environment or {}

    def path_of(self, step: int) -> Path:
        """Get the folder of the checkpoint that was, or will be, taken after `step` steps."""
        return self.output_dir / f"{_PREFIX}{step}"

    def commit(self, staged: Path, step: int, best_step: int | None, n_processes: int) -> None:
        """Let a folder that has been written appear as the checkpoint of `step`; then remove those no longer needed.

        Args:
            staged: the folder, on the same disk.
            step: optimiser steps that were made.
            best_step: step of the checkpoint that is best so far; None if that does not matter.
            n_processes: whose random states must be there.
        """
        paths = sorted(staged.iterdir())
        with ThreadPoolExecutor() as pool:  # a large encoder's take seconds
            synced = pool.submit(sync_files, staged)
            hashes = dict(zip((path.name for path in paths), pool.map(hash_file, paths), strict=True))
            synced.result()
        n_states = sum(name.startswith("rng_state") for name in hashes)
        if n_states != n_processes:
            raise OSError(
                f"{n_states} of {n_processes} processes wrote to {staged}: output_dir must be on a disk all share."
            )
        manifest = {
            "step": step,
            "best_step": best_step,
            "n_processes": n_processes,
            "files": {name: {"bytes": size, "sha256": digest} for name, (digest, size) in hashes.items()},
            "settings": self.settings,
            "environment": self.environment,
        }
        write_whole(staged / MANIFEST, _render(manifest))
        os.rename(staged, self.path_of(step))
        sync_folder(self.output_dir)
        self.rotate()

    def rotate(self, n_kept: int = N_KEPT) -> None:
        """Remove all but the newest `n_kept` checkpoints and the best one as each of these knows it."""
        steps = self._steps()
        needed = set(steps[:n_kept])
        try:
            needed |= {_read_manifest(self.path_of(step))["best_step"] for step in steps[:n_kept]}
        except DamagedCheckpointError as error:
            logger.warning("No checkpoint was removed: %s.", error)
            return
        for step in steps:
            if step not in needed:
                remove_folder(self.path_of(step))

    def find_start(self, allowed: tuple[str, ...] = (), changeable: tuple[str, ...] = ()) -> tuple[Path | None, bool]:
        """Get the checkpoint to go on from, None to start at the beginning; and whether the run is finished already.

        Args:
            allowed, changeable: as in `require_same_settings`.

        Raises:
            DamagedCheckpointError: if there are checkpoints, but none is whole.
            FileExistsError: if there is none, but the folder holds something else.
            OtherSettingsError: as `require_same_settings`.
        """
        record = self._read_record()
        if record is not None and not find_changed(record["settings"], self.settings):
            missing = [name for name in record["outputs"] if not (self.output_dir / name).is_file()]
            if not missing:
                return None, True
            logger.warning("%s has lost %s: the result is written again.", self.output_dir, ", ".join(missing))
        newest = self.choose_newest()
        if newest is None:
            require_empty(self.output_dir, "there is no checkpoint to go on from, so choose another --output_dir")
            return None, False
        manifest = _read_manifest(newest)
        require_same_settings(manifest["settings"], self.settings, allowed, changeable)
        before = manifest["environment"]
        moved = [name for name, value in self.environment.items() if before.get(name) != value]
        if moved:
            listed = "; ".join(f"{name} was {before.get(name)}, is {self.environment[name]}" for name in moved)
            logger.warning("The last bits of the result may differ from those of an undisturbed run: %s.", listed)
        logger.info("Goes on from %s", newest)
        return newest, False

    def _read_record(self) -> dict | None:
        """What a finished run has left to say; None where none has."""
        path = self.output_dir / RUN_RECORD
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_bytes())
            return {"settings": dict(record["settings"]), "outputs": list(record["outputs"])}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is not what a finished run leaves: remove it, or start anew.") from error

    def choose_newest(self) -> Path | None:
        """Get the newest checkpoint that is whole, as is the best one it knows; None if there has never been one.

        Newer ones, and only they, are renamed to `damaged-checkpoint-<step>`; the log says what is wrong with each.

        Raises:
            DamagedCheckpointError: if there are checkpoints, but none is whole.
        """
        problems = {}
        for step in self._steps():
            path = self.path_of(step)
            try:
                best_step = verify(path)["best_step"]
                if best_step not in (None, step):
                    verify(self.path_of(best_step))
            except DamagedCheckpointError as error:
                problems[path] = error
                continue
            for damaged, problem in problems.items():
                aside = _free_name(self.output_dir / f"{_DAMAGED}{damaged.name}")
                os.rename(damaged, aside)
                logger.warning("%s cannot be used and is now %s: %s.", damaged.name, aside.name, problem)
            return path
        if not problems and not any(self.output_dir.glob(f"{_DAMAGED}*")):
            return None
        listed = (
            "; ".join(f"{path.name}: {problem}" for path, problem in problems.items()) or "those there were damaged"
        )
        raise DamagedCheckpointError(
            f"{self.output_dir} holds no checkpoint that is whole ({listed}). Put the files back if you can, or start "
            "anew in another --output_dir."
        )

    def require_none_after(self, step: int) -> None:
        """Refuse to train from `step` on beside checkpoints that are newer: they would win over those to come.

        Raises:
            FileExistsError: with the ways out.
        """
        newer = [self.path_of(other).name for other in self._steps() if other > step]
        if newer:
            raise FileExistsError(
                f"{self.output_dir} holds {', '.join(newer)}: go on from the newest with resume_from_checkpoint=True, "
                "choose another output_dir, or remove them."
            )

    def require_space(self, checkpoint_bytes: int, model_bytes: int) -> None:
        """Refuse to start a run that the disk cannot hold.

        Raises:
            NotWrittenError: with the bytes that are needed and free.
        """
        present = sum(file.stat().st_size for step in self._steps() for file in self.path_of(step).iterdir())
        needed = N_ON_DISK * checkpoint_bytes + model_bytes - present
        free = shutil.disk_usage(self.output_dir).free
        if free < needed:
            raise NotWrittenError(
                f"The disk of {self.output_dir} has {_in_megabytes(free)} free; the run needs {_in_megabytes(needed)} "
                f"({N_ON_DISK} checkpoints of {_in_megabytes(checkpoint_bytes)} and the model). Make space, or choose "
                "another --output_dir."
            )

    def _steps(self) -> list[int]:
        """Steps of the checkpoints, newest first."""
        names = [path.name.removeprefix(_PREFIX) for path in self.output_dir.glob(f"{_PREFIX}*")]
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def verify(checkpoint: Path) -> dict:
    """Get the manifest of a checkpoint whose files are all as they were written.

    Raises:
        DamagedCheckpointError: saying what is wrong with which file.
    """
    manifest = _read_manifest(checkpoint)
    for name, written in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise DamagedCheckpointError(f"{checkpoint.name}/{name} is missing")
        try:
            digest, size = hash_file(path)
        except OSError as error:
            raise DamagedCheckpointError(f"{checkpoint.name}/{name} cannot be read: {error}") from error
        if size != written["bytes"]:
            raise DamagedCheckpointError(f"{checkpoint.name}/{name} has {size:,} bytes, not {written['bytes']:,}")
        if digest != written["sha256"]:
            raise DamagedCheckpointError(f"{checkpoint.name}/{name} is not what was written (its sha256 differs)")
    return manifest


def _read_manifest(checkpoint: Path) -> dict:
    path = checkpoint / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        del manifest["sha256"]
        is_whole = content == _render(manifest)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{checkpoint.name}/{MANIFEST} is missing") from error
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise DamagedCheckpointError(f"{checkpoint.name}/{MANIFEST} is not what was written")
    return manifest


def _render(manifest: dict) -> bytes:
    """Get the bytes of a manifest, its own sha256 with it."""
    digest = sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps(manifest | {"sha256": digest}, indent=1).encode()


@contextmanager
def sole_run(output_dir: str | Path, resume: bool) -> Iterator[None]:
    """Keep an output folder for this run until it ends; every process of a launch enters.

    Raises:
        FileExistsError: if another run is at work there, or, unless `resume`, if the folder is not empty.
        FileNotFoundError: if the folder is not on a disk that all processes share.
    """
    lock = _RunLock(Path(output_dir))
    on_first(lambda: lock.take(resume))
    try:
        require_shared(lock.owner_path)
        yield
    finally:
        lock.release()


class _RunLock:
    """A lock of the system, which ends with the process that has it, and a file that says who that is."""

    def __init__(self, output_dir: Path):
        self.output_dir, self.owner_path = output_dir, output_dir / _OWNER
        self.lock = FileLock(output_dir / _LOCK)
        self.made_folder = False

    def take(self, resume: bool) -> None:
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise FileExistsError(f"{self.output_dir} is a file: choose another --output_dir.")
        self.made_folder = not self.output_dir.exists()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(blocking=False)
        except Timeout as error:
            raise FileExistsError(
                f"{self.output_dir} is in use by another run, {self._describe_owner(True)}. Wait for it, stop it, or "
                "choose another --output_dir."
            ) from error
        try:
            if not resume:
                require_empty(self.output_dir)
            if self.owner_path.exists():
                logger.info("The run before did not end by itself (%s); this one takes over.", self._describe_owner())
            remove_leftovers(self.output_dir)  # which may be what fills the disk
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            owner = {"pid": os.getpid(), "host": platform.node(), "started": started}
            with naming(self.owner_path):
                self.owner_path.write_text(json.dumps(owner), encoding="utf-8")
        except BaseException:
            self.release()
            raise

    def _describe_owner(self, may_just_have_started: bool = False) -> str:
        """Say who has the lock, or had it last; one that has just taken it gets a moment to write that down."""
        deadline = time.monotonic() + (OWNER_SECONDS if may_just_have_started else 0)
        while True:
            try:
                owner = json.loads(self.owner_path.read_bytes())
                if not may_just_have_started or owner["host"] != platform.node() or _is_alive(owner["pid"]):
                    return f"process {owner['pid']} on {owner['host']}, started {owner['started']}"
            except (OSError, ValueError, KeyError, TypeError):
                pass
            if time.monotonic() > deadline:
                return "which does not say who it is"
            time.sleep(0.05)

    def release(self) -> None:
        if not self.lock.is_locked:  # another process of the launch has it
            return
        with suppress(OSError):  # of a disk that is gone or can no longer be written, which has been said
            self.owner_path.unlink(missing_ok=True)
            (self.output_dir / _LOCK).unlink(missing_ok=True)
        self.lock.release()
        with suppress(OSError):
            if self.made_folder and not any(self.output_dir.iterdir()):
                self.output_dir.rmdir()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def require_empty(output_dir: str | Path, way_out: str = _WAY_OUT) -> None:
    """Refuse an output folder that holds anything but what a run leaves that had nothing to keep.

    Raises:
        FileExistsError: with the ways out.
    """
    output_dir = Path(output_dir)
    names = sorted({path.name for path in output_dir.iterdir()} - _OF_NO_RUN) if output_dir.exists() else []
    if names:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise FileExistsError(f"{output_dir} is not empty ({listed}): {way_out}.")


@contextmanager
def explain_failure(what: str, output_dir: Path) -> Iterator[None]:
    """Let errors of writing say what could not be written, and that nothing was lost.

    Raises:
        NotWrittenError: in place of the errors of torch and safetensors, which do not say that a disk is full.
        ProcessLost: if another process is gone.
    """
    try:
        with noticing_loss():
            yield
    except (OSError, RuntimeError, SafetensorError) as error:
        try:
            free = f"{_in_megabytes(shutil.disk_usage(output_dir).free)} free on its disk"
        except OSError:
            free = f"{output_dir} is gone"
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise NotWrittenError(
            f"{what} could not be written to {output_dir}: {reason} ({free}). What was there before is as it was: put "
            "the disk in order, and the same command with --resume auto goes on."
        ) from error


def _in_megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


def _free_name(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in ("", *(f".{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())
