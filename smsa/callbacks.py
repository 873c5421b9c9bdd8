"""What happens at the boundaries of training, one class a purpose."""

import math
import time

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback

from smsa.metrics import REFERENCE_NAMES, score_label_ids

REFRESH_SECONDS = 0.5  # reading the running loss makes a GPU wait, so not at every step


def epoch_number(epoch: float) -> int:
    """Get the number, from 1, of the epoch that ends at or after `epoch`, Trainer's count of epochs done."""
    return math.ceil(epoch)


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


class EpochScores(TrainerCallback):
    """Loss and confusion matrix of the epoch so far, from the logits that training makes anyway.

    Both stay on the device, so that counting them makes no GPU wait.

    Args:
        labels: label names in the order of their ids.
        device: where the logits are.
    """

    def __init__(self, labels: tuple[str, ...], device: torch.device):
        self.labels = labels
        self.loss_sum = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        self.confusion = torch.zeros(len(labels) ** 2, dtype=torch.int64, device=device)  # gold by predicted, in rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.loss_sum.zero_()
        self.confusion.zero_()

    def add(self, loss_sum: torch.Tensor, logits: torch.Tensor, label_ids: torch.Tensor) -> None:
        """Count one batch: its summed loss, logits of shape (batch, n_labels), gold label ids of shape (batch,)."""
        self.loss_sum += loss_sum.detach()
        cells = label_ids * len(self.labels) + logits.detach().argmax(-1)
        self.confusion.scatter_add_(0, cells, torch.ones_like(cells))

    def mean_loss(self) -> float:
        """Get the mean loss over the texts of this process so far."""
        return (self.loss_sum / self.confusion.sum()).item()

    def compute(self, accelerator) -> dict[str, float]:
        """Get `loss` and what `score_label_ids` returns over the texts of all processes; all must call it."""
        loss_sum, confusion = accelerator.reduce((self.loss_sum.clone(), self.confusion.clone()), reduction="sum")
        cells = np.repeat(np.arange(confusion.numel()), confusion.cpu().numpy())
        references, predictions = np.divmod(cells, len(self.labels))
        return {"loss": loss_sum.item() / len(cells)} | score_label_ids(predictions, references, self.labels)


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
        n_steps = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
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
