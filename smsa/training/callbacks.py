"""What happens at the boundaries of training: how a run starts and ends, and what is counted and shown of an epoch."""

import logging
import math
import os
import signal
import sys
import threading
import time

import numpy as np
import torch
from accelerate.utils import gather
from torch.optim.lr_scheduler import StepLR
from tqdm.auto import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy

from smsa.errors import UserError
from smsa.runtime import any_rank, end_with_launcher, rank
from smsa.training.metrics import MACRO_SCORES, REFERENCE_NAMES, score_confusion

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5  # reading the running loss makes a GPU wait, so not at every step
SHARES = "shares"  # where a checkpoint has loss and confusion of each rank
UNLOGGED = "unlogged"  # and where Trainer's loss of each rank since the step that was logged last, and this step
SAME_SIGNAL_SECONDS = 0.2  # a scheduler may signal launcher and trainer, and the launcher then passes it on


class RunGuard(TrainerCallback):
    """Starts a run as Trainer does not, and ends it where it is asked to, or where its loss is not finite.

    Asked by SIGTERM, Ctrl-C, SIGHUP, or (on Linux) the end of the launcher, which passes no signal on: `accelerate
    launch` of one process would leave this one behind. Training ends after the current step, with a checkpoint, on
    every rank at the same one, by a SystemExit of 128 and the number of the signal. A second Ctrl-C ends at once.
    Whatever is on the disk is whole. In a notebook, Ctrl-C ends the cell, and the trainer in it can be used further.

    After a loss that is not finite nothing is saved. Under fp16 the scaler skips a step whose gradients are not finite,
    so that such a loss is an error only when the scale has fallen below 1, which takes more than 16 skipped steps.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.looked_at = 0.0
        self.signum: int | None = None
        self.received_at = 0.0
        self.due = False, False  # whether to evaluate and to save at the end of this epoch
        self.handlers: dict[int, object] = {}  # of whoever had the signals before

    def on_train_begin(self, args, state, control, **kwargs):
        self.signum = None
        if UNLOGGED in state.stateful_callbacks:
            step, *losses = state.stateful_callbacks[UNLOGGED]
            self.trainer._globalstep_last_logged = step
            self.trainer._tr_loss.fill_(losses[args.process_index])
            self.trainer._total_loss_scalar -= losses[args.process_index]  # not of the steps of this training
        if args.world_size > 1 and state.global_step == 0:
            # by Trainer's one seed, N ranks would use each dropout mask N times; a checkpoint has the state of each
            torch.manual_seed(args.seed + 1_000_000 * args.process_index)
        if state.best_global_step:  # the folder may have moved
            state.best_model_checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.best_global_step}")
        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers only there
        for signum in signal.Signals:  # Windows has no SIGHUP; what is ignored already stays so, as nohup wants it
            if signum.name in ("SIGTERM", "SIGINT", "SIGHUP") and signal.getsignal(signum) is not signal.SIG_IGN:
                self.handlers[signum] = signal.signal(signum, self.receive)
        end_with_launcher("SIGTERM")

    def receive(self, signum: int, frame: object = None) -> None:
        """Note a wish to stop; a second Ctrl-C ends this process."""
        if self.signum is None:
            self.signum, self.received_at = signum, time.monotonic()
            line = "Stopping after this step, with a checkpoint. A second Ctrl-C stops at once."
            if rank() == 0:
                os.write(2, f"\n{signal.Signals(signum).name}: {line}\n".encode())  # safe in a handler; print is not
        # torchrun answers a second Ctrl-C with SIGTERM to its processes; schedulers may well send that one twice
        elif signal.SIGINT in (signum, self.signum) and time.monotonic() - self.received_at > SAME_SIGNAL_SECONDS:
            if self.is_in_notebook():
                raise KeyboardInterrupt
            os._exit(128 + signum)

    def on_step_end(self, args, state, control, **kwargs):
        if any_rank(self.signum is not None):
            control.should_save = True
            args.save_only_model = False  # from the model alone, the run could not be resumed
            if args.save_strategy == SaveStrategy.BEST:  # by which an evaluation would decide whether to save
                args.save_strategy = SaveStrategy.STEPS
        ends_epoch = float(state.epoch).is_integer() or control.should_training_stop
        self.due = (control.should_evaluate, control.should_save) if ends_epoch else (False, False)
        if ends_epoch:  # what is due comes after the scores of the epoch, so that its checkpoint has them
            control.should_evaluate = control.should_save = False

        is_due = control.should_save or ends_epoch or time.monotonic() - self.looked_at > REFRESH_SECONDS
        if args.device.type != "cpu" and not is_due:
            return
        self.looked_at = time.monotonic()
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        skips_steps = scaler is not None and scaler.get_scale() >= 1
        if not skips_steps and not self.trainer._tr_loss.isfinite():  # which stays so, once a loss is not
            raise UserError(
                f"The loss is not finite (NaN or infinite) in epoch {math.ceil(state.epoch)}, at or before step "
                f"{state.global_step} of the run. Nothing was saved since. A lower --learning_rate, a lower "
                "--max_grad_norm or --precision no may help."
            )

    def on_epoch_end(self, args, state, control, optimizer=None, **kwargs):
        optimizer.eval()  # where an EMA is kept, the model that a run ends with is that, evaluated or not
        control.should_evaluate |= self.due[0]
        control.should_save |= self.due[1]

    def on_save(self, args, state, control, **kwargs):
        if any_rank(self.signum is not None):
            if self.is_in_notebook():
                raise KeyboardInterrupt("Stopped; trainer.train(resume_from_checkpoint=True) resumes.")
            logger.info("Stopped; the same command with --resume auto resumes from the last checkpoint.")
            raise SystemExit(128 + (self.signum or signal.SIGTERM))

    on_train_end = on_save  # asked after the last checkpoint, the result is left to a resumed run

    def is_in_notebook(self) -> bool:
        """Return whether Ctrl-C was for a cell or a line, not for a program: the prompt is Python's own sign of it."""
        return self.signum == signal.SIGINT and hasattr(sys, "ps1")


