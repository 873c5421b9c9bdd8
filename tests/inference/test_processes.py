"""Servers and pools: a classifier that was loaded before a fork answers there as here, or says at once what to do."""

import json
import os
import pickle
import select

import pytest

from smsa import SentimentClassifier
from smsa.errors import UserError

TEXTS = ["enak dan murah sekali !", "kotor dan mahal"] * 20
WAY_OUT = "OpenVINO cannot be used in a fork .*load the classifier in each worker .*backend='torch'"


def fork(task) -> object:
    """Run a task in a fork of this process, for a minute at the most; get what it returns, or raise what it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"returned": task()}
        except UserError as error:
            answer = {"raised": str(error)}
        except BaseException as error:
            answer = {"failed": repr(error)}
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    answers = select.select([reader], [], [], 60)[0]
    if not answers:
        os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert answers, "the fork gave no answer"
    answer = json.loads(os.read(reader, 1 << 16))
    os.close(reader)
    assert "failed" not in answer, answer
    if "raised" in answer:
        raise UserError(answer["raised"])
    return answer["returned"]


@pytest.mark.parametrize("is_used", [False, True])
def test_torch_answers_in_a_fork_as_it_does_here_whatever_a_thread_was_doing(tiny_model, tokenizer, is_used):
    classifier = SentimentClassifier(tiny_model, tokenizer, backend="torch", precision="no", num_threads=2)
    if is_used:
        classifier(TEXTS)
    with classifier.engine._running[os.getpid()]:  # as a thread has it that is labelling
        answers = fork(lambda: classifier(TEXTS[:4]))
    assert answers == classifier(TEXTS[:4])


@pytest.mark.parametrize("is_used", [False, True])
def test_openvino_says_at_once_that_it_cannot_be_used_in_a_fork(tiny_model, tokenizer, is_used):
    pytest.importorskip("openvino", reason="needs pip install -e '.[openvino]'")
    classifier = SentimentClassifier(tiny_model, tokenizer, backend="openvino", num_threads=2)
    if is_used:
        classifier(TEXTS)
    for task in (lambda: classifier(TEXTS), lambda: SentimentClassifier.from_pretrained("mini-sentiment")("enak")):
        with pytest.raises(UserError, match=WAY_OUT):
            fork(task)
    assert fork(lambda: SentimentClassifier.from_pretrained("mini-sentiment", backend="torch")("enak")["label"])


def test_a_classifier_that_is_sent_to_a_worker_says_what_to_send(tiny_model, tokenizer):
    with pytest.raises(TypeError, match="cannot be pickled: send a worker the name of the model, and load it there"):
        pickle.dumps(SentimentClassifier(tiny_model, tokenizer, backend="torch"))
