"""Files of every format: what goes in comes back, and what cannot be trusted is named by file and line."""

import csv
import datetime
import json
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import write_file, write_workbook

from smsa.data.formats import find_layout
from smsa.data.reader import Source
from smsa.errors import UserError

TSV = (
    ("enak\tpositive", ["text", "gold"], "text", 2),
    ("enak", ["text"], "text", 2),
    ("id\tUlasan\tlabel", ["id", "Ulasan", "label"], "Ulasan", 1),
)


@pytest.mark.parametrize("first_line, columns, text_column, n_rows", TSV)
def test_tsv_with_and_without_header(tmp_path, first_line, columns, text_column, n_rows):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first_line}\n" + "\t".join("x" * len(columns)) + "\n", encoding="utf-8")
    source = Source(path)
    assert (source.names, source.text_column) == (columns, text_column)
    assert sum(chunk.n_read for chunk in source.chunks(10)) == n_rows


# What people have: a file, its content, the column of texts, the texts, and what is said of it.
KINDS = {
    "a name among known ones": ("a.csv", "id,review,date\n1,enak,x\n", "review", ["enak"], ""),
    "no rows": ("a.csv", "id,review\n", "review", [], ""),
    "name in two words": ("a.csv", "Id,Review Text\n1,enak\n", "Review Text", ["enak"], ""),
    "camel case": ("a.csv", "replyContent,commentText\nhalo,enak\n", "commentText", ["enak"], ""),
    "plural": ("a.csv", "tweets,sentiment\nenak,1\n", "tweets", ["enak"], ""),
    "modifier": ("a.csv", "Original Comment,clean_comment\nEnak!,enak\n", "Original Comment", ["Enak!"], ""),
    "by content": ("a.csv", "no,kota,jawaban\n1,Solo,enak dan murah sekali\n2,Solo,tidak enak sama sekali\n",
                   "jawaban", ["enak dan murah sekali", "tidak enak sama sekali"], ""),
    "semicolons": ("a.csv", "id;ulasan\r\n1;enak, ya\r\n", "ulasan", ["enak, ya"], "separated by semicolons"),
    "bars": ("a.csv", "text|n\nx|2\n", "text", ["x"], "separated by bars"),
    "TABs, quoted": ("a.csv", 'n\tteks\n1\t"a\tb ""c"""\n', "teks", ['a\tb "c"'], "separated by TABs"),
    "a .tab": ("a.tab", "text\tn\nenak\t1\n", "text", ["enak"], ""),
    "TABs in .txt": ("a.txt", 'enak "ya\tpositive\nkotor\tnegative\n', "text", ['enak "ya', "kotor"],
                     "by TABs; no header"),
    "semicolons in .txt": ("a.txt", "id;teks\n1;enak\n", "teks", ["enak"], "separated by semicolons"),
    "lines of .txt": ("a.txt", "bagus, murah\nkotor, jauh; mahal\n", "text",
                      ["bagus, murah", "kotor, jauh; mahal"], ""),
    "header of .txt": ("a.txt", "komentar\nenak\n", "komentar", ["enak"], "in row 1"),
    "one column": ("a.csv", 'Komentar\nSelamat, ya, amin\n"a, b"\n', "Komentar", ["Selamat, ya, amin", "a, b"], ""),
    "no header": ("a.csv", "saya kecewa sekali\nbagus\n", "text", ["saya kecewa sekali", "bagus"], "no header"),
    "no header, labels": ("a.csv", "1,enak,positif\n2,kotor,negatif\n", "text", ["enak", "kotor"], "no header"),
    "title rows": ("a.csv", "Laporan,,\n,,\nno,ulasan,n\n1,enak,2\n", "ulasan", ["enak"], "in row 3"),
    "blank lines": ("a.csv", "\nid,text\n\n1,enak\n\n\n2,kotor\n\n", "text", ["enak", "kotor"],
                    "4 lines that are blank"),
    "short rows": ("a.csv", "text,a,b\nenak,1\nkotor\nx,1,2\n", "text", ["enak", "kotor", "x"], "2 rows lack fields"),
    "empty fields behind": ("a.csv", "text,a\nenak,1,,\n", "text", ["enak"], ""),
    "BOM": ("a.csv", "\ufefftext,a\nenak,1\n", "text", ["enak"], "byte-order mark"),
    "UTF-16": ("a.csv", "text\ta\nenak 🙂\t1\n".encode("utf-16"), "text", ["enak 🙂"], "UTF-16"),
    "Windows-1252": ("a.csv", "id;text\n1;café – enak\n".encode("cp1252"), "text", ["café – enak"], "Windows-1252"),
    "JSON array": ("a.json", ' [{"text": "a\\nb"},\n {"text": "c", "n": 1}]', "text", ["a\nb", "c"], ""),
    "JSON of an API": ("a.json", '{"n": 2, "data": [{"text": "a"}, {"text": "b"}]}', "text", ["a", "b"], ""),
    "JSON of pandas": ("a.json", '{"n": {"0": 1, "1": 2}, "text": {"0": "a", "1": "b"}}', "text", ["a", "b"], ""),
    "JSON, split": ("a.json", '{"columns": ["n", "text"], "index": [0], "data": [[1, "a"]]}', "text", ["a"], ""),
    "JSON by index": ("a.json", '{"0": {"n": 1, "text": "a"}, "1": {"n": 2, "text": "b"}}', "text", ["a", "b"], ""),
    "JSON of lists": ("a.json", '{"n": [1, 2], "text": ["a", "b"]}', "text", ["a", "b"], ""),
    "JSON of strings": ("a.json", '["a", "b"]', "text", ["a", "b"], ""),
    "JSON of arrays": ("a.json", '[["no", "teks"], [1, "enak"], [2, "kotor"]]', "teks", ["enak", "kotor"], ""),
    "JSON, values": ("a.json", '[["enak ya", 1], ["kotor", 2]]', "column_1", ["enak ya", "kotor"], ""),
    "JSON by keys": ("a.json", '{"-Na": {"n": 1, "isi": "a"}, "-Nb": {"isi": "b"}}', "isi", ["a", "b"], ""),
    "JSON of an API, deeper": ("a.json", '{"ok": 1, "data": {"n": 1, "ratings": [{"isi": "a"}]}}', "isi", ["a"], ""),
    "JSON within rows": ("a.json", '[{"id": 1, "at": "2025-01-05", "data": {"text": "a"}}]', "data.text", ["a"], ""),
    "lines called .json": ("a.json", '{"text": "a"}\n\n{"text": "b"}\n', "text", ["a", "b"], ""),
    "JSON called .txt": ("a.txt", '[{"text": "a"}]', "text", ["a"], "JSON; the texts"),
    "text called .xls": ("a.xls", "ulasan\tn\nenak\t1\n", "ulasan", ["enak"], "no workbook; columns separated by TABs"),
    "commas in .tsv": ("a.tsv", 'id,teks\n1,"a, b"\n', "teks", ["a, b"], "separated by commas"),
    "labels behind lines": ("a.txt", "enak ya,positif\nkotor,negatif\n", "text", ["enak ya", "kotor"], "no header"),
    "blanks behind commas": ("a.csv", 'id, teks\n1, "a, b"\n', "teks", ["a, b"], "commas and blanks"),
    "UTF-16 without a mark": ("a.csv", "id,teks\n1,enak\n".encode("utf-16-be"), "teks", ["enak"], "UTF-16"),
    "CR": ("a.csv", 'id,teks\r1,enak\r2,"a\rb"\r', "teks", ["enak", "a\rb"], ""),
    "CR in .txt": ("a.txt", "enak\rkotor\r", "text", ["enak", "kotor"], ""),
    "names again": ("a.csv", "id,teks\n1,enak\nid,teks\n2,kotor\n", "teks", ["enak", "kotor"], "1 lines that are"),
    "two rows of names": ("a.csv", "No,Responden,\n,Nama,Komentar\n1,A,enak\n", "Komentar", ["enak"], "in row 2"),
    "names above labels": ("a.csv", "kal,kls\nenak,positif\nburuk,negatif\n", "kal", ["enak", "buruk"], ""),
    "an index and one column": ("a.csv", ",text\n0,enak\n1,kotor\n", "text", ["enak", "kotor"], ""),
    "copies": ("a.csv", "content,rawContent,n\nenak,enak,1\n", "content", ["enak"], ""),
    "lines of separators": ("a.csv", "text;n;\nenak;1;\n;;\n", "text", ["enak", ""], ""),
    "quoted names in .tsv": ("a.tsv", '"teks"\t"n"\n"enak, ya"\t"1"\n', "teks", ["enak, ya"], "separated by TABs"),
    "doubled quotes in .tsv": ("a.tsv", 'teks\tn\n"kata ""dia"" ya"\t1\n"a\nb"\t2\n', "teks",
                               ['kata "dia" ya', "a\nb"], ""),
    "R": ("a.txt", '"teks" "kelas"\n"1" "enak, ya" "a"\n"2" "kotor" "b"\n', "teks", ["enak, ya", "kotor"], "by blanks"),
    "R, TABs": ("a.tsv", 'teks\tn\n1\tenak "ya\t2\n2\tkotor\t3\n', "teks", ['enak "ya', "kotor"], ""),
    "a count of comments": ("a.csv", "id,desc,comments\n1,enak dan murah sekali,0\n2,enak juga ya,3\n", "desc",
                            ["enak dan murah sekali", "enak juga ya"], ""),
    "one text a line, with commas": ("a.csv", "mantap, barang bagus\nmantap, cepat sekali\njelek, kecewa\n", "text",
                                     ["mantap, barang bagus", "mantap, cepat sekali", "jelek, kecewa"], ""),
    "comments of signs": ("a.csv", "id,comments\n1,👍\n2,!!\n", "comments", ["👍", "!!"], ""),
    "a text within quotes": ("a.csv", 'text,asal\nenak,Solo\n"merah,biru"\n', "text", ["enak", "merah,biru"], ""),
    "names that are labels": ("a.csv", "teks,positif,negatif\nenak,x,\nkotor,,x\n", "teks", ["enak", "kotor"], ""),
    "backslashes": ("a.csv", '"ulasan","n"\n"kata \\"dia\\", ya","1"\n"C:\\\\a\\\nb","2"\n', "ulasan",
                    ['kata "dia", ya', "C:\\a\nb"], "quotes with a backslash before them"),
    "index of pandas": ("a.csv", "Unnamed: 0,0,1\n0,@a,enak dan murah sekali\n", "1", ["enak dan murah sekali"], ""),
}  # fmt: skip


