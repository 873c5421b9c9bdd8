"""The model card: every figure of it comes from what was measured, and the Hub's client takes it."""

import re

import pytest
from conftest import ROOT, read_json
from huggingface_hub import ModelCard

from smsa.data.labels import LABELS
from smsa.files import write_json
from smsa.sharing.card import CARD, describe_base, render_card

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


@pytest.fixture
def folder(tmp_path):
    """What a run leaves for its card: the records of mini-sentiment, as if on other files and with a test split."""
    metrics, run = read(ROOT / "smsa" / "bundled" / "mini-sentiment")
    metrics["test"] = metrics["train"]
    data = {split: {"file": f"/home/me/secret/{split}.csv", "sha256": split * 8, "is_smsa": False, "n_texts": n_texts}
            for split, n_texts in (("train", 11_000), ("valid", 1260), ("test", 500))}  # fmt: skip
    run |= {"data": data, "seed": 12, "world_size": 2, "train_runtime_seconds": 3 * 60 + 47.4, "model_commit": "c0ffee"}
    run["base_model"] = {"kind": "hub", "name": "indobenchmark/indobert-base-p1", "license": "mit"}
    run["hardware"] |= {"cpu": "A Processor", "n_threads": 6}
    for name in ("origins", "temperature"):
        del run[name]
    folder = tmp_path / "finished"
    folder.mkdir()
    for name, content in (("metrics.json", metrics), ("run.json", run), ("config.json", {})):
        write_json(content, folder / name)
    return folder


def read(folder) -> tuple[dict, dict]:
    return tuple(read_json(folder / name) for name in ("metrics.json", "run.json"))


def test_every_figure_is_the_one_that_was_measured(folder):
    card = render_card(folder, "me/indonesian-sentiment")
    check_card(card, *read(folder))
    assert "/home/me" not in card  # no path of the machine
    assert "# indonesian-sentiment\n" in card and card.count("me/indonesian-sentiment") == 3
    assert "0 `positive`, 1 `neutral`, 2 `negative`" in card
    assert "2 processes on A Processor, 6 threads, in bf16, 3 min 47 s, seed 12." in card
    card = render_card(folder, r"runs\baru 1")
    assert card.count(r'"runs\\baru 1"') == 2 and r"--model 'runs\baru 1' --input" in card
    scores = read(folder)[0]["test"]  # of two splits, the one by which the epoch was not chosen
    weakest = min(LABELS, key=lambda label: scores[f"f1_{label}"])
    assert f"- `{weakest}` is the label that it predicts worst: F1 {100 * scores[f'f1_{weakest}']:.1f}." in card
    by_label = ", ".join(f"{label} {100 * scores[f'f1_{label}']:.1f}" for label in LABELS)
    summary = f"macro F1-nya {100 * scores['f1']:.1f} %, dan F1 tiap label: "
    assert f"Pada test.csv (500 teks) {f'{summary}{by_label}'.replace('.', ',')}." in card
    assert "[indobenchmark/indobert-base-p1](https://huggingface.co/indobenchmark/indobert-base-p1)" in card
    assert ModelCard(card).data.base_model == "indobenchmark/indobert-base-p1"


def test_smsa_is_cited_and_other_data_is_named_by_its_file_and_a_label_without_texts_is_a_limit(folder):
    metrics, run = read(folder)
    card = render_card(folder, "me/model")
    assert "Purwarianti" not in card and "held out of" not in card and "`train.csv`, 11,000 texts, sha256" in card
    assert ModelCard(card).data.datasets is None and "No text that it was evaluated on" not in card
    for part in run["data"].values():
        part["is_smsa"] = True
    metrics["test"] |= {"n_neutral": 0, "f1_neutral": 0.0}
    run["data"]["valid"] |= {"is_smsa": False, "sha256": run["data"]["train"]["sha256"]}  # split off
    write_json(run, folder / "run.json")
    write_json(metrics, folder / "metrics.json")
    card = render_card(folder, "me/model")
    check_card(card, metrics, run)
    assert "Purwarianti" in card and "train.csv" not in card and "| valid.csv, held out of training | 1,260 |" in card
    assert ModelCard(card).data.datasets == ["indonlp/indonlu"]
    types = {result.dataset_split: result.dataset_type for result in ModelCard(card).data.eval_results}
    assert types == {"validation": "own", "test": "indonlp/indonlu"}
    assert "No text that it was evaluated on is `neutral`; the macro scores" in card
    assert "`neutral` is the label that it predicts worst" not in card and "neutral 0,0" not in card


def test_a_model_that_was_changed_after_its_evaluation_has_a_card_that_says_so(folder):
    metrics, run = read(folder)
    card = render_card(folder, "me/model")
    assert "temperature" not in card and "elongated letters" not in card
    write_json({"smsa_temperature": 2.0, "smsa_normalised": True}, folder / "config.json")
    card = render_card(folder, "me/model")
    check_card(card.replace(" of 2.000", ""), metrics, run)
    assert "divided by a temperature of 2.000" in card and "reads elongated letters as one" in card


def test_the_licence_is_that_which_the_base_model_states(folder, tmp_path, caplog):
    assert describe_base("scratch")["license"] == "apache-2.0"
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for stated, licence in (("license: mit", "mit"), ("license: [a, b", None)):
        (encoder / CARD).write_text(f"---\n{stated}\n---\n# An encoder\n")
        assert describe_base(str(encoder)) == {"kind": "folder", "name": "encoder", "license": licence}
    assert describe_base("me/nowhere") == {"kind": "hub", "name": "me/nowhere", "license": None}  # no network here
    assert "The card of me/nowhere cannot be read" in caplog.text

    write_json(read(folder)[1] | {"base_model": describe_base(str(encoder))}, folder / "run.json")
    caplog.clear()
    card = render_card(folder, "me/model", "")
    assert not caplog.text  # the Hub's library warns of a card without metadata, also of none
    check_card(card, *read(folder))
    assert "The encoder in `encoder` states no licence that smsa could read." in card
    assert ModelCard(card).data.base_model is None
    card = render_card(folder, "me/model", "---\nlicense: cc-by-4.0\n---\n")  # what the owner wrote stays
    assert ModelCard(card).data.license == "cc-by-4.0"
