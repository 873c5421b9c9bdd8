"""Real processes: one and two of them compute the same, and launches that would go wrong silently are refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, SAMPLE_DIR, make_model, make_tokenizer, run

from smsa.errors import UserError

PATHS = {
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "training")))
}  # what a worker imports from
LAUNCH_TWO = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory, real_files):
    """What one process saw with batches of 8, and two with batches of 4, or of 2 accumulated twice."""
    folder = tmp_path_factory.mktemp("distributed")
    record = {}
    for name, launch, batch_size, accumulation in (
        ("one", [sys.executable], 8, 1),
        ("two", LAUNCH_TWO, 4, 1),
        ("two accumulated", LAUNCH_TWO, 2, 2),
    ):
        output = folder / f"{name}.npz"
        options = [str(output), str(real_files["train"].parent), str(batch_size), str(accumulation)]
        status, text = run(*launch, "tests/training/distributed_worker.py", *options, **PATHS)
        assert status == 0, text
        record[name] = np.load(output)
    assert record["one"]["world_size"] == 1
    assert record["two"]["world_size"] == record["two accumulated"]["world_size"] == 2
    return record


@pytest.mark.parametrize("name", ["two", "two accumulated"])
def test_two_processes_train_like_one(seen, name):
    one, two = seen["one"], seen[name]
    assert len(one["norms"]) == len(two["norms"]) == 5 * 3
    assert (one["norms"] > 0.8).any()  # clipping acted
    # 35 texts: in the last step of an epoch one process has three, of which two may be accumulated first, or all
    n_batches = [1] * 15 if name == "two" else [2, 2, 2, 2, 1] * 3
    accumulated = np.add.reduceat(two["losses"], np.cumsum([0, *n_batches[:-1]]))  # of one step
    # in fp64, where nothing but a fault reaches these: in fp32 Adam makes a step of the last bit of a tiny gradient
    assert np.allclose(accumulated, one["losses"], rtol=0, atol=1e-9)
    assert np.allclose(two["norms"], one["norms"], rtol=1e-9)
    assert np.abs(two["gradients"] - one["gradients"]).max() < 1e-9
    assert np.abs(two["weights"] - one["weights"]).max() < 1e-9
    assert two["train_f1"].tolist() == one["train_f1"].tolist()
    assert two["n_texts"].tolist() == one["n_texts"].tolist() == [35] * 3


@pytest.mark.parametrize("name", ["two", "two accumulated"])
def test_the_rate_on_two_processes_is_steplr_by_epoch(seen, name):
    batches_an_epoch = len(seen[name]["rates"]) // 3
    assert seen[name]["rates"].tolist() == [rate for rate in (1e-3, 5e-4, 2.5e-4) for _ in range(batches_an_epoch)]


def test_two_processes_score_like_one(seen):
    one, two = seen["one"], seen["two"]
    n_valid = int(one["n_valid"])
    for n in (7, n_valid):
        assert two[f"logits_{n}"].shape == (n, 3)
        assert np.allclose(two[f"logits_{n}"], one[f"logits_{n}"], atol=1e-5)  # in the order of the file
        assert two[f"eval_loss_{n}"] == pytest.approx(float(one[f"eval_loss_{n}"]), abs=1e-6)
    assert two["eval_f1"] == one["eval_f1"]
    assert two["eval_loss"] == pytest.approx(float(one["eval_loss"]), abs=1e-6)


def test_processes_that_cannot_see_each_other_are_refused():
    """An accelerator that Accelerate does not distribute over: each process would think that it is alone."""
    code = (
        "import torch; torch.accelerator.is_available = lambda: True; "
        "torch.accelerator.current_accelerator = lambda: torch.device('mps'); "
        "from smsa import SentimentTrainingArguments as A; A(output_dir='x')"
    )
    status, text = run(sys.executable, "-c", code, WORLD_SIZE="2", **PATHS)
    assert status != 0
    assert "2 processes were launched, but this one sees 1" in text


def test_one_process_with_several_gpus_is_refused(monkeypatch):
    from smsa.training.arguments import SentimentTrainingArguments

    monkeypatch.setattr(SentimentTrainingArguments, "n_gpu", property(lambda self: 4))
    with pytest.raises(UserError, match="One process sees 4 GPUs.*--num_processes 4"):
        SentimentTrainingArguments(output_dir="x")


FINETUNE = """
import os, runpy, sys
folder, fault, *options = sys.argv[1:]
if os.environ["RANK"] == "1":
    if fault == "data":
        os.environ["SMSA_DATA_DIR"] = f"{folder}/other"
    if fault == "disk":
        os.chdir(f"{folder}/disk")
    if fault == "write":
        import torch
        save = torch.save

        def fail(values, path, *args, **kwargs):
            if "seed-1" in str(path) and "rng_state" in str(path):
                raise PermissionError(f"{path} cannot be written")
            save(values, path, *args, **kwargs)

        torch.save = fail
