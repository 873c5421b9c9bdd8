"""Files of every format: what goes in comes back, and what cannot be trusted is named by file and line."""

import csv
import datetime
import gzip
import json
import zipfile
from functools import partial
from itertools import chain
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import write_workbook

from smsa.data.formats import read_separated
from smsa.data.reader import Source
from smsa.errors import UserError

# Beside the tables of benchmarks/reading.py, which test_layout.py reads: file, content, column of texts, and texts.
TWO = ["enak sekali ya", "kotor dan bau"]
KEYED = '{"-Na": {"tweets": [{"isi": "a"}]}, "-Nb": {"tweets": [{"isi": "b"}]}}'
KINDS = {
    "SmSA's form": ("a.tsv", "\ufeffenak\tpositive\r\nburuk\tbaik\r\n", "text", ["enak", "buruk"]),
    "lines of .tsv": ("a.tsv", "enak\nburuk\n", "text", ["enak", "buruk"]),
    "quotes in .tsv": ("a.tsv", '"a\tnegatif\nb"\tpositif\n"a ""b"""\tnetral\n', "text", ['"a', 'b"', '"a ""b"""']),
    "quotes of texts in .txt": ("a.txt", '"a ""b"" c"\n"a\nb"\n', "text", ['"a ""b"" c"', '"a', 'b"']),
    "quoted words in .txt": ("a.txt", '"Mantap" "Keren"\nbagus\n', "text", ['"Mantap" "Keren"', "bagus"]),
    "no rows": ("a.csv", "id,review\n", "review", []),
    "a .tab": ("A.Tab", "text\tn\nenak\t1\n", "text", ["enak"]),
    "header of .txt": ("a.txt", "komentar\nenak\n", "komentar", ["enak"]),
    "one column": ("a.csv", 'Komentar\nSelamat, ya, amin\n"a, b"\n', "Komentar", ["Selamat, ya, amin", "a, b"]),
    "cells over two rows and columns": ("a.csv", "no,ulasan,nilai,\n,,bintang,kelas\n1,enak,5,a\n", "ulasan", ["enak"]),
    "empty fields behind": ("a.csv", "text,a\nenak,1,,\n", "text", ["enak"]),
    "numbers for names": ("a.csv", "0,1\nenak sekali ya,1\nkotor dan bau,0\n", "0", TWO),
    "semicolons in texts": ("a.csv", "enak sekali ya; murah\n" * 9, "text", ["enak sekali ya; murah"] * 9),
    "a word that joins names": ("a.csv", "dan,1520\nyang,14\n", "text", ["dan", "yang"]),
    "JSON, values": ("a.json", '[["enak sekali ya", "a"], ["kotor dan bau", 2]]', "column_1", TWO),
    "JSON, a row": ("a.json", '{"data": {"isi": "a", "balasan": [{"isi": "x"}, {"isi": "y"}]}}', "isi", ["a"]),
    "JSON, replies within": ("a.json", '[{"s": {"text": "a"}, "r": [{"s": {"text": "x"}}]}, {"s": {"text": "b"}},'
                             '{"s": {"text": "c"}}]', "s.text", ["a", "b", "c"]),
    "JSON, a reply": ("a.jsonl", '{"ulasanku": "barang bagus dan cepat", "reply": {"text": "terima kasih"}}',
                      "ulasanku", ["barang bagus dan cepat"]),
    "JSON, a dotted key": ("a.jsonl", '{"data": {"full.text": "barang bagus", "text": "enak"}}', "data.text", ["enak"]),
    "JSON, pages": ("a.json", '[{"message": "ok", "balasan": {"isi": "x"}, "d": {"x": [{"isi": "a"}, {"isi": "b"}]}},'
                    '{"message": "ok", "d": {"x": [{"isi": "c"}]}}, {"message": "ok", "d": {"x": []}}]', "isi", "abc"),
    "JSON, what is within texts": ("a.json", '[{"artikel": "a b c d", "e": [{"text": "b"}, {"text": "c"}]}, {"artikel":'
                                   '"e f g h", "e": []}]', "artikel", ["a b c d", "e f g h"]),
    "JSON, an empty page": ("a.json", '[{"message": "ok", "data": [{"text": "a"}, {"text": "b"}], "u": [{"n": "A"}]},'
                            '{"message": "ok", "data": [], "u": [{"n": "B"}]}]', "text", "ab"),
    "JSON, pages without texts": ("a.json", '[{"data": [{"text": "a"}, {"text": "b"}]}, {"data": [{"text": null}]},'
                                  '{"more": [{"text": "c"}]}]', "text", ["a", "b", None, "c"]),
    "JSONL, a row behind pages": ("a.jsonl", '{"n": 1, "r": [{"text": "a"}, {"text": "b"}]}\n' * 20 + '{"text": "c"}\n',
                                  "text", "ab" * 20 + "c"),
    "JSON of Google Sheets": ("a.json", '{"range": "A1:B3", "values": [["no", "isi"], ["1", "a"]]}', "isi", ["a"]),
    "JSONL, a page": ("a.jsonl", '{"data": [{"text": "a"}, {"text": "b"}], "users": [{"comments": 5}]}', "text", "ab"),
    "JSON, rows within": ("a.json", '{"range": "A1:B3", "data": [["no", "isi"], ["1", "a"]]}', "isi", ["a"]),
    "JSON, NaN": ("a.json", '[{"text": "a"}, {"text": NaN, "n": Infinity}]', "text", ["a", None]),
    "JSON, objects": ("a.json", '{\n"isi": "a"\n}\n{\n"isi": "b"\n}\n', "isi", ["a", "b"]),
    "lines with commas": ("a.jsonl", '{"isi": "a"},\n{"isi": "b"}, \n', "isi", ["a", "b"]),
    "JSON by numbers": ("a.json", '{"0": {"k": "enak sekali ya"}, "1": {"k": "kotor dan bau"}}', "k", TWO),
    "JSON, numbered columns": ("a.json", '{"0": {"0": "enak sekali ya", "1": "kotor dan bau"}}', "0", TWO),
    "JSON by keys, lists": ("a.json", KEYED, "tweets.isi", ["a", "b"]),
    "JSON of an API, comments": ("a.json", '{"data": {"n": "1", "comments": [{"isi": "a"}]}}', "isi", ["a"]),
    "an index and one column": ("a.csv", ",text\n0,enak\n1,kotor\n", "text", ["enak", "kotor"]),
    "a title": ("a.csv", "judul,x,n\nharga sewa toko naik lagi,a,1\n", "judul", ["harga sewa toko naik lagi"]),
    "copies": ("a.csv", "content,rawContent,n\nenak,enak,1\n", "content", ["enak"]),
    "lines of separators": ("a.csv", "text;n;\nenak;1;\n;;\n", "text", ["enak", ""]),
    "quoted names in .tsv": ("a.tsv", '"teks"\t"n"\n"enak, ya"\t"1"\n', "teks", ["enak, ya"]),
    "quotes of Excel": ("a.txt", 'no\tteks\r\n1\t"enak, ya"\r\n2\tkotor\r\n', "teks", ["enak, ya", "kotor"]),
    "doubled quotes in .tsv": ("a.tsv", 'teks\tn\n"a ""b"" c"\t1\n"a\nb"\t2\n', "teks", ['a "b" c', "a\nb"]),
    "R": ("a.txt", '"teks" "kelas"\n"1" "enak, ya" "a"\n"2" "kotor" "b"\n', "teks", ["enak, ya", "kotor"]),
    "rows in quotes": ("a.csv", 'id,teks\n1,enak\n"2,""kotor, ya"""\n"3,b"\n', "teks", ["enak", "kotor, ya", "b"]),
    "R, commas": ("a.csv", '"teks","n"\n"1","enak, ya",2\n"2","a\nb",3\n', "teks", ["enak, ya", "a\nb"]),
    "a count of comments": ("a.csv", "id,desc,comments\n1,enak dan murah,0\n", "desc", ["enak dan murah"]),
    "a name above texts with commas": ("a.csv", "Komentar\n" + "bagus,murah\n" * 9, "Komentar", ["bagus,murah"] * 9),
    "a name above texts with semicolons": ("a.csv", "isi\n" + "bagus; murah\n" * 9, "isi", ["bagus; murah"] * 9),
    "names of pandas": ("a.csv", ",0,1\n0,@a,enak dan murah sekali\n", "1", ["enak dan murah sekali"]),
    "files put together": ("a.csv", "\ufeffid,text\n1,enak\n\ufeffid,text\n2,kotor\n", "text", ["enak", "kotor"]),
    "suggestions": ("a.csv", "Nama,Kritik dan Saran\nSiti Aminah binti Ali,mahal\n", "Kritik dan Saran", ["mahal"]),
    "a name above texts, one with a comma": ("a.csv", "isi\nPesan, ya\na\nb\nc\n", "isi", ["Pesan, ya", *"abc"]),
    "texts with commas": ("a.csv", "wah, barang bagus\nya, cepat\n", "text", ["wah, barang bagus", "ya, cepat"]),
    "a title above a last name that is empty": ("a.csv", "Ulasan,,\nno,ulasan,\n1,enak,5\n", "ulasan", ["enak"]),
    "a last name that is empty": ("a.csv", "text,\nenak,1\nkotor,2\n", "text", ["enak", "kotor"]),
    "captions, some null": ("a.jsonl", '{"caption": {"text": "a"}}\n{"caption": null}\n', "caption.text", ["a", None]),
    "comments of signs": ("a.csv", "id,comments\n1,👍\n2,!!\n", "comments", ["👍", "!!"]),
    "a text within quotes": ("a.csv", 'text,asal\nenak,Solo\n"merah,biru"\n', "text", ["enak", "merah,biru"]),
    "a text and its reply": ("a.csv", "id,Isi Laporan,Tanggapan\n1,mati,segera kami cek\n", "Isi Laporan", ["mati"]),
    "keys": ("a.csv", "id,A.t\n5a1b-3c4d-9e8f-7a6b-1c2d-3e4f-a0b9,enak dan murah\n", "A.t", ["enak dan murah"]),
    "words with a 2": ("a.txt", "mantap2\njos2\n", "text", ["mantap2", "jos2"]),
    "addresses": ("a.csv", "Alamat,Curhat\nMawar nomor lima dekat pasar,kotor dan bau\n", "Curhat", ["kotor dan bau"]),
    "remarks on texts": ("a.csv", "text,comment\nenak,\nkotor,apa ini negatif\nx,\n", "text", ["enak", "kotor", "x"]),
    "JSON of UTF-16": ("a.jsonl", '[{"isi": "enak 🙂"}]'.encode("utf-16"), "isi", ["enak 🙂"]),
    "fastText": ("a.txt", '__label__pos enak, ya\n__label__2\t"kotor\t\n', "text", ["enak, ya", '"kotor']),
    "fastText, labels behind": ("a.csv", f"enak, ya __label__positif\r\n\r\n{' ' * 99_999}x __label__2\r\n", "text",
                                ["enak, ya", "", " " * 99_999 + "x"]),
    "backslashes": ("a.csv", '"isi","n"\n"a \\"b\\", c","1"\n"C:\\\\a\\\nb","2"\n', "isi", ['a "b", c', "C:\\a\nb"]),
}  # fmt: skip


