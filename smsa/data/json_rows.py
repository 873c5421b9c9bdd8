"""JSON -> its rows, one by one, each with its line: JSONL, arrays, pages of an API, the layouts of pandas."""

import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import InvalidOperation
from itertools import chain, islice
from pathlib import Path

from smsa.data.formats import REPLY, BadRow, name_kind, read_whole
from smsa.errors import UserError

_PAGES_WEIGHED = 20  # first objects, which show whether objects are pages; each may hold hundreds of rows
# What is not JSON, or holds too long a number, too deep a nesting, or an exponent that is too large for Decimal
_NOT_JSON = (ValueError, RecursionError, InvalidOperation)
_CONSTANTS = {"Infinity": math.inf, "-Infinity": -math.inf}  # NaN becomes None: Python writes missing values so

# The line where a row starts; its JSON on one line, or None if the row is not written as one object; and its value
JsonRow = tuple[int, str | None, object]


def read_jsonl(lines: Iterable[str], path: Path, parse_float: Callable = float) -> Iterator[JsonRow]:
    """Yield the row of each line that is not blank; `parse_float` converts numbers that are not integers."""
    decoder = json.JSONDecoder(parse_float=parse_float, parse_constant=_CONSTANTS.get)
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n, ")  # also a comma, as between the rows of an array
        if not line or line.isspace():
            continue
        try:
            row = decoder.decode(line)
        except _NOT_JSON as error:
            row = BadRow(path, number, line, f"not valid JSON ({error})")
        yield number, line, row


def read_json(stream: io.TextIOWrapper, path: Path, parse_float: Callable = float) -> Iterator[JsonRow]:
    """Yield each row in a file of JSON: of an array, of consecutive objects, or of one object by pandas or an API.

    Rows within one object have a number in place of their line; see `_find_rows`. A string is a row with only a text.
    A file that has no rows, or is not JSON, is refused.
    """
    text = read_whole(stream.buffer, path).decode(stream.encoding, stream.errors)
    decoder = json.JSONDecoder(parse_float=parse_float, parse_constant=_CONSTANTS.get)
    values, names = _split_values(text, path, decoder.raw_decode), None
    first = [*islice(values, 2)]
    is_alone = len(first) == 1 and not text.lstrip(" \t\r\n,").startswith("[")
    if is_alone:
        found = ((n, None, row) for n, row in enumerate(_find_rows(first[0][2], path), start=1))
    for line, place, row in found if is_alone else chain(first, values):
        if isinstance(row, dict):  # these line breaks are not within strings, where JSON escapes them
            yield line, place and re.sub(r"[\r\n]", " ", text[place]), row
        elif isinstance(row, str) and not is_alone:
            yield line, None, {"text": row}
        elif not isinstance(row, list):
            yield line, None, row
        elif names is None and {*map(type, row)} == {str} and all(map(name_kind, row)):
            names = row
        else:
            names = names or [f"column_{i + 1}" for i in range(len(row))]
            is_whole, reason = len(row) == len(names), f"{len(row)} value(s) instead of {len(names)}"
            yield line, None, dict(zip(names, row)) if is_whole else BadRow(path, line, row, reason)


def _split_values(text: str, path: Path, decode: Callable) -> Iterator[tuple[int, slice, object]]:
    """Yield each value of a JSON array, or of consecutive values: its line, its slice of the text, and the value."""
    skip = re.compile(r"[\s,]*").match
    start = skip(text, 0).end()
    is_array = text.startswith("[", start)
    before, line, end = 0, 1, start + is_array
    try:
        while (position := skip(text, end).end()) < len(text) or is_array:
            if is_array and text.startswith("]", position):
                if rest := text[position + 1 :].strip():
                    raise ValueError(f"another value follows: {rest[:40]}")
                return
            line, before = line + text.count("\n", before, position), position
            value, end = decode(text, position)
            yield line, slice(position, end), value
    except _NOT_JSON as error:
        raise UserError(f"{path}:{line}: not valid JSON from here on ({error}).") from error


