"""Started by test_distributed.py as one process or several: trains a few steps, predicts, and writes down what it saw.

python tests/training/distributed_worker.py OUTPUT.npz SMSA_DIR BATCH_SIZE ACCUMULATION
"""

import sys
from pathlib import Path

import numpy as np
import torch
from conftest import make_model
from trainers import encode_real_rows, make_trainer
from transformers import TrainerCallback

from smsa.cli import exit_on_error
from smsa.data.datasets import find_smsa


def main(output: Path, smsa_dir: str, batch_size: int, accumulation: int) -> None:
    n_valid = sum(1 for _ in find_smsa(smsa_dir)["valid"].open("rb"))
    splits, tokenizer = encode_real_rows(find_smsa(smsa_dir), n_train=35, n_valid=n_valid)
    trainer = make_trainer(
        make_model(vocab_size=len(tokenizer)).double(), tokenizer, splits["train"], splits["valid"].select(range(7)),
        output.with_suffix(""), num_train_epochs=3, lr_gamma=0.5, max_grad_norm=0.8, class_weights="1,4,2",
        early_stopping_patience=0, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    gradients = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))

    trainer.add_callback(Watch())
    before = {f"eval_loss_{n}": trainer.evaluate(splits["valid"].select(range(n)))["eval_loss"] for n in (7, n_valid)}
    trainer.train()
    predictions = {f"logits_{n}": trainer.predict(splits["valid"].select(range(n))).predictions for n in (7, n_valid)}
    scores = trainer.evaluate(splits["valid"])
    losses = trainer.accelerator.reduce(torch.stack(trainer.losses), reduction="mean")
    epochs = [entry for entry in trainer.state.log_history if "train_f1" in entry]
    train_f1 = [epoch["train_f1"] for epoch in epochs]
    n_texts = [sum(epoch[f"train_n_{label}"] for label in trainer.labels) for epoch in epochs]
    if trainer.is_world_process_zero():
        np.savez(
            output, world_size=trainer.args.world_size, losses=losses, rates=trainer.rates, norms=trainer.norms,
            gradients=torch.stack(gradients), train_f1=train_f1, n_texts=n_texts,
            eval_f1=scores["eval_f1"], eval_loss=scores["eval_loss"],
            weights=torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), n_valid=n_valid,
            **before, **predictions,
        )  # fmt: skip


if __name__ == "__main__":
    with exit_on_error():
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