@pytest.mark.parametrize("name, content, column, texts, said", KINDS.values(), ids=KINDS)
def test_a_file_of_each_kind_is_read_and_what_was_found_is_said(tmp_path, caplog, name, content, column, texts, said):
    caplog.set_level("INFO", "smsa")
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(path)
    chunks = list(source.chunks(10))
    assert [text for chunk in chunks for text in chunk.texts.to_pylist()] == texts
    assert source.text_column == column and not any(chunk.bad_rows for chunk in chunks)
    assert said in caplog.text and f"the texts are in the column {column!r}" in caplog.text


@pytest.mark.parametrize("suffix, keep_lines", [(".json", False), (".jsonl", False), (".jsonl", True)])
def test_texts_and_labels_within_rows_of_json_are_found(tmp_path, suffix, keep_lines):
    """As Label Studio and Doccano write them."""
    path = tmp_path / f"a{suffix}"
    labels = [[{"result": [{"value": {"choices": [label]}}]}] for label in ("Positif", "negatif")] + [[]]
    rows = [{"id": i, "data": {"text": f"teks {i}"}, "annotations": label} for i, label in enumerate(labels)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (chunk,) = Source(path, keep_lines=keep_lines).chunks(9)
    assert chunk.texts.to_pylist() == ["teks 0", "teks 1", "teks 2"] and not chunk.bad_rows
    if keep_lines:
        assert [json.loads(line) for line in chunk.table["line"].to_pylist()] == rows
    source = Source(path, label_column="label")
    (chunk,) = source.chunks(9)
    assert source.label_column == "annotations.result.value.choices"
    assert chunk.table[source.label_column].to_pylist() == ["Positif", "negatif", None]


def test_a_header_of_known_names_stays_one_whatever_commas_without_quotes_make_of_the_rows(tmp_path):
    (tmp_path / "a.csv").write_text("ulasan,sentimen\nenak, murah, dekat,positif\nkotor,negatif\nx, y, z,netral\n")
    (chunk,) = Source(tmp_path / "a.csv").chunks(9)
    assert chunk.texts.to_pylist() == ["kotor"] and [bad.line for _, bad in chunk.bad_rows] == [2, 4]
    (tmp_path / "b.csv").write_text("id,ulasan,n_suka\n1,enak sekali ya,2\n2,a,b,c,d,e,f,g\n3,kotor,1\n")
    (chunk,) = Source(tmp_path / "b.csv").chunks(9)
    assert chunk.texts.to_pylist() == ["enak sekali ya", "kotor"] and [bad.line for _, bad in chunk.bad_rows] == [3]
    rows = "".join(f"R{i},bagus, cepat{', ramah' * (i % 3)}\n" for i in range(9)) + "S,enak\n"
    (tmp_path / "c.csv").write_text(f"Responden,Jawaban\n{rows}")
    (chunk,) = Source(tmp_path / "c.csv", text_column="Jawaban").chunks(99)
    assert chunk.texts.to_pylist() == ["enak"] and len(chunk.bad_rows) == 9


@pytest.mark.parametrize("header", ["id,text", "rating,review", "tanggal,ulasan"])
def test_a_comma_without_quotes_in_every_row_cuts_no_text(tmp_path, header):
    first = "2024-01-0" if "tanggal" in header else ""
    (tmp_path / "a.csv").write_text(f"{header}\n{first}1,bagus, sekali\n{first}2,jelek, parah\n")
    (chunk,) = Source(tmp_path / "a.csv").chunks(9)
    assert not len(chunk.texts) and [bad.line for _, bad in chunk.bad_rows] == [2, 3]


def test_quotes_of_a_text_join_no_lines(tmp_path):
    quoted = '"Kata dia ""bagus"" banget"'
    lines = ['"awal kutipan\tnegative', "teks lain\tneutral", 'dan akhir"\tpositive', f"{quoted}\tpositive"]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "a.txt").write_text(f'{quoted}\n"awal kutipan\nteks lain\nakhir"\n')
    for suffix, n_rows in ((".tsv", 4), (".txt", 4)):
        (chunk,) = Source(tmp_path / f"a{suffix}").chunks(9)
        assert chunk.n_read == len(chunk.texts) == n_rows
    (tmp_path / "b.txt").write_text('"Mantap" "Keren"\nbagus sekali\n')
    (chunk,) = Source(tmp_path / "b.txt").chunks(9)
    assert chunk.texts.to_pylist() == ['"Mantap" "Keren"', "bagus sekali"]


