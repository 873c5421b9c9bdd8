"""Trainer with what its own arguments cannot say: whole checkpoints, an exact resume, and the reference recipe."""

import json
import logging
import math
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, OPTIMIZER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput, rotate_checkpoints

from smsa.data.datasets import PaddingCollator, count_tokens
from smsa.errors import UserError
from smsa.files import STAGING, naming, staged
from smsa.models.loading import label_names, save_tokenizer
from smsa.runtime import describe_environment, on_main
from smsa.training.arguments import EPOCH_STEP, LENGTH_GROUPS, SentimentTrainingArguments
from smsa.training.callbacks import UNLOGGED, EpochProgress, EpochStepLR, RunGuard, count_worse
from smsa.training.checkpointing import MANIFEST, commit, find_newest, list_checkpoints, verify
from smsa.training.metrics import MACRO_SCORES, compute_metrics

# What an option needs is imported where the option is on.

logger = logging.getLogger(__name__)

IGNORED = -100  # a label id that torch's cross entropy and Trainer's count of labels skip


class ResumableTrainer(Trainer):
    """Trainer whose run, however it ended and was resumed, has the result of an uninterrupted run.

    On CPUs both are equal to the bit, with the same threads and up to two processes: tests/training/test_kills.py.

    Args:
        *args, **kwargs: passed to Trainer.
        settings: plain values that decide the result, by name; each checkpoint keeps them.
    """

    def __init__(self, *args, settings: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # With this, Trainer counts the labels of the whole step, for compute_loss to divide by, and does not scale the
        # loss. Otherwise it multiplies the plain mean of a BERT by batches and processes (transformers #47688).
        self.model_accepts_loss_kwargs = True
        self.settings = settings or {}
        self.given_optimizer = self.optimizer, self.optimizer_cls_and_kwargs  # None if `args` name it
        if self.args.ema_decay and any(self.given_optimizer):
            raise UserError("--ema_decay needs AdamW: give no optimiser of your own.")
        self.records_steps = False  # a subclass turns it on where its steps can be recorded
        self.recorder = None  # set only while it trains
        self.guard = RunGuard(self)
        self.add_callback(self.guard)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Train as Trainer does, but resume only from a whole checkpoint; `evaluate` or `predict` may come first.

        Args:
            resume_from_checkpoint: the checkpoint to resume from; True takes the newest whole one, None starts anew.
            **kwargs: passed to Trainer.

        Raises:
            SystemExit: when a signal asks for a stop, after a checkpoint.
            UserError: for a checkpoint that is not whole or of another world size, or none to resume from; for a loss
                or weights that are not finite.
        """
        output_dir, checkpoint = Path(self.args.output_dir), resume_from_checkpoint
        if checkpoint is True:
            checkpoint = on_main(lambda: find_newest(output_dir))
            if checkpoint is None:
                raise UserError(f"{output_dir} has no checkpoint: leave resume_from_checkpoint out to start anew.")
        if checkpoint:
            n_before, n_now = on_main(lambda: verify(Path(checkpoint)))["world_size"], self.args.world_size
            if n_before != n_now:
                raise UserError(f"{checkpoint} needs {n_before} processes, as before, but {n_now} were launched.")
            if output := self._end_of(Path(checkpoint)):
                return output
            if not Path(checkpoint, OPTIMIZER_NAME).is_file():
                raise UserError(f"{checkpoint} was saved with --save_only_model: start anew in another --output_dir.")
        elif self.args.should_save:
            for earlier in list_checkpoints(output_dir):  # a resume would prefer them to new ones
                manifest = earlier / MANIFEST
                if not manifest.is_file() or json.loads(manifest.read_bytes())["settings"] != self.settings:
                    raise UserError(f"{earlier} is from another run, and would be deleted: choose another output_dir.")
                logger.warning("%s is from an earlier training in this folder, and is removed.", earlier)
                shutil.rmtree(earlier)
        if self.model is not None and self.model_wrapped is self.model:  # None between the trials of a search
            # Evaluating marks the bare model as prepared. Trainer 5.23 would then never wrap it for several processes,
            # and each would train on its own share of the texts, without the gradients of the others.
            self.model._is_accelerate_prepared = False
        self._hp_search_setup(kwargs.get("trial"))  # sets a search's arguments now, as the next lines read them
        # a second training starts with the initial learning rate and a new EMA
        self.optimizer, self.optimizer_cls_and_kwargs = self.given_optimizer
        if self.args.ema_decay:
            from smsa.training.ema import EmaAdamW

            _, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer_cls_and_kwargs = (EmaAdamW, {"decay": self.args.ema_decay, **options})
        if self.args.world_size > 1:
            torch.manual_seed(self.args.seed)  # Accelerate shuffles by it; RunGuard then seeds each rank
        if self.records_steps:
            from smsa.training.cuda_graphs import StepRecorder

            self.recorder = StepRecorder(self.model)
        evaluates_first = self.args.eval_on_start
        self.args.eval_on_start &= not checkpoint  # after a resume, it would count against the patience
        try:
            return super().train(checkpoint and str(checkpoint), **kwargs)
        finally:
            self.args.eval_on_start = evaluates_first  # run.json records the value as given
            while self.guard.handlers:
                signal.signal(*self.guard.handlers.popitem())
            if self.recorder is not None:
                self.recorder.close()
                self.recorder = None

    def _end_of(self, checkpoint: Path) -> TrainOutput | None:
        """Load and return the result if training had ended at a checkpoint, where Trainer would go on; else None."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if self.args.auto_find_batch_size:  # steps are counted with the batch size that fitted
            self._train_batch_size = state.train_batch_size
        n_steps = self.args.max_steps  # -1 if epochs are given
        if n_steps < 0:
            steps_an_epoch = math.ceil(len(self.train_dataset) / self.get_total_train_batch_size(self.args))
            n_steps = math.ceil(self.args.num_train_epochs * steps_an_epoch)
        if state.global_step > n_steps:
            done = f"{state.epoch:g} epochs, {state.global_step} steps"
            raise UserError(f"{checkpoint} has trained for {done}: --num_train_epochs or --max_steps cannot be less.")
        n_worse = count_worse(state, self.args.metric_for_best_model, self.args.greater_is_better)
        if state.global_step < n_steps and not 0 < self.args.early_stopping_patience <= n_worse:
            return None
        way_out = "a higher --num_train_epochs, --max_steps or --early_stopping_patience trains for longer"
        logger.info("Training was over after step %d; %s.", state.global_step, way_out)
        if self.args.load_best_model_at_end and state.best_global_step:
            checkpoint = checkpoint.with_name(f"checkpoint-{state.best_global_step}")
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return TrainOutput(state.global_step, float("nan"), {})

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the batches of one step, and how many labels they have over all ranks.

        Accelerate fills the last step of an epoch with rows from the epoch's start, so that all ranks get equally many.
        The labels of these repeated rows become -100: no loss, count or training score includes them.
        """
        batches, n_labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        n_ranks, is_last = self.args.world_size, self.accelerator.gradient_state.end_of_dataloader
        n_last = len(self.train_dataset) % (self._train_batch_size * n_ranks)  # rows in the last batches of all ranks
        if n_ranks > 1 and is_last and n_last:
            label_ids = batches[-1]["labels"]  # (batch,) or (batch, length)
            n_before = self.args.process_index * len(label_ids)  # rows of the lower ranks
            label_ids[max(0, n_last - n_before) :] = IGNORED
            n_labels = self._get_num_items_in_batch(batches, device)
        return batches, n_labels

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Return the schedule that the arguments name: the reference's decay by epoch, or one of Trainer's."""
        if self.lr_scheduler is None and self.args.lr_scheduler_type == EPOCH_STEP:
            self.lr_scheduler = EpochStepLR(optimizer or self.optimizer, self.args.lr_step_size, self.args.lr_gamma)
            self._created_lr_scheduler = True  # a second train() starts with a new schedule
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except (TypeError, ValueError) as error:  # kwargs that are missing or unknown
            raise UserError(f"--lr_scheduler_kwargs do not fit {self.args.lr_scheduler_type.value}: {error}") from error

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Train on one batch, with a recorded step where steps are recorded."""
        step = super().training_step
        if self.recorder is not None and model is self.model:  # not DDP: ranks would communicate in a recording
            self.optimizer.train()  # a step calls it, but its replay does not
            step = partial(self.recorder, step)
        return step(model, inputs, num_items_in_batch)

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """Save weights, configuration and tokenizer, but not training_args.bin, a pickle of what run.json says."""
        output_dir = Path(output_dir or self.args.output_dir)
        super().save_model(str(output_dir), _internal_call)
        if self.args.should_save:
            (output_dir / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            if self.processing_class is not None:
                save_tokenizer(self.processing_class, output_dir)

    # Trainer writes directly into checkpoint-<step>: a kill leaves half a checkpoint, after older ones were removed.
    # Delete this when Trainer saves aside and renames (transformers #35525), and checks what it resumes from.
    def _save_checkpoint(self, model, trial) -> None:
        if trial is not None:  # a hyper-parameter search has its own folders and is not resumed
            return super()._save_checkpoint(model, trial)
        output_dir, step = Path(self.args.output_dir), self.state.global_step
        target, best_step = output_dir / f"checkpoint-{step}", self.state.best_global_step
        losses = gather(self._tr_loss.view(1)).tolist()
        self.state.stateful_callbacks[UNLOGGED] = [self._globalstep_last_logged, *losses]
        self.optimizer.eval()  # with an EMA, every checkpoint has the average, even without an evaluation
        if not torch.stack([p.isfinite().all() for p in self.model.parameters()]).all():
            raise UserError(f"The weights are not finite after step {step}, so not saved. Lower --learning_rate.")
        with staged(output_dir) if self.args.should_save else nullcontext(), naming(target):
            self.accelerator.wait_for_everyone()
            self.args.output_dir = str(output_dir / STAGING)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(output_dir)
            self.accelerator.wait_for_everyone()
            if best_step:  # its final path, not the staging folder
                self.state.best_model_checkpoint = str(output_dir / f"checkpoint-{best_step}")
            if self.args.should_save:
                staging = output_dir / STAGING / target.name
                self.state.save_to_json(str(staging / TRAINER_STATE_NAME))
                described = {"step": step, "world_size": self.args.world_size, "settings": self.settings}
                described["best_step"] = best_step if self.args.load_best_model_at_end else None
                described["environment"] = describe_environment(self.args.device.type)
                commit(staging, target, **described)
                rotate_checkpoints(str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    # Trainer's own grouping by length goes through each pool of texts from long to short, which lowers macro F1: see
    # LengthGroupedSampler. Delete this when Trainer shuffles the batches of a pool.
    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        if self.args.train_sampling_strategy != LENGTH_GROUPS:
            return super()._get_train_sampler(train_dataset)
        from smsa.training.length_groups import LengthGroupedSampler

        lengths = count_tokens(self.train_dataset if train_dataset is None else train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedSampler(lengths, self.get_total_train_batch_size(self.args), seed)


class SentimentTrainer(ResumableTrainer):
    """Trainer that computes what IndoNLU's loop computes, on one or many processes.

    By default it uses Adam without weight decay on every trained parameter, and a learning rate that is constant within
    an epoch and steps between epochs. `args` set early stopping, evaluation every N epochs and the choice of the best
    epoch. It prints the reference's progress lines, and logs scores each epoch, of training under `train_` and of valid
    under `eval_`.

    Args:
        model: a sequence classifier whose configuration names its labels; None where `model_init` makes one.
        args: recipe and hardware.
        train_dataset, eval_dataset: rows with `input_ids`, `attention_mask` and `label`, see `encode_splits`.
        **kwargs: passed to ResumableTrainer; give `processing_class=tokenizer`, which also pads the batches.

    Reference: the loop in the tutorial and IndoNLU's main.py, https://github.com/IndoNLP/indonlu
    """

    def __init__(
        self,
        model=None,
        args: SentimentTrainingArguments = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        **kwargs,
    ):
        if not isinstance(args, SentimentTrainingArguments):
            raise TypeError("args must be SentimentTrainingArguments, which take whatever TrainingArguments take.")
        on_gpu = args.device.type == "cuda"
        if tokenizer := kwargs.get("processing_class"):
            # matrix products are faster in multiples of 8; each length needs a recording, so have few
            multiple = 8 if args.fast_kernels and on_gpu else None
            kwargs.setdefault("data_collator", PaddingCollator(tokenizer, pad_to_multiple_of=multiple))
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, **kwargs)
        labels = self.labels = label_names(self.model.config.id2label)
        known = {*MACRO_SCORES, *(f"{score}_{label}" for score in ("f1", "recall", "precision") for label in labels)}
        is_ours = self.compute_metrics is None and not isinstance(eval_dataset, dict)  # a dict adds prefixes
        if is_ours and args.metric_for_best_model not in known:
            raise UserError(f"metric_for_best_model {args.metric_for_best_model!r} is not one of {sorted(known)}.")
        self.compute_metrics = self.compute_metrics or partial(compute_metrics, labels=labels)
        self.weigh_labels()
        if args.fast_kernels:
            from smsa.training.kernels import FIRST_TOKEN_CLASSIFIERS, use_fast_kernels

            use_fast_kernels(self.model, args.device.type)
            # a recording cannot wait for a result of the GPU; steps of these models need none
            self.records_steps = on_gpu and self.model.config.model_type in FIRST_TOKEN_CLASSIFIERS
        elif args.debug or (args.bf16 and args.device.type == "cpu"):
            # on a CPU with dropout, torch's attention multiplies in fp32; --debug cannot read its boolean mask
            self.model.set_attn_implementation("eager")
        self.remove_callback(PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)  # or a notebook's
        self.progress = EpochProgress(self)
        self.add_callback(self.progress)

    def weigh_labels(self) -> None:
        """Set the weight of each label in the training loss; called before each training, as a search changes them.

        Raises:
            UserError: for class weights that are not none, balanced, or a positive number for each label.
        """
        self.class_weights, spec = None, self.args.class_weights
        if self.train_dataset is None or spec == "none":
            return
        weights = torch.ones(len(self.labels))  # stays 1 for a label without texts, for smoothing
        if spec == "balanced":  # n_texts / (n_labels * count): the mean weight of a text is 1
            rows = self.train_dataset  # or a torch Dataset of one's own, whose rows may be tensors
            name = "label" if "label" in rows[0] else "labels"
            label_ids = rows[name][:] if isinstance(rows, Dataset) else [int(row[name]) for row in rows]
            found = np.unique(label_ids)
            weights[found] = torch.from_numpy(compute_class_weight("balanced", classes=found, y=label_ids)).float()
        else:
            try:
                weights = torch.tensor([float(weight) for weight in spec.split(",")])
            except ValueError:
                weights = torch.empty(0)
            if len(weights) != len(self.labels) or not (weights.isfinite() & (weights > 0)).all():
                raise UserError(
                    f"--class_weights {spec!r}: give none, balanced, or a positive number for each of "
                    f"{', '.join(self.labels)}, in this order and comma-separated."
                )
        self.class_weights = weights.to(self.args.device)  # a recorded step may copy nothing to a GPU

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this batch's share of the mean cross entropy over the texts of one step, on all ranks.

        Args:
            num_items_in_batch: number of texts in the step, over accumulated batches and ranks; None: in this batch.

        Only in training, each text counts with the weight of its label, and `label_smoothing_factor` applies. The sum
        is divided by the number of texts, not by the weights, so that a step is the same however it is split into
        batches. With `rdrop_alpha`, training computes each text twice, with different dropout. The loss is the mean of
        both, plus `rdrop_alpha` / 2 times the divergence of the two predictions: half of the paper's loss.

        Source of R-Drop: Liang et al. 2021, R-Drop, https://arxiv.org/abs/2106.14448
        """
        if self.compute_loss_func is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        label_ids = inputs.pop("labels")  # (batch,); without it the model skips its own loss
        alpha = self.args.rdrop_alpha if model.training else 0.0
        if alpha:
            inputs = {name: torch.cat([values, values]) for name, values in inputs.items()}
            label_ids = torch.cat([label_ids, label_ids])
        outputs = model(**inputs)
        logits, options = outputs.logits, {}
        if model.training:
            weight = None if self.class_weights is None else self.class_weights.to(logits)
            options = {"weight": weight, "label_smoothing": self.args.label_smoothing_factor}
        # Sum and division equal torch's mean to the bit, and are right for any number of batches in a step.
        loss_sum = functional.cross_entropy(logits, label_ids, reduction="sum", **options)
        if alpha:
            logits, others = logits.chunk(2)
            label_ids, loss_sum = label_ids.chunk(2)[0], loss_sum / 2
        if model.training:
            self.progress.add(loss_sum, logits, label_ids)
        if alpha:
            loss_sum = loss_sum + alpha / 2 * _divergence(logits, others, label_ids != IGNORED)
        if num_items_in_batch is None:
            loss = loss_sum / len(label_ids)
        else:  # DDP takes the mean of the gradients over ranks
            loss = loss_sum / num_items_in_batch * self.accelerator.num_processes
        outputs = SequenceClassifierOutput(logits=outputs.logits)  # drops the other outputs of decoders
        return (loss, outputs) if return_outputs else loss


def _divergence(logits: torch.Tensor, others: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return (KL(p, q) + KL(q, p)) / 2 of two predictions (batch, n_labels), summed over the texts in `counts`."""
    p, q = logits.float().log_softmax(-1), others.float().log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q) * counts[:, None]).sum() / 2
