"""Read tables as people have them: how many are read without an option, and how fast each format is.

python benchmarks/reading.py

The tables are generated: columns of exports and course projects, in every format, encoding and layout, then damaged.
"""

import argparse
import gzip
import io
import json
import random
import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from smsa.data.reader import Source
from smsa.errors import UserError

WORDS = (
    "aplikasi bagus cepat lambat kecewa senang sekali tidak bisa masuk kurang enak murah mahal pelayanan ramah antre "
    "lama barang rusak sampai mantap buruk hari ini macet lagi terima kasih semoga membantu sering keluar sendiri"
).split()
MARKS = ["", "", ".", "!", ", ya", "; tapi", ' "katanya"', " 🙏", " – oke", " @admin", " https://t.co/abc"]
# Columns of files that people have: `*` marks the texts, `?` is an empty name, and `~` is a space.
SCHEMAS = [
    "reviewId userName userImage *content score thumbsUpCount reviewCreatedVersion at replyContent repliedAt",
    "conversation_id_str created_at favorite_count *full_text id_str image_url in_reply_to_screen_name lang location "
    "quote_count reply_count retweet_count tweet_url user_id_str username",
    "? *Review Sentiment",
    "Id Sentiment *Text~Tweet",
    "no nama *ulasan bintang",
    "id date time username *tweet likes_count",
    "*komentar label",
    "authorDisplayName *textOriginal textDisplay likeCount publishedAt",
    "*text clean_text label",
    "nomor responden *jawaban",
    "Timestamp Nama *Bagaimana~pendapat~Anda~tentang~layanan~kami?",
    "product_name rating *review date",
    "Location Author Rating *Review~Text Time",
    "*sentence sentiment",
    "ownerUsername *text timestamp likesCount",
    "tweet_id username *tweet_content tweet_label",
]

# Five comments and their labels; `write_odd` writes them among other columns.
COMMENTS = [
    "aplikasinya bagus, cepat dan mudah dipakai",
    "sering keluar sendiri, tolong diperbaiki kak",
    "biasa saja sih menurut saya",
    "kecewa berat sama pelayanannya 😡",
    "mantap!",
]
LABELS = ["Positif ", "negatif", "Netral", "NEGATIF", "positif"]


@dataclass
class Table:
    """A table as it was made."""

    name: str  # of its file
    content: bytes
    texts: list[str] | None  # None if no reader can know them, and asking is right
    damaged: set[str] = field(default_factory=set)  # texts whose rows may come as bad rows, or not at all


def make_rows(schema: str, draw: random.Random, n_rows: int = 30) -> tuple[list[str], list[dict], str]:
    """Return names, rows of strings, and the name of the column of texts."""
    names = ["" if name == "?" else name.replace("~", " ") for name in schema.split()]
    text_name = next(name for name in names if name.startswith("*"))[1:]
    names = [name.removeprefix("*") for name in names]
    rows = []
    for i in range(n_rows):
        text = " ".join(draw.choices(WORDS, k=draw.randint(4, 18))) + draw.choice(MARKS) + f" {i}"
        rows.append({name: text if name == text_name else make_cell(name, text, i, draw) for name in names})
    return names, rows, text_name


def make_cell(name: str, text: str, i: int, draw: random.Random) -> str:
    """Return a cell of the column `name`, not that of texts, beside the text of row `i`."""
    kinds = {
        "display|clean": lambda: text.lower().replace("!", ""),
        "label|sentiment": lambda: draw.choice(["positif", "negatif", "netral"]),
        "name|nama|author|responden": lambda: f"Pengguna {draw.choice('ABCDEFG')}",
        "url|image": lambda: f"https://contoh.id/{i}",
        "time|date|at$": lambda: f"2025-01-{i % 28 + 1:02} 10:00:00",
        "replycontent": lambda: "Halo kak, mohon maaf ya" if i % 4 == 0 else "",
        "^lang$": lambda: "in",
        "location": lambda: "Solo",
    }
    fitting = (make for pattern, make in kinds.items() if re.search(pattern, name.lower()))
    return next(fitting, lambda: str(draw.randint(1, 5) if name else i))()


def write_separated(names: list[str], rows: list[dict], mark: str, quoting: int = 0, end: str = "\n") -> str:
    """Return rows as pandas writes them."""
    table = pd.DataFrame([[row[name] for name in names] for row in rows])
    return table.to_csv(sep=mark, index=False, header=names, quoting=quoting, lineterminator=end)


def write_workbook(sheets: dict[str, list[list]]) -> bytes:
    """Return a workbook of these sheets."""
    written, options = io.BytesIO(), {"strings_to_formulas": False, "strings_to_urls": False}
    with pd.ExcelWriter(written, engine="xlsxwriter", engine_kwargs={"options": options}) as book:
        for name, cells in sheets.items():
            width = max(map(len, cells), default=0)
            padded = [[*row, *[None] * (width - len(row))] for row in cells]
            pd.DataFrame(padded).to_excel(book, sheet_name=name, index=False, header=False)
    return written.getvalue()


