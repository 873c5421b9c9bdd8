"""Models as they lie on the Hub: each trains and labels as the pipeline of transformers, or is refused before that."""

from functools import cache

import numpy as np
import pytest
import torch
import transformers
from conftest import SHAPE, TINY_ROWS, WORDS
from datasets import Dataset
from scipy.special import softmax
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedTokenizerFast, pipeline

from smsa import LABELS, SentimentClassifier, SentimentTrainer, SentimentTrainingArguments
from smsa.errors import UserError
from smsa.models.loading import load_classifier, load_model
from smsa.sharing.export import export_model

LETTERS = list("abcdefghijklmnopqrstuvwxyz.,!?")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENCODER_SHAPE = SHAPE | {"max_position_embeddings": 66, "pad_token_id": 0}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "pad_index": 0}
BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART |= {"eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 3, "forced_eos_token_id": 3}
MLM, BOTH = "AutoModelForMaskedLM", "AutoModelForPreTraining"
CAUSAL, SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"

# the class that made the checkpoint, its tokenizer, and more of its configuration
ARCHITECTURES = {
    "bert": (BOTH, "word pieces", {}),
    "roberta": (MLM, "bytes", {}),
    "xlm-roberta": (MLM, "unigrams", {}),
    "camembert": (MLM, "unigrams", {}),
    "albert": (BOTH, "unigrams", {"embedding_size": 16}),
    "distilbert": (MLM, "word pieces", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
    "electra": (BOTH, "word pieces", {"embedding_size": 16}),
    "deberta": (MLM, "word pieces", {}),
    "deberta-v2": (MLM, "unigrams", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": (MLM, "bytes", {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}),
    "mpnet": (MLM, "word pieces", {}),
    "xlm": ("XLMWithLMHeadModel", "word pieces", XLM),
    "flaubert": ("FlaubertWithLMHeadModel", "word pieces", XLM),
    "funnel": (BOTH, "word pieces", {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1]}),
    "luke": (MLM, "bytes", {"entity_vocab_size": 9, "entity_emb_size": 8}),
    "rembert": (MLM, "unigrams", {"input_embedding_size": 16, "output_embedding_size": 16}),
    "roformer": (MLM, "word pieces", {"embedding_size": 16}),
    "big_bird": (MLM, "unigrams", {"attention_type": "original_full"}),
    "longformer": (MLM, "bytes", {"attention_window": 8, "max_position_embeddings": 130}),
    "squeezebert": (MLM, "word pieces", {"embedding_size": 32}),
    "gpt2": (CAUSAL, "bytes", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66}),
    "llama": (CAUSAL, "bytes", {}),
    "qwen3": (CAUSAL, "bytes", {"head_dim": 16, "num_key_value_heads": 2}),
    "t5": (SEQ2SEQ, "unigrams", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
                                 "eos_token_id": 3, "decoder_start_token_id": 0}),
    "bart": (SEQ2SEQ, "bytes", {**BART, "encoder_attention_heads": 2, "decoder_attention_heads": 2}),
}  # fmt: skip
REFUSED = {
    "xlnet": ("XLNetLMHeadModel", "unigrams", {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}),
    "fnet": (MLM, "unigrams", {}),
    "convbert": (MLM, "word pieces", {"embedding_size": 16}),
}
# Tokens that they read, where these are not 66: fewer by those up to the pad token's, more, or any number.
POSITIONS = dict.fromkeys(["roberta", "xlm-roberta", "camembert", "luke"], 65)
POSITIONS |= {"mpnet": 64, "longformer": 129, "funnel": int(1e30)}
FAST = ("bert", "gpt2")  # in the default run
EXPORTED = ("bert", "albert", "xlm-roberta")  # by test_export.py
NO_OPENVINO = {"xlm", "flaubert", "funnel", "longformer", "t5", "bart"}  # torch runs them
NO_ONNX = {"t5", "funnel", "longformer"}  # as of torch 2.13


def make_fast_tokenizer(kind, **more):
    if kind == "word pieces":
        words = [*SPECIAL, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
        made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "bytes":
        words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = [*SPECIAL, *(f"▁{word}" for word in WORDS), "▁", *LETTERS]
        made = Tokenizer(models.Unigram([(word, -1.0 * (len(word) < 3)) for word in words], unk_id=1))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    options = {**names, "bos_token": "[CLS]", "eos_token": "[SEP]", **more}
    return PreTrainedTokenizerFast(tokenizer_object=made, **options)


def make_base(kind, **tokenizer_options):
    """Return a random encoder as its makers pre-train it, and its tokenizer."""
    class_name, tokenizer, more = (ARCHITECTURES | REFUSED)[kind]
    tokenizer = make_fast_tokenizer(tokenizer, **tokenizer_options)
    shape = ENCODER_SHAPE if kind not in ("xlnet", "funnel") else {"pad_token_id": 0}  # which name them otherwise
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**shape, "vocab_size": len(tokenizer), **more})
    make = getattr(transformers, class_name)
    return (make.from_config if class_name.startswith("Auto") else make)(config), tokenizer


