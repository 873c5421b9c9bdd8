"""Checkpoints that are whole or absent: they are written aside, hashed, then renamed. A folder holds one run.

OUTPUT/checkpoint-<step>/manifest.json   sha256 of each file, and the settings of the run
OUTPUT/damaged-checkpoint-<step>/        a checkpoint that differs from its manifest; smsa/files.py has the other names
"""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import sort_checkpoints

from smsa.errors import UserError
from smsa.files import LOCK, RUN_RECORD, STAGING, hash_file, make_readable, require_empty, write_json
from smsa.runtime import describe_environment, describe_hardware, describe_versions, on_main, rank, take_lock

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

# Settings that may change within a run. Others would have no effect, or would mix two runs: a loss cannot be compared
# with an earlier F1, and epochs trained without class weights stay so.
CHANGEABLE = frozenset(
    "num_train_epochs max_steps early_stopping_patience max_grad_norm per_device_eval_batch_size evaluate_every "
    "fast_kernels".split()
)


def commit(staging: Path, target: Path, **described: object) -> None:
    """Add a manifest, of the files and of `described`, to a finished folder, and rename the folder to `target`."""
    paths = sorted(staging.iterdir())
    for path in paths:
        make_readable(path)
    with ThreadPoolExecutor() as pool:  # hashing a large encoder takes seconds
        files = dict(zip((path.name for path in paths), pool.map(hash_file, paths), strict=True))
    write_json({**described, "files": files}, staging / MANIFEST)
    shutil.rmtree(target, ignore_errors=True)  # from an earlier training in this folder
    os.rename(staging, target)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    paths = map(Path, reversed(sort_checkpoints(str(output_dir))))
    return [path for path in paths if path.name.rpartition("-")[2].isdecimal()]  # skips checkpoint-10-backup


def verify(checkpoint: Path) -> dict:
    """Compare all files of a checkpoint with its manifest, and return the manifest.

    Raises:
        UserError: naming the first file that differs or cannot be read.
    """
    name = MANIFEST
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        for name, sha256 in manifest["files"].items():
            if hash_file(checkpoint / name) != sha256:
                raise ValueError("its sha256 has changed")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{checkpoint.name}/{name} is not what was written: {error}") from error
    return manifest


def find_newest(output_dir: Path) -> Path | None:
    """Return the newest checkpoint that is whole and whose best checkpoint is whole; None if there are none at all.

    Newer, damaged checkpoints are renamed to `damaged-checkpoint-<step>`. Older ones are not touched.

    Raises:
        UserError: if there are checkpoints, but none is whole.
    """
    problems = {}
    for path in list_checkpoints(output_dir):
        try:
            manifest = verify(path)
            if manifest["best_step"] not in (None, manifest["step"]):
                verify(output_dir / f"checkpoint-{manifest['best_step']}")
        except UserError as error:
            problems[path] = error
            continue
        for damaged, problem in problems.items():
            aside = output_dir / f"damaged-{damaged.name}"
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(damaged, aside)
            logger.warning("%s cannot be used and is now %s: %s.", damaged.name, aside.name, problem)
        return path
    if problems:
        raise UserError(
            f"{output_dir} holds no checkpoint that is whole ({'; '.join(map(str, problems.values()))}). Put the files "
            "back if you can, or start anew in another --output_dir."
        )
    return None


def find_start(args: TrainingArguments, settings: dict) -> tuple[Path | None, bool]:
    """Return the checkpoint to resume from (None: start at step 0), and whether the run is already finished.

    Every rank calls it. `args.resume` says whether to look for a checkpoint; `settings` are those of ResumableTrainer.

    Raises:
        UserError: if there are checkpoints, but none is whole; if there is none, but the folder holds something else;
            for settings that differ between the ranks, or cannot change within a run.
    """
    if differ := _find_changed(on_main(lambda: settings), settings):  # for example, other files on another machine
        raise UserError(f"The ranks have different settings. On the main process, {'; '.join(differ.values())} here.")
    if not args.resume:
        return None, False
    return on_main(lambda: _look_for_start(Path(args.output_dir), settings, describe_environment(args.device.type)))


