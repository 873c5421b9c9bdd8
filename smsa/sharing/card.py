"""The model card: what README.md beside a model says, every figure of it from metrics.json and run.json."""

import json
import logging
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation.markdown import POINT_INTERVALS, table, with_interval
from smsa.models.bundled import BUNDLED, find_bundled

logger = logging.getLogger(__name__)

CARD = "README.md"
# With this line a card is written anew when the model changes or gets another name; without it, it is its owner's.
OURS = "<!-- Written by smsa, which keeps it up to date. Take this line away and it is yours. -->"
# The tutorial tries these before and after training; to a person they are positive, neutral and negative, as `LABELS`.
EXAMPLES = (
    "Bahagia hatiku melihat pernikahan putri sulungku yang cantik jelita",
    "Budi pergi ke pondok indah mall membeli cakwe",
    "Dasar anak sialan!! Kurang ajar!!",
)
_SCORES = {"accuracy": "Accuracy", "f1": "Macro F1", "recall": "Macro recall", "precision": "Macro precision"}
_SPLITS = {"valid": "validation", "test": "test"}  # ours and the Hub's
_ADDITIONS = {
    "ema_decay": ("averaged weights", "rata-rata bobot"),
    "rdrop_alpha": ("R-Drop", "R-Drop"),
    "class_weights": ("weighted labels", "bobot label"),
    "freeze_embeddings": ("fixed embeddings", "embedding yang tetap"),
    "freeze_layers": ("fixed layers", "lapisan yang tetap"),
}
_SMSA = (
    'SmSA (Purwarianti and Crisdayanti 2019, "Improving Bi-LSTM Performance for Indonesian Sentiment Analysis Using '
    'Paragraph Vector", ICAICTA), as distributed with [IndoNLU](https://github.com/IndoNLP/indonlu) (Wilie et al. '
    "2020, [arXiv 2009.05387](https://arxiv.org/abs/2009.05387); Apache-2.0). "
    "[SEACrowd](https://huggingface.co/datasets/SEACrowd/smsa) lists it under CC BY-SA 4.0."
)


def describe_base(model_name_or_path: str) -> dict[str, str | None]:
    """Get what a card says of the encoder that training started from.

    Returns:
        `kind`: `scratch`, `bundled`, `folder` or `hub`; `name`: that on the Hub, or of the folder without its
        path; `license`: what the encoder's own card states, smsa's for `scratch`, None where none is stated
        or no card can be had.
    """
    if model_name_or_path == "scratch":
        return {"kind": "scratch", "name": "scratch", "license": "apache-2.0"}
    folder = Path(find_bundled(model_name_or_path))
    kind, name, card = "hub", model_name_or_path, model_name_or_path
    if model_name_or_path in BUNDLED:
        kind, card = "bundled", folder / CARD
    elif folder.is_dir():
        kind, name, card = "folder", folder.resolve().name, folder / CARD
    try:
        stated = _stated_licence(ModelCard.load(card, ignore_metadata_errors=True).content)
    except (OSError, HTTPError, ValueError, yaml.YAMLError) as error:  # no card, no network, or one of another kind
        logger.info("The card of %s cannot be read, so that the model's own will state no licence: %r", name, error)
        stated = None
    return {"kind": kind, "name": name, "license": stated}


def read_card(folder: str | Path) -> str | None:
    """Get the card of a model folder as it stands there; None if there is none."""
    path = Path(folder) / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def is_renewable(folder: str | Path) -> bool:
    """Whether `render_card` may take the place of a folder's card: smsa wrote it here, and its owner left it so."""
    return OURS in (read_card(folder) or "") and (Path(folder) / "run.json").is_file()


