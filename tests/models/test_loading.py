"""Which weights reach the model: all of the encoder's, from safe files, under the right names; tokenizers that fit."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from conftest import SHAPE, VOCABULARY, Canary, make_model, read_json, save_tiny
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForPreTraining

from smsa.errors import UserError
from smsa.files import update_json, write_json
from smsa.models.loading import (
    DEFAULT,
    choose_labels,
    freeze_layers,
    load_classifier,
    load_model,
    save_tokenizer,
    split_names,
)

# More rows than tokens, as indobert-base-p1 has
OLD_SHAPE = SHAPE | {"vocab_size": len(VOCABULARY) + 11, "max_position_embeddings": 40}
OLD_PARTS = {"weight": "gamma", "bias": "beta"}
INDONESIAN = ("negatif", "netral", "positif")


@pytest.fixture
def pretrained():
    torch.manual_seed(1)
    return BertForPreTraining(BertConfig(**OLD_SHAPE))


@pytest.fixture
def save_old(tmp_path, pretrained):
    """A function that saves what a Hub repository of 2019 has: pytorch_model.bin, gamma, five LABEL_n, vocab.txt."""

    def save(drop=()):
        folder = tmp_path / "old"
        folder.mkdir()
        state = pretrained.state_dict() | {"bert.embeddings.position_ids": torch.arange(40)[None]}
        names = {name: re.sub("(?<=LayerNorm.)(weight|bias)", lambda part: OLD_PARTS[part[0]], name) for name in state}
        torch.save({names[name]: state[name] for name in state if name not in drop}, folder / "pytorch_model.bin")
        names = {"id2label": {str(i): f"LABEL_{i}" for i in range(5)}, "label2id": {f"LABEL_{i}": i for i in range(5)}}
        write_json(pretrained.config.to_dict() | names, folder / "config.json")
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
        return str(folder)

    return save


@pytest.fixture
def folder(tmp_path):
    """A random classifier of negatif, netral, positif."""
    return str(save_tiny(tmp_path / "classifier", labels=INDONESIAN))


def test_every_encoder_weight_of_an_old_checkpoint_is_taken_over(save_old, pretrained, caplog):
    encoder = {name: weight for name, weight in pretrained.state_dict().items() if name.startswith("bert.")}
    folder = save_old()
    model, tokenizer = load_model(folder)
    loaded = model.state_dict()
    assert len(encoder) == 39
    assert all(torch.equal(loaded[name], weight) for name, weight in encoder.items())
    assert set(loaded) - set(encoder) == {"classifier.weight", "classifier.bias"}
    assert model.config.id2label == {0: "positive", 1: "neutral", 2: "negative"}
    assert "weights from pytorch_model.bin" in caplog.text and "not used" in caplog.text
    assert "Starts at random: classifier.bias, classifier.weight" in caplog.text
    assert tokenizer.convert_ids_to_tokens(tokenizer("Enak !")["input_ids"]) == ["[CLS]", "enak", "!", "[SEP]"]
    assert tokenizer.model_max_length == OLD_SHAPE["max_position_embeddings"]


@pytest.mark.parametrize("dropped", ["bert.embeddings.LayerNorm.bias", "bert.pooler.dense.bias"])
def test_a_checkpoint_with_a_weight_missing_or_of_another_size_is_refused_by_its_name(save_old, dropped):
    folder = save_old(drop=(dropped,))
    with pytest.raises(ValueError, match=f"would be partly random.* of another size: {dropped}"):
        load_model(folder)
    update_json(Path(folder, "config.json"), intermediate_size=48)
    with pytest.raises(ValueError, match="would be partly random.* bert.encoder.layer.0.intermediate.dense.bias"):
        load_classifier(folder)


def test_labels_come_from_the_option_else_from_the_model_else_from_smsa(folder, save_old, tmp_path):
    assert choose_labels(None, folder) == INDONESIAN
    assert choose_labels("a, b", folder) == ("a", "b")
    for name in (save_old(), "scratch", save_tiny(tmp_path / "stars", labels=["stars"])):  # a regression
        assert choose_labels(None, name) == ("positive", "neutral", "negative")
    for unclear in ("a", "a,a", "a,"):
        with pytest.raises(ValueError, match="at least two different names"):
            choose_labels(unclear, "scratch")


def test_a_head_is_kept_for_its_own_labels_and_re_initialised_for_others_and_the_log_says_so(folder, caplog):
    head = make_model().classifier.weight
    update_json(Path(folder, "config.json"), smsa_temperature=2.0, smsa_normalised=True)  # since its training
    model, _ = load_model(folder, INDONESIAN)
    assert torch.equal(model.classifier.weight, head) and "smsa_" not in model.config.to_json_string()
    for other in (INDONESIAN[::-1], ("a", "b", "c"), ("a", "b")):
        model, _ = load_model(folder, other)
        assert tuple(model.config.id2label.values()) == other
        assert model.classifier.weight.shape == (len(other), 32)
        assert not torch.isin(model.classifier.weight, head).any()
    assert caplog.text.count("head starts at random: its labels were negatif,netral,positif, in this order") == 3
    update_json(Path(folder, "config.json"), id2label={i: f"LABEL_{i}" for i in range(3)})  # which says no meaning
    assert not torch.isin(load_model(folder)[0].classifier.weight, head).any()
    assert "head starts at random: its labels were LABEL_0,LABEL_1,LABEL_2, in this order" in caplog.text


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(save_old, tmp_path, write):
    folder = save_old()
    write({"bert.embeddings.word_embeddings.weight": Canary(tmp_path / "ran")}, Path(folder, "pytorch_model.bin"))
    with pytest.raises(ValueError, match="pytorch_model.bin was refused"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("changes, reason", [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"has quantised weights \(gptq\): give the model"),
    ({"auto_map": {"AutoConfig": "evil.Config"}}, "wants to run code of its own"),
    ({"model_type": "newer"}, "transformers knows, .*`newer`"), ({"id2label": ["a", "b"]}, "transformers knows, "),
    ({"hidden_size": "large"}, "transformers knows, "), ({"id2label": {"a": "b"}}, "transformers knows, "),
    ({"model_type": "vit"}, "is a vit model: transformers has no text classifier of this type"),
])  # fmt: skip
def test_a_configuration_that_is_of_no_text_classifier_is_refused(folder, changes, reason):
    path = Path(folder, "config.json")
    update_json(path, **changes)
    with pytest.raises(UserError, match=f"{path.parent}.* {reason}"):
        load_classifier(path.parent)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", None], ids=["LFS", "cut"])
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_is_named(save_old, pretrained, filename, content):
    path = Path(save_old(), filename)
    if filename == "model.safetensors":
        pretrained.save_pretrained(path.parent)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises((UserError, OSError), match=f"{path.parent}.*{filename}"):
        load_model(str(path.parent))


def test_what_a_folder_lacks_is_named(folder):
    """Without its tokenizer, transformers would make one up, for which all texts are alike: [UNK] [UNK] ..."""
    with pytest.raises(OSError, match="No model .*-typo.*\n.*there are e5-sentiment, .* to train from, mini"):
        load_model(f"{folder}-typo")
    for name, reason in (
        ("tokenizer.json", "lacks its tokenizer: check that tokenizer.json or the vocabulary is there"),
        ("model.safetensors", "its weights, model.safetensors or pytorch_model.bin, are missing"),
        ("config.json", "No model .* a folder with a config.json"),
    ):
        Path(folder, name).unlink()
        with pytest.raises(UserError, match=reason):
            load_model(folder)
    for name, reason in (("seeds.json", "has a model for each seed"), ("adapter_config.json", "is a LoRA adapter")):
        Path(folder, name).touch()
        with pytest.raises(UserError, match=reason):
            load_model(folder)


def test_the_length_of_training_binds_inference_only_and_an_unfit_tokenizer_is_refused(folder, tokenizer, tmp_path):
    """One written in Python would train, and fail where texts are labelled."""
    tokenizer.model_max_length = 8
    save_tokenizer(tokenizer, folder)
    assert load_classifier(folder)[1].model_max_length == 8
    save_tokenizer(load_classifier(folder)[1], folder)
    assert not {"is_local", "local_files_only"} & read_json(Path(folder, "tokenizer_config.json")).keys()
    assert load_model(folder)[1].model_max_length == 128  # of the encoder
    make_model(vocab_size=60).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("enak 9\nmurah 8\n")
    (tmp_path / "bpe.codes").write_text("e n 9\na k 8\n")
    write_json({"tokenizer_class": "BertweetTokenizer"}, tmp_path / "tokenizer_config.json")
    with pytest.raises(ValueError, match="BertweetTokenizer is written in Python: .* tokenizer.json"):
        load_model(str(tmp_path))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\n\x0e\n\x05<unk>")
    write_json({"tokenizer_class": "XLMRobertaTokenizer"}, tmp_path / "tokenizer_config.json")
    with pytest.raises(UserError, match="to read its vocabulary, pip install sentencepiece protobuf"):
        load_model(str(tmp_path))
    tokenizer.add_tokens(["kata", "baru"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="the tokenizer has 55 tokens, the encoder only 53"):
        load_model(folder)


def test_freezing_excludes_what_was_named_and_nothing_else():
    model = make_model()
    freeze_layers(model, embeddings=True, n_layers=1)
    frozen = {name: not p.requires_grad for name, p in model.named_parameters()}
    assert frozen == {name: name.startswith(("bert.embeddings.", "bert.encoder.layer.0.")) for name in frozen}
    assert sum(frozen.values()) == 21
    freeze_layers(model, matrices=True)  # what is frozen stays frozen
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad and not frozen[name]}
    matrices = [name for name, shape in shapes.items() if len(shape) > 1]
    assert matrices == ["classifier.weight"] and sum("LayerNorm" in name for name in shapes) == 4
    assert [name for name, p in model.named_parameters() if p.requires_grad] == list(shapes)
    decoder = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", **OLD_SHAPE))
    freeze_layers(decoder, embeddings=True)
    frozen = [name for name, p in decoder.named_parameters() if not p.requires_grad]
    assert frozen == ["transformer.wte.weight", "transformer.wpe.weight"]
    opt = AutoConfig.for_model("opt", **OLD_SHAPE, ffn_dim=8, word_embed_proj_dim=OLD_SHAPE["hidden_size"])
    with pytest.raises(UserError, match="--freeze_embeddings: OPTForSequenceClassification has no embeddings that"):
        freeze_layers(AutoModelForSequenceClassification.from_config(opt), embeddings=True)
    with pytest.raises(ValueError, match="--freeze_layers 3: BertForSequenceClassification has 2 layers"):
        freeze_layers(make_model(), n_layers=3)
    config = AutoConfig.for_model("albert", **OLD_SHAPE, embedding_size=16)
    with pytest.raises(ValueError, match="share their weights"):
        freeze_layers(AutoModelForSequenceClassification.from_config(config), n_layers=1)


def test_plus_joins_names_but_not_a_path_or_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_names("~/a+~/b") == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert split_names(Path("~/a+b")) == [tmp_path / "a+b"] and split_names(Path("mini")) == [Path("mini")]
    (tmp_path / "a+b").mkdir()
    assert split_names("~/a+b") == [str(tmp_path / "a+b")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()  # a report, perhaps
    assert split_names(DEFAULT) == ["mini-sentiment", "e5-sentiment"]
    for name in ("a+", "+", "a++b"):
        with pytest.raises(UserError, match="has a [+] without a model before or after it"):
            split_names(name)
    with pytest.raises(UserError, match="joins several models: give one"):
        load_model(DEFAULT + "+mini")
