"""Fine-tuning as one runs it: on real files, what it leaves or refuses to leave."""

import hashlib
import json
import os
import re
import shutil

import pandas as pd
import pytest
import torch
from conftest import SAMPLE_DIR, read_json, save_tiny
from processes import launch, run
from safetensors.torch import load_file
from tables import write_workbook
from transformers import BertConfig, BertForPreTraining, pipeline

from scripts import finetune
from smsa import LABELS, DataArguments, ModelArguments, SentimentTrainingArguments
from smsa.cli import parse
from smsa.errors import UserError

SCRATCH = ["--model_name_or_path", "scratch", "--precision", "no", "--max_length", "32"]
FAST = [*SCRATCH, "--data_dir", str(SAMPLE_DIR)]
LEFT_BY_A_RUN = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "metrics.json", "run.json"),
    *("history.csv", "predictions_valid.csv", "predictions_test.csv", "submission.csv", "README.md"),
}


def call(*options) -> None:
    """Call the script in this process, as the command line would."""
    finetune.main(*parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=list(map(str, options))))


def list_files(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_run_leaves_a_complete_model_folder(tmp_path, caplog, capfd):
    output_dir = tmp_path / "run"
    options = ["recipes/quickstart.yaml", *FAST, "--num_train_epochs", "2", "--output_dir", str(output_dir)]
    text = run(*launch("scripts/finetune.py", *options))
    assert list_files(output_dir) == LEFT_BY_A_RUN and not list(output_dir.rglob("training_args.bin"))
    assert "in effect on cpu: fp32" in text and "macro avg" in text
    assert re.search(r"\(Epoch 2\) TRAIN LOSS:[^\n]*\| \d+/\d+ \[\d\d:\d\d<\d\d:\d\d", text)  # with the time left

    metrics = read_json(output_dir / "metrics.json")
    assert metrics.keys() == {"epoch", "train", "valid", "test", "examples"}
    history = pd.read_csv(output_dir / "history.csv")
    for _, row in history.iterrows():
        for split, rate in (("train", f" LR:{row['learning_rate']:.8f}"), ("valid", "")):
            loss, *scores = (row[f"{split}_{score}"] for score in ("loss", "accuracy", "f1", "recall", "precision"))
            shown = "ACC:{:.2f} F1:{:.2f} REC:{:.2f} PRE:{:.2f}".format(*scores)
            assert f"(Epoch {row['epoch']:.0f}) {split.upper()} LOSS:{loss:.4f} {shown}{rate}\n" in text
    assert list(history["learning_rate"]) == pytest.approx([0.0006, 0.00042])
    kept = history.iloc[metrics["epoch"] - 1]
    assert kept["valid_f1"] == metrics["valid"]["f1"] == max(history["valid_f1"])
    assert kept["train_loss"] == metrics["train"]["loss"]

    classify = pipeline("text-classification", model=str(output_dir), top_k=None)
    assert classify.tokenizer.model_max_length == 32  # of training, and inference's default
    for split in ("valid", "test"):
        rows = pd.read_csv(output_dir / f"predictions_{split}.csv")
        lines = (SAMPLE_DIR / f"{split}_preprocess.tsv").read_text(encoding="utf-8").splitlines()
        assert (rows["text"] + "\t" + rows["gold"]).tolist() == lines
        assert (rows["label"] == rows["gold"]).mean() == metrics[split]["accuracy"]
        scores = {answer["label"]: answer["score"] for answer in classify([rows["text"][0]])[0]}
        assert scores == pytest.approx({label: rows[f"p_{label}"][0] for label in LABELS}, abs=1e-5)
    submission = (output_dir / "submission.csv").read_text().splitlines()
    assert submission[:1] + submission[-1:] == ["index,label", f"65,{rows['label'].iloc[-1]}"]

    record = read_json(output_dir / "run.json")
    assert record["arguments"]["SentimentTrainingArguments"]["learning_rate"] == 6e-4
    assert record["precision_in_effect"] == "fp32" and record["seed"] == 42 and record["world_size"] == 1
    sha256 = hashlib.sha256((SAMPLE_DIR / "train_preprocess.tsv").read_bytes()).hexdigest()
    assert record["data"]["train"]["sha256"] == sha256 and record["data"]["train"]["n_texts"] == 274

    with pytest.raises(UserError, match=rf"{output_dir} is not empty \(README.md, checkpoint-\d+, .*\): resume with"):
        call(*options)
    call(*options, "--resume", "auto")
    assert f"{output_dir} is finished: nothing to do." in caplog.text and "Epoch" not in capfd.readouterr().out
    (output_dir / "submission.csv").unlink()
    call(*options, "--resume", "auto")
    assert f"{output_dir} has lost submission.csv: the result is written again" in caplog.text
    assert list_files(output_dir) == LEFT_BY_A_RUN


@pytest.fixture
def tiny(tmp_path) -> list:
    """Options of a run of a tiny encoder on the sample, for two epochs."""
    paths = "--model_name_or_path", save_tiny(tmp_path / "encoder", dropout=0.1), "--data_dir", SAMPLE_DIR
    return [*paths, *"--max_length 64 --precision no --learning_rate 1e-3 --num_train_epochs 2".split()]


def assert_same_outputs(folder, other) -> None:
    for name in LEFT_BY_A_RUN - {"run.json", "README.md"}:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_a_disk_that_is_full_at_the_end_loses_no_checkpoint(tiny, tmp_path, small_disk, monkeypatch):
    run("mount", "-o", "remount,size=8m", small_disk)
    call(*tiny, "--output_dir", tmp_path / "plain")
    folder, collect = small_disk / "run", finetune.collect_metrics
    fill = "dd", "if=/dev/zero", f"of={small_disk}/filler"
    with monkeypatch.context() as patch, pytest.raises((OSError, UserError), match="No space left"):
        patch.setattr(finetune, "collect_metrics", lambda *args: run(*fill, status=1) and collect(*args))
        call(*tiny, "--output_dir", folder)
    (small_disk / "filler").unlink()
    assert {path.name for path in folder.iterdir()} - {"run.lock"} == {"checkpoint-9", "checkpoint-18"}
    call(*tiny, "--output_dir", folder, "--resume", "auto")
    assert_same_outputs(folder, tmp_path / "plain")


def test_a_finished_run_can_be_trained_for_longer_and_a_card_that_was_taken_over_stays(tiny, tmp_path):
    tiny += ["--resume", "auto"]
    call(*tiny, "--num_train_epochs", 3, "--output_dir", tmp_path / "plain")
    call(*tiny, "--output_dir", tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("mine")
    call(*tiny, "--num_train_epochs", 3, "--output_dir", tmp_path / "run")
    assert_same_outputs(tmp_path / "run", tmp_path / "plain")
    assert (tmp_path / "run" / "README.md").read_text() == "mine"
    assert (tmp_path / "run" / "model.safetensors").stat().st_mode == (tmp_path / "run" / "run.json").stat().st_mode


def test_frozen_matrices_stay_and_biases_learn(tiny, tmp_path):
    call(*tiny, "--freeze_matrices", "true", "--max_steps", 2, "--output_dir", tmp_path / "run")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("encoder", "run"))
    learned = {name for name, values in before.items() if not torch.equal(values, after[name])}
    assert not any(before[name].ndim > 1 for name in learned if name.startswith("bert."))
    assert "bert.encoder.layer.1.output.dense.bias" in learned and "classifier.weight" in after


def test_each_seed_is_a_run_of_its_own(tiny, tmp_path, caplog):
    call(*tiny, "--output_dir", tmp_path / "alone", "--seed", 3)
    folder, options = tmp_path / "seeds", ["--output_dir", tmp_path / "seeds", "--seeds", 1, 3]
    folder.mkdir()
    (folder / "seed-3").touch()  # in the way
    with pytest.raises(UserError, match="seed-3 is a file"):
        call(*tiny, *options)
    (folder / "seed-3").unlink()
    written = (folder / "seed-1" / "run.json").stat().st_mtime_ns
    call(*tiny, *options, "--resume", "auto")
    assert (folder / "seed-1" / "run.json").stat().st_mtime_ns == written  # done before, and left alone
    assert_same_outputs(folder / "seed-3", tmp_path / "alone")
    summary = read_json(folder / "seeds.json")
    for split in ("valid", "test"):
        by_seed = pd.DataFrame(read_json(folder / f"seed-{seed}" / "metrics.json")[split] for seed in (1, 3))
        assert [run[split] for run in summary["runs"].values()] == by_seed.to_dict("records")
        assert by_seed["loss"].nunique() == 2
        for name in ("mean", "std"):
            found = summary[name][split]
            assert found.keys() >= {"loss", "f1"} and found == pytest.approx(by_seed.agg(name)[[*found]].to_dict())
    assert re.search(r"valid, 2 seeds\n +mean +std\nloss .*\naccuracy +0\.\d{4} +0\.\d{4}\nf1 ", caplog.text)


def test_a_workbook_of_own_columns_and_labels_is_split_and_the_rows_that_are_left_out_of_it_are_listed(tmp_path):
    names = {"positive": "positif", "neutral": "netral", "negative": "negatif"}
    lines = (SAMPLE_DIR / "train_preprocess.tsv").read_text(encoding="utf-8").splitlines()[:60]
    rows = [[text, names[label]] for text, label in (line.split("\t") for line in lines)]
    cells = [["Laporan", None], [], ["tulisan", "kelas"], *rows, ["belum", None], [None, "netral"]]
    write_workbook(tmp_path / "own.xlsx", {"Ringkasan": [["Kategori", "Jumlah"], ["Total", 62]], "Data": cells})
    own = ["--train_file", tmp_path / "own.xlsx", "--text_column", "tulisan", "--label_column", "kelas"]
    own += ["--on_bad_row", "skip", "--precision", "no", "--max_steps", 2]
    call(*SCRATCH, *own, "--labels", "negatif,netral,positif", "--output_dir", tmp_path / "run")
    without_test = LEFT_BY_A_RUN - {"predictions_test.csv", "submission.csv"}
    assert list_files(tmp_path / "run") == without_test | {"rejects.jsonl"}
    rejects = (tmp_path / "run" / "rejects.jsonl").read_text()
    assert [json.loads(line)["line"] for line in rejects.splitlines()] == [64, 65] and "own.xlsx" in rejects
    data = read_json(tmp_path / "run" / "run.json")["data"]
    assert [data[split]["n_texts"] for split in ("train", "valid")] == [54, 6]
    config = read_json(tmp_path / "run" / "config.json")
    assert config["id2label"] == {"0": "negatif", "1": "netral", "2": "positif"}
    assert "f1_positif" in read_json(tmp_path / "run" / "metrics.json")["valid"]
    # the labels are taken from a model that carries them
    call("--model_name_or_path", tmp_path / "run", *own, "--output_dir", tmp_path / "again")
    assert read_json(tmp_path / "again" / "config.json")["id2label"] == config["id2label"]


@pytest.mark.slow(1800)
@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_indobert_base_shape_trains_saves_and_reloads(tmp_path, smsa_files, precision):
    """A random model of indobert-base-p1's exact shape, stored as in 2020, with the real vocabulary."""
    vocabulary = os.environ.get("SMSA_INDOBERT_VOCAB") or pytest.skip("set SMSA_INDOBERT_VOCAB to its vocab.txt")
    torch.manual_seed(0)
    base, output_dir = BertForPreTraining(BertConfig(vocab_size=50_000)), tmp_path / "run"
    torch.save(base.state_dict(), tmp_path / "pytorch_model.bin")
    base.config.save_pretrained(tmp_path)
    shutil.copy(vocabulary, tmp_path)
    valid = smsa_files["valid"].read_text(encoding="utf-8").splitlines(keepends=True)[:64]
    (tmp_path / "valid.tsv").write_text("".join(valid), encoding="utf-8")
    files = ["--train_file", smsa_files["train"], "--valid_file", tmp_path / "valid.tsv"]
    options = ["--max_steps", 2, "--per_device_train_batch_size", 8, "--num_threads", os.cpu_count()]
    call("--model_name_or_path", tmp_path, *files, *options, "--precision", precision, "--output_dir", output_dir)

    record = read_json(output_dir / "run.json")
    assert record["n_parameters"] == 124_443_651
    assert record["precision_in_effect"] == ("fp32" if precision == "no" else precision)
    classify = pipeline("text-classification", model=str(output_dir), top_k=None, device="cpu")
    before, after = (m.bert.encoder.layer[5].output.dense.weight for m in (base, classify.model))
    assert 0 < (after - before).abs().max() < 0.01
    predictions = pd.read_csv(output_dir / "predictions_valid.csv").iloc[:16]
    found = pd.DataFrame({f"p_{s['label']}": s["score"] for s in scores} for scores in classify([*predictions["text"]]))
    assert found.to_numpy() == pytest.approx(predictions[[*found]].to_numpy(), abs=1e-5 if precision == "no" else 0.02)
