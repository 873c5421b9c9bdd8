"""Files of any size -> their columns, and chunks of rows: the one reader for training, evaluation, prediction and demo.

Values are not changed. Text formats carry no types, so all their columns are strings here; a line of JSONL may stay
whole. The first rows show which column holds the texts, and which the labels: a usual name decides, else the values.
If these leave it open, a UserError asks the user. What was found is logged in one line.
"""

import datetime
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from itertools import chain, islice, pairwise, zip_longest
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smsa.data import formats
from smsa.data.formats import REPLY, SENTIMENTS, SHEETS, BadRow, Cells, Row, are_numbers, is_sentiment, name_kind
from smsa.data.json_rows import JsonRow, find_texts, flatten, open_pages, read_json, read_jsonl
from smsa.data.labels import are_sentiments, find_label_columns, plain_label
from smsa.errors import UserError

logger = logging.getLogger(__name__)

SMSA_COLUMNS = ("text", "gold")  # the names in a file without header
# A line with at most one label of fastText, before or behind the text. A line with several does not match: a bad row
_FASTTEXT = re.compile(r"^(?!.*__label__.*__label__)(?:(.*\S)??\s*__label__(\S+)[ \t,]*)?(.*)")
_LABEL_FIELD = re.compile(r"[,;|]\"?__label__|__label__[^\s,;|]+[,;|]|\t[^\t]*\t")  # CSV, or three columns
_NESTED_SHOWN = 30  # nested columns that a message lists
_ROWS_LOOKED_AT = 1000  # first rows, which show what the columns hold
_ROWS_WEIGHED = 200  # texts of a column, which show how long and varied they are
_ROWS_EMPTY = 10  # so many empty cells show that a column named for texts holds none
# Group 1 is a word: no link, mention, key with digits or Z of a time; but of jalan2, that is jalan-jalan, it is jalan
_WORD = re.compile(r"https?://\S+|@\w+|(?![^\W\d_]+2(?![\w-]))[\w-]{0,20}\d[\w-]*(?: Z\b)?|([^\W\d_]+)")
SPLIT = re.compile(
    r"(?!(?:data|set)$)(?:data[ _])?(train(?:ing)?|latih|pelatihan)?"
    r"(?:val(?:id(?:ation|asi)?)?|dev|eval|test(?:ing)?|uji|pengujian)?(?:[ _]?(?:data|set))?"
)
IS_SPLIT = re.compile(r"is_?(?:train|valid|test)(?:ing)?", re.IGNORECASE)  # the name of a yes/no column
_NOT_MEANT = re.compile(f"{REPLY.pattern}|predict", re.IGNORECASE)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file; the bad ones stand apart."""

    first: int  # number of its first row, counted from the `first` of `Source.chunks`
    n_read: int  # rows, bad ones included
    numbers: np.ndarray  # (n_good,): number of each good row
    lines: np.ndarray  # (n_good,): line where each starts, from 1; for Parquet the number of the row, from 1
    texts: pa.Array  # (n_good,) of strings; null where there is none
    table: pa.Table  # (n_good, n_columns): the original columns, or whole lines of JSONL
    bad_rows: list[tuple[int, BadRow]]  # each with its row number


class Source:
    """One input file: its columns, which of them holds the texts, and its rows.

    Args:
        path: the file.
        format: one of `INPUT_FORMATS`; None to find it by the suffix.
        text_column: name of the column of texts; None to find it by its name or its values.
        label_column: name of the column of labels; None for an unlabelled file; `label` also finds other usual names.
            A row of JSON must have this key and that of the texts, perhaps within a null, and may lack any other.
        keep_lines: whether rows of JSONL or JSON stay whole lines; `line` is then the only column.
        sheet: of a workbook; None for the only one with texts.

    Attributes:
        format, compression: how the file is written.
        names: the columns; with `keep_lines`, reading later rows adds the columns that only these have.
        text_column, label_column: those that were named or found; an empty file has no text_column.
        meanings: what labels that are numbers mean, by a column of words beside them.
        split_column: the column of a labelled file that says train, test and the like; None if there is none.
        candidates: the columns that could hold texts.
        schema: the original columns with their types.
        is_typed: whether columns may be other than strings.
        encoding: of text formats; `utf-8-sig` has a byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if there is no such column, or if there are several, which are then its `candidates`; if the contents
            do not match the suffix.
    """

    def __init__(
        self,
        path: Path,
        format: str | None = None,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        keep_lines: bool = False,
        sheet: str | None = None,
    ):
        self.path, self._label_asked = path, label_column
        self._text_asked = None if text_column is None else str(text_column)  # a table of pandas may use numbers
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, or is a folder.")
        suffix, self.compression = formats.find_layout(path, formats.INPUT_FORMATS, format)
        self._open = partial(formats.open_file, path, self.compression)
        with self._open() as stream:
            self.format, self.encoding, self._end = formats.find_contents(stream, path, suffix)
        self.is_typed = self.format in ("parquet", *SHEETS)
        self._notes = []  # on what was found, for the log
        if self.format != suffix:
            self._notes.append("JSON" if self.format == "json" else "text, not a workbook")
        if sheet is not None and self.format not in SHEETS:
            self._notes.append(f"not a workbook, so ignoring sheet {sheet!r}")  # another file may have it
        self.candidates, self._nested, self._table = [], {}, None
        # how to read the rows of a table: what separates columns, what makes a line one of CSV or TSV, rows up to and
        # including the names, the first rows that have all columns, whether the last column may be empty
        self._separator, self._change, self._n_above, self._whole, self._may_end_empty = None, None, 0, [], False
        self._has_told = False  # whether the log says what is unusual about the rows
        if self.format in SHEETS:
            self._choose_sheet(sheet)
        else:
            self._set_columns(*self._look())
        self.keep_lines = keep_lines and self.format in ("jsonl", "json")
        if self.keep_lines:
            self.schema = pa.schema([("line", pa.string())])
        if self.names and (self._notes or text_column is None):
            logger.info("%s: %s", path, "; ".join([*self._notes, f"the texts are in the column {self.text_column!r}"]))

    def _look(self) -> tuple[list[str], list[list]]:
        """Return the names of the columns of a file and the first values of each."""
        if self.format == "parquet":
            with self._open() as stream:
                self.schema = pq.read_schema(stream)
            first = next(self._tables(_ROWS_LOOKED_AT, None), self.schema.empty_table())
            known = (is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
            # values of other types may not exist in Python, such as dates beyond the year 9999
            is_known = [any(is_kind(kind) for is_kind in known) for kind in first.schema.types]
            return first.column_names, [first[i].to_pylist() if known else [0] for i, known in enumerate(is_known)]
        if self.format in ("json", "jsonl"):
            return self._look_at_objects()
        with self._open(self.encoding, self._end) as content:
            lines = [*islice(content, _ROWS_LOOKED_AT)]
        is_fasttext = "__label__" in "".join(lines[:1]) and not _LABEL_FIELD.search(lines[0])
        if is_fasttext and all("__label__" in line or line.isspace() for line in lines):
            return self._look_at_fasttext(lines)
        if lines and self.format in ("tsv", "txt") and formats.are_quoted(lines, self.path):
            self.format = "csv"
        self._separator, rows = formats.find_separator(lines, self.path, self.format)
        if self.format == "csv" and any('\\"' in line for line in lines):
            separator, unescaped = formats.find_separator([*map(formats.unescape, lines)], self.path, self.format)
            if unescaped.count([]) < rows.count([]):  # fewer bad rows and blank lines
                self._separator, self._change, rows = separator, formats.unescape, unescaped
                self._notes.append("quotes are escaped with a backslash")
        if self._separator not in (None, {"csv": ",", "tsv": "\t"}.get(self.format)):
            self._notes.append(f"columns separated by {self._separator!r}")
        if self.encoding != "utf-8":
            self._notes.append(f"the encoding is {self.encoding}")
        return self._name_columns(rows, all(line.startswith('"') for line in lines[:2]))

    def _look_at_objects(self) -> tuple[list[str], list[list]]:
        if self.format == "json":  # it may be JSONL all the same: one object a line
            with self._open(self.encoding) as content:
                first = [row for _, _, row in islice(read_jsonl(content, self.path), 2)]
            self.format = "jsonl" if len(first) == 2 and all(isinstance(row, dict) for row in first) else "json"
        with self._open(self.encoding, self._end) as content:
            rows = [row for _, _, row in islice(self._objects(content), _ROWS_LOOKED_AT) if isinstance(row, dict)]
        names, within = [*dict.fromkeys(chain(*rows))], [*map(flatten, rows)]
        paths = [path for path in dict.fromkeys(chain(*within)) if path not in names]
        self._nested = {path: [row.get(path) for row in within] for path in paths}
        return names, [[row.get(name) for row in rows] for name in names]

    def _look_at_fasttext(self, lines: list[str]) -> tuple[list[str], list[list]]:
        change = partial(_FASTTEXT.sub, r"\2\t\1\3")
        names = [self._label_asked or SMSA_COLUMNS[1], self._text_asked or SMSA_COLUMNS[0]]
        self.format, self._separator, self._change = "tsv", "\t", change
        self._notes.append("fastText's labels")
        rows = [change(line).split("\t") for line in lines if not line.isspace()]
        return names, [[row[i] for row in rows] for i in (0, -1)]

    def _name_columns(self, rows: list[list], is_quoted: bool = False) -> tuple[list[str], list[list]]:
        """Return the names of the columns and the first values of each; note what they show about all rows."""
        widths = Counter(len(row) for row in rows if row)
        if not widths:
            names = [SMSA_COLUMNS[0]] if self.format == "txt" else []
            return names, [[] for _ in names]
        # one text a line, or text and label as in SmSA: a first line that may be a header or a row is a row
        is_lines = self.format in ("txt", "tsv") and max(widths) <= (2 if self._label_asked else 1)
        header = find_header(rows, self._text_asked, None if is_lines else self.path)
        self._n_above, names = header or (0, [f"column_{i + 1}" for i in range(widths.most_common(1)[0][0])])
        below = rows[self._n_above :]
        if header is None and (max(widths) > 1 or self.format == "csv"):
            self._notes.append("no header")
        if header is not None and (is_quoted or self._separator in ("\t", " ")):
            filled = [row for row in below if any(row)]
            wider = [row for row in filled if len(row) == len(names) + 1]
            is_numbered = all(row[0].isdecimal() for row in wider) and any(row[-1] for row in wider)
            if is_numbered and len(wider) >= 0.9 * len(filled):
                names = ["", *names]  # R gives no name to the column of row numbers
        if self._n_above > 1 or (header is not None and max(widths) == 1 and self.format == "txt"):
            self._notes.append(f"the names of the columns are in row {self._n_above}")
        self._whole = [row for row in below if len(row) == len(names)]
        self._may_end_empty = not all(row[-1] for row in self._whole)
        columns = [[row[i] for row in below if len(row) > i] for i in range(len(names))]
        if header is None:
            self._name_by_content(names, columns)
        return names, columns

    def _name_by_content(self, names: list[str], columns: list[list]) -> None:
        """Name the columns of texts and labels in a file without header, if they can be told; others keep a number."""
        texts, could = find_text_columns(names, columns)
        texts, asked = texts or could, (self._text_asked, self._label_asked)
        labels = [i for i, values in enumerate(columns) if 0 < len(values) <= 2 * sum(map(is_sentiment, values))]
        others = [i for i in could if i not in labels]
        if len(names) == 2 and (labels or self._label_asked or self._text_asked == SMSA_COLUMNS[0]):
            if len(labels) != 1:  # as in SmSA, unless the texts are clear
                labels = [1 - texts[0] if len(texts) == 1 else 1]
            texts = [1 - labels[0]]
        elif len(labels) == len(others) == 1:
            texts = others
        for found, name, usual in zip((texts, labels), asked, SMSA_COLUMNS, strict=True):
            if len(found) == 1 and name not in names:
                names[found[0]] = name or usual

    def _set_columns(self, names: list[str], columns: list[list]) -> None:
        """Set the columns, and find those of texts, labels and splits, also nested ones in rows of JSON."""
        self.names = names
        if not self.is_typed:
            try:
                self.schema = pa.schema([(name, pa.string()) for name in names])
            except UnicodeEncodeError as error:
                raise UserError(f"{self.path}:1: the names of the columns are not valid UTF-8: {names}.") from error
        # reset: another sheet may have been looked at before
        self.meanings, self.text_column, self.split_column, self.label_column = {}, None, None, self._label_asked
        if not names:
            return
        paths, held = [*names, *self._nested], [*columns, *self._nested.values()]
        # a nested column goes by the last part of its path, unless it holds replies or predictions
        called = [*names, *(path if _NOT_MEANT.search(path) else path.rpartition(".")[2] for path in self._nested)]
        if self._label_asked is not None:
            self.label_column = self._find_labels(paths, called, held)
        texts, could = find_text_columns(names, columns)
        if self._nested and not texts:
            texts, could = find_text_columns(called, held)
        texts, could = ([i for i in found if paths[i] != self.label_column] for found in (texts, could))
        self.candidates = [paths[i] for i in could]
        usual, could = (texts, could or [0]) if self._text_asked is None else ([], [])
        self.text_column = self._choose("--text_column", self._text_asked, usual, could, paths)
        if self.text_column == self.label_column:
            raise UserError(f"{self.path}: texts and labels cannot both be in {self.label_column!r}: name two columns.")
        if self.is_typed and not is_text(self.schema.field(self.text_column).type):
            raise self._refuse(f"the column {self.text_column!r} does not hold text. Name another with --text_column.")
        if self._label_asked is not None:
            words = [{value.strip().lower() for value in values if isinstance(value, str)} for values in columns]
            said = [any(some) and all(map(SPLIT.fullmatch, some)) for some in words]
            splits = [name for name, is_said in zip(names, said, strict=True) if is_said or IS_SPLIT.fullmatch(name)]
            others = {self.text_column, self.label_column} | {name for name in splits if names.count(name) > 1}
            self.split_column = next((name for name in splits if name not in others), None)
        if added := [path for path in self._nested if path in (self.text_column, self.label_column)]:
            self.names = [*names, *added]
            self.schema = pa.schema([(name, pa.string()) for name in self.names])

    def _find_labels(self, paths: list[str], called: list[str], held: list[list]) -> str:
        """Return the column of labels, see `find_label_columns`; set what its numbers mean if another says so."""
        taken, meant = [], []
        if self._label_asked == "label":
            taken, meant = find_label_columns(called, held, len(self.names))
        # true labels stand behind those of annotators and predictions, so the last is the example
        label = self._choose("--label_column", self._label_asked, taken[::-1], meant[::-1], paths)
        if label != self._label_asked:
            self._notes.append(f"the labels are in the column {label!r}")
        numbers = [*map(plain_label, held[paths.index(label)])]
        for path, values in () if SENTIMENTS.keys() & {*numbers} else zip(paths, held):  # words mean themselves
            if not self.meanings and are_numbers(numbers) and are_sentiments(values):
                pairs = {(number, plain_label(word)) for number, word in zip(numbers, values) if number}
                if len(pairs) == len({*numbers} - {None}) == len({word for _, word in pairs if word}):
                    self.meanings = dict(pairs)
                    self._notes.append(f"the labels mean what the column {path!r} says")
        return label

    def _choose(self, option: str, asked: str | None, usual: list[int], could: list[int], paths: list[str]) -> str:
        """Return the only usual column, else the only one with the name that is asked for, ignoring case and blanks.

        Otherwise raise a UserError. Its example is the first usual column, else the first that could be meant.
        """
        plain, *names = (re.sub(r"[\W_]+", "", name).lower() for name in (asked or "", *paths))
        found = usual or [i for i, path in enumerate(paths) if path == asked]
        found = found or [i for i, name in enumerate(names) if asked and name == plain][::-1]
        same = [path for path in paths if path in {paths[i] for i in found}]
        if len(same) == 1:
            return same[0]
        what = f"which column holds the {option[2:].removesuffix('_column')}s?"
        what = f"no column named {asked!r}." if asked and not found else what
        each = [name for name in self.names if plain_label(name) in SENTIMENTS]
        example = "".join(f", for example {option} {shlex.quote(paths[i])}" for i in [*found, *could][:1])
        way_out = f"Choose with {option}{example}."
        if len({*same}) < len(same):
            what, way_out = f"{len(same)} columns named {same[0]!r}.", "Give each a name of its own in the file."
        elif option == "--label_column" and len(each) > 1:  # a 0 in one would count as another label
            way_out = f"{', '.join(map(repr, each))} are labels: add a column that says which one a row has."
        elif usual and asked in same:
            way_out += f" To use {asked!r}, rename the others in the file."
        raise self._refuse(what, way_out, () if asked else self.candidates)

    def _refuse(self, found: str, way_out: str = "", candidates: Sequence[str] = ()) -> UserError:
        """Return the error that says what was found, the columns, and the way out."""
        listed = f"The columns are: {', '.join(map(repr, self.names))}."
        if self._nested:
            listed += f" Within them: {', '.join(map(repr, islice(self._nested, _NESTED_SHOWN)))}."
        return UserError(f"{self.path}: {found} {listed} {way_out}".rstrip(), [*candidates])

    def _choose_sheet(self, asked: str | None) -> None:
        """Take the sheet that was asked for, else the only one whose texts can be found: by name, or by content."""
        with self._open() as stream:
            sheets = formats.read_sheets(stream, self.path)
        if asked is not None and asked not in sheets:
            listed = ", ".join(map(repr, sheets))
            raise UserError(f"{self.path}: no sheet {asked!r}. Choose with --sheet. The sheets are: {listed}.")
        if not sheets:
            raise UserError(f"{self.path}: no sheet is visible: unhide the one with the texts.")
        ranks = {name: 0 for name in ([asked] if asked else sheets)}
        for name in ranks if len(ranks) > 1 else ():
            try:
                self._take_sheet(sheets[name])
                is_named = self._n_above and name_kind(self.text_column) == "text"
                ranks[name] = (0 if is_named else 1) if self.names else 3  # 3: the sheet is empty
            except UserError as error:
                ranks[name] = 1 if error.candidates else 2
        best = [name for name, rank in ranks.items() if rank == min(ranks.values())]
        if len(best) > 1:
            longest = shlex.quote(max(best, key=lambda name: len(sheets[name])))
            raise UserError(
                f"{self.path}: which of the sheets {', '.join(map(repr, best))} holds the texts? Give --sheet, for "
                f"example --sheet {longest}, and --text_column if there are several columns of texts."
            )
        self._take_sheet(sheets[best[0]])
        if len(sheets) > 1:
            self._notes.insert(0, f"sheet {best[0]!r}")

    def _take_sheet(self, cells: list[list]) -> None:
        """Take the rows of a sheet, without those above its header, and without blank rows and columns."""
        self._notes, self._n_above = [], 0
        cells = [[_to_cell(value) for value in row] for row in cells]
        rows = [[None if value is None else str(value) for value in row] for row in cells]
        names, _ = self._name_columns(rows[:_ROWS_LOOKED_AT])
        below = range(self._n_above, len(rows))
        body = [i for i in below if any(rows[i]) and (len(names) == 1 or rows[i] != names)]
        columns = [[cells[i][j] for i in body] for j in range(len(names))]
        kept = [j for j, name in enumerate(names) if name or any(cell is not None for cell in columns[j])]
        names, columns = [names[j] or f"column_{j + 1}" for j in kept], [columns[j] for j in kept]
        self._table = pa.Table.from_arrays([*map(_to_array, columns)], names=names)
        self._lines, self.schema = np.array(body, dtype=np.int64) + 1, self._table.schema
        # with typed cells, so that numbers in a column of strings count as no text, as in CSV
        self._set_columns(names, [values[:_ROWS_LOOKED_AT] for values in columns])

    def chunks(self, n_rows: int = 10_000, first: int = 0) -> Iterator[Chunk]:
        """Yield all rows in order, `n_rows` at a time, counted from `first`; the last chunk may be shorter."""
        if self.is_typed:
            start, wanted = first, [*filter(None, (self.text_column, self.label_column, self.split_column))]
            for table in self._tables(n_rows, wanted if self.label_column else None):
                numbers = first + np.arange(len(table))
                lines = numbers - start + 1 if self._table is None else self._lines[numbers - start]
                texts = table[self.text_column].cast(pa.string()).combine_chunks()
                yield Chunk(first, len(table), numbers, lines, texts, table, [])
                first += len(table)
            return
        with self._open(self.encoding, self._end) as content:
            found = (self._json_rows if self.format in ("jsonl", "json") else self._table_rows)(content)
            while rows := list(islice(found, n_rows)):
                yield self._to_chunk(first, *zip(*rows, strict=True))
                first += n_rows

    def _tables(self, n_rows: int, columns: list[str] | None) -> Iterator[pa.Table]:
        """Yield the rows of a workbook or of Parquet, `n_rows` at a time; `columns` of Parquet, None for all."""
        if self._table is not None:
            yield from (self._table[i : i + n_rows] for i in range(0, len(self._table), n_rows))
            return
        with self._open() as stream:
            file, group, batches = pq.ParquetFile(stream, pre_buffer=False), 0, []
            try:
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(n_rows, [group], columns):
                        batches.append(batch)
                        if sum(map(len, batches)) >= n_rows:
                            table = pa.Table.from_batches(batches)
                            yield table[:n_rows]
                            batches = table[n_rows:].to_batches()
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{self.path}: row group {group} cannot be read: {error}") from error
            if batches:
                yield pa.Table.from_batches(batches)

    def _objects(self, content: TextIO, parse_float: type = float) -> Iterator[JsonRow]:
        """Return the rows of JSONL or JSON."""
        found = (read_json if self.format == "json" else read_jsonl)(content, self.path, parse_float)
        return open_pages(found, partial(_find_own_texts, self._text_asked), self._notes)

    def _table_rows(self, content: TextIO) -> Iterator[Row]:
        """Yield the rows of CSV, TSV or plain lines below the names.

        Fields missing at the end are null, unless the next line has them: a bad row. A row that ends before the column
        of texts is bad. In a labelled file, lines with only separators, which spreadsheets leave behind, are skipped; a
        prediction has a row for each.
        """
        names, width = self.names, len(self.names)
        # repeated headers, also from files that were concatenated with their byte-order marks
        no_rows = [names, [f"\ufeff{names[0]}", *names[1:]]] if width > 1 else []
        no_rows += [[""] * width] if self.format == "csv" and self.label_column is not None else []
        lines = map(self._change, content) if self._change else content
        read = islice(formats.read_separated(lines, self.path, self._separator, self.format), self._n_above, None)
        fitted = (
            (line, fields, fields)
            if fields.__class__ is list and len(fields) == width and fields not in no_rows
            else (line, None if fields in no_rows else self._fit(fields, line), fields)
            for line, fields in read
        )
        is_spoilt, n_no_rows, n_short, first_short = False, 0, 0, 0  # spoilt by a quote that was left open
        for (line, row, fields), (_, following, rest) in pairwise(chain(fitted, [(0, None, None)])):
            if row is None:
                n_no_rows += 1
                continue
            if row.__class__ is list and len(row) == width:
                is_spoilt = False
            elif row.__class__ is list:
                rest = getattr(rest, "value", rest)
                if isinstance(following, BadRow) and isinstance(rest, list) and len(row) + len(rest) == width + 1:
                    row = BadRow(self.path, line, row, "the row goes on in the next line, without quotes")
                elif is_spoilt:
                    row = BadRow(self.path, line, row, f"{len(row)} field(s) instead of {width}")
                else:
                    row = row + [None] * (width - len(row))
                    n_short, first_short = n_short + 1, first_short or line
            is_spoilt = is_spoilt or isinstance(fields, BadRow)
            yield line, row
        short = f"rows lack fields at their end and get nulls, the first one in line {first_short}"
        for n, told in ((n_short, short), (n_no_rows, "lines that are blank or repeat the header are skipped")):
            if n and not self._has_told:
                logger.info("%s: %s %s", self.path, f"{n:,}", told)
        self._has_told = True

    def _fit(self, fields: list | BadRow, line: int) -> list | BadRow | None:
        """Return the fields, perhaps too few, of a row that does not match the names, or a BadRow; None for no row."""
        if isinstance(fields, BadRow):
            return fields
        n_fields, width, is_csv, is_blank = len(fields), len(self.names), self.format == "csv", not any(fields)
        if is_blank and (width == 1 or is_csv):
            return [""] if width == 1 else None
        # if the last column may be empty, these may come from a comma within a text
        if n_fields > width and not any(fields[width:]) and not self._may_end_empty:
            return fields[:width]
        reason = "a blank line" if is_blank else f"{n_fields} field(s) instead of {width}"
        bad_row = BadRow(self.path, line, fields, reason)
        if is_blank or n_fields > width:
            return bad_row
        if not is_csv and fields[-1].startswith('"') and fields[-1].count('"') % 2:
            # the rest of the text, in the next lines, would be taken for rows
            way_out = "Give the file the suffix .csv; TABs may separate columns there, too."
            raise UserError(f"{bad_row}, a quote that is not closed. Quotes are ordinary text here. {way_out}")
        text_at = self.names.index(self.text_column)
        cells = fields[0].split(self._separator[0]) if is_csv and n_fields == 1 else []
        if len(cells) >= width and not all(cell.startswith(" ") for cell in cells[1:]):
            ends_row = is_sentiment(cells[-1]) or (self._is_number[-1:] == [True] and are_numbers(cells[-1:]))
            if ends_row or text_at > 0:  # else it may be a text with commas
                # if Excel has a row in one cell, it quotes the whole row and doubles the quotes within
                inner = [row for _, row in formats.read_separated(fields, self.path, self._separator, "csv")]
                is_row = len(inner) == 1 and isinstance(inner[0], list) and len(inner[0]) == width
                if is_row and all(are_numbers([cell or "0"]) for cell, n in zip(inner[0], self._is_number) if n):
                    return inner[0]
                return bad_row
        if text_at >= n_fields or any(field.count('"') % 2 for field in fields):
            return bad_row
        fits = all(not is_number or are_numbers([field]) for field, is_number in zip(fields, self._is_number))
        return fields if fits else bad_row

    @cached_property
    def _is_number(self) -> list[bool]:
        """Return for each column of a table whether it holds only numbers, dates or links."""
        return [*map(are_numbers, zip(*self._whole, strict=True))]

    def _json_rows(self, content: TextIO) -> Iterator[Row]:
        """Yield the rows of JSONL or JSON, one by one; with `keep_lines` the values are the line and the text."""
        wanted = [name for name in (self.text_column, self.label_column) if name is not None]
        known, is_nested = {*self.names}, any(name in self._nested for name in self.names)
        for line, written, found in self._objects(content, float if self.keep_lines else Decimal):
            if not isinstance(found, dict):
                yield line, found if isinstance(found, BadRow) else BadRow(self.path, line, found, "not an object")
                continue
            row = flatten(found) | found if is_nested else found
            more = found.keys() - known if self.label_column is None else ()
            missing = [name for name in wanted if name not in row]
            # what is within a null, such as caption.text, is null, too
            missing = [name for name in missing if not any(name.startswith(f"{p}.") for p in row if row[p] is None)]
            if more and self.keep_lines:
                self.names, known, more = [*self.names, *more], known | more, ()
            if missing:
                yield line, BadRow(self.path, line, found, f"no {missing[0]!r}")
            elif not wanted or not isinstance(row.get(self.text_column), str | None):
                yield line, BadRow(self.path, line, found, "the text is not a string")
            elif more:
                reason = f"keys that none of the first rows has ({', '.join(more)}); only .jsonl as output keeps them"
                yield line, BadRow(self.path, line, found, reason)
            elif self.keep_lines:
                yield line, [written or json.dumps(found, ensure_ascii=False), row.get(self.text_column)]
            else:
                yield line, [_to_text(row.get(name)) for name in self.names]

    def _to_chunk(self, start: int, lines: Sequence[int], rows: Sequence[list | BadRow]) -> Chunk:
        bad = {i: row for i, row in enumerate(rows) if row.__class__ is not list}
        found = [row for row in rows if row.__class__ is list] if bad else rows
        try:
            columns = [pa.array(column, pa.string()) for column in zip(*found, strict=True)]
        except UnicodeEncodeError:  # rare, so each value is looked at only here
            for i, row in enumerate(rows := [*rows]):
                if i not in bad and any(map(formats.SURROGATE.search, filter(None, row))):
                    rows[i] = BadRow(self.path, lines[i], row, "not valid UTF-8")
            return self._to_chunk(start, lines, rows)
        width = len(self.schema)
        columns = columns or [pa.array([], pa.string())] * (width + 1)
        # with `keep_lines`, the text follows the line; a file whose rows are all bad may have no columns
        text_at = self.names.index(self.text_column) if self.names and not self.keep_lines else -1
        good = np.delete(np.arange(len(rows)), [*bad])
        return Chunk(
            first=start,
            n_read=len(rows),
            numbers=start + good,
            lines=np.array(lines)[good],
            texts=columns[text_at],
            table=pa.Table.from_arrays(columns[:width], schema=self.schema),
            bad_rows=[(start + i, row) for i, row in bad.items()],
        )


def _to_cell(value: object) -> object:
    """Return a cell of a workbook: None for an empty one; whole numbers, which are floats there, as integers."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None if value == "" else value