sys.argv[1:] = options
runpy.run_path(f"{sys.path[0]}/finetune.py", run_name="__main__")
"""


@pytest.fixture
def finetune_two(tmp_path):
    """A function that runs scripts/finetune.py in two processes, of which the second is set up in another way."""
    (tmp_path / "other").mkdir()
    for split in ("train", "valid", "test"):
        lines = (SAMPLE_DIR / f"{split}_preprocess.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        lines = lines[::-1] if split == "train" else lines
        (tmp_path / "other" / f"{split}_preprocess.tsv").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "disk").mkdir()
    make_model().save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    (tmp_path / "finetune.py").write_text((ROOT / "scripts" / "finetune.py").read_text())
    (tmp_path / "worker.py").write_text(FINETUNE)

    def finetune(fault, *options):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [tmp_path / "worker.py", tmp_path, fault, "--model_name_or_path", tmp_path / "encoder"]
        command += ["--max_length", "64", "--num_train_epochs", "1", *options]
        environment = os.environ | {"SMSA_DATA_DIR": str(SAMPLE_DIR), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    return finetune


def test_processes_with_other_data_than_the_first_are_refused(finetune_two, tmp_path):
    status, text = finetune_two("data", "--output_dir", "run")
    assert status != 0
    assert "(rank 1): The ranks do not do the same: sha256 of train is " in text
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_is_not_on_a_shared_disk_is_refused_at_the_start(finetune_two, tmp_path):
    status, text = finetune_two("disk", "--output_dir", "run")
    assert status != 0
    assert "run is not there for every rank: it must be on a disk that all machines share" in text
    assert not list(tmp_path.glob("**/checkpoint-*"))


def test_a_seed_that_fails_in_one_process_alone_ends_all(finetune_two, tmp_path):
    status, text = finetune_two("write", "--output_dir", "run", "--seeds", 1, 2)
    assert status != 0 and "cannot be written" in text
    assert not list(tmp_path.glob("run/seed-*/checkpoint-*"))


TWICE = """
import os, sys
import torch.distributed as dist
from datasets import Dataset
from conftest import make_model, make_tokenizer
from smsa import SentimentTrainer
from smsa import SentimentTrainingArguments

args = SentimentTrainingArguments(
    output_dir=sys.argv[1], num_train_epochs=1, per_device_train_batch_size=2, precision="no", use_cpu=True
)
rows = Dataset.from_dict({
    "input_ids": [[2, 5 + i // 20, 5 + i % 20, 3] for i in range(32)],
    "attention_mask": [[1] * 4] * 32,
    "label": [i % 3 for i in range(32)],
})
seen = []


class Watching(SentimentTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        seen.extend(map(tuple, inputs["input_ids"].tolist()))
        return super().training_step(model, inputs, num_items_in_batch)


trainer = Watching(make_model(dropout=0.1), args, rows, rows, processing_class=make_tokenizer())
for name in ("first", "second"):
    seen.clear()
    trainer.train()
    of_all = [None, None]
    dist.all_gather_object(of_all, list(seen))
    if dist.get_rank() == 0:
        print("different texts:", len({*of_all[0], *of_all[1]}), flush=True)
dist.barrier()
os._exit(0)
"""


def test_processes_share_the_texts_of_an_epoch_also_when_they_train_again(tmp_path):
    """Each draws dropout of its own, and all shuffle by one seed."""
    (tmp_path / "worker.py").write_text(TWICE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    status, text = run(*command, str(tmp_path / "worker.py"), str(tmp_path / "run"), **PATHS)
    assert status == 0 and text.count("different texts: 32") == 2, text
