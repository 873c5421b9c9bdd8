"""What happens at the boundaries of training, one class a purpose."""

import math
import time
from itertools import islice
from signal import SIGTERM

import numpy as np
import torch
from accelerate.utils import gather
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from smsa.distributed import FailedElsewhere, any_process
from smsa.errors import UserError
from smsa.training.metrics import REFERENCE_NAMES, score_label_ids
from smsa.training.signals import STOP, Stopped

REFRESH_SECONDS = 0.5  # reading the running loss makes a GPU wait, so not at every step
ROWS_NAMED = 20  # of a batch whose loss is not finite


def epoch_number(epoch: float) -> int:
    """Get the number, from 1, of the epoch that ends at or after `epoch`, Trainer's count of epochs done."""
    return math.ceil(epoch)


def _steps_an_epoch(args, train_dataloader) -> int:
    return math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)


def restore(callback: ExportableState, state) -> dict:
    """Get the attributes that `callback` had when the checkpoint was taken; none at the start of a run.

    Trainer 5.23 would build the callback anew, with its arguments of then, or, where a checkpoint does not know it,
    fail at the next save.
    """
    stored = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())["attributes"]
    return stored if state.global_step else {}


class EarlyStopping(EarlyStoppingCallback):
    """EarlyStoppingCallback that goes on counting after a resume."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        counter = "early_stopping_patience_counter"
        self.early_stopping_patience_counter = restore(self, state).get(counter, 0)

    def is_over(self) -> bool:
        """Whether training is to stop."""
        return self.early_stopping_patience_counter >= self.early_stopping_patience


class OwnDropout(TrainerCallback):
    """Lets each process draw dropout of its own: by Trainer's one seed, N processes would use each mask N times."""

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1 and state.global_step == 0:  # a checkpoint has the state of each process
            torch.manual_seed(args.seed + 1_000_000 * args.process_index)


class Stopwatch(TrainerCallback, ExportableState):
    """Seconds of training, over all parts of a run that was gone on with."""

    def __init__(self):
        self.seconds_before, self.started = 0.0, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.seconds_before = restore(self, state).get("seconds", 0.0)
        self.started = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds_before, self.started = self.seconds(), None

    def seconds(self) -> float:
        """Get the seconds of training so far; what came after a checkpoint and was lost does not count."""
        return self.seconds_before + (time.monotonic() - self.started if self.started is not None else 0)

    def state(self) -> dict:
        return {"args": {}, "attributes": {"seconds": self.seconds()}}


