"""The trainer against a plain-PyTorch loop of the reference recipe, number by number and with no tolerance."""

import copy

import torch
from conftest import make_model
from sklearn.metrics import f1_score
from torch.nn.utils import clip_grad_norm_
from trainers import encode_real_rows, make_trainer

SEED, BATCH, EPOCHS, RATE, GAMMA, PATIENCE = 42, 8, 10, 4e-3, 0.7, 2


def pad(rows, tokenizer):
    batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"], torch.tensor([row["label"] for row in rows])


def reference_loop(model, tokenizer, train, valid, max_norm):
    """One epoch after another as in IndoNLU; no Trainer, no Accelerate."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=GAMMA)
    record = {"losses": [], "rates": [], "norms": [], "valid_f1": []}
    best_f1, best_epoch, best_state, count_stop = -100, None, None, 0
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SEED + epoch)).tolist()
        for start in range(0, len(train), BATCH):
            input_ids, mask, label_ids = pad([train[i] for i in order[start : start + BATCH]], tokenizer)
            loss = model(input_ids, attention_mask=mask, labels=label_ids).loss
            optimizer.zero_grad()
            loss.backward()
            record["norms"].append(clip_grad_norm_(model.parameters(), max_norm).item())
            optimizer.step()
            record["losses"].append(loss.item())
            record["rates"].append(optimizer.param_groups[0]["lr"])
        scheduler.step()
        model.eval()
        with torch.no_grad():
            input_ids, mask, gold = pad(valid, tokenizer)  # one batch of evaluation
            predicted = model(input_ids, attention_mask=mask).logits.argmax(-1)
        f1 = f1_score(gold, predicted, labels=[0, 1, 2], average="macro", zero_division=0)
        record["valid_f1"].append(f1)
        if f1 > best_f1:
            best_f1, best_epoch, best_state, count_stop = f1, epoch + 1, copy.deepcopy(model.state_dict()), 0
        else:
            count_stop += 1
            if count_stop == PATIENCE:
                break
    return record, epoch + 1, best_epoch, best_state


def test_every_number_equals_a_plain_loop_of_the_reference(tmp_path, real_files):
    splits, tokenizer = encode_real_rows(real_files, n_train=250, n_valid=60)
    start = make_model(vocab_size=len(tokenizer))
    max_norm = 2.0  # some steps are over it, some are not
    data = tokenizer, splits["train"], splits["valid"]
    record, stop_epoch, best_epoch, best_state = reference_loop(copy.deepcopy(start), *data, max_norm)

    trainer = make_trainer(
        start, *data, tmp_path / "run", seed=SEED, learning_rate=RATE, lr_gamma=GAMMA, num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH, max_grad_norm=max_norm, early_stopping_patience=PATIENCE,
    )  # fmt: skip
    trainer.train()

    assert len(splits["train"]) % BATCH and stop_epoch >= 3  # a short last batch, three epochs
    assert best_epoch < stop_epoch < EPOCHS  # early stopping was reached
    assert min(record["norms"]) < max_norm < max(record["norms"])  # clipping acted in some steps and not in others
    assert len(set(record["rates"])) == stop_epoch  # the rate fell after each epoch
    assert [loss.item() for loss in trainer.losses] == record["losses"]
    assert trainer.rates == record["rates"]
    assert trainer.norms == record["norms"]
    history = trainer.state.log_history
    assert [entry["eval_f1"] for entry in history if "eval_f1" in entry] == record["valid_f1"]
    steps_an_epoch = -(-len(splits["train"]) // BATCH)
    assert trainer.state.global_step == stop_epoch * steps_an_epoch
    assert trainer.state.best_global_step == best_epoch * steps_an_epoch
    final = trainer.model.state_dict()
    assert max((final[name] - weight).abs().max().item() for name, weight in best_state.items()) == 0.0
