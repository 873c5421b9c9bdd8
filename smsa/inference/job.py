"""Files in, one labelled file out: in parts that are whole or absent, so that nothing is lost or scored twice.

    OUTPUT.parts/job.json                   what is scored, by which model, how
    OUTPUT.parts/rows-<first>-<last>.<ext>  the rows of one window as they will stand in OUTPUT
    OUTPUT.parts/rows-<first>-<last>.json   written last: the part is finished; its counts, sha256 and rejected rows

A part is one window of rows by position, so its bytes do not depend on who scores it, when, or beside how many others.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from filelock import FileLock, Timeout
from tqdm import tqdm

from smsa.data.reading import Source, Window
from smsa.data.rows import BAD_ROWS_SHOWN, BadRow, BadRowsError
from smsa.distributed import (
    count_processes,
    is_main,
    joined,
    on_first,
    process_rank,
    require_same,
    require_shared,
    wait_for_all,
)
from smsa.errors import UserError
from smsa.files import hash_file, naming, sync_folder, write_whole
from smsa.inference.classifier import (
    Encoded,
    Scores,
    SentimentClassifier,
    added_columns,
    require_captum,
)
from smsa.inference.writers import (
    INPUT_FORMATS,
    OUTPUT_FORMATS,
    compress,
    find_layout,
    join_columns,
    render_header,
    render_rows,
    write_all,
)
from smsa.models.devices import find_version

logger = logging.getLogger(__name__)

_EXISTS = "{} exists already: choose another --output, or remove it first."
EXPLAINED_ROWS = 32  # a part of texts that are explained, which takes some seconds
ON_BAD_ROW = ("strict", "skip")
_BYTES_DEPEND_ON = ("smsa", "torch", "transformers", "tokenizers", "numpy", "pyarrow")
_T = TypeVar("_T")


def score_files(classifier: SentimentClassifier, inputs: list[Path], output: Path, **options: object) -> dict:
    """Label every row of some files and write one file; what was finished before is not scored again.

    Every process of a launch calls it, with equal arguments.

    Args:
        classifier: a loaded model.
        inputs: files with the same columns.
        output: the file to write; it appears when all is done.
        options: as in `Job`.

    Returns:
        What `OUTPUT.summary.json` holds: `read`, `scored`, `empty`, `rejected` (read is the sum of the other three),
        `truncated`, `labels` (count of each), `seconds` and `rows_per_second` of this run, `output`, `job`.

    Raises:
        BadRowsError: for rows that cannot be scored, before anything is written, unless `on_bad_row` is `skip`.
        FileExistsError: if the output exists but is not what this job wrote, or another run is at work.
        ValueError: if inputs or options do not fit together, or parts were made by another job.
    """
    with joined():
        job = Job(classifier, [Path(path) for path in inputs], Path(output), **options)
        job.check()
        return job.run()


@dataclass(frozen=True)
class Part:
    """Rows `first` to `last` of all input rows, one window of one file, whose first row is `file_starts`."""

    source: Source
    file_starts: int
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"rows-{self.first:012d}-{self.last:012d}"


def _rows_of(part_name: str) -> int:
    first, last = part_name.split("-")[1:]
    return int(last) - int(first) + 1


class Job:
    """One output file in the making.

    Args:
        classifier, inputs, output: as in `score_files`.
        input_format, output_format: formats to go by instead of the suffixes.
        text_column: the column of texts; None to choose the only sensible one of each file.
        labels_only: add `label` alone.
        explain: add `words`, too: what each word of a text weighs for its label.
        prefix: what the added column names begin with.
        on_bad_row: `strict`, or `skip` to put bad rows into `OUTPUT.rejects.jsonl`.
    """

    def __init__(
        self,
        classifier: SentimentClassifier,
        inputs: list[Path],
        output: Path,
        *,
        input_format: str | None = None,
        output_format: str | None = None,
        text_column: str | None = None,
        labels_only: bool = False,
        explain: bool = False,
        prefix: str = "",
        on_bad_row: str = "strict",
    ):
        if on_bad_row not in ON_BAD_ROW:
            raise UserError(f"on_bad_row {on_bad_row!r} is not one of {', '.join(ON_BAD_ROW)}.")
        self.classifier, self.output = classifier, output
        self.layout = find_layout(output, OUTPUT_FORMATS, output_format)
        is_submission = self.layout.format == "submission"
        if is_submission and explain:
            raise UserError("--format submission has no column for --explain: choose one of them.")
        if explain:
            require_captum()
        labels_only = labels_only or is_submission
        self.options = {"labels_only": labels_only, "explain": explain, "prefix": prefix, "on_bad_row": on_bad_row}
        self.added = added_columns(classifier.labels, prefix, labels_only, explain)
        window_rows = classifier.engine.window_rows
        self.window_rows = min(window_rows, EXPLAINED_ROWS) if explain else window_rows
        reserved = frozenset() if is_submission else frozenset(self.added.names)
        self.sources = [
            Source(path, find_layout(path, INPUT_FORMATS, input_format), self.layout.format, text_column, reserved)
            for path in inputs
        ]
        self.schema = self._common_schema()
        render_header(self.layout.format, self.schema.names)  # refuses names that the format cannot hold
        for source in self.sources:
            if text_column is None and source.text_column is not None:
                logger.info("%s: the texts are in the column %r", source.path, source.text_column)
        self.parts = output.with_name(f"{output.name}.parts")
        self.summary_path = output.with_name(f"{output.name}.summary.json")
        self.rejects_path = output.with_name(f"{output.name}.rejects.jsonl")
        self._lock = FileLock(self.parts / "lock")
        self._inputs: list[dict] = []
        self._modified: dict[Path, int] = {}

    def _common_schema(self) -> pa.Schema:
        """Columns of the output."""
        named = [source for source in self.sources if source.schema.names] or self.sources[:1]
        first = named[0]
        for source in named[1:]:
            if not source.schema.equals(first.schema) or source.stays_whole != first.stays_whole:
                raise UserError(
                    f"{source.path} has other columns than {first.path}, or of other types ({_listed(source)}; "
                    f"{_listed(first)}), so they cannot go into one file: make --output a folder, for a file each."
                )
        if self.layout.format == "submission":
            return pa.schema([("index", pa.int64()), ("label", pa.string())])
        return join_columns(first.schema.empty_table(), self.added.empty_table()).schema

    def check(self) -> None:
        """Read all inputs once, on the first process: count rows, and refuse bad ones. Nothing is written.

        Raises:
            BadRowsError: unless `on_bad_row` is `skip`.
            FileExistsError: if the output exists and nothing says that this job wrote it.
        """
        self._inputs = on_first(self._describe_inputs)
        for source, described in zip(self.sources, self._inputs, strict=True):
            if not described["rows"]:
                logger.warning("%s has no rows.", source.path)

    def run(self) -> dict:
        """Do the rest; see `score_files`."""
        started = time.monotonic()
        require_same({name: value for name, value in self._describe().items() if name != "inputs"})
        try:
            spec, finished = on_first(self._prepare)
            if finished is None:
                if is_main():
                    logger.info("%s is finished: the same command wrote it before. Nothing to do.", self.output)
                return json.loads(self.summary_path.read_text(encoding="utf-8"))
            require_shared(self.parts / "job.json")
            self._score_parts(spec, set(finished))
            wait_for_all()
            return on_first(lambda: self._finish(spec, sum(map(_rows_of, finished)), started))
        except OSError as error:
            if error.errno is None or not self.parts.is_dir():  # one of our own, or nothing was begun
                raise
            kept = "the finished parts are kept, and the same command goes on from them"
            raise type(error)(error.errno, f"{error.strerror or error} ({kept})", error.filename) from error
        finally:
            self._lock.release()

    def _prepare(self) -> tuple[dict, list[str] | None]:
        """Take the output, and get the job and the names of its finished parts; None if all is done already."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(self.output.parent, os.W_OK):
            raise PermissionError(f"the folder {self.output.parent} cannot be written.")
        spec = json.loads(json.dumps(self._describe()))
        if self.output.exists():
            if self._wrote_output(spec):
                shutil.rmtree(self.parts, ignore_errors=True)
                return spec, None
            raise FileExistsError(_EXISTS.format(self.output))
        self.parts.mkdir(exist_ok=True)
        try:
            self._lock.acquire(timeout=3)  # processes that were killed may take a moment to be gone
        except Timeout as error:
            raise FileExistsError(
                f"another run is writing {self.output} right now: wait for it, or stop it."
            ) from error
        job_path = self.parts / "job.json"
        if job_path.exists():
            _refuse_another_job(job_path, spec)
        else:
            write_whole(job_path, _to_json(spec))
        for leftover in self.parts.glob("*.tmp"):
            leftover.unlink()
        return spec, [name for name in (path.stem for path in self.parts.glob("rows-*.json")) if self._is_whole(name)]

    def _describe_inputs(self) -> list[dict]:
        """Get name, text column, rows, size and sha256 of each input; refuses bad rows."""
        if self.output.exists() and not self.summary_path.exists():
            raise FileExistsError(_EXISTS.format(self.output))
        bad_rows, n_bad_rows, inputs = [], 0, []
        for source in self.sources:
            n_rows = 0
            for window in source.windows(self.window_rows):
                n_rows += window.n_read
                n_bad_rows += len(window.bad_rows)
                bad_rows += [row for _, row in window.bad_rows][: BAD_ROWS_SHOWN - len(bad_rows)]
            sha256, size = hash_file(source.path)
            described = {"file": source.path.name, "format": source.layout.format, "text_column": source.text_column}
            inputs.append(described | {"rows": n_rows, "bytes": size, "sha256": sha256})
            self._modified[source.path] = source.path.stat().st_mtime_ns
        if bad_rows and self.options["on_bad_row"] == "strict":
            way_out = "Mend them, or set them apart with --on_bad_row skip. Nothing has been written."
            raise BadRowsError(bad_rows, way_out, n_bad_rows)
        return inputs

    def _refuse_changed_inputs(self) -> None:
        """Refuse files that are not those that were checked; another machine may have a copy of its own."""
        for source, checked in zip(self.sources, self._inputs, strict=True):
            found = source.path.stat()
            if (
                found.st_size != checked["bytes"]
                or self._modified.get(source.path, found.st_mtime_ns) != found.st_mtime_ns
            ):
                raise UserError(
                    f"{source.path} was changed while it was scored: remove {self.parts} and run the same command "
                    "again."
                )

    def _describe(self) -> dict:
        """Get all that the output depends on, as plain values."""
        engine = self.classifier.engine
        libraries = [
            *_BYTES_DEPEND_ON,
            *["openvino"] * (engine.backend == "openvino"),
            *["captum"] * self.options["explain"],
        ]
        return {
            "inputs": self._inputs,
            "model": self.classifier.sha256,
            "labels": list(self.classifier.labels),
            "max_length": self.classifier.max_length,
            "output": {"format": self.layout.format, "compression": self.layout.compression},
            **self.options,
            "device": engine.device.type,
            "backend": engine.backend,
            "precision": engine.precision,
            "batch_tokens": engine.batch_tokens,
            "window_rows": self.window_rows,
            "machine": platform.machine(),
            "versions": {name: find_version(name) for name in libraries},
        }

    def _wrote_output(self, spec: dict) -> bool:
        try:
            summary = json.loads(self.summary_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        sha256, size = hash_file(self.output)
        wrote = {"job": spec, "output": {"bytes": size, "sha256": sha256}}
        return isinstance(summary, dict) and {name: summary.get(name) for name in wrote} == wrote

    def _is_whole(self, name: str) -> bool:
        try:
            return self._part_path(name).stat().st_size == self._read_record(name)["bytes"]
        except (OSError, ValueError, KeyError):
            return False

    def _read_record(self, name: str) -> dict:
        return json.loads((self.parts / f"{name}.json").read_text(encoding="utf-8"))

    def _part_path(self, name: str) -> Path:
        return self.parts / f"{name}.{self.layout.format}"

    def _score_parts(self, spec: dict, finished: set[str]) -> None:
        """Score this process's share of the parts that are not finished."""
        n_rows, n_finished = sum(source["rows"] for source in spec["inputs"]), sum(map(_rows_of, finished))
        name, is_quiet, next_look = self.output.name, not is_main(), 0.0
        self._refuse_changed_inputs()
        with tqdm(total=n_rows, initial=n_finished, unit=" rows", desc=name, disable=is_quiet, mininterval=1) as bar:
            encoded = _ahead(self._encode(self._share(finished)))
            for part, window, scores in _ahead(self._classify(encoded)):
                self._write_part(part, window, scores)
                if not is_quiet and time.monotonic() > next_look:  # the parts of the other processes count, too
                    bar.update(sum(_rows_of(path.stem) for path in self.parts.glob("rows-*.json")) - bar.n)
                    next_look = time.monotonic() + 1
            if not is_quiet:
                bar.update(n_rows - bar.n if count_processes() == 1 else 0)

    def _share(self, finished: set[str]) -> Iterator[tuple[Part, Window]]:
        """Yield the windows that fall to this process: every n-th of those that are not finished."""
        first, n_unfinished = 0, 0
        for source in self.sources:
            file_starts = first
            for window in source.windows(self.window_rows):
                part = Part(source, file_starts, first, first + window.n_read - 1)
                first += window.n_read
                if part.name not in finished:
                    if n_unfinished % count_processes() == process_rank():
                        yield part, window
                    n_unfinished += 1

    def _encode(self, windows: Iterable[tuple[Part, Window]]) -> Iterator[tuple[Part, Window, Encoded]]:
        for part, window in windows:
            yield part, window, self.classifier.encode(window.texts)

    def _classify(
        self, encoded_windows: Iterable[tuple[Part, Window, Encoded]]
    ) -> Iterator[tuple[Part, Window, Scores]]:
        for part, window, encoded in encoded_windows:
            scores = self.classifier.classify(encoded)
            if self.options["explain"]:
                scores = self.classifier.explain_window(window.texts, scores)
            yield part, window, scores

    def _write_part(self, part: Part, window: Window, scores: Scores) -> None:
        added = scores.to_table(self.options["prefix"], self.options["labels_only"])
        table = window.table
        if self.layout.format == "submission":
            table = pa.table({"index": part.file_starts + window.numbers})
        content = render_rows(self.layout.format, table, added, part.source.stays_whole)
        content = compress(content, self.layout.compression)
        label_ids = scores.label_ids[~scores.empty]
        counts = {label: int((label_ids == i).sum()) for i, label in enumerate(scores.labels)}
        record = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "read": window.n_read,
            "empty": int(scores.empty.sum()),
            "truncated": int(scores.truncated.sum()),
            "labels": counts,
            "rejected": [_reject(bad_row, part.file_starts + number) for number, bad_row in window.bad_rows],
        }
        write_whole(self._part_path(part.name), content)
        write_whole(self.parts / f"{part.name}.json", _to_json(record))

    def _finish(self, spec: dict, n_finished_before: int, started: float) -> dict:
        """Put the parts together, and let the output appear."""
        self._refuse_changed_inputs()
        names = sorted(path.stem for path in self.parts.glob("rows-*.json"))
        counts, labels = Counter(), Counter(dict.fromkeys(spec["labels"], 0))
        rejects, merged = self.parts / "rejects.tmp", self.parts / "merged.tmp"
        with naming(rejects), rejects.open("w", encoding="utf-8") as stream:
            for record in map(self._read_record, names):
                counts.update({name: record[name] for name in ("read", "empty", "truncated")})
                counts["rejected"] += len(record["rejected"])
                labels.update(record["labels"])
                stream.writelines(f"{json.dumps(row, default=str)}\n" for row in record["rejected"])
        n_expected = sum(source["rows"] for source in spec["inputs"])
        if counts["read"] != n_expected:
            raise UserError(
                f"{self.parts} holds {counts['read']:,} rows, not {n_expected:,}: remove it and start anew."
            )
        if counts["read"] != sum(labels.values()) + counts["empty"] + counts["rejected"]:
            raise UserError(f"{self.parts}: of {n_expected:,} rows, some are neither scored nor empty nor rejected.")
        self._merge(merged, names)
        sha256, size = hash_file(merged)
        seconds = time.monotonic() - started
        summary = {
            "read": counts["read"],
            "scored": sum(labels.values()),
            **{name: counts[name] for name in ("empty", "rejected", "truncated")},
            "labels": dict(labels),
            "seconds": round(seconds, 3),
            "rows_per_second": round((counts["read"] - n_finished_before) / seconds, 1),
            "output": {"bytes": size, "sha256": sha256},
            "job": spec,
        }
        self.rejects_path.unlink(missing_ok=True)  # of an earlier job
        if counts["rejected"]:
            os.replace(rejects, self.rejects_path)
        write_whole(self.summary_path, _to_json(summary))
        os.replace(merged, self.output)
        sync_folder(self.output.parent)
        shutil.rmtree(self.parts, ignore_errors=True)
        return summary

    def _merge(self, path: Path, names: list[str]) -> None:
        """Write the whole output to `path`, and see to it that it is on the disk.

        Raises:
            ValueError: if a part is not what was written.
        """
        with naming(path), path.open("wb") as stream:
            write_all(stream, self.layout, self.schema, map(self._read_part, names))
            stream.flush()
            os.fsync(stream.fileno())

    def _read_part(self, name: str) -> bytes:
        content = self._part_path(name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self._read_record(name)["sha256"]:
            raise UserError(f"{self._part_path(name)} is damaged: remove it and run the same command again.")
        return content


def _listed(source: Source) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in source.schema)


def _refuse_another_job(job_path: Path, now: dict) -> None:
    """Refuse to go on from parts that another input, model or option made."""
    way_out = "choose another --output, or remove that folder to start anew"
    try:
        before = json.loads(job_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{job_path} is damaged: {way_out}.") from error
    if before != now:
        changed = [key for key in now if before.get(key) != now[key]]
        listed = "; ".join(f"{key} was {before.get(key)}, is {now[key]}" for key in changed)
        raise UserError(
            f"{job_path.parent} holds finished parts of another job: {listed}. Run it as before to go on, {way_out}."
        )


def _reject(bad_row: BadRow, number: int) -> dict:
    value = bad_row.value
    return {"file": str(bad_row.path), "line": bad_row.line, "row": number, "value": value, "reason": bad_row.reason}


def _to_json(values: object) -> bytes:
    return (json.dumps(values, indent=1, default=str) + "\n").encode()


def _ahead(items: Iterable[_T], depth: int = 2) -> Iterator[_T]:
    """Yield `items`, made in a thread of its own, at most `depth` of them before they are asked for."""
    end, iterator, pool = object(), iter(items), ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody wants the next ones