class EndAtStep(TrainerCallback):
    """Ends training at a step, in all processes at the same: when asked, after a checkpoint; or for a bad loss.

    Under fp16 the scaler skips a step whose gradients are not finite, so that such a loss is an error only when the
    scale has fallen below 1, which takes more than 16 skipped steps.

    Args:
        accelerator: Trainer's, which knows the device and the scaler.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.n_batches = 0  # of this epoch, in this process
        self.bad_batch = torch.full((), -1, device=accelerator.device)  # the first one whose loss is not finite
        self.looked_at = 0.0

    def add(self, loss: torch.Tensor) -> None:
        """Look at the loss of the next batch; what was seen stays on the device until the step ends."""
        is_first = (self.bad_batch < 0) & ~loss.isfinite()
        self.bad_batch = torch.where(is_first, self.n_batches, self.bad_batch)
        self.n_batches += 1

    def on_train_begin(self, args, state, control, **kwargs):
        STOP.deferred = True

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        steps_done = state.global_step % _steps_an_epoch(args, train_dataloader)
        self.n_batches = steps_done * args.gradient_accumulation_steps
        self.bad_batch.fill_(-1)

    def on_step_end(self, args, state, control, train_dataloader=None, **kwargs):
        ends_epoch = control.should_training_stop or float(state.epoch).is_integer()
        is_bad = self._finds_bad_loss(at_once=ends_epoch)
        must_stop, any_bad = any_process(STOP.signum is not None, is_bad)
        if is_bad:
            raise UserError(self._describe(args, state, train_dataloader))
        if any_bad:
            raise FailedElsewhere("the loss of another process is not finite")
        if must_stop and not ends_epoch:  # the end of an epoch saves anyway, when it has been evaluated
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self._stop_if_asked()

    def on_train_end(self, args, state, control, **kwargs):
        STOP.deferred = False
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if any_process(STOP.signum is not None)[0]:
            raise Stopped(128 + (STOP.signum or SIGTERM))

    def _finds_bad_loss(self, at_once: bool) -> bool:
        now = time.monotonic()
        if self.bad_batch.device.type != "cpu" and not at_once and now - self.looked_at < REFRESH_SECONDS:
            return False
        self.looked_at = now
        if self.bad_batch.item() < 0:
            return False
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and scaler.get_scale() >= 1:
            self.bad_batch.fill_(-1)
            return False
        return True

    def _describe(self, args, state, train_dataloader) -> str:
        batch = self.bad_batch.item()
        train_dataloader.set_epoch(epoch_number(state.epoch) - 1)  # it may have moved on, one batch ahead
        rows = next(islice(train_dataloader.batch_sampler, batch, None))
        listed = ", ".join(str(row + 1) for row in rows[:ROWS_NAMED]) + (", ..." if len(rows) > ROWS_NAMED else "")
        step = batch // args.gradient_accumulation_steps + 1
        return (
            f"The loss is not finite (NaN or infinite) in epoch {epoch_number(state.epoch)}, step {step} of the epoch, "
            f"batch {batch + 1} of process {args.process_index + 1}: training rows {listed}. Nothing was saved since. "
            "A lower --learning_rate, a lower --max_grad_norm or --precision no may help."
        )


class EpochRate(TrainerCallback):
    """Moves the rate at the start of an epoch: also right after a resume, wherever the checkpoint was taken."""

    def on_epoch_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        lr_scheduler.move_to(int(state.epoch or 0))


class EvaluateEvery(TrainerCallback):
    """Evaluates after every `n_epochs` epochs only; a checkpoint is still kept of each."""

    def __init__(self, n_epochs: int):
        self.n_epochs = n_epochs

    def on_epoch_end(self, args, state, control, **kwargs):
        if epoch_number(state.epoch) % self.n_epochs:
            control.should_evaluate = False


class EpochScores(TrainerCallback, ExportableState):
    """Loss and confusion matrix of the epoch so far, from the logits that training makes anyway.

    Both stay on the device, so that counting them makes no GPU wait. A checkpoint within an epoch keeps those of each
    process, for their sum to be made in the same order after a resume.

    Args:
        labels: label names in the order of their ids.
        device: where the logits are.
    """

    def __init__(self, labels: tuple[str, ...], device: torch.device):
        self.labels = labels
        self.loss_sum = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.confusion = torch.zeros(len(labels) ** 2, dtype=torch.int64, device=device)  # gold by predicted, in rows
        self.shares: list[list[float]] = []  # for a checkpoint: loss and confusion of each process; none where all is 0

    def reset(self) -> None:
        """Start anew, for the next epoch."""
        self.loss_sum.zero_()
        self.confusion.zero_()
        self.shares = []

    def on_train_begin(self, args, state, control, **kwargs):
        shares = restore(self, state).get("shares")
        self.reset()
        if shares:
            loss_sum, *confusion = shares[args.process_index]
            self.loss_sum.fill_(loss_sum)
            self.confusion.copy_(torch.tensor(confusion, dtype=torch.int64))

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            share = torch.cat([self.loss_sum.view(1), self.confusion.to(self.loss_sum.dtype)])
            self.shares = gather(share).view(args.world_size, -1).tolist()

    def state(self) -> dict:
        return {"args": {}, "attributes": {"shares": self.shares}}

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, label_ids: torch.Tensor) -> None:
        """Count one batch: its summed loss, logits of shape (batch, n_labels), gold label ids of shape (batch,).

        A label id below 0 is that of a text that does not count.
        """
        self.loss_sum += loss_sum.detach()
        cells = label_ids.clamp(min=0) * len(self.labels) + logits.detach().argmax(-1)
        self.confusion.scatter_add_(0, cells, (label_ids >= 0).to(cells.dtype))

    def mean_loss(self) -> float:
        """Get the mean loss over the texts of this process so far."""
        return (self.loss_sum / self.confusion.sum()).item()

    def compute(self, accelerator) -> dict[str, float]:
        """Get `loss` and what `score_label_ids` returns over the texts of all processes; all must call it."""
        loss_sum, confusion = accelerator.reduce((self.loss_sum.clone(), self.confusion.clone()), reduction="sum")
        references, predictions = np.divmod(np.arange(confusion.numel()), len(self.labels))
        scores = score_label_ids(predictions, references, self.labels, n_texts=confusion.cpu().numpy())
        return {"loss": loss_sum.item() / confusion.sum().item()} | scores


class ReferenceProgress(TrainerCallback):
    """The reference's progress bar and epoch lines, on the main process only.

    Args:
        epoch_scores: where the running loss is read.
    """

    def __init__(self, epoch_scores: EpochScores):
        self.epoch_scores = epoch_scores
        self.bar = None
        self.refreshed_at = 0.0

    def on_step_end(self, args, state, control, lr_scheduler=None, train_dataloader=None, **kwargs):
        if not state.is_world_process_zero:
            return
        n_steps = _steps_an_epoch(args, train_dataloader)
        step = (state.global_step - 1) % n_steps + 1
        self._show(step, n_steps)
        if step == n_steps or time.monotonic() - self.refreshed_at > REFRESH_SECONDS:
            self.refreshed_at = time.monotonic()
            loss, rate = self.epoch_scores.mean_loss(), lr_scheduler.get_last_lr()[0]
            self.bar.set_description(f"(Epoch {epoch_number(state.epoch)}) TRAIN LOSS:{loss:.4f} LR:{rate:.8f}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if state.is_world_process_zero:
            self._show((self.bar.n if self.bar else 0) + 1, len(eval_dataloader), "Scoring")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "train_f1" in logs and state.is_world_process_zero:
            rate = f" LR:{logs['learning_rate']:.8f}"
            self._write(f"(Epoch {epoch_number(state.epoch)}) TRAIN {_reference_scores(logs, 'train')}{rate}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if state.is_world_process_zero:
            self._write(f"(Epoch {epoch_number(state.epoch)}) VALID {_reference_scores(metrics, 'eval')}")

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self._close()

    def _show(self, n_done: int, n_total: int, description: str = "") -> None:
        if self.bar is None:
            self.bar = tqdm(total=n_total, desc=description, initial=n_done - 1, dynamic_ncols=True, leave=False)
        self.bar.update(n_done - self.bar.n)

    def _write(self, line: str) -> None:
        self._close()
        tqdm.write(line)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _reference_scores(metrics: dict[str, float], prefix: str) -> str:
    scores = " ".join(f"{name}:{metrics[f'{prefix}_{key}']:.2f}" for key, name in REFERENCE_NAMES.items())
    return f"LOSS:{metrics[f'{prefix}_loss']:.4f} {scores}"
