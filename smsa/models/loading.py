"""Model and tokenizer from the Hub, a folder or the package: no code of theirs runs, and nothing stays unfilled unseen.

`load_model` starts a fine-tuning, `load_encoder` a pre-training, and `load_classifier` takes a finished classifier.
All three hold weights in fp32, and raise UserError or OSError with the way out.
"""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from smsa.data.labels import LABELS, label_maps, label_names, parse_labels
from smsa.errors import UserError
from smsa.files import write_json
from smsa.models.bundled import CLASSIFIER, ENCODER, find_bundled
from smsa.models.scratch import build_scratch

logger = logging.getLogger(__name__)

_WEIGHT_FILES = [
    f"{name}{index}" for name in ("model.safetensors", "pytorch_model.bin") for index in ("", ".index.json")
]


def load_model(
    model_name_or_path: str,
    labels: tuple[str, ...] = LABELS,
    revision: str | None = None,
    train_texts: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder with a head for `labels`, and its tokenizer; seed first, for the head starts at random.

    A head is taken over only from a classifier with exactly these labels in this order. `model_max_length` of the
    tokenizer is what the encoder can read, whatever length it was fine-tuned with before.

    Args:
        model_name_or_path: a name on the Hub, a folder, `mini` (see `find_bundled`) or `scratch` (see `build_scratch`).
        labels: label names in the order of their ids.
        revision: branch, tag or commit on the Hub.
        train_texts: what `scratch` learns its vocabulary from; any other model takes none.

    Raises:
        UserError: if the checkpoint leaves a weight of the encoder unfilled or cannot be read, if the model wants to
            run code, or if its tokenizer is missing, is written in Python, pads on the left, or has too many tokens.
        OSError: if there is no such model, or no network to download it.
    """
    labels = tuple(labels)
    if model_name_or_path == "scratch":
        if train_texts is None:
            raise UserError("'scratch' learns its vocabulary from train_texts: give them.")
        if revision:
            raise UserError(f"revision {revision!r} goes with a name on the Hub: 'scratch' has none.")
        return build_scratch(train_texts, labels)
    name = find_bundled(model_name_or_path)
    config = _load_config(name, revision)
    takes_head_over = _trained_labels(config) == labels
    maps = label_maps(labels)
    config.id2label, config.label2id = maps["id2label"], maps["label2id"]
    config.problem_type = "single_label_classification"
    model, random_weights = _load_weights(name, config, revision)
    if not takes_head_over:
        # Also what the checkpoint has for a head, such as the layer that ModernBERT's classifier shares with its masked
        # language model: trained for the logits of thousands of tokens, its outputs are far too large for three labels.
        state = model.state_dict()
        foreign = {weight for weight in state if not weight.startswith(f"{model.base_model_prefix}.")} - random_weights
        fresh = type(model)(config).state_dict() if foreign else {}
        for weight in foreign:
            state[weight].copy_(fresh[weight])
        random_weights |= foreign
    if random_weights:
        logger.info("Starts at random: %s", ", ".join(sorted(random_weights)))
    tokenizer = _load_tokenizer(name, model, revision)
    if tokenizer.padding_side == "left":
        raise UserError(f"{name} ({type(model).__name__}) needs its padding on the left, which smsa does not do.")
    return model, tokenizer


def load_classifier(
    model_name_or_path: str | Path, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a trained classifier and its tokenizer, whose `model_max_length` is the length that it was trained with.

    Raises:
        UserError: if a weight is missing, also in the head; if the model gives one number, or several labels for a
            text; and as `load_model`.
        OSError: as `load_model`.
    """
    name = find_bundled(model_name_or_path)
    config = _load_config(name, revision)
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "a single output"
        raise UserError(f"{name} does not choose one label among several: {kind}.")
    model, random_weights = _load_weights(name, config, revision)
    if random_weights:
        raise UserError(
            f"{name} has not been trained to classify: it lacks {', '.join(sorted(random_weights))}. Fine-tune it "
            "first with scripts/finetune.py."
        )
    return model, _load_tokenizer(name, model, revision, keeps_max_length=True)


def load_encoder(
    model_name_or_path: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model to pre-train further; seed first, for a missing head starts at random.

    Raises:
        UserError: as `load_model`, and if transformers has no masked language model of this architecture.
        OSError: as `load_model`.
    """
    name = find_bundled(model_name_or_path)
    model, random_weights = _load_weights(name, _load_config(name, revision), revision, AutoModelForMaskedLM)
    if random_weights:
        logger.info("Starts at random: %s", ", ".join(sorted(random_weights)))
    return model, _load_tokenizer(name, model, revision)


def _load_config(name: str, revision: str | None) -> PretrainedConfig:
    """Load the configuration of a model, or say why there is none."""
    path = Path(name)
    if path.is_dir() and revision:
        raise UserError(f"{name} is a folder: revision {revision!r} goes with a name on the Hub.")
    if path.is_dir() and not (path / "config.json").is_file():
        raise OSError(
            f"{name} is not a model: it has no config.json. Give a folder that scripts/finetune.py has finished."
        )
    try:
        values, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        neighbours = ""
        if path.parent != Path(".") and path.parent.is_dir():
            folders = sorted(folder.name for folder in path.parent.iterdir() if folder.is_dir())
            neighbours = f" {path.parent} has {', '.join(folders[:20]) or 'no folder'}."
        raise OSError(
            f"No model {name!r}: it is not a folder with a config.json, and could not be loaded from the Hub: {error}\n"
            f"Way out: check the name and the network, or give a folder.{neighbours} Without the Hub there are "
            f"{CLASSIFIER}, which labels texts, and {ENCODER}, to fine-tune."
        ) from error
    if "auto_map" in values:
        raise UserError(f"{name} wants to run code of its own (auto_map in config.json), which smsa never does.")
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _load_weights(
    name: str, config: PretrainedConfig, revision: str | None, kind: type = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model in fp32; return it with the names of the weights that the checkpoint left at random.

    Raises:
        UserError: naming the weights of the encoder that the checkpoint lacks or has in another size.
    """
    has_file = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    weights_file = next((file for file in _WEIGHT_FILES if cached_file(name, file, **has_file)), None)
    if weights_file is None and Path(name, "export.json").is_file():
        raise OSError(f"{name} is an export, for other runtimes: give the model that it was made from.")
    if weights_file is None:
        raise OSError(f"{name} has no weights: it has none of {', '.join(_WEIGHT_FILES)}.")
    logger.info("Model: %s, weights from %s", name, weights_file)
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else transformers asks a bot of the Hub to convert a .bin
    try:
        model, report = kind.from_pretrained(
            name,
            config=config,
            revision=revision or "main",
            dtype=torch.float32,
            use_safetensors="safetensors" in weights_file,
            weights_only=True,  # torch's restricted unpickler
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # in the head; refused below in the encoder
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name}: {weights_file} was refused: it is not a file of weights, or a pickle of more than tensors, which "
            "can run code when it is read. Ask its author for model.safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{name}: {weights_file} cannot be read: damaged, cut short or a Git LFS pointer: {error}"
        ) from error

    missing = set(report["missing_keys"])
    resized = {weight for weight, *_ in report["mismatched_keys"]}
    prefix = f"{model.base_model_prefix}."
    encoder = {weight for weight in model.state_dict() if weight.startswith(prefix)}
    pooler = {weight for weight in encoder if weight.startswith(f"{prefix}pooler.")}
    if pooler <= missing:  # as in those of masked language models; one that has half a pooler is damaged
        encoder -= pooler
    faults = {"not in the checkpoint": missing & encoder, "of another size": resized & encoder}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(sorted(weights))}" for fault, weights in faults.items() if weights)
        raise UserError(
            f"{name}: the checkpoint does not fill its encoder, so a model made from it would be partly random. "
            f"Weights {listed}. Is it complete, and does config.json belong to it?"
        )
    if unused := sorted(report["unexpected_keys"]):
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        logger.warning("%s: not used (heads of pre-training never are): %s%s", name, ", ".join(unused[:10]), more)
    return model, missing | resized


