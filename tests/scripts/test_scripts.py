"""The scripts as one runs them: real processes on real files, and what they leave or refuse to leave."""

import csv
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess

import pytest
import torch
from conftest import SAMPLE_DIR, fill, is_cut_short, make_model, make_tokenizer, run
from test_data import DAMAGED
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    pipeline,
)

from scripts import finetune
from smsa.cli import parse
from smsa.data.arguments import DataArguments
from smsa.data.labels import LABELS
from smsa.training import results
from smsa.training.arguments import (
    ModelArguments,
    SentimentTrainingArguments,
)
from smsa.training.trainer import SentimentTrainer

SCRATCH = ["--model_name_or_path", "scratch", "--precision", "no", "--max_length", "32"]
FAST = [*SCRATCH, "--data_dir", str(SAMPLE_DIR)]


def launch(*options, config="accelerate_config.yaml", **kwargs) -> tuple[int, str]:
    return run("accelerate", "launch", "--config_file", config, "scripts/finetune.py", *options, **kwargs)


def call(*options) -> None:
    """Call the script in this process, as the command line would."""
    finetune.main(*parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=list(map(str, options))))


LEFT_BY_A_RUN = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "metrics.json", "run.json"),
    *("history.csv", "history.png", "predictions_valid.csv", "predictions_test.csv", "submission.csv", "README.md"),
}


