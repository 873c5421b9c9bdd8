"""Load a model and its tokenizer from the Hub, a folder or the package, without running code from there.

`load_model` is for fine-tuning, `load_encoder` for pre-training, and `load_classifier` for a finished classifier. All
load weights in fp32, log or refuse those that the checkpoint lacks, and raise UserError or OSError with the way out.
"""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from smsa.data.labels import LABELS, label_maps, parse_labels
from smsa.errors import UserError
from smsa.files import write_json
from smsa.models.scratch import build_scratch

logger = logging.getLogger(__name__)

# What comes with the package: an encoder (recipes/pretrain-mini.yaml), a fast classifier that was made from it
# (recipes/mini.yaml, informal.yaml, biases.yaml), and a larger one (recipes/e5.yaml, e5_rdrop.yaml, biases.yaml).
# BUNDLED has their folders by their names; "./mini" and every Path mean a folder of the user.
FOLDER = Path(__file__).parent.parent / "bundled"
ENCODER, FAST, E5 = "mini", "mini-sentiment", "e5-sentiment"
BUNDLED = {name: str(FOLDER / name) for name in (ENCODER, FAST, E5)}
DEFAULT = f"{FAST}+{E5}"  # the mean of both: docs/models.md

_Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_model(
    model_name_or_path: str,
    labels: tuple[str, ...] = LABELS,
    revision: str | None = None,
    train_texts: Iterable[str] | None = None,
) -> _Loaded:
    """Load an encoder with a head for `labels`, and its tokenizer. Seed first: a new head starts at random.

    A trained head is kept only if it has exactly these labels in this order. The tokenizer's `model_max_length` is the
    longest input of the encoder, whatever length it was fine-tuned with before.

    Args:
        model_name_or_path: a name on the Hub, a folder, one of `BUNDLED` or `scratch` (see `build_scratch`).
        labels: label names in the order of their ids.
        revision: branch, tag or commit on the Hub.
        train_texts: the texts from which `scratch` learns its vocabulary; any other model ignores them.

    Raises:
        UserError: if the checkpoint leaves a weight of the encoder unfilled or cannot be read, if the model wants to
            run code, or if its tokenizer is missing, is written in Python, pads on the left, or has too many tokens.
        OSError: if there is no such model, or no network to download it.
    """
    labels = tuple(labels)
    if model_name_or_path == "scratch":
        if train_texts is None:
            raise UserError("'scratch' learns its vocabulary from train_texts: give them.")
        return build_scratch(train_texts, labels)
    name, config = _load_config(model_name_or_path, revision)
    labels_before, trained_labels = label_names(config.id2label), _trained_labels(config)
    config.update(label_maps(labels) | {"problem_type": "single_label_classification"})
    for change in ("smsa_temperature", "smsa_normalised"):  # set by scripts/calibrate.py after an earlier training
        vars(config).pop(change, None)
    model, random_weights = _load_weights(name, config, revision)
    if trained_labels != labels:
        # Re-initialise the whole head, also weights in the checkpoint. ModernBERT's classifier shares a layer with its
        # masked language model: trained for logits of thousands of tokens, its outputs are far too large for 3 labels.
        state = model.state_dict()
        foreign = {weight for weight in state if not weight.startswith(f"{model.base_model_prefix}.")} - random_weights
        fresh = type(model)(config).state_dict() if foreign else {}
        for weight in foreign:
            state[weight].copy_(fresh[weight])
        if trained_labels or not random_weights:  # otherwise it has been logged
            logger.info("The head starts at random: its labels were %s, in this order.", ",".join(labels_before))
    tokenizer = _load_tokenizer(name, model, revision)
    require_padding(model, tokenizer)
    return model, tokenizer


