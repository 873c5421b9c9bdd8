"""Several hosts, each a network namespace with an address of its own: they train like one process."""

import os
import signal

import numpy as np
import pytest
from conftest import SAMPLE_DIR, save_tiny
from distributed_worker import train
from processes import ROOT, Program, run

from smsa.training.checkpointing import list_checkpoints

pytestmark = pytest.mark.slow(600)
ADDRESS = "10.77.0.{}".format


@pytest.fixture(scope="module")
def network():
    """The names of three hosts on one switch."""
    switch, *hosts = names = [f"smsa-{os.getpid()}-{i}" for i in range(4)]
    made = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
        run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "bridge", "up")
        for i, host in enumerate(hosts, 1):
            run("ip", "-n", switch, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", host)
            run("ip", "-n", switch, "link", "set", f"port{i}", "master", "bridge", "up")
            run("ip", "-n", host, "addr", "add", f"{ADDRESS(i)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", host, "link", "set", device, "up")
    except (OSError, AssertionError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield switch, hosts
    finally:
        for name in made:
            for pid in run("ip", "netns", "pids", name).split():  # what a test that failed has left
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", name)


def launch(hosts, *words, port=29500) -> list[Program]:
    """Start a script on each host, as docs/scaling.md says."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "training")))
    # bars would fill a pipe that nobody reads
    environment, programs = {"PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": "eth0", "TQDM_DISABLE": "1"}, []
    for rank, host in enumerate(hosts):
        command = ["ip", "netns", "exec", host, "accelerate", "launch", "--machine_rank", rank]
        command += ["--config_file", "configs/accelerate/multi_node.yaml", "--rdzv_conf", "timeout=60"]
        command += ["--num_machines", len(hosts), "--num_processes", len(hosts)]
        command += ["--main_process_ip", ADDRESS(1), "--main_process_port", port, *words]
        programs.append(Program(*command, **environment))
    return programs


@pytest.mark.parametrize("n_hosts", [2, 3])
def test_hosts_train_like_one_process(network, tmp_path, n_hosts):
    _, hosts = network
    train(tmp_path, "12,1")
    way = f"{12 // n_hosts},1"
    for program in launch(hosts[:n_hosts], "tests/training/distributed_worker.py", tmp_path, way):
        program.end()
    one, several = np.load(tmp_path / "12,1.npz"), np.load(tmp_path / f"{way}.npz")
    assert int(several["world_size"]) == n_hosts
    for name in ("losses", "weights", "gradients", "norms", "logits_65", "eval_loss", "eval_f1", "train_f1"):
        assert np.abs(several[name] - one[name]).max() < 1e-6, name
    assert several["n_texts"].tolist() == one["n_texts"].tolist()


def test_a_host_that_is_cut_off_ends_the_others_which_resume(network, tmp_path):
    switch, hosts = network
    encoder, output = save_tiny(tmp_path / "encoder"), tmp_path / "run"
    words = ["scripts/finetune.py", "--data_dir", SAMPLE_DIR, "--model_name_or_path", encoder, "--output_dir", output]
    words += "--max_length 64 --num_train_epochs 40 --early_stopping_patience 0 --ddp_timeout 30".split()
    programs = launch(hosts[:2], *words)
    programs[0].wait_for(lambda: list_checkpoints(output))
    run("ip", "-n", switch, "link", "set", "port2", "down")
    try:
        for program in programs:
            text = program.end(150, status=1)  # and not for half an hour
            assert "another rank has ended: " in text and " resumes; training needs --resume auto." in text
    finally:
        run("ip", "-n", switch, "link", "set", "port2", "up")
    assert not (output / "run.json").exists()
    for program in launch(hosts[:2], *words, "--resume", "auto", port=29501):
        program.end()
    assert (output / "run.json").is_file()
