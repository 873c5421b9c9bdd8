"""What the model card of a run must say."""

import re

from huggingface_hub import ModelCard

# Not measured: years, licences and addresses of what is cited.
TYPED = {"2019", "2020", "2009.05387", "2.0", "4.0"}
SCORES = ("accuracy", "f1", "recall", "precision")


def percent(scores: dict, names: list[str]) -> list[str]:
    return [f"{100 * scores[name]:.1f}" for name in names]


def check_card(card: str, metrics: dict, run: dict) -> None:
    """Assert that each figure of a card is the one of metrics.json or run.json that its place says."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE)  # each a table
    tables = [[[cell.strip(" `") for cell in row.strip("|").split("|")] for row in b.splitlines()] for b in blocks]
    splits, labels = [split for split in ("valid", "test") if split in metrics], run["labels"]
    (titles, *overview), *by_label, answers, options, versions = ([titles, *rows] for titles, _, *rows in tables)
    assert titles[1:] == ["texts", "accuracy", "macro F1", "macro recall", "macro precision"]
    for split, row, (titles, *lines) in zip(splits, overview, by_label, strict=True):
        scores = metrics[split]
        assert row[1:] == [f"{run['data'][split]['n_texts']:,}", *percent(scores, SCORES)]
        assert titles == ["label", "texts", "F1", "recall", "precision"]
        expected = ([f"{score}_{label}" for score in ("f1", "recall", "precision")] for label in labels)
        counts = [f"{scores[f'n_{label}']:,}" for label in labels]
        rows = zip(labels, counts, expected, strict=True)
        assert lines == [[label, count, *percent(scores, names)] for label, count, names in rows]
    assert answers[1:] == [
        [answer["text"], answer["label"], f"{answer['score']:.3f}", person if f"p_{person}" in answer else ""]
        for answer, person in zip(metrics["examples"], ("positive", "neutral", "negative"), strict=True)
    ]
    settings = run["settings"] | {"model_name_or_path": run["base_model"]["name"]}
    assert options[1:] == [[name, str(value)] for name, value in settings.items()]
    assert versions[1:] == [[name, version] for name, version in run["versions"].items() if version]

    listed = ModelCard(card).data  # which refuses a model-index that is not complete
    found = (listed.language, listed.pipeline_tag, listed.license)
    assert found == ("id", "text-classification", run["base_model"]["license"])
    names = {"valid": "validation", "test": "test"}
    results = {(result.dataset_split, result.metric_type): result.metric_value for result in listed.eval_results}
    assert results == {(names[split], score): metrics[split][score] for split in splits for score in SCORES}

    # What is left, in sentences: nothing but what stands in one of the two files, or is known not to be a measurement.
    prose = re.sub(r"^\|.*\|$|`[^`]*`|```.*?```|https?://\S+", "", ModelCard(card).text, flags=re.MULTILINE | re.DOTALL)
    prose, _, summary = prose.partition("## Ringkasan")
    prose += re.sub(r"(?<=\d)[.,](?=\d)", lambda match: ",."[match[0] == ","], summary)  # 1.260 teks, 86,8 %
    minutes_and_seconds = divmod(round(run["train_runtime_seconds"]), 60)
    known = [metrics["epoch"], run["seed"], run["world_size"], run["settings"]["max_length"], *minutes_and_seconds]
    known += [run["hardware"]["n_threads"], *re.findall(r"[\d.]+", run["hardware"]["cpu"]), *range(len(labels) + 1)]
    known += [f"{n:,}" for n in (run["n_parameters"], *(part["n_texts"] for part in run["data"].values()))]
    known += percent(metrics[splits[-1]], ["f1", *(f"f1_{label}" for label in labels)])
    found = set(re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)*", prose))
    assert found <= TYPED | {*map(str, known)}
