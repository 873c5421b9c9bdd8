"""The Trainer of the reference recipe: Adam, a rate that falls by epoch, the mean loss, and scores of training."""

import math
import warnings
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torch.optim.lr_scheduler import StepLR
from transformers.trainer_utils import EvalLoopOutput

from smsa.data.labels import label_names
from smsa.errors import UserError
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.callbacks import (
    EpochRate,
    EpochScores,
    EvaluateEvery,
    ReferenceProgress,
)
from smsa.training.collation import QuickPadding, find_order
from smsa.training.ema import AveragedAdam
from smsa.training.kernels import FIRST_PIECE_CLASSIFIERS, use_fast_kernels
from smsa.training.metrics import compute_metrics
from smsa.training.resumable import IGNORED, ResumableTrainer


class EpochStepLR(StepLR):
    """StepLR that moves by epoch although Trainer steps it after every batch.

    Trainer's own steps are ignored: counting them would drift by one for each step that fp16 skips on overflow, and on
    several processes or under accumulation it would have to know the steps of an epoch.
    """

    def step(self, epoch: int | None = None) -> None:
        if getattr(self, "_step_count", 0) == 0:  # the one call from __init__ sets the first rate
            super().step()

    def move_to(self, epoch: int) -> None:
        """Set the rate of `epoch`, counted from 0."""
        with warnings.catch_warnings():
            # right after a resume no optimizer step has been made in this process yet, which is as it should be
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            while self.last_epoch < epoch:
                super().step()


def resolve_class_weights(spec: str, label_ids: list[int], n_labels: int) -> torch.Tensor | None:
    """Get the weight of each label in the training loss, shape (n_labels,), or None to weigh all alike.

    Args:
        spec: `none`, `balanced` (n_texts / (n_labels * count), so that the mean weight of a text is 1), or one
            number per label, comma-separated.
        label_ids: gold label ids of the training texts.
        n_labels: how many labels there are.

    Raises:
        ValueError: for another spec, a number that is not positive, or `balanced` where a label has no text.
    """
    if spec == "none":
        return None
    if spec == "balanced":
        if len(set(label_ids)) < n_labels:
            raise UserError("--class_weights balanced: a label has no text in train; give one number per label.")
        weights = compute_class_weight("balanced", classes=np.arange(n_labels), y=np.asarray(label_ids))
    else:
        try:
            weights = [float(weight) for weight in spec.split(",")]
        except ValueError:
            weights = []
        if len(weights) != n_labels or not all(0 < weight < float("inf") for weight in weights):
            raise UserError(
                f"--class_weights {spec!r}: give none, balanced, or {n_labels} positive numbers, comma-separated."
            )
    return torch.tensor(weights, dtype=torch.float32)


