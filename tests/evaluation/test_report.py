"""From a labelled file to report.json, report.md and pictures: real files, real scripts, hand-made systems."""

import hashlib
import importlib.metadata
import json
import re
import sys

import numpy as np
import pytest
from conftest import SAMPLE_DIR, make_model, make_tokenizer
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score
from tables import make_classifier

from scripts import baseline, score
from smsa.cli import parse
from smsa.data.arguments import DataArguments
from smsa.data.labels import LABELS
from smsa.evaluation.arguments import BaselineArguments, EvaluationArguments
from smsa.evaluation.perturbations import REWRITINGS, is_smsa_style
from smsa.evaluation.report import (
    LabelledFile,
    judge,
    measure_robustness,
    write_report,
)
from smsa.evaluation.systems import ModelSystem, name_labels, read_label_map
from smsa.inference.arguments import EngineArguments

VALID = SAMPLE_DIR / "valid_preprocess.tsv"


class Stub:
    """A system whose answers are written down."""

    kind = "stub"

    def __init__(self, probabilities, labels=LABELS):
        self.labels, self.probabilities = labels, np.asarray(probabilities, dtype=float)

    def predict(self, texts):
        return np.resize(self.probabilities, (len(texts), len(self.labels)))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "six.tsv"
    rows = [
        *(("Enak banget!", "positive"), ("murah dan ramah .", "positive"), ("pergi ke pasar", "neutral")),
        *(("kotor", "negative"), ("mahal sekali", "negative"), ("lambat ,[link] | *kecewa*", "negative")),
    ]
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return LabelledFile.read(path, LABELS)


ANSWERS = [
    *([0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]),
    *([0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.95, 0.03, 0.02]),
]


