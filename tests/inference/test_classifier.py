"""Texts in, labels out: against a plain forward pass of one text at a time, on every backend."""

import copy
import os
import signal
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import length_hint
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import SHAPE, make_model, make_tokenizer, save_tiny
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from tables import ADDED, HOSTILE, make_classifier
from tokenizers.normalizers import Lowercase, Replace
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

from smsa import SentimentClassifier
from smsa.data.datasets import load_splits
from smsa.errors import UserError
from smsa.inference import engine as engine_module
from smsa.inference.batches import locate
from smsa.inference.classifier import SentimentEnsemble
from smsa.inference.engine import Engine
from smsa.models.loading import load_classifier


@pytest.fixture
def real_texts(real_files):
    return load_splits({"valid": real_files["valid"]})["valid"]["text"][:200]


def probabilities(classifier, texts) -> np.ndarray:
    """Return those of one chunk, of shape (n_texts, n_labels)."""
    found = classifier.predict(pa.array(texts))
    return np.column_stack([found[f"p_{label}"] for label in classifier.labels])


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_probabilities_are_those_of_a_plain_forward_pass_on_any_number_of_threads(
    tiny_model, tokenizer, real_texts, backend
):
    inputs = (tokenizer(text, truncation=True, return_tensors="pt") for text in real_texts)
    with torch.inference_mode():  # one text a batch, fp32
        expected = torch.cat([tiny_model.eval()(**text).logits.double().softmax(-1) for text in inputs]).numpy()
    one, three = (
        probabilities(make_classifier(copy.deepcopy(tiny_model), tokenizer, backend=backend, num_threads=n), real_texts)
        for n in (1, 3)
    )
    assert np.abs(one - expected).max() < 1e-5
    assert one.tobytes() == three.tobytes()
    assert len(set(one[:, 0])) > len(real_texts) / 2  # the model tells them apart