class SentimentTrainer(ResumableTrainer):
    """Trainer that computes what IndoNLU's loop computes, on one or many processes.

    Adam without weight decay on every trained parameter; the rate constant within an epoch and stepped between them;
    early stopping, evaluation every N epochs and the choice of the best epoch as `args` say; the reference's progress
    lines. Scores of training are logged each epoch under `train_`, those of valid under `eval_`.

    Args:
        model: a sequence classifier whose configuration names its labels.
        args: recipe and hardware.
        train_dataset, eval_dataset: rows with `input_ids`, `attention_mask` and `label`, see `encode_splits`.
        **kwargs: passed to ResumableTrainer; give `processing_class=tokenizer`, which also pads the batches.

    Reference: the loop in the tutorial and IndoNLU's main.py, https://github.com/IndoNLP/indonlu
    """

    def __init__(
        self,
        model,
        args: SentimentTrainingArguments,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        **kwargs,
    ):
        self.labels = label_names(model.config.id2label)
        self.class_weights = None
        if train_dataset is not None:
            weights = resolve_class_weights(args.class_weights, train_dataset["label"], len(self.labels))
            self.class_weights = weights if weights is None else weights.to(args.device)
        kwargs.setdefault("compute_metrics", partial(compute_metrics, labels=self.labels))
        known = {f"{score}_{label}" for score in ("f1", "recall", "precision") for label in self.labels}
        known |= {"accuracy", "f1", "recall", "precision", "loss"}
        if args.metric_for_best_model not in known:
            raise UserError(f"metric_for_best_model {args.metric_for_best_model!r} is not one of {sorted(known)}.")
        if args.max_steps > 0 and args.load_best_model_at_end and train_dataset is not None:
            if args.max_steps <= (args.evaluate_every - 1) * math.ceil(len(train_dataset) / args.rows_a_step):
                raise UserError(
                    f"evaluate_every {args.evaluate_every} leaves no evaluation to choose the best epoch by in "
                    f"{args.max_steps} steps."
                )
        on_gpu = args.device.type == "cuda"
        if kwargs.get("processing_class") is not None:
            # few lengths: products are faster in multiples of 8, and each length has a recording of its own
            multiple = 8 if args.fast_kernels and on_gpu else None
            kwargs.setdefault("data_collator", QuickPadding(kwargs["processing_class"], pad_to_multiple_of=multiple))
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        if args.fast_kernels:
            use_fast_kernels(self.model, args.device.type)
            # a recording cannot wait for a result of the GPU; steps of these models ask for none
            self.records_steps = on_gpu and model.config.model_type in FIRST_PIECE_CLASSIFIERS
        elif args.bf16 and args.device.type == "cpu":
            self.model.set_attn_implementation("eager")  # torch's own, with dropout, multiplies in fp32 there
        self.epoch_scores = EpochScores(self.labels, args.device)
        self.add_callback(self.epoch_scores)
        self.add_callback(EpochRate())
        self.add_callback(EvaluateEvery(args.evaluate_every))
        self.add_callback(ReferenceProgress(self.epoch_scores))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Get Adam over every parameter that is trained, without weight decay; with `ema_decay`, `AveragedAdam`."""
        if self.optimizer is None:
            decay = self.args.ema_decay
            self.optimizer = (partial(AveragedAdam, decay=decay) if decay else torch.optim.Adam)(
                [p for p in (model or self.model).parameters() if p.requires_grad],
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                # in one pass over the weights, which rounds otherwise: not in fp32, which is the reference's to the bit
                fused=self.args.fast_kernels or self.args.bf16 or None,
            )
        return self.optimizer

    def make_schedule(self, optimizer: torch.optim.Optimizer, n_steps: int) -> EpochStepLR:
        """Get the schedule by epoch; `n_steps` of the run do not matter to it."""
        return EpochStepLR(optimizer, self.args.lr_step_size, self.args.lr_gamma)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Get the share of this batch in the mean cross entropy over the texts of one step, over all processes.

        Args:
            num_items_in_batch: texts of the step, over accumulated batches and processes; None stands for this batch.

        Returns:
            The loss, and with `return_outputs` the outputs too. In training, and there alone, each text counts with the
            weight of its label; the sum is divided by the number of texts, not of weights, so that a step is the same
            however it is cut into batches. With `rdrop_alpha`, each text is computed twice in training, with other
            dropout; the loss is the mean of both, and `rdrop_alpha` / 2 times the divergence of both answers is added:
            half of the paper's.

        Source of the last: Liang et al. 2021, R-Drop, https://arxiv.org/abs/2106.14448
        """
        label_ids = inputs.pop("labels")  # (batch,); without it the model skips its own loss
        alpha = self.args.rdrop_alpha if model.training else 0.0
        if alpha:
            inputs = {name: torch.cat([values, values]) for name, values in inputs.items()}
            label_ids = torch.cat([label_ids, label_ids])
        outputs = model(**inputs)
        logits, divergence = outputs.logits, 0.0
        weight = None
        if model.training and self.class_weights is not None:
            weight = self.class_weights.to(logits.dtype)
        # Sum and division are, bit for bit, what torch's mean does; and they hold for any number of batches a step.
        loss_sum = functional.cross_entropy(logits, label_ids, weight=weight, reduction="sum")
        if alpha:
            divergence = alpha / 2 * _divergence(*logits.chunk(2), label_ids.chunk(2)[0] != IGNORED)
            loss_sum, logits, label_ids = loss_sum / 2, logits.chunk(2)[0], label_ids.chunk(2)[0]
        if model.training:
            self.epoch_scores.add(loss_sum, logits, label_ids)
        loss_sum = loss_sum + divergence
        if num_items_in_batch is None:
            loss = loss_sum / len(label_ids)
        else:  # DDP takes the mean of the gradients over processes
            loss = loss_sum / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs) -> EvalLoopOutput:
        """Predict as Trainer does, by length, and give predictions and labels in the order of the dataset.

        The loss is taken from the gathered logits: exact for any number of processes.

        Raises:
            RuntimeError: if the gathered rows are not as many as the dataset has.
        """
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if output.predictions is None:
            return output
        if len(output.predictions) != output.num_samples:
            raise RuntimeError(f"{len(output.predictions)} predictions came back for {output.num_samples} texts.")
        order = find_order(dataloader)
        if order is not None:
            places = np.argsort(order)  # where each text of the dataset came
            labelled = None if output.label_ids is None else output.label_ids[places]
            output = output._replace(predictions=output.predictions[places], label_ids=labelled)
        if output.label_ids is not None:
            logits, label_ids = torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids)
            output.metrics[f"{metric_key_prefix}_loss"] = functional.cross_entropy(logits.double(), label_ids).item()
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the record of an epoch gets the scores of training in place of Trainer's windowed loss."""
        if "loss" in logs:
            scores = self.epoch_scores.compute(self.accelerator)
            self.epoch_scores.reset()
            logs = {f"train_{name}": score for name, score in scores.items()} | {"learning_rate": logs["learning_rate"]}
        super().log(logs, start_time)


def _divergence(logits: torch.Tensor, others: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Half of KL(p, q) + KL(q, p) of two answers of shape (batch, n_labels), summed over texts that count, in nats."""
    p, q = logits.float().log_softmax(-1), others.float().log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q) * counts[:, None]).sum() / 2
