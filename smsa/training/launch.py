"""A run of a script, from the lock on its output folder to its last file, in every process of a launch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import datasets
import torch
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from smsa.cli import parse, set_up_logging
from smsa.distributed import (
    FailedElsewhere,
    ProcessLost,
    is_first_of_machine,
    is_main,
    on_first,
    require_same,
)
from smsa.models.devices import describe_environment
from smsa.models.loading import hash_model_files
from smsa.training.checkpointing import Checkpoints, DamagedCheckpointError, sole_run
from smsa.training.resumable import ResumableTrainer
from smsa.training.settings import describe_settings
from smsa.training.signals import STOP, Stopped, end_process

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


def run_script(main: Callable[..., object], kinds: tuple, description: str) -> None:
    """Call `main` with what the command line gives to `kinds`, and end this process of the launch by its status."""
    STOP.listen()
    set_up_logging()
    try:
        main(*parse(*kinds, description=description))
    except SystemExit as ended:
        end_process(ended.code)
    end_process()


def find_checkpoints(options: dict, arguments: tuple, hashes: dict[str, str]) -> Checkpoints:
    """Get the checkpoints of a run, with all on which its result depends.

    Args:
        options: those of the script, by group.
        arguments: the objects that hold their values: the encoder's first, the training arguments last.
        hashes: sha256 of each file that the run reads, by what it is.
    """
    encoder_args, *_, training_args = arguments
    settings = describe_settings(options, arguments, hashes, hash_model_files(encoder_args.model_name_or_path))
    return Checkpoints(training_args.output_dir, settings, describe_environment(training_args.device.type))


def run_whole(
    output_dir: str, resume: str | None, prepare: Callable[[], tuple], finish: Callable[..., _T]
) -> _T | None:
    """Train, or go on, and let `finish` leave the result; every process calls it.

    Args:
        output_dir: where the run has its files, and nothing else has.
        resume: `auto` to go on from the newest checkpoint, None to start anew.
        prepare: gets the trainer, and after it what else `finish` needs; writes nothing.
        finish: called with what `prepare` got, after training.

    Returns:
        What `finish` returns; None where the run was finished already.

    Raises:
        SystemExit: with status 1 and the reason, if what `prepare` reads or the output folder cannot be used; with 128
            and the number of the signal when asked to stop, after a checkpoint.
    """
    if not is_main():
        datasets.disable_progress_bars()
    try:
        with sole_run(output_dir, resume=resume is not None):
            try:
                trainer, *rest = prepare()
                require_same(trainer.checkpoints.settings)
                checkpoint, is_finished = on_first(lambda: find_start(trainer))
            except (ValueError, OSError) as error:
                raise SystemExit(f"error: {error}" if is_first_of_machine() else 1) from error  # in all processes alike
            if is_finished:
                logger.info("%s is finished: nothing to do.", output_dir)
                return None
            trainer.train(resume_from_checkpoint=checkpoint)
            return finish(trainer, *rest)
    except Stopped:
        logger.info("\nStopped; the same command with --resume auto goes on from the last checkpoint.")
        raise
    except ProcessLost as error:
        raise SystemExit(f"error: {error}") from error
    except FailedElsewhere as error:
        raise SystemExit(1) from error
    except (OSError, FloatingPointError, DamagedCheckpointError) as error:
        is_said = getattr(error, "is_of_all", False) and not is_first_of_machine()
        raise SystemExit(1 if is_said else f"error: {error}") from error
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        if "out of memory" not in str(error):
            raise
        raise SystemExit(
            f"error: {str(error).splitlines()[0]} A lower --per_device_train_batch_size with as much more "
            "--gradient_accumulation_steps is the same recipe, in a new --output_dir. Where --fast_kernels is on, its "
            "steps take less memory with --fast_kernels false --allow_changes fast_kernels --resume auto."
        ) from error


def find_start(trainer: ResumableTrainer) -> tuple[Path | None, bool]:
    """Get the checkpoint to go on from, if any, and whether nothing is left to do; refuses a disk that is too small."""
    checkpoint, is_finished = trainer.checkpoints.find_start(trainer.args.allowed_changes, trainer.args.changeable)
    if checkpoint is not None:
        trainer.require_resumable(TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)))
    if not is_finished:
        trainer.require_space()
    return checkpoint, is_finished