@pytest.mark.parametrize("unit", [None, "avx_vnni"])
def test_int8_stays_close_to_fp32_and_is_said_to_be_slower_without_a_unit_for_it(
    real_texts, tokenizer, monkeypatch, caplog, unit
):
    has = {"avx2": True, "architecture": "x86_64", unit: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    model = make_model(seed=3)
    exact = probabilities(make_classifier(copy.deepcopy(model), tokenizer), real_texts)
    rough = probabilities(make_classifier(model, tokenizer, backend="openvino", precision="int8"), real_texts)
    assert 0 < np.abs(exact - rough).max() < 0.02
    assert ("This CPU is slower in int8 than in fp32" in caplog.text) is (unit is None)


def test_a_text_gives_one_answer_and_a_list_as_many(classifier, tiny_model, tokenizer):
    one = classifier("enak dan murah")
    assert list(one) == ADDED
    assert one["score"] == max(one[f"p_{label}"] for label in classifier.labels) == one[f"p_{one['label']}"]
    assert sum(one[f"p_{label}"] for label in classifier.labels) == pytest.approx(1)
    assert [answer["label"] for answer in classifier(HOSTILE * 3)] == [classifier(t)["label"] for t in HOSTILE] * 3
    nothing = ["", "  ", "\n\t", "\u200b", "\u00ad\ufeff \u2060", "\u3000", None, float("nan"), pd.NA]
    assert classifier(nothing) == [dict.fromkeys(ADDED) | {"truncated": False, "empty": True}] * len(nothing)
    assert [classifier(text) for text in nothing] == classifier(nothing)  # one by one, as pandas' apply does
    in_bf16 = copy.deepcopy(tiny_model).bfloat16()  # as transformers loads what was saved so
    assert make_classifier(in_bf16, tokenizer)("enak dan murah")["score"] == pytest.approx(one["score"], abs=0.01)
    tokenizer.backend_tokenizer.normalizer = Lowercase()  # cleans nothing away, as that of e5-sentiment
    assert make_classifier(tiny_model, tokenizer)(nothing) == classifier(nothing)
    assert classifier([]) == []
    for column in (pa.array(HOSTILE, pa.large_string()), pa.chunked_array([HOSTILE]).dictionary_encode()):
        assert classifier(column) == classifier(HOSTILE)


def test_joined_models_give_the_mean_of_their_probabilities(tmp_path, monkeypatch):
    options = {"device": "cpu", "backend": "torch", "precision": "no"}
    folders = [str(save_tiny(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    *alone, joined = (SentimentClassifier.from_pretrained(name, **options) for name in (*folders, "+".join(folders)))
    expected = np.mean([probabilities(classifier, HOSTILE) for classifier in alone], axis=0)
    assert probabilities(joined, HOSTILE) == pytest.approx(expected, nan_ok=True) and len({*expected[0].round(3)}) == 3
    for text, mean, answer in zip(HOSTILE, expected, joined(HOSTILE), strict=True):
        assert answer["label"] == (None if np.isnan(mean[0]) else joined.labels[mean.argmax()]), text
        assert all(answer[name] == alone[0](text)[name] for name in ("truncated", "empty"))
    monkeypatch.chdir(tmp_path)  # workers run in another folder; mini is bundled, whatever lies here
    (tmp_path / "mini").mkdir()
    assert locate("a + b") == "+".join(folders) and locate("mini") == "mini" and locate(None) is None
    save_tiny(tmp_path / "a+b")  # a folder of this name
    assert SentimentClassifier.from_pretrained("a+b", **options).sha256 == alone[0].sha256
    (tmp_path / "x+y").mkdir()
    monkeypatch.chdir(tmp_path / "x+y")
    (tmp_path / "x+y" / "a").mkdir()
    with pytest.raises(UserError, match="so no folder may have one in its path: .*a, mini"):
        locate("a+mini")


def test_joined_models_may_read_unlike_but_label_alike(tokenizer):
    (mute := make_tokenizer()).backend_tokenizer.normalizer = Replace("kotor", "")
    short = make_classifier(make_model(), tokenizer, max_length=4)
    long = make_classifier(make_model(), mute, max_length=8)
    joined = [SentimentEnsemble(members) for members in ([short, long], [long, short])]
    cut = SentimentEnsemble([short, make_classifier(make_model(), mute, max_length=6)])
    assert len({one.sha256 for one in (*joined, cut, SentimentEnsemble([short, short]))}) == 4
    for one in joined:
        assert one.max_length == 4
        found = [(answer["truncated"], answer["empty"]) for answer in one(["enak dan murah", "kotor", "enak"])]
        assert found == [(True, False), (False, True), (False, False)]
        assert [word["word"] for word in one.explain("enak dan murah sekali")["words"]] == ["enak", "dan"]
    turned = make_classifier(make_model(labels=("negative", "neutral", "positive")), tokenizer)
    with pytest.raises(UserError, match="in the same order; these have positive, neutral, negative and negative, neut"):
        SentimentEnsemble([short, turned])


@pytest.mark.parametrize("texts, message", [
    (pd.DataFrame({"text": ["enak"]}), "a DataFrame is not a list of texts: give any iterable of str, such as table"),
    (Dataset.from_dict({"text": ["enak"]}), "a Dataset is not"), ({"text": ["enak"]}, "a dict is not"),
    ("enak", "a str is not"), (5, "a int is not"),
    (["enak", 5], "must be a str of valid Unicode, or None: .*int"),
    (["enak", "\ud83d"], "must be a str of valid Unicode, or None: .*surrogates"),
])  # fmt: skip
def test_what_is_no_text_is_refused(classifier, texts, message):
    with pytest.raises(TypeError, match=message):
        list(classifier.stream(texts))


@pytest.mark.parametrize("stated, asked, in_effect", [(8, None, 8), (8, 20, 8), (64, 20, 20), (10**30, None, 512)])
def test_texts_are_truncated_where_training_truncated_them(tokenizer, stated, asked, in_effect):
    """The tokenizer states the length of training as its `model_max_length`; 10**30 stands for none."""
    tokenizer.model_max_length = stated
    classifier = make_classifier(make_model(), tokenizer, max_length=asked)
    token_ids, *_ = classifier.encode(pa.array(["enak " * 600]))
    assert classifier.max_length == in_effect == len(token_ids[0])


def test_a_long_text_is_cut_to_the_same_tokens_as_if_all_of_it_were_read():
    """At 64 characters a token the heads of the last ones end in the middle of a word, after few tokens."""
    classifier = SentimentClassifier.from_pretrained("mini-sentiment", backend="torch", precision="no", max_length=16)
    _, tokenizer = load_classifier("mini-sentiment")
    texts = ["enak " * 14, "enak " * 15, "enak dan murah , " * 1000, "a" * 5000 + " enak", " " * 5000 + "enak"]
    texts += ["🙂" * 5000 + " kotor" * 10]
    texts += ["enak " * 13 + " " * (64 * 16 - n_spaces - 65) + "menyenangkan" for n_spaces in range(3, 14)]
    token_ids, truncated, *_ = classifier.encode(pa.array(texts))
    assert [ids.tolist() for ids in token_ids] == tokenizer(texts, truncation=True, max_length=16)["input_ids"]
    assert truncated.tolist() == [len(ids) > 16 for ids in tokenizer(texts)["input_ids"]]
    assert truncated[:2].tolist() == [False, True]


def watch(monkeypatch, engine, act):
    """Call `act` with input ids and attention mask of each batch, before it is computed."""
    forward = engine.forward
    monkeypatch.setattr(engine, "forward", lambda *arrays: act(*arrays) or forward(*arrays))


def test_a_stream_is_read_chunk_by_chunk_equal_texts_once_and_settings_of_the_process_stay(classifier, monkeypatch):
    """cuDNN's attention would be compiled for each shape of batch; it is off while the engine runs, and only then."""

    def settings():
        return torch.backends.cuda.cudnn_sdp_enabled(), torch.get_num_threads()

    seen, texts = [], iter(["enak", "kotor"] * 1_000)
    watch(monkeypatch, classifier.engine, lambda ids, mask: seen.append((len(ids), settings())))
    torch.set_num_threads(2)
    torch.backends.cuda.enable_cudnn_sdp(True)  # a script that an earlier test ran may have turned it off
    answers = classifier.stream(texts)
    assert next(answers)["empty"] is False
    assert length_hint(texts) == 1_992 and seen == [(2, (False, 1))] and settings() == (True, 2)
    tracemalloc.start()
    try:
        assert sum(1 for _ in answers) == 1_999
        assert tracemalloc.get_traced_memory()[1] < 8e5  # the peak: with all answers it would be 1.4 MB
    finally:
        tracemalloc.stop()


class OneSizeOnly(BertForSequenceClassification):
    """Its graph, once traced, gives as many rows as tracing saw."""

    def forward(self, input_ids, attention_mask=None):
        output = super().forward(input_ids, attention_mask)
        output.logits = output.logits[torch.arange(int(input_ids.shape[0])).clamp(max=len(input_ids) - 1)]
        return output


def test_what_openvino_cannot_run_is_run_by_torch_or_refused_where_openvino_was_asked_for(
    tiny_model, caplog, monkeypatch
):
    tiny_model.__class__ = OneSizeOnly
    assert Engine(tiny_model).backend == "torch"
    assert "OpenVINO cannot run OneSizeOnly" in caplog.text and "torch runs it" in caplog.text
    for options in ({"backend": "openvino"}, {"precision": "int8"}):
        with pytest.raises(UserError, match="OpenVINO cannot run OneSizeOnly .*give --backend torch"):
            Engine(tiny_model, **options)
    error = RuntimeError("Exception from src/core.cpp:117:\nException from src/plugin.cpp:54:\nno such stream:\n 2\n\n")
    monkeypatch.setattr(engine_module, "compile_openvino", Mock(side_effect=error))
    with pytest.raises(UserError, match=r"OpenVINO cannot run BertFor\w+ \(no such stream: 2\): give"):
        Engine(make_model(), backend="openvino")


def test_gated_layers_in_bf16_which_kill_openvino_are_run_by_torch(caplog):
    """As in Llama, Qwen, Mistral and ModernBERT; on a CPU with AMX the process died (SIGFPE)."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SHAPE, vocab_size=64, num_labels=3, pad_token_id=0, use_cache=False)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids = [np.array([5, 6, 7]), np.array([5, 8])]
    exact = Engine(copy.deepcopy(model), precision="no", backend="openvino").run(ids)
    before, half = dict(model.named_buffers()), copy.deepcopy(model)
    engine = Engine(half, precision="bf16")
    assert engine.backend == "torch" and "divides by zero for gated layers in bf16): torch runs it" in caplog.text
    np.testing.assert_allclose(engine.run(ids), exact, atol=0.02)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}  # but no rotary frequency
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in half.named_buffers())
    with pytest.raises(UserError, match="gated layers in bf16.: give --backend torch"):
        Engine(model, precision="bf16", backend="openvino")


def test_logits_that_are_not_finite_stop_everything(tiny_model, tokenizer):
    with torch.no_grad():
        tiny_model.classifier.bias[0] = float("nan")
    with pytest.raises(UserError, match="not finite in precision no: check its weights"):
        make_classifier(tiny_model, tokenizer)("enak")


without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device 0")


@pytest.mark.parametrize("labels, kind, options, message", [
    ("xyx", None, {}, "two labels the same name"),
    ("xyz", "multi_label_classification", {}, "the model predicts a number, or several labels, for a text"),
    ("xyz", None, {"max_length": 2}, "max_length is 2; it must be more than the 2 special tokens"),
    ("xyz", None, {"precision": "fp8"}, "'fp8' is not one of"),
    ("xyz", None, {"precision": "int8"}, "openvino backend, which int8 needs, .* no --backend torch"),
    ("xyz", None, {"batch_tokens": 0}, "batch_tokens is 0; it must be at least 1"),
    ("xyz", None, {"backend": "openvino", "device": "meta"}, "runs only on the CPU"),
    ("xyz", None, {"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    pytest.param("xyz", None, {"device": 0}, "device 0 cannot be used here", marks=without_gpu),
])  # fmt: skip
def test_a_model_or_an_option_that_cannot_be_used_is_refused(tokenizer, labels, kind, options, message):
    model = make_model(labels)
    model.config.problem_type = kind
    with pytest.raises(UserError, match=message):
        make_classifier(model, tokenizer, **options)  # on torch, if nothing else is asked for


def test_a_full_memory_says_what_to_do(tiny_model, tokenizer, monkeypatch):
    fail = Mock(side_effect=torch.OutOfMemoryError)
    for options, message in (({}, "1,024 .* --batch_tokens 256"), ({"batch_tokens": 16}, "16 .* --batch_tokens 4")):
        classifier = make_classifier(copy.deepcopy(tiny_model), tokenizer, **options)
        watch(monkeypatch, classifier.engine, fail)
        with pytest.raises(UserError, match=f"too little free memory for a batch of {message}"):
            classifier("enak")
    monkeypatch.setattr(tiny_model, "to", fail)
    with pytest.raises(UserError, match="cpu has too little free memory for the model: .* --device cpu"):
        make_classifier(tiny_model, tokenizer)


@pytest.fixture(scope="module")
def engine():
    return Engine(make_model(), backend="torch", num_threads=1)


@given(lengths=st.lists(st.integers(1, 60), min_size=1), budget=st.integers(1, 2000))
def test_batches_hold_every_text_once_and_keep_to_the_budget(engine, lengths, budget):
    seen, engine.batch_tokens = [], budget
    engine.forward = lambda ids, mask: seen.append(mask.sum(1)) or torch.from_numpy(ids[:, :1]).float()
    numbers = engine.run([np.full(length, i) for i, length in enumerate(lengths)])
    assert numbers[:, 0].tolist() == [*range(len(lengths))]
    assert all(len(batch) == 1 or len(batch) * max(batch) <= budget for batch in seen)
    assert (np.diff(np.concatenate(seen)) <= 0).all()  # of similar lengths, so that there are few pads


def test_a_classifier_that_is_gone_leaves_signals_as_they_were(tiny_model, tokenizer, request):
    """OpenVINO gives a thread a stack for signals on CPUs with AMX, and takes it back: a signal killed the process."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    request.addfinalizer(partial(signal.signal, signal.SIGUSR1, before))
    classifier = make_classifier(tiny_model, tokenizer, backend="openvino")
    classifier("enak")
    with ThreadPoolExecutor(1) as other:
        other.submit(classifier.__dict__.clear).result()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == [1]
