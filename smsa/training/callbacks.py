"""Callbacks: how a run starts and stops, and what is counted and logged in each epoch."""

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

REFRESH_SECONDS = 0.5  # reading the running loss makes a GPU wait, so it is not read at every step
SHARES = "shares"  # key in a checkpoint: loss and confusion matrix of each rank
UNLOGGED = "unlogged"  # key in a checkpoint: the step that was logged last, and each rank's loss since then
SAME_SIGNAL_SECONDS = 0.2  # a scheduler may signal launcher and trainer, and the launcher repeat it


class RunGuard(TrainerCallback):
    """Restore and seed a run at its start; stop it when a signal asks for that, or when its loss is not finite.

    SIGTERM, Ctrl-C and SIGHUP ask a run to stop. On Linux, so does the end of the launcher: `accelerate launch` of one
    process passes no signal on, and would leave this process behind. All ranks stop after the same step, the current
    one, save a checkpoint and raise SystemExit with 128 + the signal's number. A second Ctrl-C ends the process at
    once, and files on the disk are whole even then. In a notebook, Ctrl-C ends the cell; its trainer remains usable.

    After a loss that is not finite nothing is saved. Under fp16 the scaler skips a step whose gradients are not finite.
    There, such a loss is an error only once the scale has fallen below 1, which takes more than 16 skipped steps.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.looked_at = 0.0
        self.signum: int | None = None
        self.received_at = 0.0
        self.due = False, False  # whether to evaluate and to save at the end of this epoch
        self.handlers: dict[int, object] = {}  # the earlier handlers, restored after training

    def on_train_begin(self, args, state, control, **kwargs):
        self.signum = None
        if UNLOGGED in state.stateful_callbacks:
            step, *losses = state.stateful_callbacks[UNLOGGED]
            self.trainer._globalstep_last_logged = step
            self.trainer._tr_loss.fill_(losses[args.process_index])
            self.trainer._total_loss_scalar -= losses[args.process_index]  # not part of this call's mean
        if args.world_size > 1 and state.global_step == 0:
            # Trainer's single seed would give all ranks the same dropout masks; a checkpoint has each rank's state
            torch.manual_seed(args.seed + 1_000_000 * args.process_index)
        if state.best_global_step:  # the folder may have moved
            state.best_model_checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.best_global_step}")
        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers only in the main thread
        for signum in signal.Signals:  # Windows has no SIGHUP; what nohup ignores stays ignored
            if signum.name in ("SIGTERM", "SIGINT", "SIGHUP") and signal.getsignal(signum) is not signal.SIG_IGN:
                self.handlers[signum] = signal.signal(signum, self.receive)
        end_with_launcher("SIGTERM")

    def receive(self, signum: int, frame: object = None) -> None:
        """Note that a stop was asked for; a second Ctrl-C ends this process."""
        if self.signum is None:
            self.signum, self.received_at = signum, time.monotonic()
            line = "Stopping after this step, with a checkpoint. A second Ctrl-C stops at once."
            if rank() == 0:
                os.write(2, f"\n{signal.Signals(signum).name}: {line}\n".encode())  # safe in a handler; print is not
        # one of the two must be SIGINT: torchrun turns a second Ctrl-C into SIGTERM, and schedulers repeat SIGTERM
        elif signal.SIGINT in (signum, self.signum) and time.monotonic() - self.received_at > SAME_SIGNAL_SECONDS:
            if self.is_in_notebook():
                raise KeyboardInterrupt
            os._exit(128 + signum)

    def on_step_end(self, args, state, control, **kwargs):
        if any_rank(self.signum is not None):
            control.should_save = True
            args.save_only_model = False  # from the model alone, the run could not be resumed
            if args.save_strategy == SaveStrategy.BEST:  # which would save only after a better evaluation
                args.save_strategy = SaveStrategy.STEPS
        ends_epoch = float(state.epoch).is_integer() or control.should_training_stop
        self.due = (control.should_evaluate, control.should_save) if ends_epoch else (False, False)
        if ends_epoch:  # evaluate and save only after the epoch's scores, so that its checkpoint has them
            control.should_evaluate = control.should_save = False

        is_due = control.should_save or ends_epoch or time.monotonic() - self.looked_at > REFRESH_SECONDS
        if args.device.type != "cpu" and not is_due:
            return
        self.looked_at = time.monotonic()
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        skips_steps = scaler is not None and scaler.get_scale() >= 1
        if not skips_steps and not self.trainer._tr_loss.isfinite():  # a sum, so it keeps a NaN
            raise UserError(
                f"The loss is not finite (NaN or infinite) in epoch {math.ceil(state.epoch)}, at or before step "
                f"{state.global_step} of the run. Nothing was saved since. A lower --learning_rate, a lower "
                "--max_grad_norm or --precision no may help."
            )

    def on_epoch_end(self, args, state, control, optimizer=None, **kwargs):
        optimizer.eval()  # with an EMA, a run ends with the averaged weights, even without an evaluation
        control.should_evaluate |= self.due[0]
        control.should_save |= self.due[1]

    def on_save(self, args, state, control, **kwargs):
        if any_rank(self.signum is not None):
            if self.is_in_notebook():
                raise KeyboardInterrupt("Stopped; trainer.train(resume_from_checkpoint=True) resumes.")
            logger.info("Stopped; the same command with --resume auto resumes from the last checkpoint.")
            raise SystemExit(128 + (self.signum or signal.SIGTERM))

    on_train_end = on_save  # if asked to stop after the last checkpoint, a resumed run writes the result

    def is_in_notebook(self) -> bool:
        """Return whether Ctrl-C came in a notebook or an interactive prompt: Python sets `sys.ps1` only there."""
        return self.signum == signal.SIGINT and hasattr(sys, "ps1")


def count_worse(state: TrainerState, metric: str, greater_is_better: bool) -> int:
    """Return how many evaluations followed the best one without improving on it; ties and NaN do not improve."""
    best, n_worse = -math.inf, -1
    for value in [entry[f"eval_{metric}"] for entry in state.log_history if f"eval_{metric}" in entry]:
        value = value if greater_is_better else -value
        best, n_worse = (value, 0) if value > best else (best, n_worse + 1)
    return n_worse


class EpochStepLR(StepLR):
    """StepLR that changes the learning rate by epoch, although Trainer calls `step` far more often.

    Trainer's calls have no effect. A count of them would fall behind by one for each step that fp16 skips on overflow,
    and would need the number of steps in an epoch, which depends on processes and accumulation.
    """

    def step(self, epoch: int = 0) -> None:
        """Set the learning rate of `epoch`, counted from 0."""
        self.optimizer._opt_called = True  # else torch warns right after a resume, before the first step
        while self.last_epoch < epoch:  # it is -1 when __init__ sets the first learning rate
            super().step()


class EpochProgress(ProgressCallback):
    """Score training while it runs, print the reference's lines, and tell schedule and samplers the epoch.

    Loss and confusion matrix of the current epoch are summed from the logits that training computes anyway. The sums
    stay on the device, so that counting makes no GPU wait. A checkpoint within an epoch keeps each rank's sums, which a
    resume then adds in the same order. At the end of each epoch the trainer logs the scores, under `train_`.
    """

    def __init__(self, trainer: Trainer):
        super().__init__()
        self.trainer = trainer
        device, n_labels = trainer.args.device, len(trainer.labels)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # the summed loss, then the confusion matrix row by row (rows are gold labels)
        self.totals = torch.zeros(1 + n_labels**2, dtype=dtype, device=device)
        if trainer.args.disable_tqdm:
            self.on_prediction_step = lambda *args, **kwargs: None  # else it draws a bar of its own
        self.started = self.shown = 0.0  # when the epoch began or was resumed; when the bar was updated

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.weigh_labels()
        if args.disable_tqdm:
            self.training_bar, self.current_step = tqdm(disable=True), 0
        else:
            super().on_train_begin(args, state, control)

    def on_epoch_begin(self, args, state, control, lr_scheduler=None, train_dataloader=None, **kwargs):
        epoch, shares, layer = state.epoch or 0, state.stateful_callbacks.get(SHARES), train_dataloader
        # Trainer 5.23 sets no epoch below the wrapper that skips batches on several ranks: a resume would reorder texts
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

        A text with a label id below 0 is not counted.
        """
        self.totals[0].add_(loss_sum.detach())
        cells = 1 + label_ids.clamp(min=0) * logits.shape[-1] + logits.detach().argmax(-1)
        self.totals.scatter_add_(0, cells, (label_ids >= 0).to(self.totals.dtype))

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        # an evaluation may save a best checkpoint; a run that ends within an epoch may be lengthened later
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
        self.totals.zero_()  # so that these counts are logged only once
        if n_texts := int(sum(counts)):  # 0 with a compute_loss_func, which passes on no logits
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
        if "loss" in logs:  # by steps, or of an epoch with a compute_loss_func
            super().on_log(args, state, control, logs)

    def on_evaluate(self, args, state, control, **kwargs):
        super().on_evaluate(args, state, control)
        n_worse = count_worse(state, args.metric_for_best_model, args.greater_is_better)
        if 0 < args.early_stopping_patience <= n_worse:
            control.should_training_stop = True
            self.on_epoch_end(args, state, control, **kwargs)  # log before the checkpoint, even within an epoch