def _look_for_start(output_dir: Path, settings: dict, environment: dict) -> tuple[Path | None, bool]:
    record_path = output_dir / RUN_RECORD
    if record_path.is_file():
        record = json.loads(record_path.read_bytes())
        missing = [name for name in record["outputs"] if not (output_dir / name).is_file()]
        if not _find_changed(record["settings"], settings) and not missing:
            logger.info("%s is finished: nothing to do.", output_dir)
            return None, True
        if missing:
            logger.warning("%s has lost %s: the result is written again.", output_dir, ", ".join(missing))
    newest = find_newest(output_dir)
    if newest is None:
        ours = (STAGING, LOCK, "runs")  # runs/ is TensorBoard's
        require_empty(output_dir, "there is no checkpoint to resume from, so choose another --output_dir", ours)
        return None, False
    manifest = json.loads((newest / MANIFEST).read_bytes())
    changed = _find_changed(manifest["settings"], settings)
    if refused := {name: said for name, said in changed.items() if name not in CHANGEABLE}:
        raise UserError(
            f"{newest} was made with other settings: {'; '.join(refused.values())}. Give them as before, or start a "
            "new run in another --output_dir."
        )
    if changed:
        logger.info("Changed within the run: %s", "; ".join(changed.values()))
    if moved := _find_changed(manifest["environment"], environment):
        said = "; ".join(moved.values())
        logger.warning("The last bits of the result may differ from an uninterrupted run's: %s.", said)
    logger.info("Resumes from %s", newest)
    return newest, False


def _find_changed(before: dict, now: dict) -> dict[str, str]:
    """Return words for a message about each value that differs, by name."""
    names = sorted(before.keys() | now.keys())
    return {name: f"{name} was {a}, is {b}" for name in names if (a := before.get(name)) != (b := now.get(name))}


@contextmanager
def sole_run(output_dir: Path, resume: bool) -> Iterator[None]:
    """Lock an output folder for this run until it ends; every rank of a launch enters.

    Raises:
        UserError: if another run uses the folder, if it is not empty (unless `resume`), or if it is not on a disk that
            all ranks share.
    """
    lock = FileLock(output_dir / LOCK)
    is_new = not output_dir.exists()

    def take() -> None:
        if not resume:
            require_empty(output_dir, "resume with --resume auto, or choose another --output_dir", (STAGING, LOCK))
        output_dir.mkdir(parents=True, exist_ok=True)
        take_lock(lock, 0, f"{output_dir} is in use by another run: wait for it, stop it, or choose another folder.")
        shutil.rmtree(output_dir / STAGING, ignore_errors=True)  # left by a killed run; it may fill the disk

    on_main(take)
    try:
        if not (output_dir / LOCK).is_file():
            raise UserError(f"Not every rank can see {output_dir}: choose a folder on a disk that all machines share.")
        yield
    finally:
        with suppress(OSError):  # an error for a disk that is gone or read-only was raised before
            if rank() == 0:
                with suppress(PermissionError):  # Windows cannot remove an open file
                    (output_dir / LOCK).unlink(missing_ok=True)
                lock.release()
                if is_new and not any(output_dir.iterdir()):
                    output_dir.rmdir()


def describe_run(trainer: Trainer, arguments: tuple) -> dict[str, object]:
    """Return the record of a run as plain values: resolved options, precision, versions, hardware and commit."""
    root = Path(__file__).parents[2]
    is_checkout = (root / ".git").exists() and shutil.which("git")
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    git_commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() if is_checkout else None
    precision, history = trainer.accelerator.mixed_precision, trainer.state.log_history
    # of the whole run, resumes included; pre-training logs no epochs, so there only of the last part
    seconds = sum(entry.get("epoch_runtime", 0) for entry in history)
    seconds = seconds or max(entry.get("train_runtime", 0) for entry in history)
    return {
        "arguments": {
            # Trainer's arguments have to_dict, which masks tokens
            type(group).__name__: group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
            for group in arguments
        },
        "settings": trainer.settings,
        "seed": trainer.args.seed,
        "model_commit": getattr(trainer.model.config, "_commit_hash", None),  # None unless it came from the Hub
        "precision_in_effect": "fp32" if precision == "no" else precision,
        "world_size": trainer.args.world_size,
        "n_parameters": trainer.model.num_parameters(),
        "train_runtime_seconds": seconds,
        "versions": describe_versions(),
        "hardware": describe_hardware(trainer.args.device.type),
        "git_commit": git_commit or None,  # of the checkout that this package runs from, `-dirty` if changed
    }