def _to_array(cells: list) -> pa.Array:
    """Return a column of a workbook: of numbers, booleans or dates where all cells are such, else of text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds in ({int, float}, {int}, {float}, {bool}, {datetime.date}, {datetime.datetime}):
        return pa.array(cells)
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


def _to_text(value: object) -> str | None:
    """Return a JSON value as text: strings as they are, numbers with their own digits, the rest as JSON again."""
    if isinstance(value, str | None):
        return value
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=float)


def _find_own_texts(asked: str | None, objects: list[dict]) -> set[str]:
    """Return the texts that objects have beside their arrays: in the column asked for, else by name, else by content.

    Without the content, a document would be taken for a page of the entities or replies within it.
    """
    names = [*dict.fromkeys(chain(*objects))]
    columns = [[row.get(name) for row in objects] for name in names]
    by_asked = [(flatten(row) | row).get(asked) for row in objects]
    by_name = chain(*map(find_texts, objects))
    by_content = chain(*(columns[i] for i in find_text_columns(names, columns)[0]))
    texts = ({text for text in values if text and isinstance(text, str)} for values in (by_asked, by_name, by_content))
    return next(filter(None, texts), set())


def find_header(rows: list[Cells], named: str | None, path: Path | None) -> tuple[int, list[str]] | None:
    """Return the number of rows up to and including the header, and the column names; None without a header.

    Args:
        named: the column of texts that the user named, or None.
        path: the file; a UserError names it if the first row may be names or values. None takes such a row as values.
    """
    if re.fullmatch(r"column_\d+", named or "") and not any(named in row for row in rows[: formats.ROWS_ABOVE]):
        return None  # such names are for files without header
    n_filled = [sum(bool(cell and cell.strip()) for cell in row) for row in rows]
    if not any(n_filled):
        return 1, [*rows[0]]
    is_known = n_filled[0] == len(rows[0]) - 1 and "text" in map(name_kind, rows[0])
    for end in (0, -1) if is_known else (0,):
        held = [row[end] for row in rows[1:] if row]
        if rows[0] and not rows[0][end] and (are_numbers(held) or (is_known and are_sentiments(held))):
            n_filled[0] += bool(n_filled[0])  # an index, or one column beside that of texts, has no name: count it
    # only rows of the usual width count: a text with many commas, not quoted, would be wider than the header
    width = Counter(len(row) for row, n in zip(rows, n_filled, strict=True) if n).most_common(1)[0][0]
    most = max(n for n, row in zip(n_filled, rows, strict=True) if len(row) == width)
    is_named = len(rows[0]) > 1 and all(map(name_kind, rows[0]))  # even if commas without quotes widen the rows
    first = 0 if is_named else next(i for i, n in enumerate(n_filled) if n and 2 * n > most)
    cells, is_one_column = rows[first], max(n_filled) == 1
    # the cells below each cell of the first row, without repetitions of this row
    below = [column[1:] for column in zip_longest(cells, *(row for row in rows[first + 1 :] if row != cells))]
    labels = [i for i, cell in enumerate(cells) if is_sentiment(cell)]
    if any(is_sentiment(cell) for i in labels for cell in below[i]):
        return None
    if len(labels) == 1 and not are_numbers(below[labels[0]]):
        return None  # a label: columns have such names only in pairs, as for praise and criticism
    known = {"text"} if is_one_column else {"text", "label", "rating", "other"}
    named = named and named.lower()
    for i, row in enumerate(rows[: formats.ROWS_ABOVE]):
        # titles stand above names and fill fewer cells; names fill more than half of the cells
        if any(n >= n_filled[i] for n in n_filled[:i]) or (i != first and 2 * n_filled[i] <= most):
            continue
        kinds = {name_kind(cell) for j, cell in enumerate(row) if i != first or not cell or cell not in below[j]}
        # None, for no name given, matches an empty cell of a workbook: such a row is more often names
        if not known & kinds and named not in [cell and cell.lower() for cell in row]:
            continue
        second = rows[i + 1] if len(rows) > i + 1 else []
        # the header has cells that span two rows, and cells that span two columns
        is_merged = {*zip_longest(map(bool, row), map(bool, second))} >= {(True, False), (False, True)}
        is_two = is_merged or "text" in {*map(name_kind, second)} - kinds
        if is_two and all(map(name_kind, filter(None, second))):
            return i + 2, [cell or above for cell, above in zip_longest(second, row, fillvalue="")]
        return i + 1, [*row]
    are_names = _are_names(cells, below, is_one_column)
    if are_names is None and path is not None:
        shown = next(row for row in rows if any(row))
        named = shlex.quote(max(filter(None, shown), key=len))
        raise UserError(
            f"{path}: is the first line, {', '.join(map(repr, shown[:10]))}, the names of the columns? If so, name the "
            f"one with the texts, for example --text_column {named}. If it is a row, give a number, for example "
            "--text_column column_1 for the first column."
        )
    return (first + 1, [*cells]) if are_names else None


def _are_names(cells: Cells, below: list[Cells], is_one_column: bool) -> bool | None:
    """Return whether cells, none of them a known name, name the columns below them; None if that is unclear."""
    numbers = [*map(str, range(len(cells)))]  # pandas' default names of columns
    is_index = not cells[0] and cells[1:] == numbers[:-1] and are_numbers(below[0])
    if not is_one_column and (cells == numbers or is_index):
        return True
    is_value = [are_numbers([cell]) for cell in cells]
    # a word above numbers, or above labels
    are_unlike = any(
        cell and not is_number and (are_numbers(held) or (any(held) and all(map(is_sentiment, filter(None, held)))))
        for cell, is_number, held in zip(cells, is_value, below)
    )
    are_repeated = any(cell and cell in held for cell, held in zip(cells, below))
    n_words = 3 if is_one_column else 6  # this many are too many for a name
    are_values = any(is_value) or are_repeated or any(len((cell or "").split()) >= n_words for cell in cells)
    return None if are_unlike == are_values or cells == ["0"] else are_unlike


def find_text_columns(names: list[str], columns: list[Sequence[object]]) -> tuple[list[int], list[int]]:
    """Return the indices of the columns of texts, by name, else by content; and of all that could be, best first.

    Of several names, it is the only one that is no reply and that at least half of the rows fill. By content, it is the
    one whose values are at least twice as long and varied as those of any other; replies and titles do not count.
    `columns` holds the first values of each.
    """
    weights, labels = {}, []  # weights of columns with words; indices of columns of labels
    for i, values in enumerate(columns):
        texts = [*islice((value for value in values if isinstance(value, str) and value.strip()), _ROWS_WEIGHED)]
        n_words = [sum(map(bool, _WORD.findall(text))) for text in texts]
        is_empty = not texts and all(value is None or isinstance(value, str) for value in values)
        if is_empty or any(n_words):
            weights[i] = sum(n_words) * len({*texts}) / len(texts) ** 2 if texts else 0.0
        if name_kind(names[i]) == "label" or (texts and all(map(is_sentiment, texts))):
            labels.append(i)
    could = sorted(weights, key=lambda i: (i in labels, -weights[i]))  # messages show the best one
    named = [i for i, name in enumerate(names) if name_kind(name) == "text"]
    for i in [i for i in named if name_kind(names[i][:-1]) == "text"]:
        if are_numbers(str(value) for value in columns[i] if value is not None):
            named.remove(i)  # `comments` that are numbers count them
    if named:
        known = [i for i in named if i in weights] or named
        known = [i for k, i in enumerate(known) if all(columns[i] != columns[j] for j in known[:k])]  # skip copies
        if any(isinstance(value, dict | list) for i in known if i not in weights for value in columns[i]):
            return [], could  # the texts are nested in it
        if len(columns[known[0]]) >= _ROWS_EMPTY and not any(any(columns[i]) for i in known):
            return [], could  # it is for remarks, and nobody made one
        # not by length: a post or an article is longer than the comments on it
        filled = [i for i in known if not REPLY.search(names[i]) and 2 * sum(map(bool, columns[i])) >= len(columns[i])]
        return filled if len(filled) == 1 else known, could
    if len(names) == 1:
        return could, could
    if len(names) == 2 and len(labels) == 1 and 1 - labels[0] in weights:
        return [1 - labels[0]], could
    ranked = [i for i in could if not REPLY.search(names[i]) and name_kind(names[i]) != "other"]
    ranked = ranked if any(weights[i] >= 3.0 for i in ranked) else could  # beside titles only, replies are texts
    first, second, *_ = [*(weights[i] for i in ranked if i not in labels), 0.0, 0.0]
    return [i for i in ranked if weights[i] == first >= max(3.0, 2 * second)], could
