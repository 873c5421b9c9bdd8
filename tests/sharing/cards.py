"""What the model card of a run must say."""

import re

from huggingface_hub import ModelCard

# Not measured: years, licences and addresses of what is cited.
TYPED = {"2019", "2020", "2009.05387", "2.0", "4.0"}
SCORES = ("accuracy", "f1", "recall", "precision")


def tables_of(card: str) -> list[list[dict[str, str]]]:
    """Each Markdown table as rows by title."""
    tables = []
    for block in re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE):
        titles, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        tables.append([dict(zip(titles, line, strict=True)) for line in lines])
    return tables


def check_card(card: str, metrics: dict, run: dict) -> None:
    """Assert that each figure of a card is the one of metrics.json or run.json that its place says."""

    splits = [split for split in ("valid", "test") if split in metrics]
    overview, *by_label, answers, options, versions = tables_of(card)
    assert len(overview) == len(by_label) == len(splits) > 0
    for split, row, table in zip(splits, overview, by_label, strict=True):
        scores = metrics[split]
        titles = dict(zip(SCORES, ("accuracy", "macro F1", "macro recall", "macro precision"), strict=True))
        assert {title: row[title] for title in titles.values()} == {
            title: f"{100 * scores[score]:.1f}" for score, title in titles.items()
        }
        assert row["texts"] == f"{run['data'][split]['n_texts']:,}"
        for label, line in zip(run["labels"], table, strict=True):
            assert line["label"] == label
            assert (line["texts"], line["F1"]) == (f"{scores[f'n_{label}']:,}", f"{100 * scores[f'f1_{label}']:.1f}")
            assert line["recall"] == f"{100 * scores[f'recall_{label}']:.1f}"
            assert line["precision"] == f"{100 * scores[f'precision_{label}']:.1f}"
    assert [tuple(row.values()) for row in answers] == [
        (answer["text"], answer["label"], f"{answer['score']:.3f}", person if f"p_{person}" in answer else "")
        for answer, person in zip(metrics["examples"], ("positive", "neutral", "negative"), strict=True)
    ]
    settings = run["settings"] | {"model_name_or_path": run["base_model"]["name"]}
    assert {row["option"].strip("`"): row["value"] for row in options} == {k: str(v) for k, v in settings.items()}
    assert {row["library"]: row["version"] for row in versions} == {k: v for k, v in run["versions"].items() if v}

    listed = ModelCard(card).data  # which refuses a model-index that is not complete
    assert (listed.language, listed.pipeline_tag, listed.license) == (
        "id", "text-classification", run["base_model"]["license"],
    )  # fmt: skip
    results = {(result.dataset_split, result.metric_type): result.metric_value for result in listed.eval_results}
    assert all(listed.model_name and found.dataset_type and found.dataset_name for found in listed.eval_results)
    names = {"valid": "validation", "test": "test"}
    assert results == {(names[split], score): metrics[split][score] for split in splits for score in SCORES}

    # What is left, in sentences: nothing but what stands in one of the two files, or is known not to be a measurement.
    prose = re.sub(r"^\|.*\|$|`[^`]*`|```.*?```", "", ModelCard(card).text, flags=re.MULTILINE | re.DOTALL)
    last, minutes = metrics[splits[-1]], divmod(round(run["train_runtime_seconds"]), 60)
    known = TYPED | {str(metrics["epoch"]), f"{run['n_parameters']:,}", str(run["seed"]), *map(str, minutes)}
    known |= {str(n) for n in range(len(run["labels"]) + 1)}
    known |= {str(run["world_size"]), str(run["settings"]["max_length"])}
    known |= {str(run["hardware"]["n_threads"]), *re.findall(r"[\d.]+", run["hardware"]["cpu"])}
    known |= {f"{part['n_texts']:,}" for part in run["data"].values()}
    known |= {f"{100 * last[score]:.1f}" for score in ("f1", *(f"f1_{label}" for label in run["labels"]))}
    prose, _, summary = prose.partition("## Ringkasan")
    prose += re.sub(r"(?<=\d)[.,](?=\d)", lambda match: ",."[match[0] == ","], summary)  # 1.260 teks, 86,8 %
    found = set(re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)*", re.sub(r"https?://\S+", "", prose)))
    assert found <= known, found - known
