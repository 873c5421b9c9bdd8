"""Masked-language-model pre-training: the collator that masks tokens, and its Trainer."""

import math
from zlib import crc32

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    DataCollatorForLanguageModeling,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SchedulerType,
    TrainerCallback,
)

from smsa.pretraining.arguments import PretrainingArguments
from smsa.training.kernels import use_quick_attention
from smsa.training.trainer import IGNORED, ResumableTrainer


class Masking(DataCollatorForLanguageModeling, TrainerCallback):
    """Mask different tokens of a row in each epoch, and the same ones whenever that epoch is trained again.

    The masks of a row depend only on the seed, the epoch and the row, not on batches, processes, checkpoints or how far
    ahead batches are prepared. Of 10 masked tokens, 8 become [MASK], 1 a random token, and 1 stays. Rows that already
    have labels are not changed. As a callback of the trainer, the collator learns the epoch, also after a resume.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, mask_seed: int):
        super().__init__(tokenizer, mlm_probability=mlm_probability)
        self.mask_seed, self.epoch = mask_seed, 0
        self.special_ids = torch.tensor(tokenizer.all_special_ids)

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.epoch = int(state.epoch or 0)

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([example["input_ids"] for example in examples])
        if "labels" in examples[0]:
            return {"input_ids": rows, "labels": torch.tensor([example["labels"] for example in examples])}
        epoch = crc32(f"{self.mask_seed} {self.epoch}".encode())
        special = torch.isin(rows, self.special_ids)
        masked = []
        for row, is_special in zip(rows, special, strict=True):
            self.generator = torch.Generator().manual_seed(crc32(row.numpy().tobytes(), epoch))  # a seed of 32 bits
            masked.append(self.torch_mask_tokens(row.clone()[None], special_tokens_mask=is_special[None]))
        self.generator = None  # torch 2.13 cannot send one to a worker that is not forked (macOS, Python 3.14)
        input_ids, labels = (torch.cat(parts) for parts in zip(*masked, strict=True))
        return {"input_ids": input_ids, "labels": labels}


def score_masked(prediction: EvalPrediction) -> dict[str, float]:
    """Return the mean cross entropy (`loss`, in nats) of the masked tokens, and the share predicted correctly.

    `prediction` has what `_score_rows` returns, of shape (n_rows, 2), and labels of shape (n_rows, length).
    """
    loss_sum, n_hits = prediction.predictions.astype(np.float64).sum(0)
    n_masked = max((prediction.label_ids != IGNORED).sum(), 1)
    return {"loss": loss_sum / n_masked, "masked_accuracy": n_hits / n_masked}


class MaskedTrainer(ResumableTrainer):
    """Trainer of a masked language model.

    Logits are computed only for the masked tokens, a fifth: all logits would be half of the work of a small model.
    `rows` to train on and `held_out_rows` to evaluate on are as `pack` returns them, of shape (n_rows, length).
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
        held_out = masking([{"input_ids": row} for row in held_out_rows.tolist()])  # the same masks in each evaluation
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            eval_dataset=Dataset.from_dict({name: values.numpy() for name, values in held_out.items()}),
            data_collator=masking,
            compute_metrics=score_masked,
            preprocess_logits_for_metrics=self._score_rows,  # logits of all tokens would not fit into memory
            **kwargs,
        )
        use_quick_attention(self.model, args.device.type)
        self.is_masked: torch.Tensor | None = None  # in the current batch, shape (batch, length)
        modules = list(self.model.children())  # the head follows the encoder, or is first, as in CamemBERT
        head = (modules[modules.index(self.model.base_model) + 1 :] or modules)[0]
        head.register_forward_pre_hook(lambda _, states: (states[0][self.is_masked], *states[1:]))  # (n_masked, size)
        self.add_callback(masking)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Return the schedule that the arguments name; a short run shortens the default's warm-up and decay."""
        args = self.args
        if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            warmup, decay = args.warmup_steps, args.decay_steps
            if warmup + decay > num_training_steps:
                args.warmup_steps = math.ceil(num_training_steps * warmup / (warmup + decay))
                decay = num_training_steps - int(args.warmup_steps)
            given = {"decay_type": "linear"} | (args.lr_scheduler_kwargs or {})
            args.lr_scheduler_kwargs = given | {"num_decay_steps": decay}
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this batch's share of the mean cross entropy over the masked tokens of one step.

        `num_items_in_batch` is the number of these tokens, over accumulated batches and ranks; None: in this batch. The
        outputs have logits of shape (n_masked, vocab_size).
        """
        labels = inputs.pop("labels")
        self.is_masked = labels != IGNORED
        outputs = model(**inputs)
        tokens, smoothing = labels[self.is_masked], self.args.label_smoothing_factor if model.training else 0.0
        loss = functional.cross_entropy(outputs.logits.float(), tokens, reduction="sum", label_smoothing=smoothing)
        n_masked = torch.tensor(len(tokens)) if num_items_in_batch is None else num_items_in_batch
        n_masked = n_masked.clamp(min=1)  # stays a tensor: reading it would make a GPU wait
        loss = loss / n_masked * self.accelerator.num_processes  # DDP takes the mean over ranks
        return (loss, outputs) if return_outputs else loss

    def _score_rows(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return each row's summed loss and number of correct predictions at masked tokens, shape (batch, 2)."""
        is_masked = labels != IGNORED
        losses = functional.cross_entropy(logits.float(), labels[is_masked], reduction="none")
        scores = losses.new_zeros(*is_masked.shape, 2)
        scores[is_masked] = torch.stack([losses, (logits.argmax(-1) == labels[is_masked]).float()], -1)
        return scores.sum(1)