def require_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose logits for a text change with the padding after it, which a batch needs.

    Raises:
        UserError: with the reason.
    """
    kind = type(model).__name__
    if tokenizer.padding_side == "left":
        raise UserError(f"{kind} needs its padding on the left, which smsa does not do.")
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {kind} has no pad token: save it with one, such as its eos_token, first.")
    model.config.pad_token_id = tokenizer.pad_token_id  # decoders find the last token with it
    ids = torch.tensor([tokenizer.encode("a")], device=model.device)
    mask, pads = torch.ones_like(ids), (0, 4)
    padded = functional.pad(ids, pads, value=tokenizer.pad_token_id)
    with torch.inference_mode():
        alone = model.eval()(input_ids=ids, attention_mask=mask).logits
        behind = model(input_ids=padded, attention_mask=functional.pad(mask, pads)).logits
    if (alone - behind).abs().max() > 1e-3 * alone.abs().max():
        raise UserError(f"{kind} gives other logits if a text is padded; smsa needs a model that ignores padding.")


def load_classifier(model_name_or_path: str | Path, revision: str | None = None) -> _Loaded:
    """Load a trained classifier and its tokenizer; `model_max_length` is the length that it was trained with.

    Raises:
        UserError, OSError: as `load_model`; also if a weight of the head is missing, or the model predicts a number or
            several labels for a text.
    """
    name, config = _load_config(model_name_or_path, revision)
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        raise UserError(f"{name} does not choose one label among several: {config.problem_type or 'a single output'}.")
    model, random_weights = _load_weights(name, config, revision)
    if random_weights:
        lacking = ", ".join(sorted(random_weights))
        raise UserError(f"{name} has not been trained to classify: it lacks {lacking}. First run scripts/finetune.py.")
    return model, _load_tokenizer(name, model, revision, keeps_max_length=True)


def load_encoder(model_name_or_path: str, revision: str | None = None) -> _Loaded:
    """Load a masked language model for further pre-training, as `load_model` does; only a missing head is random."""
    name, config = _load_config(model_name_or_path, revision)
    model, _ = _load_weights(name, config, revision, AutoModelForMaskedLM)
    return model, _load_tokenizer(name, model, revision)


def split_names(model_name_or_path: str | Path) -> list[str | Path]:
    """Return the names and folders that + joins; a Path, and a folder whose own name has a +, stay whole.

    Raises:
        UserError: if there is no name before or after a +.
    """
    if isinstance(model_name_or_path, Path):
        return [model_name_or_path.expanduser()]
    names = [os.path.expanduser(name.strip()) for name in model_name_or_path.split("+")]
    whole = os.path.expanduser(model_name_or_path)
    if os.path.isdir(whole) and not BUNDLED.keys() >= {*names}:
        return [whole]
    if not all(names):
        raise UserError(f"{model_name_or_path!r} has a + without a model before or after it: join models as in A+B.")
    return names


def choose_labels(labels: str | None, model_name_or_path: str, revision: str | None = None) -> tuple[str, ...]:
    """Return the names in `labels`, comma-separated, or else those that a model was trained with, or else `LABELS`."""
    if labels is not None:
        return parse_labels(labels)
    if model_name_or_path == "scratch":
        return LABELS
    return _trained_labels(_load_config(model_name_or_path, revision)[1]) or LABELS


def label_names(id2label: dict[int, str]) -> tuple[str, ...]:
    """Return the labels of a transformers configuration in the order of their ids.

    Raises:
        UserError: if the ids are not 0, 1, ... without a gap.
    """
    if sorted(id2label) != list(range(len(id2label))):
        raise UserError(f"id2label in config.json has the ids {', '.join(map(str, id2label))}, not 0, 1, and so on.")
    return tuple(str(id2label[i]) for i in range(len(id2label)))


def _trained_labels(config: PretrainedConfig) -> tuple[str, ...] | None:
    """Return the labels of a classifier; None for an encoder, a regression, and names such as LABEL_0."""
    labels = label_names(config.id2label)
    return None if len(labels) < 2 or any(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels


def _load_config(model_name_or_path: str | Path, revision: str | None) -> tuple[str, PretrainedConfig]:
    """Return a model's name on the Hub or its folder, and its configuration; an error says what to give instead."""
    name = str(BUNDLED.get(model_name_or_path, model_name_or_path))
    if "+" in name and not Path(name).is_dir():
        raise UserError(f"{name} joins several models: give one; only predicting and evaluating take several.")
    if revision and Path(name).is_dir():
        raise UserError(f"{name} is a folder, but revision {revision!r} needs a name on the Hub: leave it out.")
    try:  # use_cache is for generating text, and OpenVINO cannot convert it
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, use_cache=False)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        if isinstance(error.__context__, ImportError):  # a package for proxies is missing
            raise error.__context__ from None
        if Path(name, "adapter_config.json").is_file():
            raise UserError(f"{name} is a LoRA adapter: merge it into its base model first.") from error
        if Path(name, "seeds.json").is_file():
            raise UserError(
                f"{name} has a model for each seed: give a folder seed-... in it, or several with +."
            ) from error
        raise (OSError if isinstance(error, OSError) else UserError)(
            f"No model {name!r}: neither a folder with a config.json of a model that transformers knows, nor a name on "
            f"the Hub: {str(error).splitlines()[0]}\n"
            "Way out: check the name and the network, or give a folder that scripts/finetune.py has finished. Without "
            f"the Hub there are {E5}, {FAST} and, to train from, {ENCODER}."
        ) from error
    if Path(name, "export.json").is_file():
        raise UserError(f"{name} is an export, for other runtimes: give the model that it was made from.")
    if hasattr(config, "auto_map"):
        raise UserError(f"{name} wants to run code of its own (auto_map in config.json), which smsa never does.")
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method", "quantization_config in config.json")
        raise UserError(f"{name} has quantised weights ({method}): give the model that it was made from.")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(f"{name} is a {config.model_type} model: transformers has no text classifier of this type.")
    return name, config