NESTED = {
    "a reply": ({"ulasanku": "barang bagus sekali dan cepat", "reply": {"text": "terima kasih"}}, "ulasanku", None),
    "a rating": (
        {"text": "bagus", "rating": 5, "annotation": {"sentiment": "positif"}},
        "text",
        "annotation.sentiment",
    ),
    "a user": ({"text": "bagus", "sentimen": "positif", "user": {"class": "A"}}, "text", "sentimen"),
    "a point": ({"data": {"full.text": "barang bagus", "text": "enak"}, "label": "positif"}, "data.text", "label"),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_stands_within_hides_nothing(tmp_path, name):
    row, text_column, label_column = NESTED[name]
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n")
    assert Source(tmp_path / "a.jsonl").text_column == text_column
    if label_column:
        assert Source(tmp_path / "a.jsonl", label_column="label").label_column == label_column


def test_an_index_has_no_name_in_a_workbook(tmp_path):
    write_workbook(tmp_path / "a.xlsx", {"Sheet1": [["", "text"], [0, "enak sekali"], [1, "kotor"]]})
    (chunk,) = Source(tmp_path / "a.xlsx").chunks(9)
    assert chunk.texts.to_pylist() == ["enak sekali", "kotor"]


def test_sheets_with_texts_are_found_and_cells_keep_their_types(tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    day = datetime.date(2025, 1, 5)
    rows = [["No", "Ulasan", "Nilai", "Tanggal", ""], [1, "=1+1", 4.5, day, None], [2, "5", 3, day, "x"], [None] * 5]
    sheets = {
        "Ringkasan": [["Kategori", "Jumlah"], ["Total", 2]],
        "Data": [["Laporan", None], [], *rows, [3, 7, 1, day, None]],
        "Lain": [["isi"], ["enak"]],
    }
    write_workbook(tmp_path / "a.xlsx", sheets)
    with pytest.raises(UserError, match="texts are in the sheets 'Data', 'Lain': choose one, --sheet Data"):
        Source(tmp_path / "a.xlsx")
    (chunk,) = Source(tmp_path / "a.xlsx", sheet="Data").chunks(9)
    assert chunk.texts.to_pylist() == ["=1+1", "5", "7"] and chunk.lines.tolist() == [4, 5, 7]
    assert chunk.table.drop_columns("Ulasan").to_pylist() == [
        {"No": 1, "Nilai": 4.5, "Tanggal": day, "column_5": None},
        {"No": 2, "Nilai": 3.0, "Tanggal": day, "column_5": "x"},
        {"No": 3, "Nilai": 1.0, "Tanggal": day, "column_5": None},
    ]
    del sheets["Lain"]
    write_workbook(tmp_path / "b.xlsx", sheets)
    assert Source(tmp_path / "b.xlsx").names == ["No", "Ulasan", "Nilai", "Tanggal", "column_5"]
    assert "b.xlsx: sheet 'Data'; the names of the columns are in row 3; the texts" in caplog.text
    form = [["Apa baiknya?", "Apa buruknya?"], ["enak sih ya", "jauh sih ya"]]
    write_workbook(tmp_path / "c.xlsx", {"Form": form, "Kode": [["arti"], ["puas sekali ya"]]})
    with pytest.raises(UserError, match="which column holds the texts|which of the sheets"):
        Source(tmp_path / "c.xlsx")
    with pytest.raises(UserError, match="no sheet 'data'. Choose with --sheet. The sheets are: 'Ringkasan', 'Data'"):
        Source(tmp_path / "b.xlsx", sheet="data")


@pytest.mark.parametrize("suffix", [".xls", ".ods"])
def test_other_workbooks_are_read(suffix):
    (chunk,) = Source(Path(__file__).with_name(f"reviews{suffix}")).chunks(9)
    assert chunk.table.to_pylist() == [{"Ulasan": "enak", "Bintang": 5}, {"Ulasan": "kotor", "Bintang": 1}]


def test_a_zip_with_one_file_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data/a.csv", "text;n\nenak;1\n")
        archive.writestr("__MACOSX/data/._a.csv", "")
        archive.writestr("README", "")
    assert [chunk.texts.to_pylist() for chunk in Source(tmp_path / "a.zip").chunks(9)] == [["enak"]]
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.csv", "")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of one that has a password
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="b.zip has a password: unpack it"):
        Source(tmp_path / "b.zip")
    with pytest.raises(UserError, match="a.zip must hold one file of a known format, and holds data/a.csv, README, b"):
        Source(tmp_path / "a.zip")


ASKED = {
    "no name of texts": ("a.csv", "id,judul\n1,x\n", "Name it, for example --text_column judul. The columns are: 'id'"),
    "two names": ("a.csv", "teks,pesan\na b,c d\n", "Name it, for example --text_column teks"),
    "twins by content": ("a.csv", "x,y\na b c d,a b c d\nb b c d,b b c d\n1,2\n",
                         "is the first line, 'x', 'y', the names"),
    "a word in the first line": ("a.csv", "bagus sekali\njelek\n",
                                 "If so, name .* --text_column 'bagus sekali'; if it"),
    "letters": ("a.tsv", "a\tb\tc\n", "a row, number it: --text_column column_1"),
}  # fmt: skip


@pytest.mark.parametrize("name, content, message", ASKED.values(), ids=ASKED)
def test_what_has_no_sensible_answer_is_asked_and_each_way_out_works(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        Source(path)
    options = re.findall(r"--text_column ('[^']+'|\w+)", str(raised.value))
    assert options
    for option in options:
        source = Source(path, text_column=option.strip("'"))
        n_rows = sum(chunk.n_read for chunk in source.chunks(9))
        assert n_rows == content.count("\n") - (not option.startswith("column_"))


@pytest.mark.parametrize("name, content, options, message", [
    ("a.csv", b"id,text\n1,x\n", {"text_column": "teks"}, "no column named 'teks'. The columns are: 'id', 'text'"),
    ("a.csv", b"text,text\n1,x\n", {}, "2 columns named 'text'.* Give them names of their own in the file."),
    ("a.csv", b"id,text\n1,x\n", {"sheet": "a"}, "a.csv has no sheets: leave --sheet out"),
    ("a.parquet", b"text\nx\n", {}, "a.parquet cannot be read"),
    ("a.csv.gz", b"text\nx\n", {}, "a.csv.gz cannot be read"),
    ("a.jsonl.zst", b"text\nx\n", {}, "a.jsonl.zst cannot be read"),
    ("a.zip", b"text\nx\n", {}, "a.zip cannot be read"),
    ("a.csv", b"te\xffxt,id\nx,1\n", {}, "the names of the columns are not valid UTF-8"),
    ("a.tsv", b'text\tn\na\t1\n"b\nc"\t2\n', {}, "a.tsv:3: a quote that is not closed; found .*suffix .csv"),
    ("a.xlsx", b"PK", {}, "a.xlsx cannot be read as a workbook"),
    ("a.txt", b"__label__positif enak\n", {}, r"fastText's labels .* sed -E 's/\^__label__.* > .*a.tsv"),
    ("a.tar.gz", b"", {}, "a.tar.gz: an archive: unpack it"),
    ("a.pdf", b"%PDF", {}, "a.pdf: the suffix must be one of .csv, .* save another as .csv"),
    ("a.csv", b"PK\x03\x04", {}, "a.csv is no text: give its name the suffix .xlsx or .zip"),
    ("a.csv", b"\x1f\x8b\x08", {}, "a.csv is no text: give its name the suffix .gz"),
    ("a.xls", b"<table><tr><td>text", {}, "a.xls is a web page and no workbook: .* save it as .xlsx"),
    ("a.json", b'[{"text": "a"},\n{"text"}]', {}, "a.json:2: not valid JSON from here on"),
    ("a.json", b'[{"text": "a"}]\n[{"text": "b"}]', {}, "a.json:1: not valid JSON .*another value follows"),
    ("a.json", b'{"data":\n[{"text": "a"}]} {"data":\n[]}', {}, "not valid JSON from here on .*another value follows"),
    ("a.json", b'{"text": ["a", "b"], "n": 1}', {}, "a.json holds no array of objects"),
    ("a.json", b'{"text": {"0": "a"}, "n": {"1": 2}}', {}, "nor columns with the same rows each"),
    ("a.json", b'{"a": [{"text": "x"}], "b": [{"id": 1}]}', {}, "a.json holds several arrays, a, b: save the one with"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_refused_by_name(tmp_path, name, content, options, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(Source(path, keep_lines=True, **options).chunks(9))


def test_a_number_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "x": ["a", "b"]}), path)
    for text_column in ("text", None):
        with pytest.raises(UserError, match="'text' does not hold text"):
            Source(path, text_column=text_column)
    assert Source(path, text_column="x").text_column == "x"


BAD = {
    "csv": (b'id,text\n1,"a\nb"\n2\n3,c\n', 4, "1 field(s) instead of 2"),
    "csv comma": (b"id,text\n1,a\n2,b, c\n3,c\n", 3, "3 field(s) instead of 2"),
    "csv quotes around a row": (b'id,text\n1,a\n"2,b"\n3,c\n', 3, "one pair of quotes is around all fields"),
    "csv quote": (b'id,text\n1,a\n2,"b\n3,c\n', 3, "a quote is not closed, or stands within quotes"),
    "csv quotes": (b'id,text\n1,a\n2,"b "b" b"\n3,"c"\n', 3, "a quote is not closed, or stands within quotes"),
    "csv lines": (b'id,text\n1,a\n2,"b\nb, "b" b"\n3,c\n', 3, "up to line 4"),
    "csv not UTF-8": (b"id,text\n1,a\n2,b\xff\n3,c\n", 3, "not valid UTF-8"),
    "tsv": (b"id\ttext\n1\ta\n2\t3\t4\n3\tc\n", 3, "3 field(s) instead of 2"),
    "tsv with words quoted": (b'id\ttext\n1\ta\n"x" y\n3\tc\n', 3, "1 field(s) instead of 2"),
    "jsonl": (b'{"text":"a"}\n{"text":1}\n{"text":"c"}\n', 2, "the text is not a string"),
    "jsonl no object": (b'{"text":"a"}\n[]\n{"text":"c"}\n', 2, "not an object"),
    "jsonl without": (b'{"text":"a"}\n{}\n{"text":"c"}\n', 2, "no 'text'"),
    "jsonl broken": (b'{"text":"a"}\n{"text":\n{"text":"c"}\n', 2, "not valid JSON"),
    "jsonl surrogate": (b'{"text":"a"}\n{"text":"\\ud800"}\n{"text":"c"}\n', 2, "not valid UTF-8"),
    "txt": (b"a\nb\xff\nc\n", 2, "not valid UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("n_rows", [1, 2, 10])
def test_a_bad_row_stands_apart_with_its_line(tmp_path, case, n_rows):
    content, line, reason = BAD[case]
    path = tmp_path / f"a.{case.split()[0]}"
    path.write_bytes(content)
    chunks = list(Source(path, keep_lines=True).chunks(n_rows))
    (bad,) = [bad for chunk in chunks for bad in chunk.bad_rows]
    assert (bad[0], bad[1].line) == (1, line)
    assert reason in bad[1].reason
    assert [n for chunk in chunks for n in chunk.numbers] == [0, 2]
    assert sum(chunk.n_read for chunk in chunks) == 3
    assert [str(text)[0] for chunk in chunks for text in chunk.texts] == ["a", "c"]


@pytest.mark.parametrize("first, second", [("utf-8", "cp1252"), ("cp1252", "utf-8")])
def test_a_few_lines_in_another_encoding_are_bad_rows_of_a_utf8_file(tmp_path, first, second):
    path = tmp_path / "a.csv"
    lines = {"utf-8": "1,senang 🙏\n".encode(), "cp1252": "2,10² – ok\n".encode("cp1252")}
    path.write_bytes(b"id,text\n" + lines[first] + b"3,biasa\n" * 99 + lines[second])
    (chunk,) = Source(path).chunks(999)
    assert len(chunk.texts) == 100 and "senang 🙏" in chunk.texts.to_pylist()
    ((_, bad),) = chunk.bad_rows
    assert bad.line == (2 if first == "cp1252" else 102) and bad.reason == "not valid UTF-8"


def test_lines_of_separators_are_no_labelled_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text;label;\nenak;positif;\n;;\n;;\n", encoding="utf-8")
    (chunk,) = Source(tmp_path / "a.csv", label_column="label").chunks(9)
    assert (chunk.texts.to_pylist(), chunk.bad_rows) == (["enak"], [])


def test_a_truncated_gzip_is_not_a_short_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    write_file(path, [{"text": str(i) * 50} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="a.csv.gz cannot be read"):
        list(Source(path).chunks(9))


@pytest.mark.parametrize("n_rows", [5, 9, 100])
def test_a_damaged_row_group_is_named(tmp_path, n_rows):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"enak {i}" for i in range(99)]}), path, row_group_size=33)
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.parquet: row group 2 \(rows 67 to 99\) cannot be read"):
        list(Source(path).chunks(n_rows))


@pytest.mark.parametrize("head", ["{}", "[]", '{"text":1,"id":"x"}', '{"id":"x"}'])
@pytest.mark.parametrize("text_column", [None, "text"])
def test_an_odd_first_line_of_jsonl_decides_nothing(tmp_path, head, text_column):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{head}\n{{"id":"1","text":"a"}}\n{{"id":"2","text":"b"}}\n', encoding="utf-8")
    for keep_lines in (True, False):
        (chunk,) = Source(path, keep_lines=keep_lines, text_column=text_column).chunks(9)
        assert chunk.texts.to_pylist() == ["a", "b"]
        assert [number for number, _ in chunk.bad_rows] == [0]


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.gz", "a.parquet.gz", "a.xlsx.gz"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="suffix must be one of|compressed inside"):
        find_layout(tmp_path / name)


@pytest.mark.parametrize("before", [100, 131072])
def test_a_long_field_is_read_and_the_limit_of_the_process_stays(tmp_path, before):
    path, limit = tmp_path / "a.csv", csv.field_size_limit(before)
    path.write_text("text\n" + "enak " * 100_000 + "\nkotor\n")
    try:
        for chunk in Source(path).chunks(1):
            assert csv.field_size_limit() == before
        path.write_text('text\nenak\n"open\n')
        assert [len(chunk.bad_rows) for chunk in Source(path).chunks(9)] == [1]
        assert csv.field_size_limit() == before
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("keep_lines", [True, False])
def test_a_file_of_bad_rows_only_has_no_columns_and_no_texts(tmp_path, keep_lines):
    (tmp_path / "a.jsonl").write_text("[]\n1\n{}\n")
    (chunk,) = Source(tmp_path / "a.jsonl", keep_lines=keep_lines).chunks(9)
    assert (chunk.n_read, len(chunk.texts), [bad.line for _, bad in chunk.bad_rows]) == (3, 0, [1, 2, 3])


@pytest.mark.parametrize("suffix", ["tsv", "txt"])
@pytest.mark.parametrize("mark", [";", ","])
def test_a_blank_line_among_columns_is_a_bad_row(tmp_path, suffix, mark):
    path = tmp_path / f"a.{suffix}"
    path.write_text(f"text{mark}label\nenak sekali{mark}positive\n\nmahal sekali{mark}negative\n")
    (chunk,) = Source(path).chunks(9)
    assert chunk.texts.to_pylist() == ["enak sekali", "mahal sekali"]
    assert [(bad.line, bad.reason) for _, bad in chunk.bad_rows] == [(3, "a blank line")]


def test_a_carriage_return_too_many_is_in_no_name(tmp_path):
    (tmp_path / "a.tsv").write_bytes("kode\tulasan\r\r\n1\tenak sekali\r\r\n2\tmahal sekali\r\r\n".encode())
    source = Source(tmp_path / "a.tsv")
    assert source.names == ["kode", "ulasan"] and source.text_column == "ulasan"
