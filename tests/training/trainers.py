"""What the tests of training share: a trainer that records each step, a wish to stop, and a dataset of real rows."""

import copy
import os
import signal

import torch
from conftest import TINY_ROWS, make_model, make_tokenizer
from datasets import Dataset, DatasetDict
from transformers import BertTokenizer, TrainerCallback

from smsa import LABELS, SentimentTrainer, SentimentTrainingArguments, encode_splits, load_splits
from smsa.models.scratch import SCRATCH_VOCAB_SIZE, train_vocabulary


class At(TrainerCallback):
    """Does something whenever an event comes, given its state and the model."""

    def __init__(self, event, action):
        def act(args, state, control, model=None, **kwargs):
            action(state, model)

        setattr(self, event, act)


def ask_at(step, signum=signal.SIGTERM, event="on_step_begin") -> At:
    """Return a callback that asks for a stop by a signal, in the middle of a step, or at an event after it."""
    n_steps = step - (event == "on_step_begin")
    return At(event, lambda state, _: state.global_step == n_steps and os.kill(os.getpid(), signum))


class RecordingTrainer(SentimentTrainer):
    """Keeps the loss, the learning rate and the gradient norm of each step, as they were when it was taken."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses, self.rates, self.norms = [], [], []

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.losses.append(super().training_step(model, inputs, num_items_in_batch))
        return self.losses[-1]

    def _clip_grad_norm(self, model):
        self.norms.append(float(super()._clip_grad_norm(model)))
        return self.norms[-1]


def make_trainer(model, tokenizer, train, valid, output_dir, **changes) -> RecordingTrainer:
    """Return a recording trainer over encoded rows; fast and exact: fp32 on the CPU, batches of eight."""
    values = {"precision": "no", "use_cpu": True, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    args = SentimentTrainingArguments(output_dir=str(output_dir), **values | changes)
    return RecordingTrainer(model, args, train, valid, processing_class=tokenizer)


def make_rows(n: int) -> Dataset:
    """Return n encoded rows, of different lengths."""
    picked = [TINY_ROWS[i * 5 % 7] for i in range(n)]
    encoded = make_tokenizer()([text + " enak" * (i % 4) for i, (text, _) in enumerate(picked)])
    columns = {"text": [text for text, _ in picked], "label": [LABELS.index(label) for _, label in picked]}
    return Dataset.from_dict({**encoded, **columns})


def make_tiny_trainer(output_dir, n_train: int, n_valid: int, model=None, **changes) -> RecordingTrainer:
    """Return a recording trainer of a copy of a model, by default the tiny one, over so many rows."""
    model = copy.deepcopy(model or make_model())
    return make_trainer(model, make_tokenizer(), make_rows(n_train), make_rows(n_valid), output_dir, **changes)


def flatten(model) -> torch.Tensor:
    """Return all weights of a model, shape (n_parameters,)."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def log_of(trainer, name: str) -> list:
    """Return what the log has under a name, in its order; but for the end of a run, whose train_loss is another."""
    return [entry[name] for entry in trainer.state.log_history if name in entry and "train_runtime" not in entry]


def encode_real_rows(files, n_train: int, n_valid: int) -> tuple[DatasetDict, object]:
    """Return the first rows of train and valid as tokens, and their tokenizer."""
    splits = load_splits({split: files[split] for split in ("train", "valid")})
    splits["train"] = splits["train"].select(range(n_train))
    vocabulary = train_vocabulary(splits["train"]["text"], SCRATCH_VOCAB_SIZE)
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=512)
    splits["valid"] = splits["valid"].select(range(n_valid))
    return encode_splits(splits, tokenizer), tokenizer
