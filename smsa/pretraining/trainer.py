"""Masked-language-model pre-training: masks, and the Trainer that goes with them."""

import math
import time
from zlib import crc32

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import (
    DataCollatorForLanguageModeling,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    get_wsd_schedule,
)
from transformers.trainer_callback import TrainerState

from smsa.errors import UserError
from smsa.pretraining.arguments import PretrainingArguments
from smsa.training.callbacks import REFRESH_SECONDS, epoch_number
from smsa.training.kernels import use_quick_attention
from smsa.training.resumable import IGNORED, ResumableTrainer


class Masking(DataCollatorForLanguageModeling):
    """Masks other pieces of a row in each epoch, and the same ones whenever that epoch is trained again.

    The draws for a row depend on seed, epoch and the row alone: on no batch, process or checkpoint, nor how far ahead
    batches were prepared. Rows that have labels already are left as they are.

    Args:
        tokenizer: whose pieces the rows are.
        mlm_probability: share of the pieces that is masked: 8 of 10 by [MASK], 1 by any piece, 1 stays.
        mask_seed: of the draws.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, mask_seed: int):
        super().__init__(tokenizer, mlm_probability=mlm_probability)
        self.mask_seed, self.epoch = mask_seed, 0
        self.special_ids = torch.tensor(tokenizer.all_special_ids)

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([example["input_ids"] for example in examples])
        if "labels" in examples[0]:
            return {"input_ids": rows, "labels": torch.tensor([example["labels"] for example in examples])}
        epoch = crc32(f"{self.mask_seed} {self.epoch}".encode())
        special = torch.isin(rows, self.special_ids)
        masked = []
        for row, is_special in zip(rows, special, strict=True):
            self.generator = torch.Generator().manual_seed(crc32(row.numpy().tobytes(), epoch))  # it takes 32 bits
            masked.append(self.torch_mask_tokens(row.clone()[None], special_tokens_mask=is_special[None]))
        input_ids, labels = (torch.cat(parts) for parts in zip(*masked, strict=True))
        return {"input_ids": input_ids, "labels": labels}


def hold_out(rows: np.ndarray, masking: Masking) -> Dataset:
    """Mask rows once and for all: every epoch is judged by the same masks."""
    batch = masking([{"input_ids": row} for row in rows.tolist()])
    return Dataset.from_dict({name: values.numpy() for name, values in batch.items()})


def score_masked(prediction: EvalPrediction) -> dict[str, float]:
    """Get the mean cross entropy (`loss`, in nats) of the masked pieces, and the share of them that are predicted.

    Args:
        prediction: for each row, summed loss and hits of its masked pieces, shape (n_rows, 2), and how many these are.
    """
    loss_sum, n_hits = prediction.predictions.astype(np.float64).sum(0)
    n_masked = max(prediction.label_ids.sum(), 1)
    return {"loss": loss_sum / n_masked, "masked_accuracy": n_hits / n_masked}


class MaskedTrainer(ResumableTrainer):
    """Trainer of a masked language model: AdamW, warm-up, a constant rate, and a linear decay at the end.

    Logits are computed for masked pieces alone, a fifth of them, which would be half of the work of a small model.

    Args:
        model: a masked language model.
        args: recipe and hardware.
        rows, held_out_rows: word pieces to train on and to judge by, as `pack` returns them.
        **kwargs: passed to ResumableTrainer; `processing_class`, the tokenizer, is needed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainingArguments,
        processing_class: PreTrainedTokenizerBase,
        rows: np.ndarray,
        held_out_rows: np.ndarray,
        **kwargs,
    ):
        masking = Masking(processing_class, args.mlm_probability, args.seed)
        self.row_length = rows.shape[1]
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            eval_dataset=hold_out(held_out_rows, masking),
            data_collator=masking,
            compute_metrics=score_masked,
            **kwargs,
        )
        use_quick_attention(self.model, args.device.type)
        if args.compile_encoder:
            self.model.base_model.compile(dynamic=False)  # each shape anew: a step, an epoch's last, two of evaluation
        self.is_masked: torch.Tensor | None = None  # of the batch that the model reads, shape (batch, length)
        _head_of(self.model).register_forward_pre_hook(self._keep_masked)
        self.add_callback(EachEpochItsMasks(masking))
        self.late_loss = torch.zeros((), device=args.device)  # mean over the last hundred batches or so, for the eye
        self.add_callback(PretrainingProgress(self))

    def require_resumable(self, state: TrainerState) -> None:
        """Refuse as `ResumableTrainer` does, and to change the length of a run whose rate is falling already.

        Args:
            state: of the checkpoint.

        Raises:
            ValueError: with the reason.
        """
        super().require_resumable(state)
        _, n_steps = self.count_steps()
        falls_from = min(n_steps, state.max_steps) - self.args.decay_steps
        if n_steps != state.max_steps and state.global_step > falls_from:
            raise UserError(
                f"The newest checkpoint was taken after step {state.global_step:,}, and the rate falls from step "
                f"{max(falls_from, 0):,} on: --num_train_epochs can no longer change. Start a new run from the encoder."
            )

    def count_tokens(self) -> int:
        """Get how many word pieces have been seen so far, each time that they were; special tokens count, too."""
        steps_an_epoch, _ = self.count_steps()
        whole, rest = divmod(self.state.global_step, steps_an_epoch)
        return (whole * len(self.train_dataset) + rest * self.args.rows_a_step) * self.row_length

    def _keep_masked(self, head: nn.Module, states: tuple) -> tuple:
        return (states[0][self.is_masked], *states[1:])  # (n_masked, hidden_size)

    def make_schedule(self, optimizer: torch.optim.Optimizer, n_steps: int) -> LambdaLR:
        """Get warm-up, constant rate and decay over the steps of the run."""
        warmup, decay = self.args.warmup_steps, self.args.decay_steps
        if warmup + decay > n_steps:  # both get shorter
            warmup = math.ceil(n_steps * warmup / (warmup + decay))
            decay = n_steps - warmup
        return get_wsd_schedule(optimizer, warmup, decay, n_steps, decay_type="linear")

    def _predict_masked(self, model: nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Get logits of shape (n_masked, vocab_size), the pieces that were masked, and where, (batch, length)."""
        labels = inputs.pop("labels")
        self.is_masked = labels != IGNORED
        return model(**inputs).logits, labels[self.is_masked], self.is_masked

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Get the share of this batch in the mean cross entropy over the masked pieces of one step.

        Args:
            num_items_in_batch: masked pieces of the step, over accumulated batches and processes.
        """
        logits, pieces, _ = self._predict_masked(model, inputs)
        loss = functional.cross_entropy(logits.float(), pieces, reduction="sum")
        n_masked = num_items_in_batch.clamp(min=1)  # a tensor: looking at it would make a GPU wait
        return loss / n_masked * self.accelerator.num_processes  # DDP takes the mean over processes

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Train on one batch, and keep its loss for the progress bar."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        of_batch = loss.detach() * self.args.gradient_accumulation_steps
        self.late_loss = torch.where(self.late_loss > 0, torch.lerp(self.late_loss, of_batch, 0.02), of_batch)
        return loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None) -> tuple:
        """Get what `score_masked` takes: logits of all pieces would not fit into memory."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits, pieces, is_masked = self._predict_masked(model, inputs)
        losses = functional.cross_entropy(logits.float(), pieces, reduction="none")
        scores = losses.new_zeros(*is_masked.shape, 2)
        scores[is_masked] = torch.stack([losses, (logits.argmax(-1) == pieces).float()], -1)
        return None, scores.sum(1), is_masked.sum(1)


def _head_of(model: PreTrainedModel) -> nn.Module:
    """The module that takes the last hidden states: the one after the encoder, in all of transformers' models."""
    modules = list(model.children())
    return modules[modules.index(model.base_model) + 1]


class EachEpochItsMasks(TrainerCallback):
    """Tells the collator which epoch it is, also after a resume."""

    def __init__(self, masking: Masking):
        self.masking = masking

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.masking.epoch = int(state.epoch or 0)


class PretrainingProgress(TrainerCallback):
    """A progress bar over all steps with the loss of late, and a line an epoch, on the main process only."""

    def __init__(self, trainer: MaskedTrainer):
        self.trainer = trainer
        self.bar, self.refreshed_at = None, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="Pre-training", unit="step", dynamic_ncols=True
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(1)
            if time.monotonic() - self.refreshed_at > REFRESH_SECONDS:
                self.refreshed_at = time.monotonic()
                self.bar.set_postfix_str(f"LOSS:{self.trainer.late_loss.item():.4f}", refresh=False)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.bar is not None:
            scores = f"LOSS:{metrics['eval_loss']:.4f} ACC:{metrics['eval_masked_accuracy']:.4f}"
            tqdm.write(f"(Epoch {epoch_number(state.epoch)}) HELD OUT {scores}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
