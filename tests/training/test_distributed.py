"""One process and two compute the same, and runs of several that would go wrong silently are refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE_DIR, save_tiny
from distributed_worker import main
from killed import run_script
from processes import Forks

WAYS = ["8,1", "4,1", "2,2"]  # of one process, of two, and of two that accumulate: texts a batch, and batches a step


def test_two_processes_train_and_evaluate_like_one(tmp_path):
    main(str(tmp_path), WAYS[0])
    forks = Forks()
    assert forks.run(main, str(tmp_path), *WAYS[1:], n_ranks=2) == [0, 0], forks.printed
    one, *others = records = [np.load(tmp_path / f"{way}.npz") for way in WAYS]
    assert [int(record["world_size"]) for record in records] == [1, 2, 2]
    # 35 texts: in the last step of an epoch one process has three, of which two may be accumulated first, or all
    for two, n_batches in zip(others, ([1] * 15, [2, 2, 2, 2, 1] * 3), strict=True):
        assert len(one["norms"]) == len(two["norms"]) == 5 * 3
        assert (one["norms"] > 0.8).any()  # clipping acted
        accumulated = np.add.reduceat(two["losses"], np.cumsum([0, *n_batches[:-1]]))  # of one step
        # in fp64, where nothing but a fault reaches these: in fp32 Adam makes a step of the last bit of a tiny gradient
        assert np.allclose(accumulated, one["losses"], rtol=0, atol=1e-9)
        for name in "norms gradients weights logits_7 logits_65 eval_loss_7 eval_loss_65 eval_loss".split():
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-9, err_msg=name)  # in the file's order
        assert two["train_f1"].tolist() == one["train_f1"].tolist() and two["eval_f1"] == one["eval_f1"]
        assert two["n_texts"].tolist() == one["n_texts"].tolist() == [35] * 3
        assert two["rates"].tolist() == [rate for rate in (1e-3, 5e-4, 2.5e-4) for _ in range(sum(n_batches) // 3)]
    for record in records:  # trained again, with dropout
        assert record["n_texts_of_second_training"] == 35  # all shuffle by one seed
        assert len(set(record["seeds"])) == record["world_size"]  # and draw dropout of their own


def finetune(folder: Path, fault: str, *options: object) -> None:
    """Fine-tune in a folder; the second rank has a fault."""
    os.chdir(folder)
    if os.environ["RANK"] == "1":
        if fault == "data":
            os.environ["SMSA_DATA_DIR"] = f"{folder}/other"
        if fault == "disk":
            os.chdir("disk")
        if fault == "write":  # of its random state
            torch.save = lambda values, path: Path("nowhere", path).touch()
    run_script("scripts/finetune.py", *options)


FAULTS = {  # of the second: other data; no shared disk; it cannot write, in the run of the first seed
    "data": "(rank 1): The ranks have different settings. On the main process, sha256 of train was ",
    "disk": "Not every rank can see run: choose a folder on a disk that all machines share",
    "write": "(rank 1): [Errno 2] No such file or directory: ",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_second_process_that_is_set_up_in_another_way_ends_both(tmp_path, fault):
    shutil.copytree(SAMPLE_DIR, tmp_path / "other")
    with (tmp_path / "other" / "train_preprocess.tsv").open("a") as lines:
        lines.write("enak\tpositive\n")
    (tmp_path / "disk").mkdir()
    options = "--output_dir run --max_length 64 --max_steps 1".split() + (["--seeds", 1, 2] if fault == "write" else [])
    options += ["--model_name_or_path", save_tiny(tmp_path / "encoder")]
    forks = Forks(SMSA_DATA_DIR=str(SAMPLE_DIR))
    assert forks.run(finetune, tmp_path, fault, *options, n_ranks=2) == [1, 1]  # both end by themselves
    assert FAULTS[fault] in forks.printed
    assert not list(tmp_path.glob("**/checkpoint-*"))
    assert fault != "data" or not (tmp_path / "run").exists()
