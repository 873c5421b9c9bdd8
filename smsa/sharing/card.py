"""The model card: README.md beside a model, a Jinja template filled with the figures of metrics.json and run.json."""

import json
import logging
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError

from smsa.data.labels import LABELS
from smsa.evaluation.markdown import TEMPLATES
from smsa.files import RUN_RECORD, publish, write_json

logger = logging.getLogger(__name__)

CARD = "README.md"
# smsa writes a card with this line again when the model or its name changes. A card without it is its owner's.
OURS = "<!-- Written by smsa, which keeps it up to date. Take this line away and it is yours. -->"
_SCORES = {"accuracy": "Accuracy", "f1": "Macro F1", "recall": "Macro recall", "precision": "Macro precision"}
_SPLITS = {"valid": "validation", "test": "test"}  # our name -> the Hub's


def describe_base(model_name_or_path: str) -> dict[str, str | None]:
    """Return what a card says of the base model.

    Returns:
        `kind`: `scratch`, `bundled`, `folder` or `hub`; `name`: on the Hub, or of the folder without its path;
        `license`: as in the base model's own card, for `scratch` that of smsa; None if no card states one, or if the
        card cannot be read, which is logged.
    """
    from smsa.models.loading import BUNDLED  # takes seconds to import; pushing a folder needs none of it

    if model_name_or_path == "scratch":
        return {"kind": "scratch", "name": "scratch", "license": "apache-2.0"}
    folder, kind, name = Path(BUNDLED.get(model_name_or_path, model_name_or_path)), "hub", model_name_or_path
    if folder.is_dir():
        kind, name = ("bundled", name) if name in BUNDLED else ("folder", folder.resolve().name)
    try:
        card = ModelCard.load(name, ignore_metadata_errors=True).content if kind == "hub" else _read_card(folder)
    except (OSError, HTTPError, ValueError, yaml.YAMLError) as error:  # no card, no network, or unknown metadata
        card = ""
        logger.info("The card of %s cannot be read, so the new model's card will state no licence: %r", name, error)
    return {"kind": kind, "name": name, "license": _stated_licence(card)}


def is_renewable(folder: str | Path) -> bool:
    """Return whether `render_card` may replace a folder's card: smsa wrote it here, and nobody has taken it over."""
    return OURS in _read_card(folder) and (Path(folder) / RUN_RECORD).is_file()


def publish_run(staging: Path, output_dir: Path, record: dict) -> None:
    """Move the files of a run to its folder, run.json last; write the card unless its owner has taken it over.

    `record` is the content of run.json except `outputs`, the names of all files, which is added here.
    """
    before = _read_card(output_dir)
    record["outputs"] = sorted([CARD, *(path.name for path in staging.iterdir())])
    write_json(record, staging / RUN_RECORD)
    if not before or OURS in before:
        (staging / CARD).write_text(render_card(staging, str(output_dir), before), encoding="utf-8")
    publish(staging, output_dir, last=RUN_RECORD)


def _read_card(folder: str | Path) -> str:
    """Return the card of a model folder, or an empty text if there is none."""
    path = Path(folder) / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def render_card(folder: str | Path, name: str, before: str | None = None) -> str:
    """Render the card of a finished run, from its metrics.json, run.json and the model's own files.

    Args:
        folder: a folder that scripts/finetune.py or scripts/pretrain.py has finished.
        name: the name that loads the model: on the Hub, or the path of its folder.
        before: the card to replace, whose licence is kept; None for the card in `folder`.

    Returns:
        Markdown, after metadata in the Hub's format, model-index included.
    """
    folder = Path(folder)
    licence = _stated_licence(_read_card(folder) if before is None else before)
    metrics, run = (json.loads((folder / file).read_bytes()) for file in ("metrics.json", RUN_RECORD))
    base = run["base_model"]
    if "held_out" in metrics:
        from transformers import AutoConfig  # it knows each architecture's names for depth and width

        template, values = "sharing/encoder_card.md.jinja", {"config": AutoConfig.from_pretrained(folder)}
        metadata = {"pipeline_tag": "fill-mask", "tags": ["indonesian", "smsa"]}
    else:
        template = "sharing/classifier_card.md.jinja"
        values, metadata = _describe_classifier(folder, metrics, run)
    metadata |= {
        "language": "id",
        "license": licence or metadata.get("license", base["license"]),
        "library_name": "transformers",
        "base_model": base["name"] if base["kind"] == "hub" else None,
        "model_name": Path(name).name,
    }
    values |= {"metrics": metrics, "run": run, "base": base, "name": name, "title": Path(name).name, "ours": OURS}
    values["settings"] = run["settings"] | {"model_name_or_path": base["name"]}  # no path of this machine
    return TEMPLATES.get_template(template).render(card_data=ModelCardData(**metadata).to_yaml(), **values)


def _describe_classifier(folder: Path, metrics: dict, run: dict) -> tuple[dict, dict]:
    """Return the values for the template of a classifier's card, and the card's metadata."""
    data, labels, base = run["data"], run["labels"], run["base_model"]
    splits = [split for split in _SPLITS if split in metrics]
    last = metrics[splits[-1]]  # test if there is one: the epoch was chosen on valid
    names = {split: f"SmSA {split}" if data[split]["is_smsa"] else Path(data[split]["file"]).name for split in data}
    train, valid = data["train"], data["valid"]
    if valid["sha256"] == train["sha256"] and valid["n_texts"] < train["n_texts"]:  # split off from train
        names["valid"] += ", held out of training"
    smsa = {"dataset_type": "indonlp/indonlu", "dataset_name": "SmSA (IndoNLU)", "dataset_config": "smsa"}
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Sentiment analysis",
            dataset_split=_SPLITS[split],
            metric_type=score,
            metric_name=title,
            metric_value=metrics[split][score],
            **(smsa if data[split]["is_smsa"] else {"dataset_type": "own", "dataset_name": names[split]}),
        )
        for split in splits
        for score, title in _SCORES.items()
    ]
    # The owner chooses the licence of a model that was trained only on the owner's texts.
    is_owners = base["kind"] == "scratch" and not data["train"]["is_smsa"]
    return {
        "splits": splits,
        "names": names,
        "score_titles": _SCORES,
        "weakest": min(filter(lambda label: last[f"n_{label}"], labels), key=lambda label: last[f"f1_{label}"]),
        "absent": [label for label in labels if not last[f"n_{label}"]],
        "example_labels": LABELS,
        "config": json.loads((folder / "config.json").read_bytes()),
    }, {
        "license": None if is_owners else base["license"],
        "pipeline_tag": "text-classification",
        "tags": ["sentiment-analysis", "indonesian", "smsa"],
        "datasets": ["indonlp/indonlu"] if data["train"]["is_smsa"] else None,
        "metrics": list(_SCORES),
        "eval_results": results,
    }


def _stated_licence(card: str) -> str | None:
    """Return the licence in the metadata of a card; None if there is none, or the metadata cannot be read."""
    if not card.lstrip().startswith("---"):  # no metadata: the Hub's client would warn
        return None
    try:
        stated = ModelCard(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):
        return None
    return stated if isinstance(stated, str) else None