def render_card(folder: str | Path, name: str, before: str | None = None, origins: str | None = None) -> str:
    """Write the card of a finished run, from its metrics.json, run.json and the model's own files.

    Args:
        folder: what scripts/finetune.py or scripts/pretrain.py has left.
        name: what loads the model: its name on the Hub, or the path of its folder.
        before: the card that it takes the place of; the licence in its metadata stays.
        origins: of an encoder, where its texts come from and under which licences, as Markdown.

    Returns:
        Markdown, after metadata in the Hub's format, model-index included.

    Raises:
        OSError: if a file is missing.
        ValueError: if a file is not what a finished run of this version leaves.
    """
    folder = Path(folder)
    try:
        metrics, run = (json.loads((folder / file).read_bytes()) for file in ("metrics.json", "run.json"))
        licence = _stated_licence(before) if before else None
        if "held_out" in metrics:
            sections = _encoder_sections(folder, name, metrics, run, licence, origins)
        else:
            sections = _classifier_sections(folder, name, metrics, run, licence)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"metrics.json or run.json of {folder} is not what a finished run leaves, so that there is no card to "
            f"write ({error!r}). Without run.json, the command of the run with --resume auto writes them anew."
        ) from error
    return "\n\n".join([*sections, OURS]) + "\n"


def _classifier_sections(folder: Path, name: str, metrics: dict, run: dict, licence: str | None) -> list[str]:
    from smsa.data.normaliser import (
        has_normaliser,  # brings torch, which only asking the Hub must not wait for
    )

    config, base, title = json.loads((folder / "config.json").read_bytes()), run["base_model"], Path(name).name
    is_owners = base["kind"] == "scratch" and not run["data"]["train"]["is_smsa"]  # all that it learned from
    licence = licence or (None if is_owners else base["license"])
    has_changed = has_normaliser(folder) and not run.get("normalised", False)
    return [
        f"---\n{_metadata(metrics, run, title, licence).to_yaml()}\n---",
        _introduction(run, title),
        _scores(metrics, run),
        _answers(metrics),
        _usage(name, run),
        _limits(metrics, run, config, has_changed),
        _training(metrics, run),
        _licence(run),
        _summary(metrics, run),
    ]


def _stated_licence(card: str) -> str | None:
    """The licence in the metadata of a card; None where it states none, or cannot be read."""
    try:
        stated = ModelCard(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):
        return None
    return stated if isinstance(stated, str) else None


def _data_name(run: dict, split: str) -> str:
    return f"SmSA {split}" if run["data"][split]["is_smsa"] else Path(run["data"][split]["file"]).name


def _judged(metrics: dict) -> list[str]:
    """Splits with scores, the most telling one last."""
    return [split for split in _SPLITS if split in metrics]


def _metadata(metrics: dict, run: dict, title: str, licence: str | None) -> ModelCardData:
    results = []
    for split in _judged(metrics):
        data = {"dataset_type": "own", "dataset_name": _data_name(run, split)}
        if run["data"][split]["is_smsa"]:
            data = {"dataset_type": "indonlp/indonlu", "dataset_name": "SmSA (IndoNLU)", "dataset_config": "smsa"}
        results += [
            EvalResult(
                task_type="text-classification",
                task_name="Sentiment analysis",
                **data,
                dataset_split=_SPLITS[split],
                metric_type=score,
                metric_name=title,
                metric_value=metrics[split][score],
            )
            for score, title in _SCORES.items()
        ]
    base = run["base_model"]
    return ModelCardData(
        language="id",
        license=licence,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["sentiment-analysis", "indonesian", "smsa"],
        base_model=base["name"] if base["kind"] == "hub" else None,
        datasets=["indonlp/indonlu"] if run["data"]["train"]["is_smsa"] else None,
        metrics=list(_SCORES),
        model_name=title,
        eval_results=results,
    )


def _base_name(run: dict, scratch: str, folder: str, shipped: str) -> str:
    base = run["base_model"]
    commit = f" at commit `{run['model_commit']}`" if run["model_commit"] else ""
    hub = f"[{base['name']}](https://huggingface.co/{base['name']}){commit}"
    named = {"folder": f"{folder} `{base['name']}`", "bundled": f"{shipped} `{base['name']}`"}
    return ({"scratch": scratch, "hub": hub} | named)[base["kind"]]