def _find_rows(found: object, path: Path) -> list:
    """Return the rows of an object: those of its only array, or those that pandas writes with any `orient`."""
    held = found if isinstance(found, dict) else {}
    columns = [dict(enumerate(cells)) if isinstance(cells, list) else cells for cells in held.values()]
    is_index = bool(held) and all(isinstance(row, dict) for row in held.values())
    if is_index:  # rows by the index of pandas, or by the keys of a database
        is_numbered = all(map(str.isdecimal, held)) and not all(map(str.isdecimal, columns[0]))
        shared = {*columns[0]}.intersection(*columns)  # empty for {"data": {"comments": []}, "meta": {"n": 0}}
        is_index = is_numbered or (any(map(name_kind, shared)) and not any(map(name_kind, held)))
    arrays = [] if is_index and len(held) > 1 else find_arrays(held, dict)
    if len(arrays) > 1:
        listed = ", ".join(key for key, _ in arrays)
        raise UserError(f"{path} holds several arrays, {listed}: save the one with the texts as a file of its own.")
    if arrays:
        return arrays[0][1]
    if isinstance(held.get("columns"), list) and isinstance(held.get("data"), list):
        return [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]
    if is_index:
        return [*held.values()]
    if columns and all(isinstance(cells, dict) and cells.keys() == columns[0].keys() for cells in columns):
        return [{name: cells[key] for name, cells in zip(held, columns, strict=True)} for key in columns[0]]
    if len(arrays := find_arrays(held, list)) != 1:
        raise UserError(f"{path} holds no array of objects, nor columns with the same rows each: save it as JSONL.")
    return arrays[0][1]


def find_arrays(found: object, kind: type) -> list[tuple[str, list]]:
    """Return the outermost arrays in an object whose first value is a `kind`; only those with texts, if any has some.

    An object with a text of its own is a row, and what it contains, such as replies, belongs to that row.
    """
    level = [found] if isinstance(found, dict) else []
    while level:
        arrays = [(key, rows) for part in level for key, rows in part.items() if isinstance(rows, list) and rows]
        if arrays := [(key, rows) for key, rows in arrays if isinstance(rows[0], kind)]:
            return [(key, rows) for key, rows in arrays if any(map(find_texts, rows))] or arrays
        level = [part for parts in level for part in parts.values() if isinstance(part, dict)]
        level = [part for part in level if not any(name_kind(k) == "text" and type(v) is str for k, v in part.items())]
    return []


def find_texts(row: object) -> list[str]:
    """Return the values whose keys are names of texts, also in nested objects other than replies, but not in arrays."""
    found = []
    for key, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, dict):
            found += [] if REPLY.search(key) else find_texts(value)
        elif isinstance(value, str) and name_kind(key) == "text":
            found.append(value)
    return found


def open_pages(found: Iterator[JsonRow], find_own_texts: Callable, notes: list[str]) -> Iterator[JsonRow]:
    """Yield the rows of pages, which are objects with arrays of rows, as APIs return them; other objects are rows.

    A page has no text of its own beside its arrays, or the same one as all other pages, as in `"message": "success"`.
    `notes` takes what was found.
    """
    first = [*islice(found, _PAGES_WEIGHED)]
    pages = [page for _, _, page in first if isinstance(page, dict)]
    own = find_own_texts(pages)
    arrays = [(key, rows) for page in pages for key, rows in find_arrays(page, dict) if any(map(find_texts, rows))]
    if len(own) > (len(first) > 1) or not any(len(rows) > 1 for _, rows in arrays):
        yield from chain(first, found)
        return
    notes.append("the rows are in arrays within objects; all else in these objects is ignored")
    keys = {key for key, _ in arrays}
    for line, written, page in chain(first, found):
        if arrays := find_arrays(page, dict):
            # known keys, as rows may lack their text; an empty page may still have other arrays, such as one of users
            held = [rows for key, rows in arrays if key in keys or any(map(find_texts, rows))]
            yield from ((line, None, row) for row in chain(*held))
        elif not isinstance(page, dict) or {*find_texts(page)} - own:
            yield line, written, page


def flatten(row: dict) -> dict[str, object]:
    """Return the nested values of a row by their paths, such as `data.text`; a list of one value is that value."""
    found: dict[str, object] = {}

    def walk(value: object, *path: str) -> None:
        while isinstance(value, list) and len(value) == 1:
            (value,) = value
        if isinstance(value, dict):
            for key, part in value.items():
                if "." not in key:
                    walk(part, *path, key)
        elif len(path) > 1:
            found[".".join(path)] = value

    walk(row)
    return found