def count_worse(state: TrainerState, metric: str, greater_is_better: bool) -> int:
    """Return how many evaluations have followed the best one; ties count, and what is not a number."""
    best, n_worse = -math.inf, -1
    for value in [entry[f"eval_{metric}"] for entry in state.log_history if f"eval_{metric}" in entry]:
        value = value if greater_is_better else -value
        best, n_worse = (value, 0) if value > best else (best, n_worse + 1)
    return n_worse


class EpochStepLR(StepLR):
    """StepLR that moves by epoch although Trainer steps it after every batch.

    Trainer's own steps are ignored: counting them would drift by one for each step that fp16 skips on overflow, and on
    several processes or under accumulation it would have to know the steps of an epoch.
    """

    def step(self, epoch: int = 0) -> None:
        """Set the learning rate of `epoch`, counted from 0."""
        self.optimizer._opt_called = True  # else torch warns right after a resume, before the first step
        while self.last_epoch < epoch:  # it is -1 where __init__ sets the first learning rate
            super().step()


class EpochProgress(ProgressCallback):
    """Scores of training while it trains, the reference's lines, and what changes from one epoch to the next.

    Loss and confusion matrix of the epoch so far are counted from the logits that training makes anyway. They stay on
    the device, so that counting makes no GPU wait. A checkpoint within an epoch keeps those of each rank, for their sum
    to be made in the same order after a resume. At the end of each epoch the trainer logs the scores, under `train_`.
    """

    def __init__(self, trainer: Trainer):
        super().__init__()
        self.trainer = trainer
        device, n_labels = trainer.args.device, len(trainer.labels)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # the summed loss, and the number of texts by gold and predicted label, in rows
        self.totals = torch.zeros(1 + n_labels**2, dtype=dtype, device=device)
        if trainer.args.disable_tqdm:
            self.on_prediction_step = lambda *args, **kwargs: None  # which would draw a bar of its own
        self.started = self.shown = 0.0  # when the epoch, or what is left of it, began; when the bar was written

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.weigh_labels()
        if args.disable_tqdm:
            self.training_bar, self.current_step = tqdm(disable=True), 0
        else:
            super().on_train_begin(args, state, control)

    def on_epoch_begin(self, args, state, control, lr_scheduler=None, train_dataloader=None, **kwargs):
        epoch, shares, layer = state.epoch or 0, state.stateful_callbacks.get(SHARES), train_dataloader
        # Trainer 5.23 does not reach it beneath what skips batches on several ranks: a resumed epoch had another order
        while layer := getattr(layer, "batch_sampler", None) or getattr(layer, "sampler", None):
            if hasattr(layer, "set_epoch"):
                layer.set_epoch(int(epoch))
        if isinstance(lr_scheduler, EpochStepLR):
            lr_scheduler.step(int(epoch))
        self.totals.zero_()
        if shares and not float(epoch).is_integer():
            self.totals.copy_(torch.tensor(shares[args.process_index], dtype=self.totals.dtype))
        self.started = time.monotonic()

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, label_ids: torch.Tensor) -> None:
        """Count one batch: its summed loss, logits of shape (batch, n_labels), gold label ids of shape (batch,).

        A label id below 0 is that of a text that does not count.
        """
        self.totals[0].add_(loss_sum.detach())
        cells = 1 + label_ids.clamp(min=0) * logits.shape[-1] + logits.detach().argmax(-1)
        self.totals.scatter_add_(0, cells, (label_ids >= 0).to(self.totals.dtype))

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        # an evaluation may find a best one, to be saved; a run that ends within an epoch may be lengthened
        if control.should_save or control.should_evaluate or control.should_training_stop:
            state.stateful_callbacks[SHARES] = gather(self.totals[None]).tolist()
        if self.training_bar is not None and time.monotonic() - self.shown > REFRESH_SECONDS:
            self.shown = time.monotonic()
            loss, learning_rate = (self.totals[0] / self.totals[1:].sum()).item(), lr_scheduler.get_last_lr()[0]
            text = f"(Epoch {math.ceil(state.epoch)}) TRAIN LOSS:{loss:.4f} LR:{learning_rate:.8f}"
            self.training_bar.set_description(text, refresh=False)  # when it is drawn, TQDM_MININTERVAL may say
        super().on_step_end(args, state, control)

    def on_epoch_end(self, args, state, control, lr_scheduler=None, **kwargs):
        loss_sum, *counts = self.trainer.accelerator.reduce(self.totals, reduction="sum").tolist()
        self.totals.zero_()  # to be logged only once
        if n_texts := int(sum(counts)):  # none where a loss of the user's own shows no logits
            labels, seconds = self.trainer.labels, time.monotonic() - self.started
            confusion = np.array(counts, dtype=int).reshape(len(labels), -1)
            logs = {f"train_{name}": score.item() for name, score in score_confusion(confusion, labels).items()}
            logs |= {"learning_rate": lr_scheduler.get_last_lr()[0], "epoch_runtime": seconds}
            self.trainer.log({"train_loss": loss_sum / n_texts, **logs})
        if args.eval_strategy == "epoch" and math.ceil(state.epoch) % args.evaluate_every:
            control.should_evaluate = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        for prefix, split in (("train", "TRAIN"), ("eval", "VALID")):
            if logs.keys() >= {f"{prefix}_{name}" for name in MACRO_SCORES} and state.is_world_process_zero:
                scores = " ".join(f"{title}:{logs[f'{prefix}_{name}']:.2f}" for name, title in REFERENCE_NAMES.items())
                learning_rate = f" LR:{logs['learning_rate']:.8f}" if prefix == "train" else ""
                loss, epoch = logs[f"{prefix}_loss"], math.ceil(state.epoch or 0)
                tqdm.write(f"(Epoch {epoch}) {split} LOSS:{loss:.4f} {scores}{learning_rate}")
        if "loss" in logs:  # by steps, or of an epoch whose loss shows no logits
            super().on_log(args, state, control, logs)

    def on_evaluate(self, args, state, control, **kwargs):
        super().on_evaluate(args, state, control)
        n_worse = count_worse(state, args.metric_for_best_model, args.greater_is_better)
        if 0 < args.early_stopping_patience <= n_worse:
            control.should_training_stop = True
            self.on_epoch_end(args, state, control, **kwargs)  # before the checkpoint, where it is within an epoch
