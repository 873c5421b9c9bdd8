"""What happens at the boundaries of training, one class a purpose."""

import logging
import math
import os
import signal
import threading
import time

import numpy as np
import torch
from accelerate.utils import gather
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from smsa.distributed import any_rank, end_with_launcher, is_main
from smsa.errors import UserError
from smsa.training.metrics import REFERENCE_NAMES, score_label_ids

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5  # reading the running loss makes a GPU wait, so not at every step
SAME_SIGNAL_SECONDS = 0.2  # a scheduler may signal launcher and trainer, and the launcher then passes it on


def epoch_number(epoch: float) -> int:
    """Return the number, from 1, of the epoch that ends at or after `epoch`, Trainer's count of epochs done."""
    return math.ceil(epoch)


def restore(callback: ExportableState, state) -> dict:
    """Return the attributes that `callback` had when the checkpoint was taken; none at the start of a run.

    `restore_callback_states_from_checkpoint` of Trainer 5.23 builds callbacks anew, so that references to them are
    lost; and resuming with a callback that the checkpoint does not know fails at the next save.
    """
    stored = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())["attributes"]
    return stored if state.global_step else {}


class EarlyStopping(EarlyStoppingCallback):
    """EarlyStoppingCallback whose counter is that of the run, also after a resume."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        counter = "early_stopping_patience_counter"
        self.early_stopping_patience_counter = restore(self, state).get(counter, 0)


class RunStart(TrainerCallback):
    """Sets up what Trainer leaves as it was, at the start of a run and where it is resumed."""

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size > 1 and state.global_step == 0:
            # by Trainer's one seed, N ranks would use each dropout mask N times; a checkpoint has the state of each
            torch.manual_seed(args.seed + 1_000_000 * args.process_index)
        if state.best_global_step:  # the folder may have moved
            state.best_model_checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.best_global_step}")


class Stopped(SystemExit):
    """Training was asked to end, and has left a checkpoint; its `code` is 128 and the number of the signal."""


class StopOnSignal(TrainerCallback):
    """Ends training after the current step, with a checkpoint, on every rank at the same one.

    Asked by SIGTERM, Ctrl-C, SIGHUP, or (on Linux) the end of the launcher, which passes no signal on: `accelerate
    launch` of one process would leave this one behind. A second Ctrl-C ends at once. Whatever is on the disk is whole.
    """

    def __init__(self):
        self.signum: int | None = None
        self.received_at = 0.0
        self.handlers: dict[int, object] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.signum = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python sets handlers only there
        signums = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        # what is ignored already stays so, as nohup wants it
        self.handlers = {
            signum: signal.signal(signum, self.receive)
            for signum in signums
            if signal.getsignal(signum) is not signal.SIG_IGN
        }
        end_with_launcher(signal.SIGTERM)

    def receive(self, signum: int, frame: object = None) -> None:
        """Note a wish to stop; a second Ctrl-C ends this process."""
        now = time.monotonic()
        if self.signum is None:
            self.signum, self.received_at = signum, now
            _say(f"{signal.Signals(signum).name}: stopping after this step, with a checkpoint. A second Ctrl-C stops "
                 "at once.")  # fmt: skip
        elif signal.SIGINT in (signum, self.signum) and now - self.received_at > SAME_SIGNAL_SECONDS:
            # torchrun answers a second Ctrl-C with SIGTERM to its processes; schedulers may well send that one twice
            _say(
                "Stopped at once, without a checkpoint; the same command with --resume auto resumes from the last one."
            )
            os._exit(128 + signum)

    def on_step_end(self, args, state, control, **kwargs):
        ends_epoch = control.should_training_stop or float(state.epoch).is_integer()
        # the end of an epoch saves anyway, when it has been evaluated
        if any_rank(self.signum is not None) and not (ends_epoch and args.save_strategy == "epoch"):
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args, state, control, **kwargs):
        if any_rank(self.signum is not None):
            self.let_go()
            logger.info("Stopped; the same command with --resume auto resumes from the last checkpoint.")
            raise Stopped(128 + (self.signum or signal.SIGTERM))

    def on_train_end(self, args, state, control, **kwargs):
        self.on_save(args, state, control)  # asked after the last checkpoint, the result is left to a resumed run
        self.let_go()

    def let_go(self) -> None:
        """Give the signals back to whoever had them before."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        self.handlers = {}


def _say(line: str) -> None:
    if is_main():
        os.write(2, f"\n{line}\n".encode())  # safe in a handler of signals, where print is not