def _load_weights(
    name: str, config: PretrainedConfig, revision: str | None, kind: type = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model in fp32; return it with the names of the weights that the checkpoint left at random."""
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else transformers asks a Hub bot to convert a .bin
    try:
        model, report = kind.from_pretrained(
            name,
            config=config,
            revision=revision or "main",
            dtype=torch.float32,
            weights_only=True,  # torch's restricted unpickler
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # accepted in the head, refused below in the encoder
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:  # its message suggests loading the file all the same
        raise UserError(
            f"{name}: pytorch_model.bin was refused: it is no file of weights, or it holds more than tensors, which "
            "can run code when it is loaded. Ask its author for model.safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{name}: its weights, model.safetensors or pytorch_model.bin, are missing, unreadable or damaged. If a "
            f"download failed, try again; for a Git LFS pointer, git lfs pull. The cause: {error.__cause__ or error}"
        ) from error

    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    is_safe = any(cached_file(name, f"model.safetensors{end}", **options) for end in ("", ".index.json"))
    logger.info("Model: %s, weights from %s", name, "model.safetensors" if is_safe else "pytorch_model.bin")
    missing = set(report["missing_keys"])
    random_weights = missing | {weight for weight, *_ in report["mismatched_keys"]}
    if random_weights:
        logger.info("Starts at random: %s", ", ".join(sorted(random_weights)))
    prefix = f"{model.base_model_prefix}."
    encoder = {weight for weight in model.state_dict() if weight.startswith(prefix)}
    pooler = {weight for weight in encoder if weight.startswith(f"{prefix}pooler.")}
    if pooler <= missing:  # masked language models have none; half a pooler means a damaged file
        encoder -= pooler
    if unfilled := sorted(random_weights & encoder):
        raise UserError(
            f"{name}: the checkpoint lacks weights of the encoder, so the model would be partly random. Missing, or of "
            f"another size: {', '.join(unfilled[:10])}. Check that it is complete, and that config.json belongs to it."
        )
    if unused := sorted(report["unexpected_keys"]):
        logger.warning("%s: weights not used (normal for pre-training heads): %s", name, ", ".join(unused[:10]))
    return model, random_weights


def _load_tokenizer(
    name: str, model: PreTrainedModel, revision: str | None, keeps_max_length: bool = False
) -> PreTrainedTokenizerBase:
    """Load a tokenizer; `model_max_length` is the encoder's limit, or the stated one if `keeps_max_length` and less."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        # if its files are missing, transformers 5 makes a tokenizer that has only special tokens
        if len(tokenizer) == len(tokenizer.all_special_tokens):
            raise ValueError("it has no tokens")
    except ValueError as error:
        reason = f"check that tokenizer.json or the vocabulary is there ({error})"
        if "tiktoken" in str(error):  # transformers says this if it lacks the packages to read SentencePiece
            reason = "to read its vocabulary, pip install sentencepiece protobuf."
        raise UserError(f"{name} lacks its tokenizer: {reason}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{name}: {type(tokenizer).__name__} is written in Python: give a model with a tokenizer.json.")
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
    """Save a tokenizer, with the length for inference, so that transformers 4 and transformers.js can load it."""
    tokenizer.save_pretrained(folder)
    path = Path(folder, "tokenizer_config.json")
    config = json.loads(path.read_bytes())
    if config["tokenizer_class"] == "TokenizersBackend":  # transformers 5's name for a plain tokenizer.json
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for key in ("is_local", "local_files_only"):  # how it was loaded here
        config.pop(key, None)
    write_json(config, path)


def freeze_layers(model: PreTrainedModel, embeddings: bool = False, n_layers: int = 0, matrices: bool = False) -> None:
    """Exclude the embeddings, the first `n_layers` layers, or all matrices, of the encoder from training.

    Without its matrices, biases and normalisations are left, much as in BitFit: Ben Zaken et al. 2022,
    https://arxiv.org/abs/2106.10199

    Raises:
        UserError: if the encoder has no embeddings at its top (OPT has them deeper), fewer layers, or layers that share
            their weights (ALBERT).
    """
    kind, encoder, depth = type(model).__name__, model.base_model, getattr(model.config, "num_hidden_layers", 0)
    if embeddings:  # decoders have no module of this name
        parts = [m for name, m in encoder.named_children() if name == "embeddings" or isinstance(m, nn.Embedding)]
        if not parts:
            raise UserError(f"--freeze_embeddings: {kind} has no embeddings that can be told apart.")
        nn.ModuleList(parts).requires_grad_(False)
    if n_layers:
        stacks = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not (stacks and 0 < n_layers <= depth):
            raise UserError(f"--freeze_layers {n_layers}: {kind} has {depth} layers, or they share their weights.")
        stacks[0][:n_layers].requires_grad_(False)
    if matrices:
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.requires_grad_(False)
