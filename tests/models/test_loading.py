"""Which weights reach the model: all of the encoder's, from safe files, under the right names; tokenizers that fit."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import VOCABULARY, make_model
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from smsa import SentimentClassifier
from smsa.files import write_json
from smsa.models.loading import choose_labels, freeze_layers, load_classifier, load_encoder, load_model, save_tokenizer

SHAPE = {
    "vocab_size": len(VOCABULARY) + 11,  # larger than the tokenizer's, as in indobert-base-p1
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


def change_json(path, **values):
    write_json(json.loads(path.read_bytes()) | values, path)


def save_like_2020(folder, model, rename=lambda name: name, drop=()):
    """Save what a Hub repository of 2020 has: pytorch_model.bin, a config with five LABEL_n, vocab.txt."""
    folder.mkdir()
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    state["bert.embeddings.position_ids"] = torch.arange(SHAPE["max_position_embeddings"])[None]
    kept = {rename(name): weight for name, weight in state.items() if name not in drop}
    torch.save(kept, folder / "pytorch_model.bin")
    names = {"id2label": {str(i): f"LABEL_{i}" for i in range(5)}, "label2id": {f"LABEL_{i}": i for i in range(5)}}
    write_json(model.config.to_dict() | names | {"architectures": ["BertForPreTraining"]}, folder / "config.json")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    return {name: weight for name, weight in state.items() if name.startswith("bert.") and "position_ids" not in name}


@pytest.fixture
def pretrained():
    torch.manual_seed(1)
    return BertForPreTraining(BertConfig(**SHAPE))


@pytest.fixture
def classifier(tmp_path, tokenizer):
    """A function that saves a classifier with these label names, and returns its folder and the weight of its head."""

    def save(labels=("a", "b")):
        model = make_model(labels, seed=7)
        model.save_pretrained(tmp_path / "classifier")
        tokenizer.save_pretrained(tmp_path / "classifier")
        return str(tmp_path / "classifier"), model.classifier.weight

    return save


def gamma_and_beta(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("rename", [lambda name: name, gamma_and_beta], ids=["2020", "gamma and beta"])
def test_every_encoder_weight_of_an_old_checkpoint_is_taken_over(tmp_path, pretrained, rename, caplog):
    encoder = save_like_2020(tmp_path / "old", pretrained, rename)
    with caplog.at_level("INFO", logger="smsa"):
        model, tokenizer = load_model(str(tmp_path / "old"))
    loaded = model.state_dict()
    assert len(encoder) == 39
    assert all(torch.equal(loaded[name], weight) for name, weight in encoder.items())
    assert set(loaded) - set(encoder) == {"classifier.weight", "classifier.bias"}
    assert model.config.id2label == {0: "positive", 1: "neutral", 2: "negative"}
    assert "weights from pytorch_model.bin" in caplog.text
    assert "Starts at random: classifier.bias, classifier.weight" in caplog.text
    assert tokenizer.convert_ids_to_tokens(tokenizer("Enak !")["input_ids"]) == ["[CLS]", "enak", "!", "[SEP]"]
    assert tokenizer.model_max_length == SHAPE["max_position_embeddings"]
    assert not list((tmp_path / "old").glob("*.safetensors"))  # nothing was converted in passing


@pytest.mark.parametrize(
    "dropped",
    [
        "bert.encoder.layer.1.output.dense.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.pooler.dense.bias",  # half a pooler
    ],
)
@pytest.mark.parametrize("load", [load_model, load_classifier])
def test_a_checkpoint_with_a_missing_weight_is_refused_by_its_name(tmp_path, pretrained, dropped, load):
    save_like_2020(tmp_path / "old", pretrained, drop=(dropped,))
    with pytest.raises(ValueError, match=f"not in the checkpoint: {dropped}"):
        load(str(tmp_path / "old"))


def test_weights_of_another_size_are_refused(tmp_path, pretrained):
    save_like_2020(tmp_path / "old", pretrained)
    change_json(tmp_path / "old" / "config.json", intermediate_size=48)
    with pytest.raises(ValueError, match="of another size: .*bert.encoder.layer.0.intermediate.dense.bias"):
        load_model(str(tmp_path / "old"))


def test_unexpected_weights_are_logged_in_one_line(tmp_path, pretrained, caplog):
    save_like_2020(tmp_path / "old", pretrained)
    change_json(tmp_path / "old" / "config.json", num_hidden_layers=1)
    model, _ = load_model(str(tmp_path / "old"))
    (message,) = [record.message for record in caplog.records if record.name == "smsa.models.loading"]
    assert "not used" in message and "bert.encoder.layer.1.attention" in message and " more" in message


def test_a_masked_language_model_without_pooler_starts_with_a_random_one(tmp_path, caplog):
    BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(tmp_path / "mlm")
    (tmp_path / "mlm" / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    with caplog.at_level("INFO", logger="smsa"):
        load_model(str(tmp_path / "mlm"))
    assert "weights from model.safetensors" in caplog.text
    assert "bert.pooler.dense.weight" in caplog.text


ARCHITECTURES = {  # more of its configuration, heads of pre-training that transformers does not write, positions
    "albert": ({"embedding_size": 16}, [], 40),
    "distilbert": ({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, [], 40),
    "roberta": ({"pad_token_id": 0}, [], 39),
    "xlm-roberta": ({"pad_token_id": 0}, [], 39),
    "deberta-v2": ({}, ["lm_predictions.lm_head.bias", "mask_predictions.dense.weight"], 40),
    "xlm": ({"emb_dim": 32, "n_layers": 2, "n_heads": 2, "pad_index": 0}, [], 40),
    "luke": ({"entity_vocab_size": 9, "entity_emb_size": 8, "pad_token_id": 0}, [], 39),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_other_encoders_load_without_special_cases(tmp_path, tokenizer, kind):
    more, heads, n_positions = ARCHITECTURES[kind]
    encoder = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **SHAPE, **more))
    state = encoder.state_dict()
    encoder.save_pretrained(tmp_path, state_dict=state | {name: torch.ones(2) for name in heads})
    tokenizer.save_pretrained(tmp_path)
    model, loaded_tokenizer = load_model(str(tmp_path), labels=("buruk", "baik"))
    prefix = f"{model.base_model_prefix}."
    taken = [name for name in model.state_dict() if name.startswith(prefix) and ".pooler." not in name]
    assert len(taken) > 15
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in taken)
    assert loaded_tokenizer.model_max_length == n_positions
    assert model(torch.full((1, n_positions), 5)).logits.shape == (1, 2)


def test_a_decoder_reads_no_more_than_it_has_positions(tmp_path, tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=40, n_embd=32, n_layer=2, n_head=2, pad_token_id=0)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.model_max_length > 40
    classify = SentimentClassifier(*load_classifier(tmp_path), backend="torch")
    assert classify("enak " * 60)["truncated"] and classify.max_length == 40


def test_labels_come_from_the_option_else_from_the_model_else_from_smsa(classifier, tmp_path, pretrained):
    folder, _ = classifier(("negatif", "netral", "positif"))
    assert choose_labels(None, folder) == ("negatif", "netral", "positif")
    assert choose_labels("a, b", folder) == ("a", "b")
    save_like_2020(tmp_path / "old", pretrained)
    assert choose_labels(None, str(tmp_path / "old")) == ("positive", "neutral", "negative")
    assert choose_labels(None, "scratch") == ("positive", "neutral", "negative")


@pytest.mark.parametrize("labels", ["a", "a,a", "a,", ""])
def test_label_lists_that_make_no_sense_are_refused(labels):
    with pytest.raises(ValueError, match="at least two different names"):
        choose_labels(labels, "scratch")


def test_a_head_is_kept_for_its_own_labels_and_re_initialised_for_others(classifier):
    labels = ("negatif", "netral", "positif")
    folder, head = classifier(labels)
    assert torch.equal(load_model(folder, labels)[0].classifier.weight, head)
    for other in (labels[::-1], ("a", "b", "c"), ("a", "b")):
        model, _ = load_model(folder, other)
        assert tuple(model.config.id2label.values()) == other
        assert model.classifier.weight.shape == (len(other), 32)
        assert not torch.isin(model.classifier.weight, head).any()


def test_weights_in_half_precision_are_held_in_fp32(tmp_path, tokenizer):
    make_model(seed=7).bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path))[0].dtype == torch.float32


class Canary:
    """What a hostile pickle does: it makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, pretrained, write):
    save_like_2020(tmp_path / "old", pretrained)
    write({"bert.embeddings.word_embeddings.weight": Canary(tmp_path / "ran")}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin was refused"):
        load_model(str(tmp_path / "old"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("load", [load_model, load_classifier, load_encoder, lambda name: choose_labels(None, name)])
def test_a_model_that_brings_code_is_refused(classifier, load):
    folder, _ = classifier()
    change_json(Path(folder, "config.json"), auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(ValueError, match="wants to run code of its own"):
        load(folder)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None], ids=["", "LFS", "cut"]
)
@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_of_weights_is_named(tmp_path, pretrained, filename, content):
    save_like_2020(tmp_path / "old", pretrained)
    if filename == "model.safetensors":
        pretrained.save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / filename
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{filename} (cannot be read|was refused: it is not a file of weights)"):
        load_model(str(tmp_path / "old"))


def test_a_folder_without_weights_says_what_it_looked_for(classifier):
    folder, _ = classifier()
    os.remove(os.path.join(folder, "model.safetensors"))
    with pytest.raises(OSError, match="has no weights: .* model.safetensors, .*pytorch_model.bin"):
        load_model(folder)
    Path(folder, "export.json").touch()
    with pytest.raises(OSError, match="is an export, for other runtimes: give the model that it was made from"):
        load_model(folder)


def test_a_mistyped_name_names_its_neighbours_and_what_needs_no_hub(classifier):
    folder, _ = classifier()
    with pytest.raises(OSError, match=r"No model .*\n.*or give a folder. .* has classifier. Without .* mini-sentiment"):
        load_model(f"{folder}-typo")


@pytest.mark.parametrize("kept", [[], ["tokenizer_config.json"]], ids=["no file", "only its configuration"])
@pytest.mark.parametrize("load", [load_model, load_classifier])
def test_a_folder_without_tokenizer_says_so(tmp_path, tiny_model, tokenizer, load, kept):
    """transformers would make one up, for which all texts are alike: [UNK] [UNK] ..."""
    tiny_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for name in kept:
        shutil.copy(tmp_path / "tokenizer" / name, tmp_path)
    with pytest.raises(ValueError, match="lacks its tokenizer: is tokenizer.json there"):
        load(str(tmp_path))


@pytest.mark.parametrize("load", [load_model, load_classifier, load_encoder])
def test_a_tokenizer_written_in_python_is_refused(tmp_path, load):
    """Bertweet's, for one, would train, and fail where texts are labelled."""
    model = make_model(vocab_size=60) if load is not load_encoder else BertForMaskedLM(BertConfig(**SHAPE))
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("enak 9\nmurah 8\n")
    (tmp_path / "bpe.codes").write_text("e n 9\na k 8\n")
    write_json({"tokenizer_class": "BertweetTokenizer"}, tmp_path / "tokenizer_config.json")
    with pytest.raises(ValueError, match="BertweetTokenizer, is written in Python.* has a tokenizer.json"):
        load(str(tmp_path))


def test_a_tokenizer_that_pads_on_the_left_is_refused(classifier):
    folder, _ = classifier()
    change_json(Path(folder, "tokenizer_config.json"), padding_side="left")
    with pytest.raises(ValueError, match="needs its padding on the left"):
        load_model(folder)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(classifier, tokenizer):
    folder, _ = classifier()
    tokenizer.add_tokens(["kata", "baru"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer has 55 tokens, the encoder only 53"):
        load_model(folder)


def test_the_length_of_training_is_saved_for_inference_and_does_not_bind_the_next_training(classifier, tokenizer):
    folder, _ = classifier()
    tokenizer.model_max_length = 8
    save_tokenizer(tokenizer, folder)
    assert load_classifier(folder)[1].model_max_length == 8
    assert load_model(folder)[1].model_max_length == 128  # of the encoder


def frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def test_freezing_excludes_what_was_named_and_nothing_else():
    model = make_model()
    freeze_layers(model)
    assert frozen(model) == set()
    freeze_layers(model, embeddings=True, n_layers=1)
    names = {name for name, _ in model.named_parameters()}
    assert frozen(model) == {n for n in names if n.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}
    assert len(frozen(model)) == 21


@pytest.mark.parametrize("n_layers", [-1, 3])
def test_more_layers_than_there_are_cannot_be_frozen(n_layers):
    with pytest.raises(ValueError, match=f"--freeze_layers {n_layers}: BertForSequenceClassification has 2 layers"):
        freeze_layers(make_model(), n_layers=n_layers)


def test_layers_that_share_their_weights_cannot_be_frozen():
    config = AutoConfig.for_model("albert", **SHAPE, embedding_size=16)
    with pytest.raises(ValueError, match="are shared"):
        freeze_layers(AutoModelForSequenceClassification.from_config(config), n_layers=1)