def make_tables(seed: int = 0) -> Iterator[Table]:
    """Yield the tables: each layout with the columns of four kinds of file."""
    draw, schemas = random.Random(seed), cycle(SCHEMAS)
    for layout in LAYOUTS:
        for i in range(4):
            names, rows, text_name = make_rows(next(schemas), draw)
            if layout.startswith("cp1252"):
                for row in rows:
                    row |= {key: cell.replace("🙏", "’") for key, cell in row.items()}
            yield make_table(f"{layout}-{i}", names, rows, text_name, draw)


LAYOUTS = (
    "comma quoted semicolon-bom tab-csv bar utf16 cp1252 crcrlf gzip zip tsv txt-tab txt-lines excel excel-title "
    "excel-index jsonl json json-columns json-pretty parquet csv-title short blank broken stray extra"
).split()


def make_table(name: str, names: list[str], rows: list[dict], text_name: str, draw: random.Random) -> Table:
    """Return one table; the layout is its name."""
    texts, layout = [row[text_name] for row in rows], name.rpartition("-")[0]
    cells = [names, *([row[name] for name in names] for row in rows)]
    comma = write_separated(names, rows, ",")
    hurt: set[str] = set()
    if layout.startswith("excel"):
        numbers = [[int(cell) if cell.isdigit() else cell for cell in row] for row in cells]
        sheets = {"Ringkasan": [["Kategori", "Jumlah"], ["Total", len(rows)]], "Data": numbers}
        if layout == "excel-title":
            sheets = {"Sheet1": [["Laporan Ulasan 2025"], [], *numbers]}
        elif layout == "excel-index":
            sheets = {"Sheet1": [["", *names], *([i, *row] for i, row in enumerate(numbers[1:]))]}
        return Table(f"{name}.xlsx", write_workbook(sheets), texts)
    if layout == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("data/ulasan.csv", comma)
            archive.writestr("__MACOSX/data/._ulasan.csv", "x")
        return Table(f"{name}.zip", packed.getvalue(), texts)
    if layout == "parquet":
        return Table(f"{name}.parquet", pd.DataFrame(rows).to_parquet(index=False), texts)
    if layout in ("short", "broken", "stray", "extra"):
        lines = comma.rstrip("\n").split("\n")
        for i in draw.sample(range(1, len(lines)), 3):
            hurt.add(texts[i - 1])
            if layout == "short":  # drop the last field, unless it is the text
                lines[i] = lines[i].rpartition(",")[0] if names[-1] != text_name else lines[i]
            elif layout == "extra":
                lines[i] += ",lagi"
            elif layout == "stray":
                lines[i] = ",".join([*lines[i].split(",")[:-1], '"' + lines[i].split(",")[-1]])
        content = "\n".join(lines).encode() + b"\n"
        if layout == "broken":
            content = content.replace("🙏".encode(), b"\xf0\x9f\x99", 2)
            hurt = {text for text in texts if "🙏" in text}
        return Table(f"{name}.csv", content, texts, hurt)
    suffix, content = {
        "comma": ("csv", comma),
        "quoted": ("csv", write_separated(names, rows, ",", quoting=1)),
        "semicolon-bom": ("csv", "\ufeff" + write_separated(names, rows, ";", end="\r\n")),
        "tab-csv": ("csv", write_separated(names, rows, "\t")),
        "bar": ("csv", write_separated(names, rows, "|")),
        "utf16": ("csv", write_separated(names, rows, "\t")),
        "cp1252": ("csv", write_separated(names, rows, ";", end="\r\n")),
        "crcrlf": ("csv", comma.replace("\n", "\r\r\n")),
        "gzip": ("csv.gz", comma),
        "tsv": ("tsv", "".join("\t".join(row) + "\n" for row in cells)),
        "txt-tab": ("txt", "".join("\t".join(row) + "\n" for row in cells)),
        "txt-lines": ("txt", "".join(f"{text}\n" for text in texts)),
        "jsonl": ("jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        "json": ("json", json.dumps(rows, ensure_ascii=False)),
        "json-columns": ("json", pd.DataFrame(rows).to_json()),
        "json-pretty": ("json", json.dumps({"status": "ok", "data": rows}, indent=2)),
        "csv-title": ("csv", "Laporan Ulasan" + "," * (len(names) - 1) + "\n" + comma),
        "blank": ("csv", comma.replace("\n", "\n\n", 3) + "\n\n"),
    }[layout]
    encoding = {"utf16": "utf-16", "cp1252": "cp1252"}.get(layout, "utf-8")
    written = content.encode(encoding)
    return Table(f"{name}.{suffix}", gzip.compress(written) if layout == "gzip" else written, texts)


def write_odd() -> Iterator[Table]:
    """Yield tables of exports, questionnaires, scrapers and course projects, each odd in another way."""
    texts, labels, n = COMMENTS, LABELS, range(len(COMMENTS))
    plain = [text.replace(",", "") for text in texts]  # for writers that do not quote
    frames = {
        "play-store-replies": {"userName": "Budi", "content": texts, "score": 5, "replyContent": "Halo kak, maaf ya"},
        "twint": {"id": n, "date": "2020-01-01", "username": "a", "place": None, "tweet": texts, "mentions": "[]"},
        "forms": {"Timestamp": "2024/01/01", "Usia": "20-25", "Bagaimana pelayanan di kampus menurut Anda?": texts},
        "instagram": {"Comment Id": n, "Username": list("abcde"), "Comment Text": texts, "Profile URL": "https://i"},
        "marketplace": {
            "nama_produk": "Sepatu Pria Murah Asli",
            "harga": "Rp150.000",
            "ulasan": texts,
            "varian": "a, b",
        },
        "unnamed": {"Unnamed: 0.1": n, "Unnamed: 0": n, "Tweet": texts, "Label": labels},
        "numbered": {"Unnamed: 0": n, "0": "@a", "1": texts},
        "split": {"split": ["train"] * 3 + ["test"] * 2, "teks": texts, "sentimen": labels},
        "polarity": {"tweet": texts, "polarity_score": [3, -2, 0, -1, 1], "polarity": labels},
        "cleaned": {"full_text": texts, "case_folding": [text.lower() for text in texts], "stemming": plain},
        "annotators": {"teks": texts, "label_1": labels, "label_2": labels},
        "unknown": {"kal": texts, "kls": labels},
    }
    for name, columns in frames.items():
        yield Table(f"{name}.csv", pd.DataFrame(columns).to_csv(index=False).encode(), texts)
    yield Table(
        "questions.csv", pd.DataFrame({"Apa baiknya?": texts, "Apa buruknya?": texts, "n": n}).to_csv().encode(), None
    )
    rows = [{"id": i, "text": text, "user": {"name": "A"}} for i, text in enumerate(texts)]
    frame = pd.DataFrame({"text": texts, "label": labels})
    lines = "".join(json.dumps(row) + "\n\n" for row in rows)
    table = frame.to_csv(index_label="id")
    tsv = "".join(f"{label}\t{text}\n" for label, text in zip(labels, texts, strict=True))
    bare = "".join(f"{i}^{text}^{label}\n" for i, (text, label) in enumerate(zip(plain, labels, strict=True)))
    written = {
        "nested.jsonl": lines,
        "lines.json": lines,
        "lines.txt": lines,
        "array.txt": json.dumps(rows),
        "api.json": json.dumps({"data": rows, "meta": {"n": 5}, "includes": {"users": [{"id": 1}]}}),
        "strings.json": json.dumps(texts),
        "lists.json": json.dumps({"text": texts, "label": labels}),
        **{f"{orient}.json": frame.to_json(orient=orient) for orient in ("split", "index", "table", "columns")},
        "two-arrays.json": json.dumps({"tweets": rows, "users": [{"name": "A"}]}),
        "label-first.txt": tsv,
        "labels-behind.txt": ("".join(f"{text},{label}\n" for text, label in zip(plain, labels, strict=True)), plain),
        "commas.txt": ("bagus, murah, cepat\njelek, mahal, lambat\n", ["bagus, murah, cepat", "jelek, mahal, lambat"]),
        "commas.tsv": table,
        "semicolons.tsv": table.replace(",", ";").replace("; ", ", "),
        "tabs.xls": "No\tKomentar\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)),
        "page.xls": ("<html><table><tr><td>ulasan</td></tr></table></html>", None),
        "decimal.csv": "nilai;ulasan\n" + "".join(f"4,{i};{text}\n" for i, text in enumerate(texts)),
        "sep.csv": "sep=;\nid;ulasan;n\n" + "".join(f"{i};{text};n\n" for i, text in enumerate(texts)),
        "blanks.csv": "id, teks\n" + "".join(f'{i}, "{text}"\n' for i, text in enumerate(texts)),
        "remarks.csv": "# diambil 2024\n# Play Store\n" + table,
        "broken-header.csv": table.replace("text,label", '"Ulasan\nPelanggan",label', 1),
        "no-header.csv": table.partition("\n")[2],
        "twice.csv": (table + table, texts * 2),
        "same-names.csv": (table.replace("id,", "text,", 1), None),
        "carets.csv": ("id^ulasan^label\n" + bare, None),
        "escaped.csv": ('id,teks\n1,"kata \\"bagus\\", ya"\n2,biasa\n', ['kata "bagus", ya', "biasa"]),
        "torn.csv": ("id,ulasan,n\n1,bagus dan cepat,2\n2,sering keluar\nsendiri kak,3\n3,biasa,1\n", None),
        "three.csv": ("ulasan\n" + "\n".join(plain[:3]), plain[:3]),
        "cr.csv": table.replace("\n", "\r"),
        "cr.txt": "\r".join(texts),
        "cr.tsv": tsv.replace("\n", "\r"),
        "utf16-le.csv": table.encode("utf-16-le"),
        "utf16-be.txt": "\n".join(texts).encode("utf-16-be"),
        "utf32.csv": table.encode("utf-32"),
        "latin1.csv": (table.replace("😡", "é").encode("latin-1"), [text.replace("😡", "é") for text in texts]),
        "packed.csv": (gzip.compress(table.encode()), None),
    }
    for name, made in written.items():
        content, expected = made if isinstance(made, tuple) else (made, texts)
        yield Table(name, content.encode() if isinstance(content, str) else content, expected)
    numbered = [[i, text] for i, text in enumerate(texts)]
    sheets = {
        "two-row-header": {
            "S": [["No", "Responden", None], [None, "Nama", "Komentar"], *([i, "A", t] for i, t in numbered)]
        },
        "merged-title": {
            "S": [["DATA ULASAN 2024", None], [None] * 2, ["Sumber: Traveloka", None], ["No", "Ulasan"], *numbered]
        },
        "corner": {"S": [[None] * 4, [None, None, "No", "Ulasan"], *([None, None, *row] for row in numbered)]},
        "pivot": {
            "P": [["Row Labels", "Count"], ["negatif", 2], ["Total", 5]],
            "D": [["id", "komentar"], *numbered],
            "E": [[None]],
        },
        "months": {"Jan": [["ulasan"], ["enak"]], "Feb": [["ulasan"], ["enak"]]},
        "headless": {"S": [list(row) for row in zip(texts, labels, strict=True)]},
    }
    for name, cells in sheets.items():
        yield Table(f"{name}.xlsx", write_workbook(cells), None if name == "months" else texts)
    indexed = frame.astype("category").set_index(pd.Index(n, name="nomor"))
    yield Table("indexed.parquet", indexed.to_parquet(), texts)
    for name, members in {"one": ["data/a.csv", "data/readme.md"], "two": ["train.csv", "test.csv"]}.items():
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for member in members:
                archive.writestr(member, table)
        yield Table(f"{name}.zip", packed.getvalue(), texts if name == "one" else None)


def read_table(table: Table, folder: Path) -> str:
    """Return how a table is read without an option: `read`, `asked` with the question, or `wrong` with the reason.

    If asking is right, a question counts as `read`, and so does a bad row.
    """
    path = folder / table.name
    path.write_bytes(table.content)
    try:
        source = Source(path)
        chunks = list(source.chunks(1000))
    except UserError as error:
        return "read" if table.texts is None else f"asked: {error}"
    texts = [text for chunk in chunks for text in chunk.texts.to_pylist()]
    if table.texts is None:
        return "read" if any(chunk.bad_rows for chunk in chunks) else "wrong: nothing was asked"
    left = iter(texts)
    found = next(left, None)
    for text in table.texts:
        if found == text:
            found = next(left, None)
        elif text not in table.damaged:
            return f"wrong: column {source.text_column!r} has {found!r} in place of {text!r}"
    return "read" if found is None else f"wrong: {found!r} is no text of the file"


def measure_speed(folder: Path, n_rows: int = 20_000) -> None:
    """Print rows/s of each format."""
    draw = random.Random(0)
    names, rows, text_name = make_rows(SCHEMAS[4], draw, n_rows)
    for layout in ("comma", "semicolon-bom", "utf16", "gzip", "tsv", "txt-lines", "jsonl", "json", "parquet", "excel"):
        table = make_table(f"{layout}-0", names, rows, text_name, draw)
        path = folder / table.name
        path.write_bytes(table.content)
        started = time.perf_counter()
        n_read = sum(chunk.n_read for chunk in Source(path).chunks(2048))
        print(f"{layout:14} {n_read / (time.perf_counter() - started):12,.0f} rows/s")


def main() -> None:
    """Print how many tables are read, and how fast each format is."""
    with TemporaryDirectory() as folder:
        found = {table.name: read_table(table, Path(folder)) for table in [*make_tables(), *write_odd()]}
        n_read = sum(outcome == "read" for outcome in found.values())
        print(f"read without an option: {n_read} of {len(found)} tables")
        for name, outcome in found.items():
            if outcome != "read":
                print(f"  {name}: {outcome}")
        measure_speed(Path(folder))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    main()