@pytest.mark.parametrize("name, content, column, texts", KINDS.values(), ids=KINDS)
def test_a_file_of_each_kind_is_read_and_its_column_is_said(tmp_path, caplog, name, content, column, texts):
    caplog.set_level("INFO", "smsa")
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = Source(path)
    chunks = list(source.chunks(10))
    assert [text for chunk in chunks for text in chunk.texts.to_pylist()] == [*texts]
    assert source.text_column == column and not any(chunk.bad_rows for chunk in chunks)
    assert f"the texts are in the column {column!r}" in caplog.text


def test_blank_lines_and_rows_that_lack_fields_are_counted_once(tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    (tmp_path / "a.csv").write_text("\ntext,a,b\n\nenak,1\n\n,,\nx,1,2\ntext,a,b\nkotor\n")
    source = Source(tmp_path / "a.csv", label_column="a")
    for _ in range(2):
        assert [chunk.texts.to_pylist() for chunk in source.chunks(9)] == [["enak", "x", "kotor"]]
    assert caplog.text.count("2 rows lack fields at their end and get nulls, the first one in line 4") == 1
    assert caplog.text.count("4 lines that are blank or repeat the header are skipped") == 1


def test_texts_and_labels_within_rows_of_json_are_found(tmp_path):
    """As Label Studio and Doccano write them."""
    path = tmp_path / "a.jsonl"
    labels = [[{"result": [{"value": {"choices": [label]}}]}] for label in ("Positif", "negatif")] + [[]]
    of_model = {"predictions": [{"result": [{"value": {"choices": ["netral"]}}]}]}
    rows = [{"data": {"text": f"teks {i}"}, "annotations": label} | of_model for i, label in enumerate(labels)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (chunk,) = Source(path, keep_lines=True).chunks(9)
    assert chunk.texts.to_pylist() == ["teks 0", "teks 1", "teks 2"] and not chunk.bad_rows
    assert [json.loads(line) for line in chunk.table["line"].to_pylist()] == rows
    source = Source(path, label_column="label")
    (chunk,) = source.chunks(9)
    assert source.label_column == "annotations.result.value.choices"
    assert chunk.table[source.label_column].to_pylist() == ["Positif", "negatif"]
    assert [row.reason for _, row in chunk.bad_rows] == [f"no {source.label_column!r}"]


def test_cells_of_a_workbook_keep_their_types_and_empty_rows_and_columns_are_none(tmp_path):
    day = datetime.date(2025, 1, 5)
    rows = [["No", "Ulasan", "Nilai", "Kota", "Tanggal", ""], [1, "=1+1", 4.5, None, day], [2, "5", 3, None, day, "x"]]
    sheets = {
        "Ringkasan": [["Kategori", "Jumlah"], ["Total", 2]],
        "Data": [["Laporan", None], [], *rows, [], rows[0], [3, 7, 1, None, day]],
    }
    write_workbook(tmp_path / "a.xlsx", sheets)
    (chunk,) = Source(tmp_path / "a.xlsx").chunks(9)
    assert chunk.texts.to_pylist() == ["=1+1", "5", "7"] and chunk.lines.tolist() == [4, 5, 8]
    assert chunk.table.drop_columns("Ulasan").to_pylist() == [
        {"No": 1, "Nilai": 4.5, "Kota": None, "Tanggal": day, "column_6": None},
        {"No": 2, "Nilai": 3.0, "Kota": None, "Tanggal": day, "column_6": "x"},
        {"No": 3, "Nilai": 1.0, "Kota": None, "Tanggal": day, "column_6": None},
    ]


QUESTIONS = [["Apa baiknya?", "Apa buruknya?"], ["enak sih ya", "jauh sih ya"]]
MEANT = [["jawaban", "label", "arti"], ["enak dan murah sekali", 0, "positif"], ["kotor dan bau sekali", 1, "negatif"]]
ALIKE = {"A": [["isi"], ["a"]], "B": [["isi"], ["a"]]}


@pytest.mark.parametrize("sheets, sheet, column, message", [
    ({"Info": [["Diambil dari Play Store bulan ini"], ["x"]], "B": [["isi"], ["a"]]}, None, "isi", None),
    ({"A": [["Tulis curhat", None, "A"], ["antre lama sekali ya", 1, "b"]]}, None, "Tulis curhat", None),
    # what numbers mean in one sheet they do not mean in another
    ({"A": MEANT, "B": [["ulasan", "label"], ["buruk", 0], ["mantap", 1]]}, None, "ulasan", None),
    ({"A": QUESTIONS, "B": [["arti"], ["puas sekali ya"]]}, None, None, "sheets 'A', 'B' holds.* and --text_column if"),
    ({"A": [["isi", "teks"], ["a b", "c d"]], "B": [["m", "n"], [1, 2]]}, None, None, "which column holds the texts"),
    ({"B": ALIKE["B"], "A": [*ALIKE["A"], ["b"]]}, None, None, "which of the sheets 'B', 'A' holds .* --sheet A"),
    (ALIKE, "a", None, "no sheet 'a'. Choose with --sheet.* are: 'A', 'B'"),
    ({"A": [["antre", "Solo"], ["ramah", "Kudus"]], "B": []}, None, None, "is the first line, 'antre', 'Solo', the"),
])  # fmt: skip
def test_the_sheet_with_texts_is_found_or_asked_for(tmp_path, caplog, sheets, sheet, column, message):
    caplog.set_level("INFO", "smsa")
    write_workbook(tmp_path / "a.xlsx", sheets)
    labels = "label" if "ulasan" == column else None
    if message:
        with pytest.raises(UserError, match=message):
            Source(tmp_path / "a.xlsx", sheet=sheet)
    else:
        source = Source(tmp_path / "a.xlsx", label_column=labels)
        assert (source.text_column, source.meanings) == (column, {})
        assert ("a.xlsx: sheet 'B'; " in caplog.text) == (len(sheets) > 1)


def test_a_column_is_named_in_any_case_and_a_sheet_beside_what_is_no_workbook(tmp_path):
    (tmp_path / "a.csv").write_text("Catatan,Asal\nenak,Solo\n")
    assert Source(tmp_path / "a.csv", text_column="catatan", sheet="Data").text_column == "Catatan"
    (tmp_path / "a.json").write_text('[{"bio": "a b", "tweets": [{"text": "c"}, {"text": "d"}]}, {"bio": "e"}]')
    assert [Source(tmp_path / "a.json", text_column=name).names[0] for name in ("bio", "text")] == ["bio", "text"]


def test_a_hidden_sheet_is_none(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["Ulasan"])
    book.active.sheet_state = "hidden"
    book.create_chartsheet()
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="a.xlsx: no sheet is visible: unhide the one with the texts"):
        Source(tmp_path / "a.xlsx")


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
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of one that has a password
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(UserError, match="b.zip cannot be read: .* is encrypted, password required"):
        Source(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.csv", "")
    with pytest.raises(UserError, match="a.zip holds data/a.csv, README, b.csv; it must hold one file of a"):
        Source(tmp_path / "a.zip")


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", b"text,text\n1,x\n", "2 columns named 'text'.* Give each a name of its own in the file."),
    ("a.csv", b"0\nenak sekali ya\n", "is the first line, '0', the names of the columns"),
    ("a.parquet", b"text\nx\n", "a.parquet cannot be read"),
    ("a.csv.gz", gzip.compress(b"text\n" + b"enak sekali\n" * 9999)[:-20], "a.csv.gz cannot be read"),  # cut short
    ("a.zip", b"text\nx\n", "a.zip cannot be read"),
    ("a.csv", b"te\xffxt,id\nx,1\n", "the names of the columns are not valid UTF-8"),
    ("a.xlsx", b"PK", "a.xlsx cannot be read as a workbook"),
    ("a.xlsx.gz", b"", "a.xlsx.gz: .xlsx is compressed already"),
    ("a.pdf", b"%PDF", "a.pdf: the suffix must be one of .csv, .* save any other file as .csv"),
    ("a.csv", b"PK\x03\x04", "a.csv is a workbook or an archive, not text: give its name the suffix .xlsx or .zip"),
    ("a.csv", b"\n<!DOCTYPE html>\n<p>Masuk dulu, ya", "a.csv is a web page, XML, a PDF or a pointer of Git LFS"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1", "a.parquet is a web page, XML.*git lfs pull"),
    ("a.xls", b"<table><tr><td>text", "a.xls is a web page, .*, not a table: open it, and save it as .xlsx or .csv"),
    ("a.json", b'[{"text": "a"},\n{"text"}]', "a.json:2: not valid JSON from here on"),
    ("a.json", b'[{"text": "a"}]\n[{"text": "b"}]', 'a.json:1: not valid JSON .*another value follows: .{"text": "b"}'),
    ("a.json", b"{}", "a.json holds no array of objects"),
    ("a.json", b'{"text": {"0": "a"}, "n": {"1": 2}}', "nor columns with the same rows each: save it"),
    ("a.tsv", b'text\tn\na\t1\n"b\nc\nd"\t2\n', "a.tsv:3: .*, a quote that is not closed.* the suffix .csv"),
    ("a.json", b'{"a": [{"text": "x"}], "b": [{"isi": "y"}]}', "a.json holds several arrays, a, b: save the one with"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(Source(path, keep_lines=True).chunks(9))


# What cannot be trusted in a file: the texts that are read all the same, the lines of bad rows, and why they are bad.
BAD = {
    "a.csv": (b'id,text\n1,"a\nb"\n2\n3,c\n', ["a\nb", "c"], [4], "1 field(s) instead of 2"),
    "commas.csv": (b"ulasan,sentimen\nx, y, z,positif\nkotor,negatif\nx, y,netral\n", ["kotor"], [2, 4], "field(s)"),
    "empty behind.csv": (b"id,text,n\n1,a,\n2,b, b,\n3,c,\n", "ac", [3], "4 field(s) instead of 3"),
    "labels first.csv": (b"positif,a\nnegatif,c\nnetral\"d\"\n", "ac", [3], "1 field(s) instead of 2"),
    "a name for one of two.csv": ('"isi"\n' + "".join(f'"1","{a} b c d"\n' for a in "efghijklm"),
                                  [f"{a} b c d" for a in "efghijklm"], [1], "1 field(s) instead of 2"),
    "names that are labels.csv": (b"text,positif,negatif\na,1,0\nb,,b,1,0\nc,0,1\n", "ac", [3], "5 field(s)"),
    "R.txt": (b'"text" "n"\n' + b'"1" "a" "x"\n' * 9 + b'"2" "b" "b" "x"\n', "a" * 9, [11], "4 field(s)"),
    "torn.csv": (b'text,n\na,1\nb\nb b",2\nc,6\n', ["a", "c"], [3, 4], "the row goes on in the next line"),
    "torn apart.csv": (b"No,Ulasan,Label\n1,a,pos\n2,b\nb,neg\n3,c,neg\n", "ac", [3, 4], "the row goes on"),
    "spoilt.csv": (b'id,text,n\n1,"a b\nc d,1\n2,e\n3,"f",3\n4,h,2\n', "fh", [2, 3, 4], "a quote is not closed"),
    "answers.csv": ("n,Jawaban\n" + "".join(f"{i},sangat bagus dan murah {i}{', a' * (i % 3 + 1)}\n" for i in range(9))
                    + "9,enak\n", ["enak"], [*range(2, 11)], "3 field(s) instead of 2"),
    "many.csv": (b"id,ulasan,n_suka\n1,a b c,2\n2,a,b,c,d,e,f,g\n3,c,1\n", ["a b c", "c"], [3], "8 field(s)"),
    "in each row of a rating.csv": (b"rating,review\n1,bagus, sekali\n2,jelek, parah\n", [], [2, 3], "3 field(s)"),
    "a list of words.csv": (b'id,text,n\n1,a,5\n"enak,b,c"\n3,c,4\n', "ac", [3], "1 field(s) instead of 3"),
    "quotes around a row.csv": (b'id,text\n1,a\n"2,b, b"\n3,c\n', "ac", [3], "1 field(s) instead of 2"),
    "quote.csv": (b'id,text\n1,a\n2,"b\n3,c\n', "ac", [3], "a quote is not closed, or stands within quotes"),
    "lines.csv": (b'id,text\n1,a\n2,"b\nb, "b" b"\n3,c\n', "ac", [3], "up to line 4"),
    "UTF-8 last.csv": (b"id,text\n2,10\xb2 \x96\n3,c\n3,c\n1,\xc3\xa9\n", "ccé", [2], "not valid UTF-8"),
    "UTF-8 first.csv": (b"id,text\n1,\xc3\xa9\n3,c\n3,c\n2,10\xb2 \x96\n", "écc", [5], "not valid UTF-8"),
    "a.tsv": (b"id\ttext\n1\ta\n2\t3\t4\n3\tc\n", "ac", [3], "3 field(s) instead of 2"),
    "TABs in some texts.txt": (b"a b c d e f\t1\na\tb\t0\nc d e f\t1\n", ["a b c d e f", "c d e f"], [2], "3 field(s)"),
    "blank.tsv": (b"text;label\na b;positif\n\nc;negatif\n", ["a b", "c"], [3], "a blank line"),
    "a.jsonl": (b'{"text":"a"}\n{"text":1}\n{"text":"c"}\n', "ac", [2], "the text is not a string"),
    "broken.jsonl": (b'{"text":"a"}\n{"text":\n{"text":"c"}\n', "ac", [2], "not valid JSON"),
    "surrogate.jsonl": (b'{"text":"a"}\n{"text":"\\ud800"}\n{"text":"c"}\n', "ac", [2], "not valid UTF-8"),
    "first.jsonl": (b'{}\n{"id":"1","text":"a"}\n{"id":"2","text":"c"}\n', "ac", [1], "no 'text'"),
    "first a number.jsonl": (b'{"text":1,"id":"x"}\n{"id":"1","text":"a"}\n', "a", [1], "the text is not a string"),
    "first another.jsonl": (b'[]\n{"id":"x"}\n{"id":"1","text":"a"}\n', "a", [1, 2], "not an object"),
    "some no objects.json": (b'{"data": [{"text": "a"}, "x", {"text": "c"}]}', "ac", [2], "not an object"),
    "among pages.jsonl": (b'{"r":[{"text":"a"},{"text":"c"}]}\n7\n', "ac", [2], "not an object"),
    "all.jsonl": (b"[]\n1\n{}\n", [], [1, 2, 3], "not"),
    "within.jsonl": (b'{"a":{"text":"a"}}\n{"a":{"text":{"b":"x"}}}\n', "a", [2], "no 'a.text'"),
    "ft.txt": (b"__label__x a\n__label__x __label__y b\n__label__y c\n", "ac", [2], "1 field(s) instead of 2"),
    "lists.jsonl": (b'{"text":"a"}\n{"text":["b",{"x":1}]}\n{"text":"c"}\n', "ac", [2], "the text is not a string"),
    "a.txt": (b"a\nb\xff\nc\n", "ac", [2], "not valid UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("n_rows", [1, 2, 10])
def test_a_bad_row_stands_apart_with_its_line(tmp_path, name, n_rows):
    content, texts, lines, reason = BAD[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for keep_lines in (True, False):
        chunks = list(Source(tmp_path / name, keep_lines=keep_lines).chunks(n_rows))
        assert [text for chunk in chunks for text in chunk.texts.to_pylist()] == [*texts]
        bad = dict(row for chunk in chunks for row in chunk.bad_rows)
        assert [row.line for row in bad.values()] == lines and reason in [*bad.values()][0].reason
        line_of = {n: row.line for n, row in bad.items()}
        line_of |= {n: line for chunk in chunks for n, line in zip(chunk.numbers, chunk.lines, strict=True)}
        assert [line_of[n] for n in range(sum(chunk.n_read for chunk in chunks))] == sorted(line_of.values())


@pytest.mark.parametrize("n_rows", [5, 9, 100])
def test_row_groups_are_no_chunks_and_a_damaged_one_is_named(tmp_path, n_rows):
    path, texts = tmp_path / "a.parquet", [f"enak {i}" for i in range(99)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=33)
    chunks = list(Source(path).chunks(n_rows))
    assert [text for chunk in chunks for text in chunk.texts.to_pylist()] == texts
    assert {chunk.n_read for chunk in chunks[:-1]} <= {n_rows}
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.parquet: row group 2 cannot be read"):
        list(Source(path).chunks(n_rows))


def test_columns_beside_the_texts_may_hold_what_python_cannot(tmp_path):
    columns = {"text": ["enak"], "at": pa.array([2**60], pa.timestamp("us")), "comments": [True]}
    columns["there"] = pa.array([0], pa.timestamp("us", "Mars/Phobos"))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (chunk,) = Source(tmp_path / "a.parquet").chunks(9)
    assert chunk.texts.to_pylist() == ["enak"] and chunk.table.num_columns == 4


def test_a_field_may_be_long_one_that_is_left_open_ends_and_the_limit_of_the_process_stays(tmp_path, request):
    path, chunks = tmp_path / "a.csv", []
    request.addfinalizer(partial(csv.field_size_limit, csv.field_size_limit(100)))
    path.write_text("text\n" + "enak " * 100_000 + '\nkotor\n"open\n')
    for chunk in Source(path).chunks(1):
        assert csv.field_size_limit() == 100
        chunks.append(chunk)
    with pytest.raises(OSError):  # while a field is read
        list(read_separated(chain(['"'], ["a\n"] * 999, map(open, "/")), path, ",", "csv"))
    assert csv.field_size_limit() == 100
    assert [len(text) for chunk in chunks for text in chunk.texts.to_pylist()] == [500_000, 5]
    assert sum(len(chunk.bad_rows) for chunk in chunks) == 1


def test_a_key_that_no_row_looked_at_has_is_lost_from_no_table(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 1000 + '{"text": "b", "n": 1}\n')
    for keep_lines, lines in ((True, []), (False, [1001])):
        chunks = Source(tmp_path / "a.jsonl", keep_lines=keep_lines).chunks()
        assert [row.line for chunk in chunks for _, row in chunk.bad_rows] == lines
