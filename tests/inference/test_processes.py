"""Servers and pools: a classifier that was loaded before a fork answers there as here."""

import json
import os
import pickle
import re
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from conftest import ROOT

from smsa import SentimentClassifier

TEXTS = ["enak dan murah sekali !", "kotor dan mahal"] * 20
# On one core OpenVINO has one stream, and answers in the thread that asks, as on no other machine.
HAS_STREAMS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
OPENVINO = pytest.param("openvino", marks=HAS_STREAMS)
TEXTS_SERVED = ["enak dan murah sekali !", "kotor dan mahal", "biasa saja", ""]  # by served.py


def fork(task) -> object:
    """Run a task in a fork of this process, for a minute at the most; get what it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"returned": task()}
        except BaseException as error:
            answer = {"failed": repr(error)}
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    answers = select.select([reader], [], [], 150)[0]
    if not answers:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert answers, "the fork gave no answer"
    answer = json.loads(os.read(reader, 1 << 16))
    os.close(reader)
    assert "failed" not in answer, answer
    return answer["returned"]


@pytest.mark.parametrize("backend", ["torch", OPENVINO])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_fork_answers_as_its_parent_and_loads_others(tiny_model, tokenizer, backend, is_used):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs pip install -e '.[openvino]'")
    classifier = SentimentClassifier(tiny_model, tokenizer, backend=backend, precision="no", num_threads=2)
    if is_used:
        classifier(TEXTS)
    answers = fork(lambda: classifier(TEXTS))
    load = partial(SentimentClassifier.from_pretrained, "mini-sentiment", backend=backend, precision="no")
    assert fork(lambda: load()(TEXTS)) == load()(TEXTS)
    assert answers == classifier(TEXTS)


@HAS_STREAMS
def test_a_fork_answers_whatever_threads_are_doing(tiny_model, tokenizer):
    """A fork in the middle of a run would have its locks, and nobody who opens them."""
    pytest.importorskip("openvino", reason="needs pip install -e '.[openvino]'")
    classifier = SentimentClassifier(tiny_model, tokenizer, backend="openvino", precision="no", num_threads=2)
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


START = """
import json, multiprocessing, sys
import served
from datasets import Dataset
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = [pool.map(served.label, served.TEXTS, chunksize=1)]
found.append(Dataset.from_dict({"text": served.TEXTS}).map(served.add_label, num_proc=2)["found"][:])
found.append([served.label(text) for text in served.TEXTS])
json.dump([[json.loads(one) for one in answers] for answers in found], sys.stdout)
if os.fork() == 0:
    sys.exit(0)  # and not os._exit, so that all is freed
assert os.wait()[1] == 0
"""


@pytest.fixture(params=["torch", "openvino"])
def backend(request) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs pip install -e '.[openvino]'")
    return request.param


def serving(backend: str, is_used: bool) -> dict[str, str]:
    """Return the environment of a process that has loaded a classifier, and has used it or not."""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    used = "1" if is_used else ""
    return os.environ | {"PYTHONPATH": paths, "BACKEND": backend, "IS_USED": used, "HF_DATASETS_DISABLE_CACHE": "1"}


@pytest.mark.slow
def test_pools_and_datasets_map_answer_as_their_parent(backend):
    """The parent has used its classifier; that of gunicorn has not. Forks of either: the first test above."""
    words = [sys.executable, "-c", f"import os{START}"]
    done = subprocess.run(words, env=serving(backend, is_used=True), capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    pool, mapped, parent = json.loads(done.stdout)
    here = {pid for pid, _ in parent}
    assert len(here) == 1 and not here & {pid for pid, _ in [*pool, *mapped]}
    assert [[one for _, one in answers] for answers in (pool, mapped)] == [[one for _, one in parent]] * 2


@pytest.mark.slow
def test_workers_of_gunicorn_answer_from_a_classifier_that_was_preloaded(backend, tmp_path):
    pytest.importorskip("gunicorn", reason="needs pip install -e '.[test]', and a system that forks")
    words = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0", "served:app"]
    answers = {}
    with (tmp_path / "log").open("wb") as stream:
        server = subprocess.Popen(words, env=serving(backend, is_used=False), stderr=stream, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while len(answers) < 2:  # both workers
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
            if url := re.search(r"Listening at: (\S+)", (tmp_path / "log").read_text()):
                with suppress(URLError), urlopen(url[1], timeout=60) as response:
                    found = json.load(response)
                    answers[found[0][0]] = [one for _, one in found]
    finally:
        server.terminate()
        status = server.wait(60)
    assert status == 0 and "SIG" not in (tmp_path / "log").read_text().replace("SIGTERM", "")
    here = SentimentClassifier.from_pretrained("mini-sentiment", backend=backend, num_threads=2)
    first, second = answers.values()
    assert first == second == [here(text) for text in TEXTS_SERVED]


def test_a_classifier_that_is_sent_to_a_worker_says_what_to_send(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="cannot be pickled: send a worker the name of the model, and load it there"):
        pickle.dumps(SentimentClassifier(tiny_model, tokenizer, backend="torch"))