def save_base(kind, folder, **tokenizer_options):
    for part in make_base(kind, **tokenizer_options):
        part.save_pretrained(folder)
    return str(folder)


def train(base, output_dir):
    """Train two steps; return the folder of the model, and probabilities and scores by Trainer."""
    model, tokenizer = load_model(base)
    rows = Dataset.from_dict({
        **tokenizer([text for text, _ in TINY_ROWS]), "label": [LABELS.index(label) for _, label in TINY_ROWS]
    })  # fmt: skip
    args = SentimentTrainingArguments(
        str(output_dir), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, precision="no", report_to=[]
    )
    trainer = SentimentTrainer(model, args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    trainer.train()
    output = trainer.predict(rows)
    trainer.save_model(output_dir / "model")
    return str(output_dir / "model"), softmax(output.predictions, axis=-1), trainer.evaluate()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains a model of each architecture once, and returns what `train` does."""

    @cache
    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        return train(save_base(kind, folder / "base"), folder / "run")

    return make


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
    assert model.eval()(torch.full((1, min(n_positions, 129)), 3)).logits.shape == (1, 2)
    model.save_pretrained(tmp_path)
    assert load_classifier(tmp_path)[1].model_max_length == n_positions  # the tokenizer there states more


@pytest.mark.parametrize("kind", [
    kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in ARCHITECTURES
])  # fmt: skip
def test_a_model_trains_and_labels_as_the_pipeline_of_transformers(trained, kind):
    folder, by_trainer, scores = trained(kind)
    texts = [*(text for text, _ in TINY_ROWS), "enak", "kotor dan mahal , " * 12]
    label = pipeline("text-classification", folder, top_k=None, device="cpu")
    answers = [{answer["label"]: answer["score"] for answer in label([text], truncation=True)[0]} for text in texts]
    expected = np.array([[answer[name] for name in LABELS] for answer in answers])
    np.testing.assert_allclose(by_trainer, expected[: len(TINY_ROWS)], atol=1e-5)
    gold = [LABELS.index(name) for _, name in TINY_ROWS]
    assert scores["eval_accuracy"] == pytest.approx((expected[: len(TINY_ROWS)].argmax(-1) == gold).mean())
    for backend in ("torch", "auto"):
        classifier = SentimentClassifier.from_pretrained(folder, backend=backend, precision="no", device="cpu")
        found = np.array([[answer[f"p_{name}"] for name in LABELS] for answer in classifier(texts)])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classifier.engine.backend == ("torch" if kind in NO_OPENVINO else "openvino")


@pytest.mark.slow
@pytest.mark.parametrize("target, refused", [("openvino", NO_OPENVINO), ("onnx", NO_ONNX)])
@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind not in EXPORTED])
def test_a_model_is_exported_or_said_not_to_be(trained, kind, target, refused, tmp_path):
    folder, _, _ = trained(kind)
    rows = "".join(f"{text} {'enak ' * i}\t{label}\n" for i, (text, label) in enumerate(TINY_ROWS))
    (tmp_path / "valid.tsv").write_text(rows)
    if kind in refused:
        with pytest.raises(UserError, match=f"cannot be exported to {target}"):
            export_model(folder, tmp_path / "out", target, data=tmp_path / "valid.tsv")
        return
    record = export_model(folder, tmp_path / "out", target, data=tmp_path / "valid.tsv")
    assert [found["largest_difference"] < 1e-5 for found in record.values() if "largest_difference" in found] == [True]


@pytest.mark.parametrize("kind, options, reason", [
    ("xlnet", {"padding_side": "left"}, "needs its padding on the left"),
    ("gpt2", {"pad_token": None}, "has no pad token"),
    ("fnet", {}, "reads the padding of a text"), ("convbert", {}, "reads the padding of a text"),
])  # fmt: skip
def test_a_model_that_batches_would_change_is_refused_before_training(kind, options, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        load_model(save_base(kind, tmp_path, **options))


def test_a_decoder_whose_configuration_lacks_the_pad_token_takes_that_of_its_tokenizer(tmp_path):
    folder = save_base("qwen3", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = None
    config.save_pretrained(folder)
    assert load_model(folder)[0].config.pad_token_id == 0


def test_a_folder_without_a_configuration_is_no_model_and_a_lora_adapter_is_called_one(tmp_path):
    with pytest.raises(OSError, match="No model .*the folder has no config.json"):
        load_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for load in (load_model, load_classifier):
        with pytest.raises(UserError, match="is a LoRA adapter.* merge_and_unload"):
            load(str(tmp_path))