def _load_tokenizer(
    name: str, model: PreTrainedModel, revision: str | None, keeps_max_length: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; its `model_max_length` is what the encoder reads, or what it states if less."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        # where its files are missing, transformers 5 makes one up that has special tokens only
        problem = "" if len(tokenizer) > len(tokenizer.all_special_tokens) else "it has no tokens"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(f"{name} lacks its tokenizer: is tokenizer.json there, or the vocabulary? ({problem})")
    if not tokenizer.is_fast:
        raise UserError(
            f"{name}: its tokenizer, {type(tokenizer).__name__}, is written in Python, which smsa does not use: choose "
            "an encoder whose tokenizer has a tokenizer.json."
        )
    n_rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > n_rows:
        raise UserError(f"{name}: the tokenizer has {len(tokenizer):,} tokens, the encoder only {n_rows:,}.")
    n_positions = getattr(model.config, "max_position_embeddings", None) or 0
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa counts positions from padding_idx + 1; tokenizers of 2020 do not state a maximum
        n_positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    if n_positions > 0:
        stated = tokenizer.model_max_length if keeps_max_length else n_positions
        tokenizer.model_max_length = min(stated, n_positions)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a tokenizer so that transformers 4 and transformers.js find its class, too.

    Its `model_max_length` goes with it, and is inference's default: training sets it to the length of its texts.
    """
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    if config["tokenizer_class"] == "TokenizersBackend":  # transformers 5's name for a tokenizer.json as it is
        write_json(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, path)


def choose_labels(labels: str | None, model_name_or_path: str, revision: str | None = None) -> tuple[str, ...]:
    """Return the label names in the order of their ids.

    Args:
        labels: names, comma-separated; None takes those that the model was trained with, or `LABELS` where it has none.
        model_name_or_path, revision: as in `load_model`.

    Raises:
        UserError: as `parse_labels`.
    """
    if labels is not None:
        return parse_labels(labels)
    if model_name_or_path == "scratch":
        return LABELS
    return _trained_labels(_load_config(find_bundled(model_name_or_path), revision)) or LABELS


def _trained_labels(config: PretrainedConfig) -> tuple[str, ...] | None:
    """Return the label names of a classifier, or None of an encoder, whose names are LABEL_0, LABEL_1 ..."""
    names = label_names(config.id2label)
    return None if any(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def freeze_layers(model: PreTrainedModel, embeddings: bool = False, n_layers: int = 0) -> None:
    """Exclude the embeddings, or the first `n_layers` layers, of the encoder from training.

    Raises:
        UserError: if the encoder has no such parts of its own, such as ALBERT, whose layers share their weights.
    """
    name = type(model).__name__
    frozen: list[nn.Module] = []
    if embeddings:
        if not hasattr(model.base_model, "embeddings"):
            raise UserError(f"--freeze_embeddings: {name} has no embeddings that can be told apart.")
        frozen.append(model.base_model.embeddings)
    if n_layers:
        depth = model.config.num_hidden_layers
        stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not stacks or model.config.model_type == "albert":
            raise UserError(f"--freeze_layers: the layers of {name} are shared or cannot be told apart.")
        if not 0 < n_layers <= depth:
            raise UserError(f"--freeze_layers {n_layers}: {name} has {depth} layers.")
        frozen += stacks[0][:n_layers]
    for module in frozen:
        module.requires_grad_(False)
    if frozen:
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info("Trains %s of %s parameters", f"{n_trained:,}", f"{model.num_parameters():,}")
