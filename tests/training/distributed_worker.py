"""What one process and several run that must do the same: trains a few steps, predicts, and records what it saw.

python tests/training/distributed_worker.py FOLDER BATCH_SIZE,ACCUMULATION ...
"""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from conftest import SAMPLE_DIR, make_model
from trainers import At, encode_real_rows, flatten, make_trainer

from smsa.cli import exit_on_error
from smsa.data.datasets import find_smsa

N_TRAIN, N_VALID = 35, 65  # neither divides


def train(folder: Path, way: str) -> None:
    """Train and predict; write what all ranks saw to FOLDER/<way>.npz."""
    splits, tokenizer = encode_real_rows(find_smsa(SAMPLE_DIR), N_TRAIN, N_VALID)
    batch_size, accumulation = map(int, way.split(","))
    seven = splits["valid"].select(range(7))
    trainer = make_trainer(
        make_model(vocab_size=len(tokenizer)).double(), tokenizer, splits["train"], seven, folder / way,
        num_train_epochs=3, lr_gamma=0.5, max_grad_norm=0.8, class_weights="1,4,2", early_stopping_patience=0,
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    gradients = []

    def keep_gradients(state, model):
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))

    trainer.add_callback(At("on_pre_optimizer_step", keep_gradients))
    record = {f"eval_loss_{n}": trainer.evaluate(rows)["eval_loss"] for n, rows in ((7, seven), (65, splits["valid"]))}
    trainer.train()
    record |= {f"logits_{n}": trainer.predict(rows).predictions for n, rows in ((7, seven), (65, splits["valid"]))}
    record |= {score: trainer.evaluate(splits["valid"])[score] for score in ("eval_f1", "eval_loss")}
    record["losses"] = trainer.accelerator.reduce(torch.stack(trainer.losses), reduction="mean")
    epochs = [entry for entry in trainer.state.log_history if "train_f1" in entry]
    record["n_texts"] = [sum(epoch[f"train_n_{label}"] for label in trainer.labels) for epoch in epochs]
    record |= {"train_f1": [epoch["train_f1"] for epoch in epochs], "gradients": torch.stack(gradients)}
    record |= {"weights": flatten(trainer.model), "rates": list(trainer.rates), "norms": list(trainer.norms)}

    # once more, with dropout, of which each rank draws its own: they must still share the texts of an epoch
    texts, trainer.args.num_train_epochs = [], 1
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1

    def note_texts(model, args, inputs):
        rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        texts.extend([tuple(ids[mask].tolist()) for ids, mask in rows] if model.training else [])

    trainer.model.register_forward_pre_hook(note_texts, with_kwargs=True)
    trainer.train()
    record["n_texts_of_second_training"] = len(set(gather_object(texts)))
    record["seeds"] = gather_object([torch.initial_seed()])
    if trainer.is_world_process_zero():
        np.savez(folder / f"{way}.npz", world_size=trainer.args.world_size, **record)


def main(folder: str, *ways: str) -> None:
    with exit_on_error():
        for way in ways:
            train(Path(folder), way)


if __name__ == "__main__":
    main(*sys.argv[1:])
