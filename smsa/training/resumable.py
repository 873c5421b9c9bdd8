"""A Trainer that may be killed at any moment: whole checkpoints, an exact resume, and an end at a step when asked.

All that smsa changes in methods that are private to Trainer 5.23 stands here, each with its reason.
tests/test_resumable.py names the one that an upgrade has moved.
"""

import logging
import math
import pickle
import shutil
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState

from smsa.distributed import noticing_loss, on_first, wait_for_all
from smsa.errors import UserError
from smsa.files import stage
from smsa.models.devices import avoid_compiled_attention, keep_freed_memory
from smsa.models.loading import save_tokenizer
from smsa.training.callbacks import EarlyStopping, EndAtStep, OwnDropout, Stopwatch
from smsa.training.checkpointing import (
    Checkpoints,
    DamagedCheckpointError,
    explain_failure,
    verify,
)
from smsa.training.collation import (
    LengthGroupedSampler,
    LengthOrder,
    QuickPadding,
    QuickRows,
    count_pieces,
)
from smsa.training.cuda_graphs import StepRecorder
from smsa.training.ema import AveragedAdam
from smsa.training.signals import STOP

logger = logging.getLogger(__name__)

IGNORED = -100  # torch's cross entropy, and Trainer's count of labels, pass this one over


class ResumableTrainer(Trainer):
    """Trainer whose run, ended anyhow and gone on with, has the result of one that was never disturbed.

    To the bit on CPUs with the same number of threads, as tests/test_kills.py holds.

    Args:
        *args, **kwargs: passed to Trainer.
        checkpoints: where they are kept; None stands for `args.output_dir`, with no settings to compare.

    Raises:
        ValueError: for an argument of Trainer's that would have no effect.
    """

    # compute_loss divides by the labels of the whole step itself, which Trainer is to count for it (in __init__). Left
    # to guess, Trainer 5.x takes a BERT for a model that does, and multiplies its plain mean by the batches accumulated
    # and by the processes (transformers #47688).
    loss_is_scaled_for_ga = True

    def __init__(self, *args, checkpoints: Checkpoints | None = None, **kwargs):
        for given in ("compute_loss_func", "optimizer_cls_and_kwargs"):
            if kwargs.get(given) is not None:
                raise UserError(f"{given} would have no effect: override compute_loss or create_optimizer.")
        super().__init__(*args, **kwargs)
        avoid_compiled_attention()
        self.model_accepts_loss_kwargs = True
        self.checkpoints = checkpoints or Checkpoints(self.args.output_dir)
        self.stopwatch = Stopwatch()
        self.end_at_step = EndAtStep(self.accelerator)
        patience = self.args.early_stopping_patience
        self.early_stopping = EarlyStopping(patience) if patience else None
        self.records_steps = False  # for a subclass to turn on, where its steps can be recorded
        self.recorder: StepRecorder | None = None  # while it trains
        self._n_weights = self.model.num_parameters(exclude_embeddings=True)
        self._staging: Path | None = None  # the folder into which a checkpoint is being written
        for shown_by_default in (ProgressCallback, PrinterCallback):
            self.remove_callback(shown_by_default)
        for callback in (self.stopwatch, self.end_at_step, self.early_stopping, OwnDropout()):
            if callback is not None:
                self.add_callback(callback)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs):
        """Train as Trainer does, also where `evaluate` or `predict` came first.

        Args:
            resume_from_checkpoint: the one to go on from; True is the newest that is whole.
            **kwargs: passed to Trainer.

        Raises:
            Stopped: when asked to end, after a checkpoint.
            ProcessLost: if another process of the launch is gone.
            FloatingPointError: for a loss or weights that are not finite.
            NotWrittenError: for a checkpoint that could not be written.
            DamagedCheckpointError: for a checkpoint that is not whole, or has more than tensors where they belong.
            FileExistsError: where there are newer checkpoints than the one to go on from.
            ValueError: for a checkpoint of another number of processes, or none to go on from.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = on_first(self.checkpoints.choose_newest)
            if resume_from_checkpoint is None:
                raise UserError(f"{self.checkpoints.output_dir} has no checkpoint to go on from.")
        step = 0
        if resume_from_checkpoint:
            manifest = on_first(lambda: verify(Path(resume_from_checkpoint)))
            step, n_processes = manifest["step"], manifest["n_processes"]
            if n_processes != self.args.world_size:
                raise UserError(
                    f"{resume_from_checkpoint} was made by {n_processes} processes, these are {self.args.world_size}."
                )
        on_first(lambda: self.checkpoints.require_none_after(step))
        if self.model_wrapped is self.model:
            # Evaluating marks the bare model as prepared. Trainer 5.23 would then never wrap it for several processes,
            # and each would train on its own share of the texts without ever meeting the others.
            self.model._is_accelerate_prepared = False
        if self.args.world_size > 1:
            torch.manual_seed(self.args.seed)  # Accelerate shuffles by it; OwnDropout then makes it differ
        keep_freed_memory()
        self.recorder = StepRecorder(self.model) if self.records_steps else None
        try:
            with noticing_loss():
                return super().train(resume_from_checkpoint and str(resume_from_checkpoint), **kwargs)
        except pickle.UnpicklingError as error:
            raise DamagedCheckpointError(
                f"{resume_from_checkpoint} was refused: one of its files is a pickle of more than tensors, which could "
                "run code when it is read."
            ) from error
        finally:
            STOP.deferred = False  # also where training has failed
            if self.recorder is not None:
                self.recorder.close()
                self.recorder = None

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Get the batches of one step, and how many labels they have over all processes.

        To give each process as many batches, Accelerate fills the last step of an epoch with rows from its start.
        Theirs become -100, which no loss, no count and no score of training takes in.
        """
        args = self.args
        n_last = len(self.train_dataset) % (args.train_batch_size * args.world_size)  # rows of the last batches in all

        def mark_repeated(batch):
            label_ids = batch["labels"]  # (batch,) or (batch, length)
            if n_last and self.accelerator.gradient_state.end_of_dataloader:
                n_before = args.process_index * len(label_ids)  # rows go to processes in turn
                label_ids[max(0, n_last - n_before) :] = IGNORED
            return batch

        return super().get_batch_samples(map(mark_repeated, epoch_iterator), num_batches, device)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Get what `make_schedule` makes, once in each training."""
        if self.lr_scheduler is None:
            self.lr_scheduler = self.make_schedule(optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True  # a second train() starts with a new schedule
        return self.lr_scheduler

    def require_space(self) -> None:
        """Refuse to start where the disk cannot hold the run's checkpoints.

        Raises:
            NotWrittenError: with the bytes that are needed and free.
        """
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        n_kept = 3 if self.args.ema_decay else 2  # Adam's two moments, and the average
        moments = sum(n_kept * p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        self.checkpoints.require_space(weights + moments, weights)

    def count_steps(self) -> tuple[int, int]:
        """Get the optimiser steps of an epoch and of the run, as Trainer counts them."""
        an_epoch = math.ceil(len(self.train_dataset) / self.args.rows_a_step)
        return an_epoch, self.args.max_steps if self.args.max_steps > 0 else math.ceil(
            self.args.num_train_epochs * an_epoch
        )

    def require_resumable(self, state: TrainerState) -> None:
        """Refuse to go on from a checkpoint that lies beyond the end of the run as it is asked for now.

        Args:
            state: of the checkpoint.

        Raises:
            ValueError: with the reason.
        """
        if state.global_step > self.count_steps()[1]:
            raise UserError(
                f"{self.checkpoints.path_of(state.global_step).name} has trained for {state.epoch:g} epochs: "
                "--num_train_epochs cannot be less."
            )

    def is_recorded(self, model) -> bool:
        """Whether steps of `model` are; not of one that Accelerate has wrapped: processes would meet in a recording."""
        return self.recorder is not None and model is self.model

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Train on one batch, by a recording where there is one, and have its loss looked at."""
        step = super().training_step
        if self.is_recorded(model):
            self.optimizer.train()  # a step does it too, but not its recording
            step = partial(self.recorder, step)
        loss = step(model, inputs, num_items_in_batch)
        self.end_at_step.add(loss)
        return loss

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """Save weights, configuration and tokenizer, without training_args.bin, a pickle of what run.json says."""
        output_dir = Path(output_dir or self.args.output_dir)
        super().save_model(str(output_dir), _internal_call)
        if self.args.should_save:
            (output_dir / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            if self.processing_class is not None:
                save_tokenizer(self.processing_class, output_dir)

    def floating_point_ops(self, inputs: dict) -> int:
        """Get what Trainer's does, which counts the weights at each step: 0.7 ms for which a GPU waits."""
        return 6 * inputs["input_ids"].numel() * self._n_weights

    def _save_checkpoint(self, model, trial) -> None:
        # Trainer writes into checkpoint-<step> itself: a kill would leave half of one, after older ones were removed.
        step, target = self.state.global_step, self.checkpoints.path_of(self.state.global_step)
        self.optimizer.eval()  # where weights are averaged, every checkpoint is of the average, evaluated or not
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise UserError(f"The weights are not finite after step {step}, so no checkpoint of it was kept.")
        best_step = self.state.best_global_step if self.args.load_best_model_at_end else None
        with explain_failure(target.name, self.checkpoints.output_dir):
            self._staging = on_first(lambda: stage(self.checkpoints.output_dir))
            try:
                super()._save_checkpoint(model, trial)
                wait_for_all()
                staged = self._staging / target.name
                self._point_at_best()
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))  # without the path of the staging folder
                on_first(lambda: self.checkpoints.commit(staged, step, best_step, self.args.world_size))
            finally:
                if self.args.should_save:
                    shutil.rmtree(self._staging, ignore_errors=True)  # after a failure, it may be what fills the disk
                self._staging = None

    def _clip_grad_norm(self, model) -> torch.Tensor:
        if not self.is_recorded(model):
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()  # the same, without Accelerate's look at each parameter
        return torch.nn.utils.clip_grad_norm_(self.recorder.parameters, self.args.max_grad_norm)

    def _get_output_dir(self, trial=None) -> str:
        return str(self._staging or self.args.output_dir)  # the way to have _save_checkpoint write elsewhere

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        position = super()._init_training_state(*args, **kwargs)
        self._point_at_best()
        return position

    def _point_at_best(self) -> None:
        """Name the best checkpoint by where the run is now: Trainer keeps the path that it once had."""
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self.checkpoints.path_of(self.state.best_global_step))

    def _run_epoch(self, **kwargs) -> None:
        # Trainer does not keep that training was over: gone on with, a run that stopped early, or in the middle of an
        # epoch by max_steps, would train on.
        stopped_early = self.early_stopping is not None and self.early_stopping.is_over()
        if stopped_early or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            if stopped_early:
                logger.info(
                    "Early stopping has ended this run: %d evaluations without a better one. To train on, give a "
                    "higher --early_stopping_patience, and --allow_changes early_stopping_patience.",
                    self.early_stopping.early_stopping_patience_counter,
                )
        else:
            super()._run_epoch(**kwargs)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if getattr(self.accelerator, "scaler", None) is not None:  # the precision may be another now, without a scaler
            super()._load_scaler(checkpoint)

    def _load_best_model(self) -> None:
        # Trainer only warns where this machine does not see the file, and goes on with the last epoch's weights.
        best = Path(self.state.best_model_checkpoint)
        if not best.is_dir():
            raise FileNotFoundError(f"{best} does not exist here: output_dir must be on a disk all machines share.")
        on_first(lambda: verify(best))
        super()._load_best_model()
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # Accelerate wraps it
        if isinstance(optimizer, AveragedAdam):
            optimizer.forget()  # what it holds belongs to the last epoch

    def _remove_unused_columns(self, dataset: Dataset, description: str | None = None) -> Dataset | QuickRows:
        # What is left goes to a DataLoader, for which `datasets` makes lists of Python's numbers. Another collator, a
        # subclass too, may count on these.
        dataset = super()._remove_unused_columns(dataset, description)
        is_quick = type(self.data_collator) is QuickPadding and QuickRows.can_read(dataset)
        return QuickRows(dataset) if is_quick else dataset

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        # Trainer's own grouping by length runs through each pool from long to short: see LengthGroupedSampler.
        train_dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(count_pieces(train_dataset), self.args.rows_a_step, self.args.seed)

    def _get_eval_sampler(self, eval_dataset) -> LengthOrder:
        # Texts of one length side by side need half the pads; SentimentTrainer puts predictions back into order.
        return LengthOrder(eval_dataset)
