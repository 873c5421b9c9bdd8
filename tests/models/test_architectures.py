"""Models as they lie on the Hub: each trains and labels as the pipeline of transformers, or is refused before that."""

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from conftest import SHAPE, TINY_ROWS, make_tokenizer
from datasets import Dataset
from scipy.special import softmax
from transformers import AutoConfig, PreTrainedTokenizerFast, pipeline

from smsa import LABELS, SentimentClassifier, SentimentTrainer, SentimentTrainingArguments, load_classifier, load_model
from smsa.errors import UserError
from smsa.sharing.export import export_model

TEXTS, GOLD = [text for text, _ in TINY_ROWS], [LABELS.index(label) for _, label in TINY_ROWS]
ENCODER_SHAPE = SHAPE | {"max_position_embeddings": 66, "pad_token_id": 0}
BART = {"decoder_layers": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART |= {"eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
MLM, BOTH = "AutoModelForMaskedLM", "AutoModelForPreTraining"
CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"

# the class that made the checkpoint, and more of its configuration
ARCHITECTURES = {
    "bert": (BOTH, {}),
    "roberta": (MLM, {}),
    "xlm-roberta": (MLM, {}),
    "camembert": (MLM, {}),
    "albert": (BOTH, {"embedding_size": 16}),
    "distilbert": (MLM, {"hidden_dim": 64}),
    "electra": (BOTH, {"embedding_size": 16}),
    "deberta": (MLM, {}),
    "deberta-v2": (MLM, {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": (MLM, {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}),
    "mpnet": (MLM, {}),
    "xlm": ("XLMWithLMHeadModel", {"pad_index": 0}),
    "flaubert": ("FlaubertWithLMHeadModel", {"pad_index": 0}),
    "funnel": (BOTH, {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]}),
    "luke": (MLM, {"entity_vocab_size": 9, "entity_emb_size": 8}),
    "rembert": (MLM, {"input_embedding_size": 16, "output_embedding_size": 16}),
    "roformer": (MLM, {"embedding_size": 16}),
    "big_bird": (MLM, {"attention_type": "original_full"}),
    "longformer": (MLM, {"attention_window": 8, "max_position_embeddings": 130}),
    "squeezebert": (MLM, {"embedding_size": 32}),
    "gpt2": (CAUSAL, {}),
    "llama": (CAUSAL, {}),
    "qwen3": (CAUSAL, {"head_dim": 16, "num_key_value_heads": 2, "pad_token_id": None}),
    "t5": (SEQ2SEQ, {"d_kv": 16, "d_ff": 64, "num_decoder_layers": 2, "eos_token_id": 3, "decoder_start_token_id": 0}),
    "bart": (SEQ2SEQ, BART),
}  # fmt: skip
REFUSED = {
    "xlnet": ("XLNetLMHeadModel", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "fnet": (MLM, {}),
    "convbert": (MLM, {"embedding_size": 16}),
}
# Tokens that they read, where these are not 66: fewer by those up to the pad token's, more, or any number.
POSITIONS = dict.fromkeys(["roberta", "xlm-roberta", "camembert", "luke"], 65)
POSITIONS |= {"mpnet": 64, "longformer": 129, "funnel": int(1e30)}
FAST = ("bert", "gpt2")  # in the default run
NO_OPENVINO = {"xlm", "flaubert", "funnel", "longformer", "t5", "bart"}  # torch runs them
NO_ONNX = {"t5", "funnel", "longformer"}  # as of torch 2.13


def make_base(kind, **tokenizer_options):
    """Return a random encoder as its makers pre-train it, and a tokenizer."""
    class_name, more = (ARCHITECTURES | REFUSED)[kind]
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    options = {**names, "bos_token": "[CLS]", "eos_token": "[SEP]", **tokenizer_options}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer, **options)
    shape = ENCODER_SHAPE if kind not in ("xlnet", "funnel") else {"pad_token_id": 0}  # which name them otherwise
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**shape, "vocab_size": len(tokenizer), **more})
    make = getattr(transformers, class_name)
    return (make.from_config if class_name.startswith("Auto") else make)(config), tokenizer


def save_base(kind, folder, **tokenizer_options):
    for part in make_base(kind, **tokenizer_options):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains an architecture for two steps; returns the model's folder, and Trainer's probabilities."""

    @cache
    def train(kind):
        folder = tmp_path_factory.mktemp(kind)
        model, tokenizer = load_model(save_base(kind, folder / "base"))
        rows = Dataset.from_dict({**tokenizer(TEXTS), "label": GOLD})
        options = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "precision": "no", "report_to": []}
        args = SentimentTrainingArguments(str(folder / "run"), max_steps=2, **options)
        trainer = SentimentTrainer(model, args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
        trainer.train()
        trainer.save_model(folder / "model")
        return str(folder / "model"), softmax(trainer.predict(rows).predictions, axis=-1)

    return train


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_weight_of_an_encoder_is_taken_over_and_it_reads_no_more_than_it_has_positions(kind, tmp_path):
    """A head of pre-training that transformers does not write is no obstacle, as those of deberta-v2 are none."""
    base, tokenizer = make_base(kind)
    heads = {"lm_predictions.lm_head.bias": torch.ones(2)}
    base.save_pretrained(tmp_path, state_dict=base.state_dict() | heads)
    tokenizer.save_pretrained(tmp_path)
    model, loaded_tokenizer = load_model(str(tmp_path), labels=("buruk", "baik"))
    state, taken = base.base_model.state_dict(), model.base_model.state_dict()
    names = [name for name in taken if "pooler." not in name]
    assert len(names) > 13 and all(torch.equal(taken[name], state[name]) for name in names)
    n_positions = POSITIONS.get(kind, 66)
    assert loaded_tokenizer.model_max_length == n_positions
    assert model.config.pad_token_id == 0  # also where the tokenizer alone names it
    assert model.eval()(torch.full((1, min(n_positions, 129)), 3)).logits.shape == (1, 2)
    model.save_pretrained(tmp_path)
    assert load_classifier(tmp_path)[1].model_max_length == n_positions  # the tokenizer there states more


@pytest.mark.parametrize("kind", [
    kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in ARCHITECTURES
])  # fmt: skip
def test_a_model_trains_and_labels_as_the_pipeline_of_transformers(trained, kind):
    folder, by_trainer = trained(kind)
    texts = [*TEXTS, "enak", "kotor dan mahal , " * 12]
    label = pipeline("text-classification", folder, top_k=None, device="cpu")
    answers = [{answer["label"]: answer["score"] for answer in label([text], truncation=True)[0]} for text in texts]
    expected = np.array([[answer[name] for name in LABELS] for answer in answers])
    np.testing.assert_allclose(by_trainer, expected[: len(TEXTS)], atol=1e-5)
    for backend in ("torch", "auto"):
        classifier = SentimentClassifier.from_pretrained(folder, backend=backend, precision="no", device="cpu")
        found = np.array([[answer[f"p_{name}"] for name in LABELS] for answer in classifier(texts)])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classifier.engine.backend == ("torch" if kind in NO_OPENVINO else "openvino")


@pytest.mark.slow
@pytest.mark.parametrize("target, refused", [("openvino", NO_OPENVINO), ("onnx", NO_ONNX)])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_is_exported_or_said_not_to_be(trained, kind, target, refused, tmp_path):
    folder, _ = trained(kind)
    rows = "".join(f"{text} {'enak ' * i}\t{label}\n" for i, (text, label) in enumerate(TINY_ROWS))
    (tmp_path / "valid.tsv").write_text(rows)
    if kind in refused:
        with pytest.raises(UserError, match=f"cannot be exported to {target}"):
            export_model(folder, tmp_path / "out", target, data=tmp_path / "valid.tsv")
    else:  # compared with the model, else refused
        assert export_model(folder, tmp_path / "out", target, data=tmp_path / "valid.tsv")["target"] == target


@pytest.mark.parametrize("kind, options, reason", [
    ("xlnet", {"padding_side": "left"}, "needs its padding on the left"),
    ("gpt2", {"pad_token": None}, "has no pad token"),
    ("fnet", {}, "other logits if a text is padded"), ("convbert", {}, "other logits if a text is padded"),
])  # fmt: skip
def test_a_model_that_batches_would_change_is_refused_before_training(kind, options, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        load_model(save_base(kind, tmp_path, **options))
