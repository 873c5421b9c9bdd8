"""Files of any size -> their columns, and chunks of rows: the one reader of training, evaluation, prediction and page.

Every value goes on as it was. Text formats carry no types, so all their columns are strings here; a line of JSONL may
stay whole. The bytes of each format are taken apart in `smsa.data.formats`. What was found is logged in one line.
"""

import datetime
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smsa.data.formats import (
    INPUT_FORMATS,
    REPLY,
    SENTIMENTS,
    SHEETS,
    SURROGATE,
    BadRow,
    Row,
    are_numbers,
    are_quoted,
    find_contents,
    find_encoding,
    find_header,
    find_layout,
    find_separator,
    find_text_columns,
    is_sentiment,
    name_kind,
    open_file,
    read_separated,
    read_sheets,
    unescape,
)
from smsa.data.json_rows import JsonRow, flatten, open_pages, read_json, read_jsonl
from smsa.data.labels import are_sentiments, find_label_columns, plain_label
from smsa.errors import UserError

logger = logging.getLogger(__name__)

SMSA_COLUMNS = ("text", "gold")  # of a file without header
# A line with at most one label of fastText, which stands before or behind the text; one with several is no row
_FASTTEXT = re.compile(r"^(?!.*__label__.*__label__)(?:(.*\S)??\s*__label__(\S+)[ \t,]*)?(.*)")
_LABEL_FIELD = re.compile(r"[,;|]\"?__label__|__label__[^\s,;|]+[,;|]|\t[^\t]*\t")  # of CSV, or of three columns
_NESTED_SHOWN = 30  # of what stands within columns, in a message
_ROWS_LOOKED_AT = 1000  # for what the columns hold
SPLIT = re.compile(
    r"(?!(?:data|set)$)(?:data[ _])?(train(?:ing)?|latih|pelatihan)?"
    r"(?:val(?:id(?:ation|asi)?)?|dev|eval|test(?:ing)?|uji|pengujian)?(?:[ _]?(?:data|set))?"
)
IS_SPLIT = re.compile(r"is_?(?:train|valid|test)(?:ing)?", re.IGNORECASE)  # the name of a column of yes and no
_NOT_MEANT = re.compile(f"{REPLY.pattern}|predict", re.IGNORECASE)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file; the bad ones stand apart."""

    first: int  # number of its first row; rows are counted from what `Source.chunks` was given
    n_read: int  # rows, bad ones included
    numbers: np.ndarray  # (n_good,): number of each good row
    lines: np.ndarray  # (n_good,): line where it starts, from 1; of Parquet the number of the row, from 1
    texts: pa.Array  # (n_good,) of strings; null where there is none
    table: pa.Table  # (n_good, n_columns): the original columns, or whole lines of JSONL
    bad_rows: list[tuple[int, BadRow]]  # with the number of the row


class Source:
    """One input file: its columns, which of them holds the texts, and its rows.

    Args:
        path: the file.
        format: one of `INPUT_FORMATS`; None for that of the suffix.
        text_column: name of the column of texts; None to find it by its name or by what it holds.
        label_column: name of the column of labels, of a labelled file; `label` also finds one of another usual name. A
            row of JSON may lack any other key.
        keep_lines: whether a row of JSONL or JSON stays a line, not taken apart; it then has the one column `line`.
        sheet: of a workbook; None for the only one with texts.

    Attributes:
        format, compression: how the file is written.
        names: the columns; where lines are kept, also those that only later rows turn out to have when they are read.
        text_column, label_column: those that were named or found; None for a file without anything in it.
        meanings: of numbers that are labels, as a column of words beside them says.
        split_column: of a labelled file, the one that says train, test and the like; None if there is none.
        candidates: the columns that could hold texts.
        schema: the original columns with their types.
        is_typed: whether columns may be other than strings.
        encoding: of text formats; `utf-8-sig` has a byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if there is no such column, or several to choose from, its `candidates`; if the file is not what its
            suffix says.
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
        self._text_asked = None if text_column is None else str(text_column)  # of a table of pandas, a number
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, or is a folder.")
        suffix, self.compression = find_layout(path, INPUT_FORMATS, format)
        self.encoding, self._end, self._separator, self._n_above, self._notes = "utf-8", "\n", None, 0, []
        self._table, self._has_told, self._nested = None, False, {}
        self._is_number, self._may_end_empty = [], False  # of each column, and of the last
        self.candidates, self.meanings = [], {}
        self.text_column = self.label_column = self.split_column = None
        self._change: Callable[[str], str] | None = None  # what makes lines those of CSV or TSV
        self._open = partial(open_file, path, self.compression)
        with self._open() as stream:
            self.format = find_contents(stream, path, suffix)
            if self.format not in ("parquet", *SHEETS):
                self.encoding, self._end = find_encoding(stream)
        if self.format != suffix:
            self._notes.append("JSON" if self.format == "json" else "text, and no workbook")
        self.is_typed = self.format == "parquet" or self.format in SHEETS
        if sheet is not None and self.format not in SHEETS:
            self._notes.append(f"no workbook, so without sheet {sheet!r}")  # which another file may have
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
        """Return the columns of a file and what stands in the first rows of each."""
        if self.format == "parquet":
            with self._open() as stream:
                self.schema = pq.read_schema(stream)
            head = next(self._tables(_ROWS_LOOKED_AT), self.schema.empty_table())
            known = (is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
            return self.schema.names, [  # other types may hold what Python cannot, as dates beyond the year 9999
                column.to_pylist() if any(is_kind(column.type) for is_kind in known) else [0] for column in head.columns
            ]
        if self.format == "json":
            with self._open(self.encoding) as lines:  # an object a line, whatever the suffix says
                first = [row for _, _, row in islice(read_jsonl(lines, self.path), 2)]
            self.format = "jsonl" if len(first) == 2 and all(isinstance(row, dict) for row in first) else "json"
        with self._open(self.encoding, self._end) as lines:
            if self.format in ("json", "jsonl"):
                found = islice(self._objects(lines), _ROWS_LOOKED_AT)
                rows = [row for _, _, row in found if isinstance(row, dict)]
                names, within = list(dict.fromkeys(chain(*rows))), [*map(flatten, rows)]
                self._nested = {
                    path: [row.get(path) for row in within]
                    for path in dict.fromkeys(chain(*within))
                    if path not in names
                }
                return names, [[row.get(name) for row in rows] for name in names]
            head = list(islice(lines, _ROWS_LOOKED_AT))
        is_fasttext = "__label__" in "".join(head[:1]) and not _LABEL_FIELD.search(head[0])
        if is_fasttext and all("__label__" in line or line.isspace() for line in head):
            self._change, self._separator, self.format = partial(_FASTTEXT.sub, r"\2\t\1\3"), "\t", "tsv"
            self._notes.append("fastText's labels")
            columns = [[self._change(line).split("\t")[i] for line in head if not line.isspace()] for i in (0, -1)]
            return [self._label_asked or SMSA_COLUMNS[1], self._text_asked or SMSA_COLUMNS[0]], columns
        if self.format in ("tsv", "txt") and are_quoted(head, self.path):
            self.format = "csv"
        self._separator, rows = find_separator(head, self.path, self.format)
        if self.format == "csv" and any('\\"' in line for line in head):
            separator, unescaped = find_separator([*map(unescape, head)], self.path, self.format)
            if unescaped.count([]) < rows.count([]):  # of bad rows, and blank lines
                self._change, self._separator, rows = unescape, separator, unescaped
                self._notes.append("quotes with a backslash before them")
        if self._separator not in (None, {"csv": ",", "tsv": "\t"}.get(self.format)):
            self._notes.append(f"columns separated by {self._separator!r}")
        if self.encoding != "utf-8":
            self._notes.append(f"the encoding is {self.encoding}")
        return self._name_columns(rows, all(line.startswith('"') for line in head[:2]))

    def _name_columns(self, rows: list[list], is_quoted: bool = False) -> tuple[list[str], list[list]]:
        """Return what the first rows say: names of columns and what stands in each; also which row is the first."""
        widths = Counter(len(row) for row in rows if row)
        if not widths:
            return ([SMSA_COLUMNS[0]], [[]]) if self.format == "txt" else ([], [])
        # a text a line, or text and label as in SmSA: what may be a header, or not, is none
        is_lines = self.format in ("txt", "tsv") and max(widths) <= (2 if self._label_asked else 1)
        try:
            header = find_header(rows, self._text_asked)
        except LookupError as error:
            first = next(row for row in rows if any(row))
            if not is_lines:
                named = shlex.quote(max(filter(None, first), key=len))
                raise UserError(
                    f"{self.path}: is the first line, {', '.join(map(repr, first[:10]))}, the names of the columns? If "
                    f"so, name the one with the texts, for example --text_column {named}; if it is a row, number it: "
                    "--text_column column_1 for the first column."
                ) from error
            header = None
        if header is not None:
            self._n_above, names = header
            behind = [row for row in rows[self._n_above :] if any(row)]
            wider = [row for row in behind if len(row) == len(names) + 1]
            is_wider = (is_quoted or self._separator in ("\t", " ")) and len(wider) >= max(1, 0.9 * len(behind))
            if is_wider and all(row[0].isdecimal() for row in wider) and any(row[-1] for row in wider):
                names = ["", *names]  # R names no column of row numbers
            if self._n_above > 1 or (max(widths) == 1 and self.format == "txt"):
                self._notes.append(f"the names of the columns are in row {self._n_above}")
        else:
            names = [f"column_{i + 1}" for i in range(widths.most_common(1)[0][0])]
            if max(widths) > 1 or self.format == "csv":
                self._notes.append("no header")
        body = rows[self._n_above :]
        columns = [[row[i] for row in body if len(row) > i] for i in range(len(names))]
        whole = [row for row in body if len(row) == len(names)]
        self._is_number = [*map(are_numbers, zip(*whole, strict=True))]
        self._may_end_empty = not all(row[-1] for row in whole)
        if header is None:
            self._name_by_content(names, columns)
        return names, columns

    def _name_by_content(self, names: list[str], columns: list[list]) -> None:
        """Call the columns of a file without header `text` and `gold`, where they are known, else by number."""
        asked = (self._text_asked, self._label_asked)
        texts, could = find_text_columns(names, columns)
        texts = texts or could
        n_labels = [sum(map(is_sentiment, values)) for values in columns]
        labels = [i for i, values in enumerate(columns) if 0 < len(values) <= 2 * n_labels[i]]
        others = [i for i in could if i not in labels]
        if len(names) == 2 and (labels or self._label_asked or self._text_asked == SMSA_COLUMNS[0]):
            if len(labels) != 1:  # as in SmSA, if the texts do not stand out
                labels = [1 - texts[0] if len(texts) == 1 else 1]
            texts = [1 - labels[0]]
        elif len(labels) == len(others) == 1:
            texts = others
        for found, name, usual in zip((texts, labels), asked, SMSA_COLUMNS, strict=True):
            if len(found) == 1 and name not in names:
                names[found[0]] = name or usual

    def _set_columns(self, names: list[str], columns: list[list]) -> None:
        """Take the columns, and find those of texts, of labels and of splits, also within rows of JSON."""
        self.names = names
        if not self.is_typed:
            try:
                self.schema = pa.schema([(name, pa.string()) for name in names])
            except UnicodeEncodeError as error:
                raise UserError(f"{self.path}:1: the names of the columns are not valid UTF-8: {names}.") from error
        # of this sheet alone: another one was looked at before
        self.meanings, self.text_column, self.split_column, self.label_column = {}, None, None, self._label_asked
        if not names:
            return
        paths, held = [*names, *self._nested], [*columns, *self._nested.values()]
        # what stands within is called by its own name, if it is no answer and no prediction
        called = [*names, *(path if _NOT_MEANT.search(path) else path.rpartition(".")[2] for path in self._nested)]
        if self._label_asked is not None:
            self.label_column = self._find_labels(paths, called, held)
        texts, could = find_text_columns(names, columns)
        if self._nested and not texts:
            texts, could = find_text_columns(called, held)
        texts, could = ([i for i in found if paths[i] != self.label_column] for found in (texts, could))
        self.candidates = [paths[i] for i in could]
        usual, shown = (texts[::-1], [*could, 0][:1]) if self._text_asked is None else ([], [])
        self.text_column = self._choose("--text_column", self._text_asked, usual, shown, paths)
        if self.text_column == self.label_column:
            raise UserError(f"{self.path}: texts and labels cannot both be in {self.label_column!r}.")
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
        """Return the column of labels, see `find_label_columns`; note what numbers in it mean, if another one says."""
        taken, meant = [], []
        if self._label_asked == "label":
            taken, meant = find_label_columns(called, held, len(self.names))
        # behind the columns of annotators, and beside predictions, stands what is true
        label = self._choose("--label_column", self._label_asked, taken, meant[-1:], paths)
        if label != self._label_asked:
            self._notes.append(f"the labels are in the column {label!r}")
        numbers = [*map(plain_label, held[paths.index(label)])]
        for path, values in zip(paths, held):
            if not self.meanings and are_numbers(numbers) and are_sentiments(values):
                pairs = {(number, plain_label(word)) for number, word in zip(numbers, values) if number}
                if len(pairs) == len({*numbers} - {None}) == len({word for _, word in pairs if word}):
                    self.meanings = dict(pairs)
                    self._notes.append(f"the labels mean what the column {path!r} says")
        return label

    def _choose(self, option: str, asked: str | None, usual: list[int], shown: list[int], paths: list[str]) -> str:
        """Return the only usual column, else the only one of the name that is asked for, but for case and blanks.

        Of several the last is shown as an example; of none, `shown`.
        """
        plain = [re.sub(r"[\W_]+", "", name).lower() for name in (asked or "", *paths)]
        found = usual or [i for i, path in enumerate(paths) if path == asked]
        found = found or [i for i, name in enumerate(plain[1:]) if asked and name == plain[0]]
        same = [path for path in paths if path in {paths[i] for i in found}]
        if len(same) == 1:
            return same[0]
        what = f"which column holds the {option[2:].removesuffix('_column')}s?"
        what = f"no column named {asked!r}." if asked and not found else what
        each = [name for name in self.names if plain_label(name) in SENTIMENTS]
        example = "".join(f", for example {option} {shlex.quote(paths[i])}" for i in [*shown, *found][-1:])
        way_out = f"Choose with {option}{example}."
        if len({*same}) < len(same):
            what, way_out = f"{len(same)} columns named {same[0]!r}.", "Give them names of their own in the file."
        elif option == "--label_column" and len(each) > 1:  # whose zeros would be taken for the other labels
            way_out = f"{', '.join(map(repr, each))} are labels: add a column that says which one a row has."
        elif usual and asked in same:
            way_out += f" To take {asked!r}, give the others other names."
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
            sheets = read_sheets(stream, self.path)
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
                ranks[name] = (0 if is_named else 1) if self.names else 3  # the last is empty
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
        body = [i for i in range(self._n_above, len(rows)) if any(rows[i]) and (len(names) == 1 or rows[i] != names)]
        columns = [[cells[i][j] for i in body] for j in range(len(names))]
        kept = [j for j, name in enumerate(names) if name or any(cell is not None for cell in columns[j])]
        names, columns = [names[j] or f"column_{j + 1}" for j in kept], [columns[j] for j in kept]
        self._table = pa.Table.from_arrays([*map(_to_array, columns)], names=names)
        self._lines, self.schema = np.array(body, dtype=np.int64) + 1, self._table.schema
        # of a column of strings, what looks like a number is no text, as in CSV
        self._set_columns(names, [values[:_ROWS_LOOKED_AT] for values in columns])

    def chunks(self, n_rows: int = 10_000, first: int = 0) -> Iterator[Chunk]:
        """Yield all rows in order, `n_rows` at a time, counted from `first`; the last chunk may be shorter."""
        if self.is_typed:
            start = first
            for table in self._tables(n_rows):
                numbers = first + np.arange(len(table))
                lines = numbers - start + 1 if self._table is None else self._lines[numbers - start]
                texts = table[self.text_column].cast(pa.string()).combine_chunks()
                yield Chunk(first, len(table), numbers, lines, texts, table, [])
                first += len(table)
            return
        with self._open(self.encoding, self._end) as content:
            found = self._json_rows(content) if self.format in ("jsonl", "json") else self._rows(content)
            while rows := list(islice(found, n_rows)):
                yield self._to_chunk(first, *zip(*rows, strict=True))
                first += n_rows

    def _tables(self, n_rows: int) -> Iterator[pa.Table]:
        """Yield the rows of a workbook or of Parquet, `n_rows` at a time."""
        if self._table is not None:
            yield from (self._table[i : i + n_rows] for i in range(0, len(self._table), n_rows))
            return
        columns, batches = [*filter(None, (self.text_column, self.label_column, self.split_column))], []
        columns = columns if self.label_column else None
        with self._open() as stream:
            file, group = pq.ParquetFile(stream, pre_buffer=False), 0
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

    def _rows(self, content: TextIO) -> Iterator[Row]:
        """Yield the rows. What a row lacks at its end are nulls, but it is bad if the next line is the rest of it."""
        names, width = self.names, len(self.names)
        # names that come again, also where files with byte-order marks were put together, are no row; nor is a line of
        # separators, as spreadsheets leave behind, but a prediction has a row for it
        no_rows = [names, [f"\ufeff{names[0]}", *names[1:]]] if width > 1 else []
        no_rows += [[""] * width] if self.format == "csv" and self.label_column is not None else []
        lines = map(self._change, content) if self._change else content
        read = islice(read_separated(lines, self.path, self._separator, self.format), self._n_above, None)
        fitted = (
            (line, fields, fields)
            if fields.__class__ is list and len(fields) == width and fields not in no_rows
            else (line, None if fields in no_rows else self._fit(line, fields), fields)
            for line, fields in read
        )
        is_spoilt, n_no_rows, n_short, first_short = False, 0, 0, 0
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
                elif is_spoilt:  # by a quote that was left open
                    row = BadRow(self.path, line, row, f"{len(row)} field(s) instead of {width}")
                else:
                    row, n_short, first_short = row + [None] * (width - len(row)), n_short + 1, first_short or line
            is_spoilt |= isinstance(fields, BadRow)
            yield line, row
        short = f"rows lack fields at their end, which are nulls, the first in line {first_short}"
        for n, told in ((n_short, short), (n_no_rows, "lines that are blank, or name the columns again, are no rows")):
            if n and not self._has_told:
                logger.info("%s: %s %s", self.path, f"{n:,}", told)
        self._has_told = True

    def _fit(self, line: int, fields: list | BadRow) -> list | BadRow | None:
        """Return what a row has that is not as the header: fewer values, too, if they fit; None if it is no row."""
        if isinstance(fields, BadRow):
            return fields
        n_fields, width, is_csv = len(fields), len(self.names), self.format == "csv"
        if not any(fields) and (width == 1 or is_csv):
            return [""] if width == 1 else None
        # where the last column may be empty, a comma within a text would push its values aside
        if n_fields > width and not any(fields[width:]) and not self._may_end_empty:
            return fields[:width]
        found = f"{n_fields} field(s) instead of {width}" if any(fields) else "a blank line"
        bad_row = BadRow(self.path, line, fields, found)
        if not is_csv and 0 < n_fields < width and fields[-1].startswith('"') and fields[-1].count('"') % 2:
            # the lines below, which are the rest of the text, would pass for rows
            way_out = "Quotes are ordinary text here: give the file the suffix .csv, where TABs may separate columns."
            raise UserError(f"{bad_row}, a quote that is not closed. {way_out}")
        cells = fields[0].split(self._separator[0]) if is_csv and n_fields == 1 < width else []
        if len(cells) >= width and not all(cell.startswith(" ") for cell in cells[1:]):
            ends_row = is_sentiment(cells[-1]) or (self._is_number[-1:] == [True] and are_numbers(cells[-1:]))
            if ends_row or self.text_column != self.names[0]:  # else it may be a text with commas
                # as Excel writes a row that it has in one cell; the quotes within are doubled
                inner = [row for _, row in read_separated(fields, self.path, self._separator, "csv")]
                is_row = len(inner) == 1 and isinstance(inner[0], list) and len(inner[0]) == width
                if is_row and all(are_numbers([cell or "0"]) for cell, n in zip(inner[0], self._is_number) if n):
                    return inner[0]
                return bad_row
        fits = any(fields) and not any(field.count('"') % 2 for field in fields)
        fits &= all(not is_number or are_numbers([field]) for field, is_number in zip(fields, self._is_number))
        if fits and self.names.index(self.text_column) < n_fields < width:
            return fields
        return bad_row

    def _objects(self, content: TextIO, parse_float: type = float) -> Iterator[JsonRow]:
        """Return the rows of JSONL or JSON."""
        read = read_json if self.format == "json" else read_jsonl
        return open_pages(read(content, self.path, parse_float), self._text_asked, self._notes)

    def _json_rows(self, content: TextIO) -> Iterator[Row]:
        """Yield the rows of JSONL or JSON, one by one; where lines are kept, the values are the line and the text."""
        wanted = [name for name in (self.text_column, self.label_column) if name is not None]
        known, is_nested = {*self.names}, any(name in self._nested for name in self.names)
        for line, written, found in self._objects(content, float if self.keep_lines else Decimal):
            if not isinstance(found, dict):
                yield line, found if isinstance(found, BadRow) else BadRow(self.path, line, found, "not an object")
                continue
            row = flatten(found) | found if is_nested else found
            more = found.keys() - known if self.label_column is None else ()
            missing = [name for name in wanted if name not in row]
            if more and self.keep_lines:
                self.names, known, more = [*self.names, *more], known | more, ()
            if missing:
                yield line, BadRow(self.path, line, found, f"no {missing[0]!r}")
            elif not wanted or not isinstance(row[self.text_column], str | None):
                yield line, BadRow(self.path, line, found, "the text is not a string")
            elif more:
                reason = f"keys that none of the first rows has ({', '.join(more)}), which .jsonl as output keeps"
                yield line, BadRow(self.path, line, found, reason)
            elif self.keep_lines:
                yield line, [written or json.dumps(found, ensure_ascii=False), row[self.text_column]]
            else:
                yield line, [_to_text(row.get(name)) for name in self.names]

    def _to_chunk(self, start: int, lines: Sequence[int], rows: Sequence[list | BadRow]) -> Chunk:
        bad = {i: row for i, row in enumerate(rows) if row.__class__ is not list}
        found = [row for row in rows if row.__class__ is list] if bad else rows
        try:
            columns = [pa.array(column, pa.string()) for column in zip(*found, strict=True)]
        except UnicodeEncodeError:  # rare, so that only then each value is looked at
            rows = [
                BadRow(self.path, line, row, "not valid UTF-8")
                if row.__class__ is list and any(map(SURROGATE.search, filter(None, row)))
                else row
                for line, row in zip(lines, rows, strict=True)
            ]
            return self._to_chunk(start, lines, rows)
        columns = columns or [pa.array([], pa.string())] * (len(self.schema) + self.keep_lines)
        # behind a line that is kept stands its text; a file whose rows are all bad may have no columns
        text_at = -1 if self.keep_lines or not self.names else self.names.index(self.text_column)
        good = np.delete(np.arange(len(rows)), [*bad])
        return Chunk(
            first=start,
            n_read=len(rows),
            numbers=start + good,
            lines=np.array(lines)[good],
            texts=columns[text_at] if columns else pa.array([], pa.string()),
            table=pa.Table.from_arrays(columns[: len(self.schema)], schema=self.schema),
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
    if kinds and kinds <= {int, float}:
        return pa.array(cells, pa.float64() if float in kinds else pa.int64())
    if len(kinds) == 1 and kinds <= {bool, datetime.date, datetime.datetime}:
        return pa.array(cells)
    return pa.array([None if cell is None else str(cell) for cell in cells], pa.string())


def _to_text(value: object) -> str | None:
    """Return a JSON value as text: strings as they are, numbers with their own digits, the rest as JSON again."""
    if isinstance(value, str | None):
        return value
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=float)