def test_a_run_leaves_a_complete_model_folder(tmp_path):
    output_dir = tmp_path / "run"
    options = ["recipes/quickstart.yaml", *FAST, "--num_train_epochs", "2", "--output_dir", str(output_dir)]
    status, text = launch(*options, HF_TOKEN="hf_canary_in_the_environment")
    assert status == 0, text
    assert {path.name for path in output_dir.iterdir() if path.is_file()} == LEFT_BY_A_RUN
    assert "canary" not in text
    assert not any(b"canary" in path.read_bytes() for path in output_dir.rglob("*") if path.is_file())

    for epoch in (1, 2):
        assert f"(Epoch {epoch}) TRAIN LOSS:" in text
    assert "in effect on cpu: fp32" in text

    metrics = json.loads((output_dir / "metrics.json").read_text())
    assert metrics.keys() == {"epoch", "train", "valid", "test", "examples"}
    assert [sum(metrics[split][f"n_{label}"] for label in LABELS) for split in ("train", "valid", "test")] == [
        274,
        66,
        66,
    ]
    with (output_dir / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    for row in history:
        for split in ("train", "valid"):
            loss, accuracy, f1, recall, precision = (
                float(row[f"{split}_{score}"]) for score in ("loss", "accuracy", "f1", "recall", "precision")
            )
            shown = f"LOSS:{loss:.4f} ACC:{accuracy:.2f} F1:{f1:.2f} REC:{recall:.2f} PRE:{precision:.2f}"
            rate = f" LR:{float(row['learning_rate']):.8f}" if split == "train" else ""
            assert f"(Epoch {row['epoch']}) {split.upper()} {shown}{rate}\n" in text
    assert [float(row["learning_rate"]) for row in history] == pytest.approx([0.0006, 0.00042])
    kept = history[metrics["epoch"] - 1]
    assert float(kept["valid_f1"]) == metrics["valid"]["f1"] == max(float(row["valid_f1"]) for row in history)
    assert float(kept["train_loss"]) == metrics["train"]["loss"]

    classify = pipeline("text-classification", model=str(output_dir), top_k=None)
    for split in ("valid", "test"):
        rows = list(csv.DictReader((output_dir / f"predictions_{split}.csv").open(encoding="utf-8", newline="")))
        lines = (SAMPLE_DIR / f"{split}_preprocess.tsv").read_text(encoding="utf-8").splitlines()
        assert [(row["text"], row["gold"]) for row in rows] == [tuple(line.split("\t")) for line in lines]
        assert sum(row["label"] == row["gold"] for row in rows) / len(rows) == metrics[split]["accuracy"]
        answers = {answer["label"]: answer["score"] for answer in classify([rows[0]["text"]])[0]}
        assert answers == pytest.approx({label: float(rows[0][f"p_{label}"]) for label in LABELS}, abs=1e-5)
    submission = (output_dir / "submission.csv").read_text().splitlines()
    assert submission[:1] + submission[-1:] == ["index,label", f"65,{rows[-1]['label']}"]

    record = json.loads((output_dir / "run.json").read_text())
    assert record["arguments"]["SentimentTrainingArguments"]["learning_rate"] == 6e-4
    assert record["arguments"]["DataArguments"]["max_length"] == 32
    assert record["precision_in_effect"] == "fp32" and record["seed"] == 42 and record["n_processes"] == 1
    sha256 = hashlib.sha256((SAMPLE_DIR / "train_preprocess.tsv").read_bytes()).hexdigest()
    assert record["data"]["train"]["sha256"] == sha256 and record["data"]["train"]["n_texts"] == 274
    assert record["versions"]["torch"] == torch.__version__

    status, text = launch(*options)
    assert status == 1
    assert re.search(
        rf"error: {output_dir} is not empty \(README.md, checkpoint-\d+, .*, \.\.\.\): go on with it by", text
    )
    status, text = launch(*options, "--resume", "auto")
    assert status == 0
    assert f"{output_dir} is finished: nothing to do." in text and "Epoch" not in text


@pytest.mark.parametrize("trouble", ["No space left", "is gone"])
def test_a_disk_that_fails_at_the_end_loses_no_checkpoint(tmp_path, small_disk, monkeypatch, trouble):
    make_model(dropout=0.1).save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    options = ["--model_name_or_path", tmp_path / "encoder", "--data_dir", SAMPLE_DIR, "--max_length", 64]
    options += ["--num_train_epochs", 2, "--precision", "no", "--output_dir"]
    call(*options, tmp_path / "plain")
    run, elsewhere = small_disk / "run", small_disk / "elsewhere"

    def write_run(*args):
        if trouble == "No space left":
            fill(small_disk)
        else:
            run.rename(elsewhere)
        return results.write_run(*args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(finetune, "write_run", write_run)
        call(*options, run)
    assert re.search(f"^error: The result could not be written to .*{trouble}", stopped.value.code)
    if trouble == "is gone":
        assert not run.exists()
        elsewhere.rename(run)
    else:
        (small_disk / "filler").unlink()
    left = {path.name for path in run.iterdir()} - {"run.lock", "running.json"}
    assert left == {"checkpoint-9", "checkpoint-18"}
    with pytest.raises(SystemExit, match="is not empty .checkpoint-18, checkpoint-9.: go on with it by --resume auto"):
        call(*options, run)
    call(*options, run, "--resume", "auto")
    for name in LEFT_BY_A_RUN - {"run.json", "README.md"}:
        assert (run / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


def test_more_epochs_can_be_allowed_for_a_finished_run(tmp_path, monkeypatch):
    make_model().save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    options = ["--model_name_or_path", tmp_path / "encoder", "--data_dir", SAMPLE_DIR, "--max_length", 64]
    options += ["--precision", "no", "--resume", "auto", "--num_train_epochs"]
    call(*options, 3, "--output_dir", tmp_path / "plain")
    call(*options, 2, "--output_dir", tmp_path / "run")
    with pytest.raises(SystemExit, match="num_train_epochs was 2.0, is 3.0. .* allow it by --allow_changes num"):
        call(*options, 3, "--output_dir", tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="error: The disk of .* has 0.0 MB free"):
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
        call(*options, 3, "--output_dir", tmp_path / "run", "--allow_changes", "num_train_epochs")
    assert (tmp_path / "run" / "run.json").exists()  # refused, the finished run is as it was
    call(*options, 3, "--output_dir", tmp_path / "run", "--allow_changes", "num_train_epochs")
    for name in LEFT_BY_A_RUN - {"run.json", "README.md"}:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name
    with pytest.raises(SystemExit, match="checkpoint-27 has trained for 3 epochs: --num_train_epochs cannot be less"):
        call(*options, 1, "--output_dir", tmp_path / "run", "--allow_changes", "num_train_epochs")
    (tmp_path / "run" / "model.safetensors").unlink()
    call(*options, 3, "--output_dir", tmp_path / "run")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "plain")]
    assert weights[0] == weights[1]
    assert (tmp_path / "run" / "model.safetensors").stat().st_mode == (tmp_path / "run" / "run.json").stat().st_mode
    shutil.copytree(SAMPLE_DIR, tmp_path / "data")
    with (tmp_path / "data" / "train_preprocess.tsv").open("a") as lines:
        lines.write("enak\tpositive\n")
    with pytest.raises(SystemExit, match="sha256 of the train file was"):
        call(*options, 3, "--output_dir", tmp_path / "run", "--data_dir", tmp_path / "data")
    make_model(dropout=0.1, seed=1).save_pretrained(tmp_path / "encoder")  # another under the same name
    with pytest.raises(SystemExit, match="sha256 of the encoder's model.safetensors was"):
        call(*options, 3, "--output_dir", tmp_path / "run")


def test_each_seed_is_a_run_of_its_own_and_one_that_fails_leaves_the_others(tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    make_model(dropout=0.1).save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    options = ["--model_name_or_path", tmp_path / "encoder", "--data_dir", SAMPLE_DIR, "--max_length", 64]
    options += ["--num_train_epochs", 2, "--learning_rate", 1e-3, "--precision", "no", "--output_dir"]
    seeds = [tmp_path / "seeds", "--seeds", 1, 2, 3]
    call(*options, tmp_path / "alone", "--seed", 3)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed-2").touch()
    with pytest.raises(SystemExit, match="seeds is not empty .seed-2.: go on with it by --resume auto"):
        call(*options, *seeds)
    with pytest.raises(SystemExit, match="^error: seed 2 failed; the same command with --resume auto tries again"):
        call(*options, *seeds, "--resume", "auto")
    assert "seed-2 is a file" in caplog.text
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert list(summary["runs"]) == ["1", "3"] and "seed-2 is a file" in summary["failed"]["2"]
    (tmp_path / "seeds" / "seed-2").unlink()
    written = (tmp_path / "seeds" / "seed-1" / "run.json").stat().st_mtime_ns
    call(*options, *seeds, "--resume", "auto")
    assert (tmp_path / "seeds" / "seed-1" / "run.json").stat().st_mtime_ns == written  # done before, and left alone

    for name in LEFT_BY_A_RUN - {"run.json", "README.md"}:
        assert (tmp_path / "seeds" / "seed-3" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    record = json.loads((tmp_path / "seeds" / "seed-3" / "run.json").read_text())
    assert record["seed"] == 3 and record["arguments"]["SentimentTrainingArguments"]["seeds"] is None
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert summary["failed"] == {} and list(summary["runs"]) == ["1", "2", "3"]
    assert not [score for score in summary["mean"]["valid"] if score.startswith("n_")]
    for split in ("valid", "test"):
        by_seed = [
            json.loads((tmp_path / "seeds" / f"seed-{seed}" / "metrics.json").read_text())[split] for seed in (1, 2, 3)
        ]
        assert [run[split] for run in summary["runs"].values()] == by_seed
        assert len({run["loss"] for run in by_seed}) == 3
        for score in ("loss", "accuracy", "f1", "recall", "precision", "f1_neutral"):
            values = [run[score] for run in by_seed]
            assert summary["mean"][split][score] == pytest.approx(statistics.mean(values))
            assert summary["std"][split][score] == pytest.approx(statistics.stdev(values))
    assert re.search(
        r"seed +macro F1 +accuracy +positive +neutral +negative\n1 .*\n2 .*\n3 .*\nmean .*\nstd ", caplog.text
    )

    before = (tmp_path / "seeds" / "seeds.json").read_bytes()
    changed = [tmp_path / "seeds", "--seeds", 4, 1, "--resume", "auto", "--max_grad_norm", 5]
    with pytest.raises(SystemExit, match="max_grad_norm was 10.0, is 5.0"):  # no mean over two recipes
        call(*options, *changed)
    assert (tmp_path / "seeds" / "seeds.json").read_bytes() == before
    assert not (tmp_path / "seeds" / "seed-4").exists()


def test_the_epoch_that_was_kept_is_said_and_a_card_that_was_taken_over_stays(tmp_path):
    make_model().save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    options = ["--model_name_or_path", tmp_path / "encoder", "--data_dir", SAMPLE_DIR, "--max_length", 64]
    options += ["--num_train_epochs", 3, "--precision", "no", "--learning_rate", 1e-12]
    options += ["--output_dir", tmp_path / "run", "--resume", "auto"]
    call(*options)  # nothing is learned, so that the first epoch stays the best
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epoch"] == 1
    assert "The model is that of epoch 1, which was the best on valid" in (tmp_path / "run" / "README.md").read_text()
    (tmp_path / "run" / "README.md").write_text("mine")
    (tmp_path / "run" / "history.csv").unlink()
    call(*options)
    assert (tmp_path / "run" / "history.csv").is_file()
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("suffix, before, line, reason", DAMAGED[:1])
def test_damaged_data_stops_the_script_before_it_writes(tmp_path, split, suffix, before, line, reason):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(before + line + b"\n")
    files = {name: SAMPLE_DIR / f"{name}_preprocess.tsv" for name in ("train", "valid", "test")} | {split: path}
    with pytest.raises(SystemExit) as stopped:
        call(
            *SCRATCH,
            *(word for name in files for word in (f"--{name}_file", files[name])),
            "--output_dir",
            tmp_path / "run",
        )
    assert f"{path}:3: " in stopped.value.code and reason in stopped.value.code
    assert not (tmp_path / "run").exists()


def test_a_faulty_file_stops_the_script_before_it_writes(tmp_path):
    (tmp_path / "faulty.tsv").write_bytes(b"")
    with pytest.raises(SystemExit, match="^error: .*faulty.tsv has no rows"):
        call(*FAST, "--test_file", tmp_path / "faulty.tsv", "--output_dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_memory_says_how_the_same_recipe_needs_less(tmp_path, monkeypatch):
    def train(self, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")

    monkeypatch.setattr(SentimentTrainer, "train", train)
    with pytest.raises(
        SystemExit, match="error: CUDA out of memory.*GiB. A lower --per_device_train_batch_size with as"
    ):
        call(*FAST, "--output_dir", tmp_path / "run")


REFUSED = {
    "no such model": (["--model_name_or_path", "nowhere/nothing"], "nowhere/nothing"),
    "no such folder": (["--data_dir", "nowhere"], "comes from --data_dir"),
    "too long": (["--max_length", "1000"], "--max_length is 1000, but this encoder reads at most 512"),
    "too deep": (["--freeze_layers", "99"], "--freeze_layers 99"),
    "weights of classes": (["--class_weights", "1,2"], "3 positive numbers"),
    "unknown metric": (["--metric_for_best_model", "macro_f1"], "'macro_f1' is not one of ['accuracy', 'f1', "),
    "other labels": (["--labels", "baik,buruk"], "found 'p"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_stops_the_script_before_it_writes(tmp_path, options, message):
    with pytest.raises(SystemExit) as stopped:
        call(*FAST, *options, "--output_dir", tmp_path / "run")
    assert str(stopped.value.code).startswith("error: ") and message in stopped.value.code
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_own_files_with_own_columns_and_labels_train(tmp_path, format):
    import pandas as pd

    names = {"positive": "positif", "neutral": "netral", "negative": "negatif"}
    for split in ("train", "valid"):
        rows = [line.split("\t") for line in (SAMPLE_DIR / f"{split}_preprocess.tsv").read_text("utf-8").splitlines()]
        table = pd.DataFrame(
            {"nomor": range(len(rows)), "ulasan": [r[0] for r in rows], "kelas": [names[r[1]] for r in rows]}
        )
        path = tmp_path / f"{split}.{format}"
        if format == "csv":
            table.to_csv(path, index=False)
        elif format == "jsonl":
            table.to_json(path, orient="records", lines=True, force_ascii=False)
        else:
            table.to_parquet(path)
    own = ["--train_file", tmp_path / f"train.{format}", "--valid_file", tmp_path / f"valid.{format}"]
    own += ["--text_column", "ulasan", "--label_column", "kelas", "--precision", "no"]
    call(*SCRATCH, *own, "--labels", "negatif,netral,positif", "--max_steps", "2", "--output_dir", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "negatif", "1": "netral", "2": "positif"}
    assert "f1_positif" in json.loads((tmp_path / "run" / "metrics.json").read_text())["valid"]
    # the labels are taken from a model that carries them
    call("--model_name_or_path", tmp_path / "run", *own, "--max_steps", "1", "--output_dir", tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["id2label"] == config["id2label"]


def test_training_without_a_test_file_leaves_no_test_scores(tmp_path):
    (tmp_path / "data").mkdir()
    for split in ("train", "valid"):
        shutil.copy(SAMPLE_DIR / f"{split}_preprocess.tsv", tmp_path / "data")
    call(*FAST, "--data_dir", tmp_path / "data", "--max_steps", "2", "--output_dir", tmp_path / "run")
    left = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert left == LEFT_BY_A_RUN - {"predictions_test.csv", "submission.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_damaged_data_ends_a_launch_with_a_status_that_is_not_0(tmp_path, split):
    path = tmp_path / "damaged.tsv"
    path.write_bytes(b"a\tneutral\nb\tpositif\n")
    files = {name: SAMPLE_DIR / f"{name}_preprocess.tsv" for name in ("train", "valid", "test")} | {split: path}
    for config in ("accelerate_config.yaml", "configs/accelerate/cpu.yaml"):
        words = [word for name in files for word in (f"--{name}_file", str(files[name]))]
        status, text = launch(*SCRATCH, *words, "--output_dir", str(tmp_path / "run"), config=config)
        assert status != 0
        assert f"{path}:2: the label is not one of positive, neutral, negative; found 'positif'" in text
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_write_each_thing_once(tmp_path):
    output_dir = tmp_path / "run"
    status, text = launch(
        "recipes/quickstart.yaml", *FAST, "--num_train_epochs", "1", "--output_dir", str(output_dir),
        config="configs/accelerate/cpu.yaml",
    )  # fmt: skip
    assert status == 0, text
    assert {path.name for path in output_dir.iterdir() if path.is_file()} == LEFT_BY_A_RUN
    assert text.count("(Epoch 1) VALID LOSS:") == text.count("Encoder: scratch") == 1
    assert json.loads((output_dir / "run.json").read_text())["n_processes"] == 2
    rows = list(csv.DictReader((output_dir / "predictions_valid.csv").open(encoding="utf-8", newline="")))
    lines = (SAMPLE_DIR / "valid_preprocess.tsv").read_text(encoding="utf-8").splitlines()
    assert [row["text"] for row in rows] == [line.split("\t")[0] for line in lines]


@pytest.mark.slow
def test_two_processes_train_each_seed_after_the_one_that_has_failed(tmp_path):
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "seed-1").touch()
    status, text = launch(
        "recipes/quickstart.yaml", *FAST, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "seeds"),
        "--seeds", "1", "2", "--resume", "auto", config="configs/accelerate/cpu.yaml",
    )  # fmt: skip
    assert status == 1 and text.count("seed-1 is a file") == 1, text
    summary = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert list(summary["runs"]) == ["2"] and list(summary["failed"]) == ["1"]
    assert json.loads((tmp_path / "seeds" / "seed-2" / "run.json").read_text())["n_processes"] == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_indobert_base_shape_trains_saves_and_reloads(tmp_path, smsa_files, precision):
    """A random model of indobert-base-p1's exact shape, stored as in 2020, with the real vocabulary."""
    vocabulary = os.environ.get("SMSA_INDOBERT_VOCAB")
    if not vocabulary:
        pytest.skip("needs the vocabulary of indobert-base-p1: set SMSA_INDOBERT_VOCAB to its vocab.txt")
    n_steps = 50
    if is_cut_short("a few steps of indobert-base-p1's shape"):
        # in bf16 torch computes in fp32 there and rounds: slower than fp32, and nobody would train like that
        n_steps = 10 if precision == "no" else 3
    torch.manual_seed(0)
    encoder = BertForPreTraining(BertConfig(vocab_size=50_000))
    (tmp_path / "indobert").mkdir()
    torch.save(encoder.state_dict(), tmp_path / "indobert" / "pytorch_model.bin")
    encoder.config.save_pretrained(tmp_path / "indobert")
    shutil.copy(vocabulary, tmp_path / "indobert")
    valid = smsa_files["valid"].read_text(encoding="utf-8").splitlines(keepends=True)[:64]
    (tmp_path / "valid.tsv").write_text("".join(valid), encoding="utf-8")
    arguments = parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=[
        "--model_name_or_path", str(tmp_path / "indobert"), "--train_file", str(smsa_files["train"]),
        "--valid_file", str(tmp_path / "valid.tsv"), "--max_steps", str(n_steps), "--precision", precision,
        "--num_threads", str(os.cpu_count()), "--output_dir", str(tmp_path / "run"),
    ])[:3]  # fmt: skip
    trainer, splits, files = finetune.prepare(*arguments)
    trainer.train()
    metrics = finetune.write_run(trainer, splits, files, arguments)
    torch.set_num_threads(1)

    assert trainer.state.global_step == n_steps
    assert 0 < metrics["train"]["loss"] < 1.5 and 0 < metrics["valid"]["loss"] < 1.5
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["n_parameters"] == 124_443_651
    assert record["precision_in_effect"] == ("fp32" if precision == "no" else precision)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).cpu().eval()
    trained.set_attn_implementation(reloaded.config._attn_implementation)  # in bf16 it was trained with another one
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    batch = tokenizer(list(splits["valid"]["text"][:16]), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(reloaded(**batch).logits, trained(**batch).logits)
    before = encoder.bert.encoder.layer[5].output.dense.weight
    assert 0 < (reloaded.bert.encoder.layer[5].output.dense.weight - before).abs().max() < 0.01