def test_a_judgement_is_right_by_hand(data):
    found = judge("stub", Stub(ANSWERS), data)
    gold, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0]
    assert found["confusion"] == confusion_matrix(gold, predicted).tolist()
    assert found["scores"]["accuracy"]["value"] == 0.5
    assert found["scores"]["f1"]["value"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert found["labels"]["negative"]["f1"]["value"] == 0.5 and found["labels"]["negative"]["n"] == 3
    for scored in (*found["scores"].values(), *(label["f1"] for label in found["labels"].values())):
        assert scored["low"] <= scored["value"] <= scored["high"]
    # most confident first, each with its line
    assert [(mistake["line"], mistake["label"]) for mistake in found["mistakes"]] == [
        (6, "positive"),
        (2, "neutral"),
        (5, "positive"),
    ]
    assert found["mistakes"][0] == {
        "file": "six.tsv",
        "line": 6,
        "gold": "negative",
        "label": "positive",
        "score": 0.95,
        "text": "lambat ,[link] | *kecewa*",
    }
    assert {title: (part["n"], part["n_labels"]) for title, part in found["slices"].items()} == {
        "1 to 10 words": (6, 3),
        "in SmSA's style": (5, 3),
        "raw": (1, 1),
    }
    by_label = f1_score(gold, predicted, average=None)
    assert found["slices"]["1 to 10 words"]["f1"]["value"] == pytest.approx(by_label.mean())
    without_first = f1_score(gold[1:], predicted[1:], average="macro")
    assert found["slices"]["in SmSA's style"]["f1"]["value"] == pytest.approx(without_first)
    assert found["slices"]["raw"]["f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}  # the labels it lacks do not count
    assert [part["recall"] for part in found["labels"].values()] == pytest.approx([1 / 2, 1, 1 / 3])
    assert [part["precision"] for part in found["labels"].values()] == pytest.approx([1 / 3, 1 / 2, 1])
    ends = [(part["f1"]["low"], part["f1"]["high"]) for part in found["labels"].values()]
    assert len(set(ends)) == 3 and ends[1][0] >= 0.4 and ends[2][0] == 0  # one neutral text of 1 to 3 given ones
    assert [answer["label"] for answer in found["opening_sentences"]] == ["positive", "neutral"]
    assert found["opening_sentences"][1]["probabilities"] == pytest.approx(dict(zip(LABELS, ANSWERS[1], strict=True)))


def test_robustness_is_measured_in_the_order_of_the_file(data):
    class Reader:
        """Knows what people write."""

        kind, labels = "reader", ("negative", "positive", "neutral")

        def predict(self, texts):
            right = {"kotor": 0, "mahal": 0, "lamba": 0, "enak ": 1, "murah": 1, "pergi": 2}
            return np.eye(3)[[right.get(text[:5].lower(), 0) for text in texts]]

    judged = judge("reader", Reader(), data)
    found = measure_robustness(judged, Reader(), data)
    assert found.keys() == {"as it is", *REWRITINGS, "all of them"}
    assert found["as it is"] == found["capitals"] == 1.0


def test_the_seed_decides_the_intervals(tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "random.tsv"
    path.write_text("".join(f"teks {i}\t{LABELS[k]}\n" for i, k in enumerate(generator.integers(0, 3, 301))))
    data, system = LabelledFile.read(path, LABELS), Stub(generator.dirichlet([1, 1, 1], 301))
    first, second, other = (judge("x", system, data, seed=seed)["scores"]["f1"] for seed in (1, 1, 2))
    assert first == second != other and first["value"] == other["value"]


def test_only_the_most_confident_mistakes_are_listed(tmp_path):
    path = tmp_path / "many.tsv"
    path.write_text("".join(f"teks {i}\t{'positive' if i else 'neutral'}\n" for i in range(30)))
    wrong = Stub([[0.1, 0.9 - i / 100, i / 100] for i in range(30)])
    mistakes = judge("wrong", wrong, LabelledFile.read(path, LABELS))["mistakes"]
    assert [mistake["line"] for mistake in mistakes] == list(range(2, 22))


def test_a_model_of_many_windows_keeps_the_order_and_answers_an_empty_text():
    texts = [f"{'enak ' * (i % 7)}murah {'abcdefghijklmnopqrst'[i]}" for i in range(20)] + [""]
    classifier = make_classifier(make_model(), make_tokenizer(), window_rows=8)
    system = ModelSystem(classifier)
    found = system.predict(texts)
    alone = np.array([[classifier(text)[f"p_{label}"] for label in LABELS] for text in texts[:-1]])
    assert found[:-1] == pytest.approx(alone, abs=1e-6) and len(np.unique(found[:, 0])) > 10
    assert found[-1].tolist() == [1 / 3] * 3
    assert system.describe_engine() == {"device": "cpu", "backend": "torch", "precision": "no"}


def test_labels_are_matched_by_name_in_any_order(data):
    order = [2, 0, 1]
    shuffled = Stub(np.array(ANSWERS)[:, order], tuple(LABELS[i] for i in order))
    assert judge("x", shuffled, data)["confusion"] == judge("x", Stub(ANSWERS), data)["confusion"]
    unnamed = Stub(ANSWERS, ("LABEL_0", "LABEL_1", "LABEL_2"))
    with pytest.raises(ValueError, match="say what each of them means, for example --label_map LABEL_0=..."):
        judge("x", unnamed, data)
    names = read_label_map("LABEL_0=positive, LABEL_1=neutral,LABEL_2=negative")
    mapped = judge("x", unnamed, data, names)
    assert judge("x", Stub(ANSWERS), data, names)["confusion"] == mapped["confusion"]  # names it has already
    assert mapped["confusion"] == judge("x", Stub(ANSWERS), data)["confusion"]
    with pytest.raises(ValueError, match="has the labels good, neutral, bad, .* do not match"):
        judge("x", Stub(ANSWERS, ("good", "neutral", "bad")), data)
    with pytest.raises(ValueError, match="say what each"):
        name_labels("x", unnamed.labels, {"LABEL_0": "positive", "LABEL_1": "neutral"})
    for label_map in ("LABEL_0=a,LABEL_1=a", "nonsense", "a=", "=b", "a=b,"):
        with pytest.raises(ValueError, match="with different names"):
            read_label_map(label_map)


def test_style_and_seen_texts_are_told_apart(tmp_path, data):
    assert [
        is_smsa_style(text) for text in ("enak , murah .", "Enak", "enak,murah", "enak!", "a.b", "12 : 30", "")
    ] == [*(True, False, False, False, False, True, True)]
    (tmp_path / "train.tsv").write_text("kotor\tnegative\nlain\tneutral\n", encoding="utf-8")
    again = LabelledFile.read(data.path, LABELS, train_path=tmp_path / "train.tsv")
    assert again.slices()["also in train"].tolist() == [False, False, False, True, False, False]


def test_a_report_has_every_number_and_every_picture(tmp_path, data, caplog):
    judgements = [judge(name, Stub(np.roll(ANSWERS, k, axis=0)), data) for k, name in enumerate(("first", "second"))]
    report = write_report(data, judgements, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("report.json", "report.md", "scores.png", "confusion.png", "reliability.png")
    }
    for picture in (tmp_path / "report").glob("*.png"):
        pixels = np.asarray(Image.open(picture).convert("RGB"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
        assert (pixels[0, 0] == 255).all()  # on white
    text = (tmp_path / "report" / "report.md").read_text()
    for system in report["systems"]:
        for scored in system["scores"].values():
            assert f"{100 * scored['value']:.1f} ({100 * scored['low']:.1f} to {100 * scored['high']:.1f})" in text
        assert sum(map(sum, system["confusion"])) == sum(bin_["n"] for bin_ in system["calibration"]["bins"]) == 6
    assert report["comparisons"][0]["sentence"] in text and "six.tsv:6: gold negative, given positive" in text
    assert r"lambat ,\[link\] \| \*kecewa\*" in text
    for line in (
        "By gold label, first:",
        "| | texts | precision | recall | F1 | given positive | given neutral | given negative |",
        "| texts | 6 | 5 | 1, 1 of 3 labels |",
        "> Tetanggaku memenangkan undian berhadiah! Tapi sayangnya aku belum beruntung.",
        "- first: neutral, 70 % (a person would say negative)",
        "- second: positive, 90 % (a person would say negative)",
        "![confusion](confusion.png)",
    ):
        assert line in text.splitlines(), line
    assert re.search(r"^\| negative \| 3 \| 100.0 \| 33.3 \| 50.0 \(.*\) \| 2 \| 0 \| 1 \|$", text, re.MULTILINE)
    assert report["data"]["sha256"] == hashlib.sha256(data.path.read_bytes()).hexdigest()
    assert report["data"]["labels"] == {"positive": 2, "neutral": 1, "negative": 3}
    compared = report["comparisons"][0]
    gold, first, second = ([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0], [0, 0, 1, 1, 2, 0])
    assert (compared["a"], compared["b"]) == ("first", "second")
    assert compared["mcnemar"]["only_a_right"] == sum(a == g != b for g, a, b in zip(gold, first, second, strict=True))
    assert compared["mcnemar"]["only_b_right"] == sum(b == g != a for g, a, b in zip(gold, first, second, strict=True))
    assert compared["sentence"].startswith("second is ahead of first by")
    f1_ahead = f1_score(gold, first, average="macro") - f1_score(gold, second, average="macro")
    assert compared["differences"]["f1"]["value"] == pytest.approx(f1_ahead)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)  # as where it is not installed
        write_report(data, judgements[:1], tmp_path / "report")  # an earlier report may be replaced, pictures and all
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "report.md"}
    assert (
        "were not drawn: pip install" in caplog.text and ".png" not in (tmp_path / "report" / "report.md").read_text()
    )
    write_report(data, judgements[:1], tmp_path / "report")
    assert "second" not in (tmp_path / "report" / "report.md").read_text()


def run_score(*options) -> dict:
    return score.main(*parse(EvaluationArguments, EngineArguments, argv=list(map(str, options))))


def test_the_pictures_show_the_counts(data):
    from matplotlib.figure import Figure

    from smsa.evaluation import figures
    from smsa.evaluation.report import describe

    report = describe(data, [judge("stub", Stub(ANSWERS), data)])
    drawn = figures._draw_confusion(report, Figure)
    assert [text.get_text() for text in drawn.axes[0].texts] == [
        *("1\n50%", "1\n50%", "0\n0%", "0\n0%", "1\n100%", "0\n0%", "2\n67%", "0\n0%", "1\n33%")
    ]
    reliability = figures._draw_reliability(report, Figure).axes[0]
    assert len(reliability.collections[0].get_offsets()) == len(report["systems"][0]["calibration"]["bins"])
    scores = figures._draw_scores(report, Figure).axes[0]
    assert [text.get_text() for text in scores.texts][0] == f"{100 * report['systems'][0]['scores']['f1']['value']:.1f}"


def test_the_scripts_judge_baselines_and_models_side_by_side(tmp_path):
    for kind in ("keyword", "majority"):
        options = ["--data_dir", str(SAMPLE_DIR), "--output", str(tmp_path / kind)]
        baseline.main(kind, *parse(DataArguments, BaselineArguments, argv=options))
        assert (tmp_path / kind / "report.json").is_file()
    with pytest.raises(SystemExit, match="error: .* is not empty .baseline.json, .*: choose another --output"):
        baseline.main(kind, *parse(DataArguments, BaselineArguments, argv=options))
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    systems = [tmp_path / name for name in ("keyword", "majority", "model")]
    options = ["--data", VALID, "--output", tmp_path / "report", "--backend", "torch", "--robustness"]
    options += ["--train_file", VALID, "--seed", "5"]
    report = run_score("--compare", *systems, *options)
    assert [system["name"] for system in report["systems"]] == ["keyword", "majority", "model"]
    assert len(report["comparisons"]) == 3 and report["data"]["n_texts"] == 66
    assert report["intervals"]["seed"] == 5 and report["systems"][0]["slices"]["also in train"]["n"] == 66
    for system in report["systems"]:
        assert system["robustness"].keys() == {"as it is", *REWRITINGS, "all of them"}
        assert system["robustness"]["as it is"] == system["scores"]["f1"]["value"]
    keyword, majority, _ = (system["robustness"] for system in report["systems"])
    assert keyword["drawn out"] != keyword["as it is"] and len(set(majority.values())) == 1
    assert "| as it is | capitals | attached | drawn out | slang | all of them |" in (
        (tmp_path / "report" / "report.md").read_text()
    )
    own = json.loads((tmp_path / "keyword" / "report.json").read_text())
    assert own["systems"][0]["confusion"] == report["systems"][0]["confusion"]

    import smsa

    texts, gold = LabelledFile.read(VALID, LABELS).texts, LabelledFile.read(VALID, LABELS).gold
    classifier = smsa.SentimentClassifier.from_pretrained(str(tmp_path / "model"), backend="torch")
    right = [row["label"] == LABELS[label_id] for row, label_id in zip(classifier(texts), gold, strict=True)]
    assert report["systems"][2]["scores"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert [system.get("engine", {}).get("backend") for system in report["systems"]] == [None, None, "torch"]
    assert report["environment"]["torch"] == importlib.metadata.version("torch")


REFUSED = {
    "masked": (["--data", "MASKED"], "its real labels are in test_preprocess.tsv"),
    "no file": (["--data", "nowhere.tsv"], "nowhere.tsv does not exist"),
    "other labels": (["--data", "OTHER"], "found 'baik'"),
    "twice": (["--compare", "KEYWORD", "KEYWORD/", "--data", VALID], "a system is given twice"),
    "one row": (["--data", "ONE"], "one.tsv has one row"),
    "a revision of a baseline": (["--data", VALID, "--model_revision", "main"], "keyword is a baseline, which has no"),
    "some labels mapped": (["--data", VALID, "--label_map", "positive=a"], "--label_map positive=...,neutral=...,neg"),
    "no model": (["--model", "nowhere/nothing", "--data", VALID], "nowhere/nothing"),
    "bad map": (
        ["--data", VALID, "--label_map", "a=b"],
        "names no label of a system (keyword has positive, neutral, negative): write a system's label",
    ),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_judged_leaves_no_report(tmp_path, options, message):
    (tmp_path / "keyword").mkdir()
    (tmp_path / "keyword" / "baseline.json").write_text(json.dumps({"kind": "keyword", "labels": LABELS}))
    (tmp_path / "masked.tsv").write_text("enak\tneutral\nkotor\tneutral\n")
    (tmp_path / "other.tsv").write_text("enak\tbaik\nkotor\tneutral\n")
    (tmp_path / "one.tsv").write_text("enak\tpositive\n")
    places = {"ONE": tmp_path / "one.tsv", "KEYWORD/": f"{tmp_path / 'keyword'}/"}
    places |= {"MASKED": tmp_path / "masked.tsv", "OTHER": tmp_path / "other.tsv", "KEYWORD": tmp_path / "keyword"}
    options = [places.get(option, option) for option in options]
    if not {"--model", "--compare"} & set(map(str, options)):
        options += ["--model", tmp_path / "keyword"]
    with pytest.raises(SystemExit) as stopped:
        run_score(*options, "--output", tmp_path / "report")
    assert str(stopped.value.code).startswith("error: ") and message in stopped.value.code
    assert not (tmp_path / "report").exists()


def test_a_folder_with_other_things_is_not_written_into(tmp_path, data):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.docx").touch()
    with pytest.raises(FileExistsError, match="holds no earlier report"):
        write_report(data, [judge("stub", Stub(ANSWERS), data)], tmp_path / "report")
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["thesis.docx"]
    (tmp_path / "report" / "thesis.docx").unlink()
    for name in ("report.json", "baseline.json"):  # a baseline with its own report
        (tmp_path / "report" / name).touch()
    with pytest.raises(FileExistsError, match="holds no earlier report"):
        write_report(data, [judge("stub", Stub(ANSWERS), data)], tmp_path / "report")


def test_options_that_contradict_each_other_end_with_status_2(capsys):
    for options in (
        ["--data", "a", "--output", "b"],
        ["--data", "a", "--output", "b", "--model", "c", "--compare", "d"],
    ):
        with pytest.raises(SystemExit) as stopped:
            parse(EvaluationArguments, EngineArguments, argv=options)
        assert stopped.value.code == 2
        assert "give --model for one system, or --compare for several" in capsys.readouterr().err
    for options in (["--compare", "a"], ["--compare", "a", "b", "--model_revision", "main"]):
        with pytest.raises(SystemExit):
            parse(EvaluationArguments, EngineArguments, argv=["--data", "a", "--output", "b", *options])
        assert "--compare takes two systems or more, and no --model_revision" in capsys.readouterr().err


@pytest.mark.parametrize("n_systems", range(1, 8))
def test_a_picture_has_a_panel_for_each_system_and_no_empty_one(n_systems):
    from matplotlib.figure import Figure

    from smsa.evaluation import figures

    systems = [{"name": f"s{i}", "confusion": [[i, 1], [2, 3]]} for i in range(n_systems)]
    drawn = figures._draw_confusion({"data": {"labels": {"a": 1, "b": 1}}, "systems": systems}, Figure)
    shown = [axes for axes in drawn.axes if axes.get_visible()]
    assert [axes.texts[0].get_text().split("\n")[0] for axes in shown] == [str(i) for i in range(n_systems)]