class FiniteLoss(TrainerCallback):
    """Ends training with an error where a loss is not finite; nothing is saved after it.

    Under fp16 the scaler skips a step whose gradients are not finite, so that such a loss is an error only when the
    scale has fallen below 1, which takes more than 16 skipped steps.

    Args:
        accelerator: Trainer's, which knows the device and the scaler.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.is_bad = torch.zeros((), dtype=torch.bool, device=accelerator.device)
        self.looked_at = 0.0

    def add(self, loss: torch.Tensor) -> None:
        """Look at a loss; what was seen stays on the device until the step ends."""
        self.is_bad |= ~loss.detach().isfinite()

    def on_train_begin(self, args, state, control, **kwargs):
        self.is_bad.zero_()

    def on_step_end(self, args, state, control, **kwargs):
        is_due = control.should_save or time.monotonic() - self.looked_at > REFRESH_SECONDS
        if self.is_bad.device.type != "cpu" and not is_due and not float(state.epoch).is_integer():
            return
        self.looked_at = time.monotonic()
        if not self.is_bad.item():
            return
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and scaler.get_scale() >= 1:
            self.is_bad.zero_()
            return
        raise UserError(
            f"The loss is not finite (NaN or infinite) in epoch {epoch_number(state.epoch)}, at or before step "
            f"{state.global_step} of the run. Nothing was saved since. A lower --learning_rate, a lower "
            "--max_grad_norm or --precision no may help."
        )


class EpochLearningRate(TrainerCallback):
    """Moves an `EpochStepLR` at the start of an epoch: also right after a resume, wherever the checkpoint was taken."""

    def on_epoch_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        if hasattr(lr_scheduler, "move_to"):
            lr_scheduler.move_to(int(state.epoch or 0))


class EvaluateEvery(TrainerCallback):
    """Evaluates after every `n_epochs` epochs only; a checkpoint is still kept of each."""

    def __init__(self, n_epochs: int):
        self.n_epochs = n_epochs

    def on_epoch_end(self, args, state, control, **kwargs):
        if epoch_number(state.epoch) % self.n_epochs:
            control.should_evaluate = False


class EpochScores(TrainerCallback, ExportableState):
    """Scores of training: loss and confusion matrix of the epoch so far, from the logits that training makes anyway.

    Both stay on the device, so that counting them makes no GPU wait. A checkpoint within an epoch keeps those of each
    rank, for their sum to be made in the same order after a resume.

    Args:
        trainer: which logs them at the end of each epoch, under `train_`, and knows the labels.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        device, n_labels = trainer.args.device, len(trainer.labels)
        self.loss_sum = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.confusion = torch.zeros(n_labels**2, dtype=torch.int64, device=device)  # gold by predicted, in rows
        self.shares: list[list[float]] = []  # for a checkpoint: loss and confusion of each rank; none where all is 0
        self.started = 0.0  # when the epoch, or what is left of it, began

    def on_train_begin(self, args, state, control, **kwargs):
        shares = restore(self, state).get("shares")
        self.reset()
        if shares:
            loss_sum, *confusion = shares[args.process_index]
            self.loss_sum.fill_(loss_sum)
            self.confusion.copy_(torch.tensor(confusion, dtype=torch.int64))

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, label_ids: torch.Tensor) -> None:
        """Count one batch: its summed loss, logits of shape (batch, n_labels), gold label ids of shape (batch,).

        A label id below 0 is that of a text that does not count.
        """
        self.loss_sum += loss_sum.detach()
        cells = label_ids.clamp(min=0) * logits.shape[-1] + logits.detach().argmax(-1)
        self.confusion.scatter_add_(0, cells, (label_ids >= 0).to(cells.dtype))

    def mean_loss(self) -> float:
        """Return the mean loss over the texts of this rank so far, in nats."""
        return (self.loss_sum / self.confusion.sum()).item()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            share = torch.cat([self.loss_sum.view(1), self.confusion.to(self.loss_sum.dtype)])
            self.shares = gather(share).view(args.world_size, -1).tolist()

    def on_epoch_end(self, args, state, control, lr_scheduler=None, **kwargs):
        logs = {f"train_{name}": score for name, score in self.compute().items()}
        if logs:
            seconds = time.monotonic() - self.started
            self.trainer.log({**logs, "learning_rate": lr_scheduler.get_last_lr()[0], "epoch_runtime": seconds})
        self.reset()

    def compute(self) -> dict[str, float]:
        """Return `loss` and what `score_label_ids` does over the texts of all ranks so far; all must call it.

        Nothing where no text was counted: a loss of the user's own shows no logits.
        """
        pair = (self.loss_sum.clone(), self.confusion.clone())
        loss_sum, confusion = self.trainer.accelerator.reduce(pair, reduction="sum")
        n_texts, labels = confusion.cpu().numpy(), self.trainer.labels
        if not n_texts.any():
            return {}
        references, predictions = np.divmod(np.arange(len(n_texts)), len(labels))
        scores = score_label_ids(predictions, references, labels, n_texts=n_texts)
        return {"loss": loss_sum.item() / n_texts.sum(), **scores}

    def reset(self) -> None:
        """Start anew, for the next epoch."""
        self.loss_sum.zero_()
        self.confusion.zero_()
        self.shares, self.started = [], time.monotonic()

    def state(self) -> dict:
        return {"args": {}, "attributes": {"shares": self.shares}}


class ReferenceProgress(TrainerCallback):
    """Shows the reference's progress bar and epoch lines, on the main process only.

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
        n_steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        step = (state.global_step - 1) % n_steps + 1
        self._show(step, n_steps)
        if step == n_steps or time.monotonic() - self.refreshed_at > REFRESH_SECONDS:
            self.refreshed_at = time.monotonic()
            loss, learning_rate = self.epoch_scores.mean_loss(), lr_scheduler.get_last_lr()[0]
            epoch = epoch_number(state.epoch)
            self.bar.set_description(f"(Epoch {epoch}) TRAIN LOSS:{loss:.4f} LR:{learning_rate:.8f}")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if state.is_world_process_zero:
            self._show((self.bar.n if self.bar else 0) + 1, len(eval_dataloader), "Evaluating")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "train_f1" in logs and state.is_world_process_zero:
            learning_rate = f" LR:{logs['learning_rate']:.8f}"
            self._write(f"(Epoch {epoch_number(state.epoch)}) TRAIN {_reference_scores(logs, 'train')}{learning_rate}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if "eval_f1" in metrics and state.is_world_process_zero:
            self._write(f"(Epoch {epoch_number(state.epoch or 0)}) VALID {_reference_scores(metrics, 'eval')}")

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self._close()

    def on_train_end(self, args, state, control, **kwargs):
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
