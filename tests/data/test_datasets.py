"""Reading is exact or it stops: nothing in a file may become a wrong number."""

import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import SAMPLE_DIR
from datasets import ClassLabel, Dataset, DatasetDict
from tables import write_file, write_workbook

from smsa.data import datasets as data
from smsa.data.datasets import DataArguments, encode_splits, find_smsa, load_splits, read_rows, sort_by_length
from smsa.data.formats import BadRowsError
from smsa.data.labels import LABELS, match_labels, parse_labels, plain_label, propose_map
from smsa.data.reader import Source
from smsa.errors import UserError


@pytest.mark.parametrize("suffix, line, reason", [
    (".tsv", b" \xc2\xa0 \tpositive", "the text is empty"),
    (".tsv", b"en\0ak\tpositive", "NUL"),
    (".jsonl", b'{"text": null, "label": "positive"}', "the text is missing"),
    (".jsonl", b'{"text": "enak", "label": 0}', "found '0'"),
    (".jsonl", b'{"text": "enak", "label": true}', "found 'true'"),
    (".jsonl", b'{"text": "a", "label": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (".jsonl", b"[" * 100_000, "not valid JSON"),
    (".jsonl", b'{"text": "a", "label": 1e99999999999999999999}', "not valid JSON"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_a_damaged_line_stops_by_file_and_line(tmp_path, suffix, line, reason):
    path = tmp_path / f"damaged{suffix}"
    before = b"a\tneutral\n" if suffix == ".tsv" else b'{"text": "a", "label": "neutral"}\n'
    path.write_bytes(before + line + b"\n")
    with pytest.raises(BadRowsError, match=r"^1 bad row\(s\)\. ") as raised:
        load_splits({"valid": path})
    assert f"{path}:2: " in str(raised.value) and reason in str(raised.value) and len(str(raised.value)) < 600


def test_all_bad_rows_of_all_files_are_counted_and_twenty_or_one_of_a_label_are_shown(tmp_path):
    for name, n_bad, row in (("train", 15, "enak\tbaik\n"), ("valid", 8, "enak\tbaik\n"), ("test", 25, "\tpositive\n")):
        (tmp_path / f"{name}.tsv").write_text(row * n_bad + "enak\tpositive\nburuk\tnegative")
    with pytest.raises(BadRowsError) as raised:
        load_splits({"train": tmp_path / "train.tsv", "valid": tmp_path / "valid.tsv"})
    assert str(raised.value).startswith("23 bad row(s). The labels are ") and ": baik (23) " in str(raised.value)
    assert str(raised.value).count("found 'baik'") == 1
    with pytest.raises(BadRowsError) as raised:
        load_splits({"test": tmp_path / "test.tsv"})
    message = str(raised.value)
    assert message.startswith("25 bad row(s). Correct the rows, or exclude them with --on_bad_row skip.\n")
    assert message.count("the text is empty") == 20 and message.endswith("... and 5 more")


MEANT = {
    "Indonesian, blanks and case": ("Positif;NEGATIF ; netral;pos", None, [0, 2, 1, 0]),
    "a map the other way round": ("5;3;1;4", "positive=4|5,neutral=3,negative=1|2", [0, 1, 2, 0]),
    "lists and quotes": ("""["Positif"];['neg'];"netral";neg.;“positif”;\u200bnetral""", None, [0, 2, 1, 2, 0, 1]),
    "words beside": ("Positive Sentiment;label_negatif;1 (positif)", None, [0, 2, 0]),
    "a map of a word and numbers": ("senang;5;1;pos", "positive=pos|senang|5.0,negative=netral|1", [0, 0, 2, 0]),
    "decimal commas": ("5,0;1,00", "5=positive,1=negative", [0, 2]),
    "words beside a map": ("positif;1;2;2", "1=negative,2=drop", [0, 2]),
    "own names in another order": ("neg_1;Neg_2;pos", None, [2, 1, 0], "pos,neg_2,neg_1"),
    "own names that differ by case": ("neg_1;Neg_2;pos", "neg_1=Pos,Neg_2=pos", [0, 1, 1], "Pos,pos"),
    "whole numbers": ("1;0;1.0", None, [1, 0, 1], "0,1"),
}


@pytest.mark.parametrize("name", MEANT)
def test_labels_mean_what_they_say_or_what_the_map_says(tmp_path, name):
    values, label_map, label_ids, *labels = MEANT[name]
    write_file(tmp_path / "a.csv", [{"ulasan": "enak", "Sentimen": value} for value in values.split(";")])
    labels = parse_labels(labels[0]) if labels else LABELS
    texts, found, lines, bad_rows = read_rows(tmp_path / "a.csv", labels, label_map=label_map)
    assert (found, bad_rows) == (label_ids, []) and len(texts) == len(lines) == len(found)


@pytest.mark.parametrize("value", ["not positive", "~positive", "!positif", "negatif: 0", "pos=0", "pos/neg"])
def test_a_word_that_is_denied_is_no_label(value):
    assert plain_label(value) == value


@pytest.mark.parametrize("label_map", [
    "0=negative,1=neutral,2=positive",
    "1=negative,2=negative,3=neutral,4=positive,5=positive",
    "1/5=negative,3/5=neutral,4/5=positive",
    "bintang 1=negative,bintang 4=positive",
    "★☆☆☆☆=negative,★★★★★=positive",
    "1 star=negative,5 stars=positive",
    "1=negative,2=positive",
    "0=negative,2=neutral,4=positive",
    "-1=negative,0=neutral,+1=positive",
    "sangat negatif=negative,very_positive=positive,kurang positif=drop",
])  # fmt: skip
def test_numbers_and_ratings_have_their_usual_meaning(label_map):
    assert propose_map([pair.partition("=")[0] for pair in label_map.split(",")], LABELS) == label_map


@pytest.mark.parametrize("labels, label_map, ids", [
    (LABELS, None, [0, 2, 0]),
    (LABELS, "0=drop", [2]),
    (LABELS, "positive=drop", [2]),
    (("0", "1"), None, [0, 1, 0]),
])  # fmt: skip
def test_numbers_mean_what_a_column_of_words_says_unless_they_are_given_a_meaning(tmp_path, labels, label_map, ids):
    (tmp_path / "a.csv").write_text("teks,label,label_text\na,0,positive\nb,1,negative\nc,0,positive\n")
    rows = Dataset.from_dict({"teks": ["a", "b", "c"], "label": [0, 1, 0]})
    rows.cast_column("label", ClassLabel(names=["positive", "negative"])).to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert read_rows(tmp_path / name, labels, label_map=label_map)[1] == ids
    write_file(tmp_path / "a.jsonl", [{"teks": "a", "label": 0}, {"teks": "b", "label": 1, "v": {"s": "positif"}}])
    assert len(read_rows(tmp_path / "a.jsonl")[3]) == 2  # nothing is said of 0, so that 1 may be chance
    (tmp_path / "a.csv").write_text("teks,label,vader\na,0,positive\nb,1,negative\nc,0,negative\n")
    assert bool(read_rows(tmp_path / "a.csv", labels, label_map=label_map)[3]) == (labels == LABELS)


LABEL_COLUMNS = {
    "by what it holds": ("teks,x,hasil\na,b,Positif\nc,d,negatif\n", "hasil"),
    "a prediction is none": ("teks,prediksi,manual\na,negatif,positif\nc,positif,negatif\n", "manual"),
    "an empty one of the usual name": ("teks,label,sentimen\na,,positif\nc,,negatif\n", "sentimen"),
    "of this very name": ("teks,Label,label\na,1,positif\nc,0,negatif\n", "label"),
    "of words, not of numbers": ("teks,polarity,kelas\na,3,positif\nc,-2,negatif\n", "kelas"),
    "a polarity": ("teks,polarity,Analysis\n" + "".join(f"a,0.{i},positif\n" for i in range(30)), "Analysis"),
    "many words": ("teks,kelas,rating\n" + "".join(f"a,niat {i},{i % 5}\n" for i in range(30)), "kelas"),
    "a rating": ("teks,n,Rating\na,x,5\nb,y,1\n", "Rating"),
    "within a row": ('[{"text": "bagus", "rating": 5, "v": {"sentiment": "positif"}}]', "v.sentiment"),
    "beside one within": ('[{"text": "bagus", "sentimen": "positif", "user": {"class": "A"}}]', "sentimen"),
    "two that hold labels": ("teks,orang 1,orang 2\na,positif,negatif\nb,negatif,positif\n", "column 'orang 2'"),
    "our prediction": ("teks,m_label,m_p_positive,m_p_negative\na,positive,1,0\nb,negative,0,1\n", "column m_label"),
    "one for each label": ("teks,Positif,negatif\na,1,0\nb,0,1\n", "'Positif', 'negatif' are labels: add a column"),
    "a prediction alone": ("teks,rating,pred\na,1,negatif\nb,5,positif\n", "--label_column pred."),
    "emotions, no texts or remarks": ("rasa,catatan,teks\nsenang,x,a\ntakut,,a\nsenang,,b\n", "--label_column rasa."),
}


@pytest.mark.parametrize("content, column", LABEL_COLUMNS.values(), ids=LABEL_COLUMNS)
def test_the_column_of_labels_is_found_or_asked_for(tmp_path, content, column):
    (tmp_path / "a.csv").write_text(content)
    if " " in column:  # what is asked, with an example
        with pytest.raises(UserError, match=column):
            Source(tmp_path / "a.csv", label_column="label")
    else:
        assert Source(tmp_path / "a.csv", label_column="label").label_column == column


@pytest.mark.parametrize("label_map", ["1", "=positive", "a=b", "positive=negative", "1=positive,1=negative"])
def test_a_label_map_that_says_nothing_is_refused_with_one_that_does(label_map):
    with pytest.raises(UserError, match="does not say which .* Write --label_map=0=negative,1=positive, for example"):
        match_labels(LABELS, label_map)


def test_bad_rows_are_left_out_where_they_are_asked_for_and_not_if_all_are_bad(tmp_path, caplog):
    (tmp_path / "a.csv").write_text("text,label\nenak,positif\n,negatif\nx,\nkotor,negatif\ny,?\n")
    rejects = []
    splits = load_splits({"train": tmp_path / "a.csv"}, rejects=rejects)
    assert splits["train"]["line"][:] == [2, 5] and [row.line for row in rejects] == [3, 4, 6]
    assert "3 bad rows are excluded: 1 the text is empty, 1 no label, 1 the label is not one of" in caplog.text
    (tmp_path / "a.csv").write_text("text,label\n,negatif\nx,\n")
    for rejects in ([], None):  # then --on_bad_row skip is no way out
        with pytest.raises(BadRowsError, match=r"2 bad row\(s\). No row is left: are --text_column"):
            load_splits({"train": tmp_path / "a.csv"}, rejects=rejects)


def test_a_label_that_no_text_has_is_pointed_out(tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    (tmp_path / "a.tsv").write_text("enak\t1\nburuk\t2\nenak\t2\n")
    load_splits({"train": tmp_path / "a.tsv", "valid": tmp_path / "a.tsv"}, ("1", "2", "3"))
    assert "train: 3 texts (1 '1', 2 '2', 0 '3') from" in caplog.text
    assert "a.tsv; 3 of its texts also stand in train; 1 of its texts have several labels" in caplog.text
    assert "train has no 3 text: the model cannot learn it. --labels can leave it out." in caplog.text
    assert "a.tsv has no 3 text: during training, the macro metrics count it as 0." in caplog.text
    caplog.clear()
    load_splits({"train": tmp_path / "a.tsv", "valid": tmp_path / "a.tsv"}, ("1", "2"))
    assert " text: " not in caplog.text and "has no" not in caplog.text


FAULTY_FILES = {
    "empty": (".tsv", b"", "has no rows"),
    "header alone": (".csv", b"text,label\n", "has no rows"),
    "masked labels": (".tsv", b"a\tneutral\nb\tneutral\n", "has 2 row.s., all labelled 'neutral'.*test_preprocess.tsv"),
    "no labels at all": (".txt", b"a\nb\n", "no column named 'label'. The columns are: 'text'"),
    "one column for both": (".csv", b"n,label\n1,positive\n", "texts and labels cannot both be in 'label'"),
}


@pytest.mark.parametrize("suffix, content, message", FAULTY_FILES.values(), ids=FAULTY_FILES)
def test_a_file_that_cannot_be_trusted_is_refused_by_name(tmp_path, suffix, content, message):
    path = tmp_path / f"faulty{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"faulty{suffix}.*{message}"):
        load_splits({"valid": path}, text_column="label" if message.endswith("in 'label'") else None)


def test_named_folder_wins_over_the_environment_and_that_over_the_default(tmp_path, monkeypatch, smsa_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMSA_DATA_DIR", raising=False)
    for name in ("data/smsa", "environment"):
        (tmp_path / name).mkdir(parents=True)
        for split in ("train", "valid"):
            (tmp_path / name / f"{split}_preprocess.tsv").touch()
    assert find_smsa()["train"].parent.name == "smsa"
    assert "test" not in find_smsa()  # labelled test files are optional
    monkeypatch.setenv("SMSA_DATA_DIR", str(tmp_path / "environment"))
    assert find_smsa()["train"].parent.name == "environment"
    assert find_smsa(smsa_dir)["test"].parent == smsa_dir
    (tmp_path / "environment" / "valid_preprocess.tsv").unlink()
    for folder, source in ((None, "SMSA_DATA_DIR"), (tmp_path, "--data_dir")):  # an error, and no download
        with pytest.raises(FileNotFoundError, match=f"comes from {source}"):
            find_smsa(folder)
    with pytest.raises(FileNotFoundError, match="sample does not exist, or is a folder."):
        read_rows(SAMPLE_DIR)


def test_a_download_with_another_sha256_is_refused_and_all_places_are_named(tmp_path, monkeypatch):
    handler = partial(SimpleHTTPRequestHandler, directory=SAMPLE_DIR)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMSA_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "SMSA_URL", f"http://127.0.0.1:{server.server_port}/")
    with pytest.raises(FileNotFoundError, match="hash") as raised:
        find_smsa()
    ways_out = ("--data_dir data/sample.", "--data data/sample/valid_preprocess.tsv")
    for place in ("SMSA_DATA_DIR", "./data/smsa", str(tmp_path / "cache"), data.SMSA_URL, *ways_out):
        assert place in str(raised.value)
    hashes = {s: data.pooch.file_hash(str(SAMPLE_DIR / f"{s}_preprocess.tsv")) for s in ("train", "valid", "test")}
    monkeypatch.setattr(data, "SMSA_SHA256", hashes)
    files = find_smsa()
    server.shutdown()
    server.server_close()
    assert files.keys() == hashes.keys()
    assert find_smsa() == files  # from the cache: the server is gone
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="empty.*refused(?s:.*)--data_dir data/sample"):
        find_smsa()


def test_train_and_valid_files_go_together(smsa_dir):
    with pytest.raises(UserError, match="--valid_file needs --train_file. If only .* a tenth of it becomes valid"):
        DataArguments(valid_file="a.tsv").find_files()
    assert DataArguments(train_file="a.tsv").find_files() == {"train": Path("a.tsv"), "valid": None}
    with pytest.raises(UserError, match="are both given, .* give only one"):
        DataArguments(data_dir=smsa_dir, train_file="a.tsv", valid_file="b.csv").find_files()
    assert DataArguments(train_file="a.tsv", valid_file="b.csv").find_files() == {
        "train": Path("a.tsv"),
        "valid": Path("b.csv"),
    }
    assert DataArguments(data_dir=smsa_dir, test_file="c.tsv").find_files()["test"].name == "c.tsv"


def test_valid_is_split_off_a_training_file_by_label_and_always_alike(tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    rows = [{"teks": f"teks {i}", "sentimen": ("positif", "negatif", "negatif", "netral")[i % 4]} for i in range(80)]
    write_workbook(tmp_path / "a.xlsx", {"Sheet1": [[*rows[0]], *([*row.values()] for row in rows)]})
    write_file(tmp_path / "a.csv", rows)
    found = [load_splits({"train": tmp_path / name, "valid": None}) for name in ("a.xlsx", "a.csv")]
    assert [found[0][split]["label"].count(2) for split in ("train", "valid")] == [36, 4]
    assert found[0]["valid"]["text"][:] == found[1]["valid"]["text"][:]
    assert sorted(found[0]["train"]["line"][:] + found[0]["valid"]["line"][:]) == list(range(2, 82))
    assert "valid: 8 rows split off" in caplog.text and "(seed 42)" in caplog.text
    write_file(tmp_path / "twice.csv", [*rows, *rows[::-1]])  # a text that comes twice is in one of them only
    twice = load_splits({"train": tmp_path / "twice.csv", "valid": None})
    assert twice["valid"]["text"][:8] == found[0]["valid"]["text"][:] and len(twice["valid"]) == 16
    assert not {*twice["valid"]["text"]} & {*twice["train"]["text"]}
    (tmp_path / "c.csv").write_text("text,label\n")
    with pytest.raises(UserError, match="c.csv has no rows: metrics on it"):
        load_splits({"train": tmp_path / "c.csv", "valid": None})


def test_the_real_smsa_is_what_the_recipe_says(smsa_files, caplog):
    with caplog.at_level("INFO", logger="smsa"):
        splits = load_splits({split: smsa_files[split] for split in ("train", "valid")})
    counts = {split: [rows["label"].count(i) for i in range(3)] for split, rows in splits.items()}
    assert counts == {"train": [6416, 1148, 3436], "valid": [735, 131, 394]}
    assert "14 of its texts also stand in train" in caplog.text
    for split in ("train", "valid"):
        assert data.pooch.file_hash(str(smsa_files[split])) == data.SMSA_SHA256[split]


def test_long_texts_are_cut_and_counted_and_a_length_that_cannot_be_is_refused(smsa_dir, tokenizer, caplog):
    splits = load_splits({"train": smsa_dir / "train_preprocess.tsv"})
    with caplog.at_level("INFO", logger="smsa"):
        found = encode_splits(splits, tokenizer, max_length=4)["train"]["input_ids"][:]
    assert {(ids[0], ids[-1]) for ids in found} == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}
    assert max(map(len, found)) == 4 and "7 texts have 4 tokens or more" in caplog.text
    for max_length, message in ((-1, "-1; 2 tokens are"), (2, "2; 2 tokens are"), (65, "65, but .* at most 64")):
        with pytest.raises(UserError, match=f"--max_length is {message}"):
            encode_splits(splits, tokenizer, max_length=max_length)


def test_a_data_set_of_the_hub_is_read_by_the_names_of_its_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "ulasan").mkdir()
    write_file(tmp_path / "ulasan" / "train.csv", [{"teks": "enak", "sentimen": "positif"}] * 2)
    write_file(tmp_path / "ulasan" / "validation.csv", [{"teks": "kotor", "sentimen": "negatif"}])
    files = DataArguments(dataset_name=str(tmp_path / "ulasan")).find_files()
    assert [read_rows(files[split])[:2] for split in ("train", "valid")] == [(["enak"] * 2, [0, 0]), (["kotor"], [2])]
    with pytest.raises(UserError, match="--dataset_name names all data"):
        DataArguments(dataset_name="a", train_file="b.csv").find_files()
    numbers = Dataset.from_dict({"teks": ["a"], "label": [1]}).cast_column("label", ClassLabel(names=["neg", "pos"]))
    for saved in (numbers, DatasetDict(train=numbers)):
        saved.save_to_disk(tmp_path / "saved")
        files = DataArguments(dataset_name=str(tmp_path / "saved")).find_files()
        assert read_rows(files["train"])[1] == [0] and files["valid"] is None
        shutil.rmtree(tmp_path / "saved")
    (tmp_path / "ulasan" / "train.csv").write_text("teks;label\nenak, ya;positif\na, b, c;negatif\n")
    with pytest.raises(UserError, match="ulasan: Error tokenizing data(?s:.*) Or name files: --train_file"):
        DataArguments(dataset_name=str(tmp_path / "ulasan")).find_files()


def test_rows_are_sorted_longest_first_and_ties_keep_their_order():
    rows = Dataset.from_dict({"input_ids": [[1], [1, 2, 3], [1, 2], [4, 5, 6]], "n": [0, 1, 2, 3]})
    assert sort_by_length(rows)["n"][:] == [1, 3, 2, 0]
    assert not len(sort_by_length(rows.select([])))
