"""Servers and pools: a classifier that was loaded before a fork answers there as here."""

import importlib.util
import json
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from processes import ROOT, Program, find_free_port, run

from smsa import SentimentClassifier

TEXTS = ["enak dan murah sekali !", "kotor dan mahal", "biasa saja", ""] * 10
# On one core OpenVINO has one stream, and answers in the thread that asks, as on no other machine.
OPENVINO = pytest.param("openvino", marks=[
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores"),
    pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs pip install -e '.[openvino]'"),
])  # fmt: skip


def fork(task) -> object:
    """Return what a task returns in a fork of this process."""
    context = get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=lambda: writer.send(task()), daemon=True)
    process.start()
    writer.close()
    assert reader.poll(150), "the fork gave no answer"
    answer = reader.recv()
    process.join(60)
    assert process.exitcode == 0  # it has not died behind its answer, of threads that only its parent has
    return answer


@pytest.mark.parametrize("backend", ["torch", OPENVINO])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_fork_answers_as_its_parent_and_loads_others(tiny_model, tokenizer, backend, is_used):
    torch.set_num_threads(2)  # as for users: loading begins threads of OpenMP
    classifier = SentimentClassifier(tiny_model, tokenizer, backend=backend, precision="no", num_threads=2)
    if is_used:
        classifier(TEXTS)
    answers = fork(lambda: ThreadPoolExecutor(1).submit(classifier, TEXTS).result())  # in a thread, as of a server
    load = partial(SentimentClassifier.from_pretrained, "mini-sentiment", backend=backend, precision="no")
    assert fork(lambda: load()(TEXTS)) == load()(TEXTS)
    assert answers == classifier(TEXTS)


@pytest.mark.parametrize("backend", [OPENVINO])
def test_a_fork_answers_whatever_threads_are_doing(tiny_model, tokenizer, backend):
    """A fork in the middle of a run would have its locks, and nobody who opens them."""
    classifier = SentimentClassifier(tiny_model, tokenizer, backend=backend, precision="no", num_threads=2)
    answers, stopped = classifier(TEXTS), threading.Event()

    def label() -> None:
        while not stopped.is_set():
            classifier(TEXTS)

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(label) for _ in range(2)]
        try:
            found = [fork(lambda: classifier(TEXTS)) for _ in range(20)]
        finally:
            stopped.set()
        for thread in running:
            thread.result()
    assert found == [answers] * 20


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", OPENVINO])
def test_workers_of_gunicorn_answer_from_a_classifier_that_was_preloaded(backend, tmp_path):
    pytest.importorskip("gunicorn", reason="needs pip install -e '.[test]', and a system that forks")
    address, answers = f"127.0.0.1:{find_free_port()}", {}
    words = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", address, "served:app"]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    server = Program(*words, cwd=tmp_path, PYTHONPATH=paths, BACKEND=backend)

    def both_have_answered() -> bool:
        with suppress(URLError), urlopen(f"http://{address}", json.dumps(TEXTS).encode(), timeout=60) as response:
            pid, found = json.load(response)
            answers[pid] = found
        return len(answers) == 2

    server.wait_for(both_have_answered)
    server.terminate()
    assert "SIG" not in server.end(60).replace("SIGTERM", "")
    here = SentimentClassifier.from_pretrained("mini-sentiment", backend=backend, num_threads=2)
    assert [*answers.values()] == [here(TEXTS)] * 2


@pytest.mark.parametrize("backend", [OPENVINO])
def test_a_script_without_main_runs_once_and_reports_nothing(backend, tmp_path):
    """OpenVINO reports its import from a process, which on macOS and with Python 3.14 would run the script again."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
print("begins", flush=True)
import smsa
print(smsa.SentimentClassifier.from_pretrained("mini-sentiment", backend="{backend}")("enak")["label"])
""")
    printed = run(sys.executable, script, HOME=str(tmp_path), CI="", PYTHONPATH=str(ROOT))
    assert printed.count("begins") == 1 and "positive" in printed
    assert [*tmp_path.iterdir()] == [script]  # no number of this user, with which OpenVINO reports


def test_a_classifier_that_is_sent_to_a_worker_says_what_to_send(classifier):
    with pytest.raises(TypeError, match="cannot be pickled: send a worker the name of the model, and load it there"):
        pickle.dumps(classifier)