def _additions(run: dict, language: int) -> list[str]:
    """What a run has added to the reference's recipe, in English (0) or Indonesian (1)."""
    added = [option for option in _ADDITIONS if run["settings"].get(option) not in (None, 0, "none")]
    return [f"{_ADDITIONS[option][language]} (`{option}`)" for option in added]


def _introduction(run: dict, title: str) -> str:
    base = _base_name(
        run, "a small BERT that starts from nothing", "an encoder in a folder called", "smsa's own small encoder"
    )
    order = ", ".join(f"{i} `{label}`" for i, label in enumerate(run["labels"]))
    added = " and ".join(_additions(run, 0))
    recipe = f"adds {added} to the recipe of IndoNLU" if added else "follows the recipe of IndoNLU"
    return (
        f"# {title}\n\nSays which of {len(run['labels'])} labels an Indonesian text has. It is {base}, fine-tuned on "
        f"{_data_name(run, 'train')} by smsa, which {recipe}. It has "
        f"{run['n_parameters']:,} parameters.\n\nLabels, in the order of their ids: {order}."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _with_interval(scores: dict, score: str) -> str:
    return with_interval(scores[score], *scores["intervals"][score])


def _scores(metrics: dict, run: dict) -> str:
    labels, splits = run["labels"], _judged(metrics)
    is_best = run["settings"]["load_best_model_at_end"]
    chosen = ", which was the best on valid: its scores on valid flatter it a little" if is_best else ""
    lines = [
        "## How good it is",
        "",
        "In per cent, with 95 % intervals (stratified bootstrap over the texts). The model is that of epoch "
        f"{metrics['epoch']}{chosen}. {POINT_INTERVALS}",
        "",
    ]
    titles = [title[0].lower() + title[1:] for title in _SCORES.values()]
    lines += table(
        ["", "texts", *titles, "calibration error"],
        [
            [_data_name(run, split), f"{run['data'][split]['n_texts']:,}"]
            + [_with_interval(metrics[split], score) for score in _SCORES]
            + [_percent(metrics[split]["expected_calibration_error"])]
            for split in splits
        ],
    )
    for split in splits:
        scores = metrics[split]
        lines += ["", f"By gold label, on {_data_name(run, split)}; the last columns are the confusion matrix:", ""]
        lines += table(
            ["label", "texts", "F1", "recall", "precision", *(f"given {label}" for label in labels)],
            [
                [label, f"{scores[f'n_{label}']:,}", _with_interval(scores, f"f1_{label}")]
                + [_percent(scores[f"{score}_{label}"]) for score in ("recall", "precision")]
                + [f"{n:,}" for n in given]
                for label, given in zip(labels, scores["confusion"], strict=True)
            ],
        )
    return "\n".join(lines)


def _answers(metrics: dict) -> str:
    titles = ["text", "label", "probability", "a person would say"]
    rows = [
        [answer["text"], answer["label"], f"{answer['score']:.3f}", person * (f"p_{person}" in answer)]
        for answer, person in zip(metrics["examples"], LABELS, strict=True)
    ]
    return "\n".join(["## What it answers", "", *table(titles, rows)])


def _usage(name: str, run: dict) -> str:
    return f"""## How to use it

```python
from transformers import pipeline

classify = pipeline("text-classification", model="{name}")
print(classify("{EXAMPLES[0]}"))
```

`top_k=None` gives the probability of every label; `truncation=True` cuts texts that are too long for the model, as
training did at {run["settings"]["max_length"]} word pieces. With smsa:

```python
import smsa

clf = smsa.SentimentClassifier.from_pretrained("{name}")
# label, score, {", ".join(f"p_{label}" for label in run["labels"])}
print(clf("{EXAMPLES[0]}"))
```

and for files of any size, CSV, TSV, JSONL or Parquet:

```bash
python scripts/predict.py --model {name} --input reviews.csv --output scored.csv
```"""


def _limits(metrics: dict, run: dict, config: dict, is_normalised: bool) -> str:
    scores = metrics[_judged(metrics)[-1]]
    weakest = min(run["labels"], key=lambda label: scores[f"f1_{label}"])
    lines = ["## Limits", ""]
    if run["data"]["train"]["is_smsa"]:
        lines.append(
            "- SmSA's texts are reviews and comments in lower case, with punctuation and the clitic `nya` apart. Texts "
            "as people type them, with slang, drawn-out letters and emoji, were not measured here; `scripts/eval.py "
            "--robustness` of smsa measures some of it."
        )
    else:
        lines.append("- It was measured on texts like those that it learned from. Others may be labelled worse.")
    absent = [f"`{label}`" for label in run["labels"] if not scores[f"n_{label}"]]
    if absent:
        lines.append(f"- No text that it was measured on is {' or '.join(absent)}; the macro scores count that as 0.")
    lines += [
        f"- `{weakest}` is the label that it tells worst: F1 {_percent(scores[f'f1_{weakest}'])}.",
        "- Sarcasm, regional languages and texts that mix languages were not measured.",
        "- A text gets one label, whatever it judges: a review that praises the food and curses the service has no "
        "better answer. A text about nothing gets a label, too.",
        "- A probability is not a certainty, as the calibration error above says.",
    ]
    if "smsa_temperature" in config:
        lines.append(
            f"- Its logits have been divided by a temperature of {config['smsa_temperature']:.3f} after the scores "
            "above were measured. That changes probabilities and the calibration error, and no label."
        )
    if is_normalised:
        lines.append(
            "- Its tokenizer reads drawn-out letters as one (`enaaak` as `enak`). The scores above were measured "
            "before that was so; a report by `scripts/eval.py` of smsa says what they are now."
        )
    return "\n".join(lines)


def _training(metrics: dict, run: dict) -> str:
    lines = ["## How it was trained", ""]
    minutes, seconds = divmod(round(run["train_runtime_seconds"]), 60)
    n_processes = f"{run['world_size']} process{'es' * (run['world_size'] > 1)}"
    lines += [
        f"{n_processes} on {_place(run)}, in {run['precision_in_effect']}, {minutes} min {seconds} s. Adam, the rate "
        f"multiplied by `lr_gamma` every `lr_step_size` epochs, seed {run['seed']}. The epoch that was kept is "
        f"{metrics['epoch']}. Every option on which the result depends:",
        "",
    ]
    base = {"model_name_or_path": run["base_model"]["name"]}  # without a path of the machine
    options = [[f"`{option}`", value] for option, value in (run["settings"] | base).items()]
    return "\n".join([*lines, *table(["option", "value"], options), "", *_versions(run)])


def _place(run: dict) -> str:
    hardware = run["hardware"]
    return ", ".join(hardware["gpus"]) or f"{hardware['cpu']}, {hardware['n_threads']} threads"


def _versions(run: dict) -> list[str]:
    installed = [[library, version] for library, version in run["versions"].items() if version]
    return table(["library", "version"], installed)


def _licence(run: dict) -> str:
    base = run["base_model"]
    stated = (
        f"is under the licence `{base['license']}`" if base["license"] else "states no licence that smsa could read"
    )
    where = _base_name(run, "The code that this model started from", "The encoder in", "smsa's encoder")
    lines = ["## Licence and sources", "", f"{where} {stated}. The weights come from it and from the training texts."]
    if any(run["data"][split]["is_smsa"] for split in run["data"]):
        lines += ["", f"The data: {_SMSA}"]
    own = [split for split in run["data"] if not run["data"][split]["is_smsa"]]
    if own:
        listed = "; ".join(
            f"{split}: `{_data_name(run, split)}`, {run['data'][split]['n_texts']:,} texts, sha256 "
            f"`{run['data'][split]['sha256']}`"
            for split in own
        )
        lines += ["", f"Data that is not SmSA's, whose licence its owner knows: {listed}."]
    return "\n".join(lines)


def _summary(metrics: dict, run: dict) -> str:
    split = _judged(metrics)[-1]
    scores = metrics[split]
    base = _base_name(run, "BERT kecil yang dilatih dari nol", "encoder dalam folder", "encoder kecil milik smsa,")
    f1, low, high = (_percent(value).replace(".", ",") for value in (scores["f1"], *scores["intervals"]["f1"]))
    by_label = ", ".join(f"{label} {_percent(scores[f'f1_{label}'])}".replace(".", ",") for label in run["labels"])
    n_texts = f"{run['data'][split]['n_texts']:,}".replace(",", ".")
    added = " dan ".join(_additions(run, 1))
    recipe = "resep IndoNLU" + (f" dengan tambahan {added}" if added else "")
    return (
        f"## Ringkasan\n\nModel ini memberi teks berbahasa Indonesia satu dari {len(run['labels'])} label "
        f"({', '.join(run['labels'])}). Asalnya {base}, di-*fine-tune* dengan {_data_name(run, 'train')} menurut "
        f"{recipe}. Pada {_data_name(run, split)} ({n_texts} teks) macro F1-nya {f1} % (selang kepercayaan 95 %: {low} "
        f"sampai {high}), dan F1 tiap "
        f"label: {by_label}. Sarkasme, bahasa daerah, dan teks campuran belum diukur. Cara memakainya seperti di atas: "
        '`pipeline("text-classification", model=...)`.'
    )


def _encoder_sections(
    folder: Path, name: str, metrics: dict, run: dict, licence: str | None, origins: str | None
) -> list[str]:
    from transformers import (
        AutoConfig,  # as above; architectures have names of their own for depth and width
    )

    config, title, base = AutoConfig.from_pretrained(folder), Path(name).name, run["base_model"]
    metadata = ModelCardData(
        language="id", license=licence, library_name="transformers", pipeline_tag="fill-mask", model_name=title,
        tags=["indonesian", "smsa"], base_model=base["name"] if base["kind"] == "hub" else None,
    )  # fmt: skip
    start = f"It goes on from `{base['name']}`."
    if base["kind"] == "new":
        start = "Words with the same neighbours began with similar vectors, all else at random."
    held_out = metrics["held_out"]
    sources = [
        [f"`{Path(source).name}`", f"{data['n_texts']:,}", f"{data['weight']:g}", f"`{data['sha256']}`"]
        for source, data in run["data"].items()
    ]
    # without paths of the machine; the sources have a table of their own
    settings = run["settings"] | {"model_name_or_path": base["name"]}
    options = [
        [f"`{option}`", value]
        for option, value in settings.items()
        if option not in ("sources", "decontaminate") and "sha256" not in option
    ]
    return [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {title}",
        f"An encoder of Indonesian text with {run['n_parameters']:,} parameters and {config.vocab_size:,} word pieces "
        f"({config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}), pre-trained by smsa "
        f"as a masked language model, to be fine-tuned. {start}",
        "## How good it is",
        f"It has seen {metrics['tokens_seen']:,} word pieces, each as often as it came, in {metrics['epoch']:g} "
        f"epochs. Of the word pieces masked in texts that were held out it predicts "
        f"{_percent(held_out['masked_accuracy'])} %, with a cross entropy of {held_out['loss']:.3f} nats.",
        "## How to use it",
        f"```bash\naccelerate launch scripts/finetune.py --model_name_or_path {name}\n```",
        "## What it was trained on",
        f"{100 * run['settings']['held_out']:g} % of the texts were held out. An epoch saw each of the others as often "
        "as its weight says.",
        "\n".join(table(["source", "texts", "weight", "sha256"], sources)),
        origins or "Where these texts come from, and under which licence, their owner knows.",
        "## How it was trained",
        f"In {run['precision_in_effect']} on {_place(run)}, {run['train_runtime_seconds'] / 60:.0f} min, seed "
        f"{run['seed']}. AdamW with a warm-up, a constant rate and a linear decay at the end. Every option that "
        "matters to the result:",
        "\n".join(table(["option", "value"], options)),
        "\n".join(_versions(run)),
    ]
