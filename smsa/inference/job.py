"""Files in, labelled files out. Each shard is complete or absent, so that no row is lost or predicted twice.

    OUTPUT.shards/job.json                   what is predicted, with which model, and how
    OUTPUT.shards/part-<first>-<last>.arrow  the rows of one chunk as the output has them, and counts of them

A chunk is a range of row numbers, so any rank can predict it at any time.
"""

import glob
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pyarrow as pa
from filelock import FileLock
from tqdm.auto import tqdm
from transformers.hf_argparser import HfArg

import smsa.inference.writers as writers
from smsa.data.formats import BAD_ROWS_SHOWN, INPUT_FORMATS, INPUT_SUFFIXES, SHEETS, BadRowsError, find_layout
from smsa.data.reader import Chunk, Source
from smsa.errors import UserError
from smsa.files import naming
from smsa.inference.classifier import SentimentClassifier
from smsa.runtime import on_main, rank, take_lock, world_size

logger = logging.getLogger(__name__)

_CHECKED_ROWS = 2048  # rows read at a time while the inputs are checked
EXPLAINED_ROWS = 32  # rows of a shard with --explain, which takes some seconds
BESIDE = (".shards", ".summary.json", ".rejects.jsonl")  # suffixes of what stands beside an output


@dataclass
class PredictionArguments:
    """Which texts to label, with which model, and what to write."""

    input: list[str] = HfArg(
        help="Files, globs or folders: .csv, .tsv, .txt, .jsonl, .json, .parquet, .xlsx, .xls, .ods, a .zip with one "
        "of these, text formats also with .gz or .zst; - is stdin."
    )
    output: str = HfArg(
        help="File to write: .csv, .tsv, .jsonl, .xlsx or .parquet, text formats also with .gz or .zst; or a folder, "
        "with one file per input; - is stdout. It appears when it is complete."
    )
    model: str | None = HfArg(
        default=None,
        help="Fine-tuned model: a folder, or a name on the Hub; or several, joined by +, whose probabilities are "
        "averaged. If not given: mini-sentiment+e5-sentiment, which are bundled.",
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the model on the Hub, if not main.")
    text_column: str | None = HfArg(default=None, help="Column of texts; found by name or content if not given.")
    sheet: str | None = HfArg(default=None, help="Sheet of a workbook; if not given, the only one with texts.")
    input_format: Literal[*INPUT_FORMATS] | None = HfArg(
        default=None, help="Format of the input, if not its suffix's; of stdin, txt if not given."
    )
    format: Literal[*writers.OUTPUT_FORMATS] | None = HfArg(
        default=None,
        help="Format of the output, if not its suffix's; of stdout, jsonl if not given. submission is the "
        "benchmark's index,label.",
    )
    labels_only: bool = HfArg(default=False, help="Add only the label, no probabilities.")
    explain: bool = HfArg(
        default=False,
        help="Add a column, words, with the weight of each word for the label: see docs/attribution.md. Slower by "
        "about ten times the number of words in a text.",
    )
    prefix: str = HfArg(
        default="",
        help="Prefix of the added columns' names; smsa_ if the input has one of them already.",
    )
    escape_formulas: bool = HfArg(
        default=False,
        help="Put an apostrophe before cells of CSV and TSV that a spreadsheet might run as a formula. Cells of .xlsx "
        "are never run, and need none.",
    )
    on_bad_row: Literal["strict", "skip"] = HfArg(
        default="strict",
        help="strict: stop before anything is written. skip: put bad rows into OUTPUT.rejects.jsonl.",
    )
    engine: Literal["local", "ray"] = HfArg(
        default="local",
        help="local: this machine, and the processes of a launcher. ray: Ray Data; --output is then a folder, and "
        "inputs and output may be URLs of object storage.",
    )
    ray_address: str | None = HfArg(
        default=None, help="Address of a Ray cluster; auto: this machine's cluster. If not given, Ray starts here."
    )


def predict_files(
    classifier: SentimentClassifier | Callable[[], SentimentClassifier],
    input: str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    **options: object,
) -> list[dict]:
    """Label files, globs or folders of files; `-` stands for stdin and stdout.

    Finished rows are not predicted again. Every rank of a launch calls this function with equal arguments. Stdin is
    read to its end first, and stdout is written when everything is done.

    Args:
        classifier: a loaded model, or a function that loads one; it is called after the inputs have been checked.
        input: see `find_inputs`.
        output: a file, or a folder for one file per input (see `pair_outputs`).
        options: the other fields of `PredictionArguments`; the caller applies those of the model and the engine.

    Returns:
        For each output, the content of `OUTPUT.summary.json`: `read`, `predicted`, `empty`, `rejected` (read is the sum
        of the other three), `truncated`, `labels` (count of each), `seconds` and `rows_per_second` of this run, `bytes`
        of the output, `job`.

    Raises:
        BadRowsError: for rows that cannot be labelled, before anything is written, unless `on_bad_row` is `skip`.
        FileExistsError: if the output exists but is not what this job wrote.
        UserError: if another run writes the output, inputs or options do not match, or the shards are of another job.
    """
    names = [os.path.expanduser(name) for name in ([input] if isinstance(input, (str, os.PathLike)) else input)]
    args = PredictionArguments(names, os.path.expanduser(output), **options)
    reads_stdin, writes_stdout = "-" in args.input, args.output == "-"
    if not args.input or not all(args.input) or not args.output:
        raise UserError("--input or --output is empty: name an input and an output.")
    if args.engine != "local" or args.ray_address or any("://" in name for name in (*args.input, args.output)):
        raise UserError("Ray, --ray_address and URLs such as s3:// need scripts/predict.py with --engine ray.")
    if reads_stdin and len(args.input) > 1:
        raise UserError("--input - reads stdin: give no other input beside it.")
    if writes_stdout and args.on_bad_row == "skip":
        raise UserError("--on_bad_row skip writes the bad rows beside the output: name an output file.")
    if (reads_stdin and sys.stdin is None) or (writes_stdout and sys.stdout is None):
        raise UserError("stdin or stdout is closed, so - cannot stand for it: name a file.")
    if (reads_stdin or writes_stdout) and world_size() > 1:
        raise UserError("several processes cannot share stdin or stdout: name an input file and an output file.")
    with TemporaryDirectory(prefix="smsa-") as folder:
        output = str(Path(folder, f"stdout.{args.format or 'jsonl'}")) if writes_stdout else args.output
        if reads_stdin:
            if args.input_format is None:
                logger.info("stdin is read as plain lines, one text per line; for CSV, give --input_format csv")
            files = [Path(folder, f"stdin.{args.input_format or 'txt'}")]
            with naming(files[0]), files[0].open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
        else:
            files = on_main(lambda: find_inputs(args.input, Path(output), args.input_format))
        pairs = on_main(lambda: pair_outputs(files, output, args.input_format, args.format))
        jobs = [_Job(paths, target, args) for paths, target in pairs]
        for job in jobs:  # all before the model is loaded, so that a bad row in the last file is reported at once
            job.inputs = on_main(job.check)
        loaded = classifier if isinstance(classifier, SentimentClassifier) else classifier()
        summaries = [job.run(loaded) for job in jobs]
        if writes_stdout:
            # on a stream of its own: sys.stdout would retry a failed write at exit, and exit with status 120
            with Path(output).open("rb") as stream, naming(Path("stdout")):
                with open(sys.stdout.fileno(), "wb", closefd=False) as stdout:
                    shutil.copyfileobj(stream, stdout)
        else:
            logger.info("Output: %s", ", ".join(str(target) for _, target in pairs))
        return summaries


def find_inputs(names: Iterable[str], output: Path, input_format: str | None = None) -> list[Path]:
    """Return the files that names, globs and folders stand for, in the order given; each glob or folder is sorted.

    From a folder, files with a known suffix are taken; the log names the others. A folder or glob does not yield the
    output, anything in it, or the files beside any output.

    Raises:
        FileNotFoundError: if a name yields no file.
        UserError: if a file is named twice.
    """
    files: list[Path] = []
    target = Path(os.path.realpath(output))  # resolve() fails on a link to itself
    beside = {Path(f"{target}{suffix}") for suffix in ("", *BESIDE)}
    for name in names:
        path = Path(name)
        if path.is_file():
            files.append(path)
            continue
        pattern = os.path.join(glob.escape(name), "*") if path.is_dir() else name
        suffixes = INPUT_SUFFIXES if path.is_dir() and not input_format else ""
        found, others = [], []
        for file in map(Path, filter(os.path.isfile, sorted(glob.glob(pattern, recursive=True)))):
            place = file.resolve()
            if file.name.startswith("~$") or not beside.isdisjoint((place, *place.parents)):
                continue  # Excel's lock file of an open workbook, or part of the output
            is_input = file.name.lower().endswith(suffixes) and not file.name.endswith(BESIDE)
            (found if is_input else others).append(file)
        if others:
            logger.info("%s: not read, because of their suffixes: %s", path, ", ".join(map(str, others)))
        if not found:
            what = f"{name} does not exist, or has no file of a known format besides the output's"
            raise FileNotFoundError(f"{what}; in Python put texts in a list; send a pipe to stdin, and give - for it.")
        files += found
    for file, n_named in Counter(file.resolve() for file in files).items():
        if n_named > 1:
            raise UserError(f"{file} is named twice: its rows would be predicted twice.")
    return files


def pair_outputs(
    files: list[Path], output: str, input_format: str | None = None, output_format: str | None = None
) -> list[tuple[list[Path], Path]]:
    """Return which files go into which output: all into one, or each into a file of its name if `output` is a folder.

    `output` is a folder if it is one already, ends with a slash, or has no suffix. In it, the output of a .txt is a
    .csv (plain lines hold no columns), of a workbook an .xlsx, and of a .json a .jsonl.

    Raises:
        UserError: if two files would get the same output, the output is an input, or a file without a suffix.
    """
    path = Path(output)
    if path.exists() and not (path.is_dir() or path.suffix):  # /dev/stdout is such a case
        raise UserError(f"{output} exists, but is no folder and has no suffix: name another output, or - for stdout.")
    if path.is_dir() or not path.suffix or output.endswith(("/", os.sep)):
        pairs = []
        for file in files:
            kind, compression = find_layout(file, INPUT_FORMATS, input_format)
            kind = output_format or {"txt": "csv", "json": "jsonl", **dict.fromkeys(SHEETS, "xlsx")}.get(kind, kind)
            inner = Path(file.stem)
            stem = inner.stem if compression and inner.name.lower().endswith(INPUT_SUFFIXES) else inner.name
            packed = file.suffix if compression in ("gzip", "zstd") and kind not in ("parquet", "xlsx") else ""
            pairs.append(([file], path / f"{stem}.{'csv' if kind == 'submission' else kind}{packed}"))
    else:
        pairs = [(files, path)]
    read, taken = {file.resolve() for file in files}, {}
    for inputs, target in pairs:
        if (other := taken.setdefault(target, inputs[0])) != inputs[0]:
            raise UserError(f"{other} and {inputs[0]} would both go to {target}: predict them separately.")
        if Path(os.path.realpath(target)) in read:
            raise UserError(f"{target} is both an input and the output: choose another --output.")
    return pairs


class _Job:
    """One output file, and the inputs with equal columns that it is made from."""

    def __init__(self, inputs: list[Path], output: Path, args: PredictionArguments):
        self.format, self.compression = find_layout(output, writers.OUTPUT_FORMATS, args.format)
        is_submission = self.format == "submission"
        if args.on_bad_row not in ("strict", "skip"):
            raise UserError(f"on_bad_row {args.on_bad_row!r} is not one of strict, skip.")
        if args.explain and is_submission:
            raise UserError("--format submission has no column for --explain: choose one of them.")
        self.output, self.args = output, replace(args, labels_only=args.labels_only or is_submission)
        self.inputs: list[dict] = []  # what `check` returns
        self.modified: list[int] = []  # modification time of each input, in ns; only on the main process
        self.shards, self.summary_path, self.rejects_path = (Path(f"{output}{suffix}") for suffix in BESIDE)
        self.lock = FileLock(self.shards / "lock")

        options = {"text_column": args.text_column, "sheet": args.sheet, "keep_lines": self.format == "jsonl"}
        self.sources = [Source(path, args.input_format, **options) for path in inputs]
        sources = [source for source in self.sources if source.names] or self.sources[:1]
        schemas = [
            writers.to_plain(source.schema.empty_table(), self.format).schema if source.is_typed else source.schema
            for source in sources
        ]
        first, original = sources[0], schemas[0]
        for source, schema in zip(sources, schemas, strict=True):
            if not schema.equals(original) or source.keep_lines != first.keep_lines:
                listed = [", ".join(f"{field.name}: {field.type}" for field in fields) for fields in (schema, original)]
                raise UserError(
                    f"{source.path} has other columns than {first.path}, or of other types ({'; '.join(listed)}), so "
                    "they cannot go into one file: make --output a folder, which gets a file for each."
                )
        self.keep_lines = first.keep_lines
        self.original = pa.schema([("index", pa.int64())]) if is_submission else original

    def check(self) -> list[dict]:
        """Read all inputs before anything is written; return what the job says of each, as values for JSON."""
        limit = 255 - max(map(len, BESIDE))  # most file systems allow 255 bytes in a name
        if len(os.fsencode(self.output.name)) > limit:
            raise UserError(f"{self.output}: its name has more than {limit} bytes: name a shorter file with --output.")
        if self.output.exists() and not self.summary_path.exists():
            raise FileExistsError(f"{self.output} exists already: choose another --output, or remove it first.")
        self.modified = [source.path.stat().st_mtime_ns for source in self.sources]
        bad_rows, n_bad, n_rows, inputs = [], 0, Counter(), []
        for source, chunk in writers.fit_chunks(self.sources, self.format, _CHECKED_ROWS):
            n_rows[source] += chunk.n_read
            n_bad += len(chunk.bad_rows)
            bad_rows += [row for _, row in chunk.bad_rows][: BAD_ROWS_SHOWN - len(bad_rows)]
        is_all = n_bad == n_rows.total()
        if bad_rows and (is_all or self.args.on_bad_row == "strict"):
            way_out = "No row is left." if is_all else "Correct them, or skip them with --on_bad_row skip."
            raise BadRowsError(bad_rows, f"{way_out} Nothing has been written.", n_bad)
        if self.format == "xlsx" and n_rows.total() > writers.WORKBOOK_ROWS:
            limit = f"a sheet holds {writers.WORKBOOK_ROWS:,} rows, not {n_rows.total():,}"
            raise UserError(f"{self.output}: {limit}; write .csv.")
        for source in self.sources:
            if not n_rows[source]:
                logger.warning("%s has no rows.", source.path)
            with source.path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            described = {"file": source.path.name, "format": source.format, "text_column": source.text_column}
            inputs.append(described | {"rows": n_rows[source], "sha256": sha256})
        return inputs

    def run(self, classifier: SentimentClassifier) -> dict:
        """Predict what is not finished, and return the summary; see `predict_files`."""
        started, self.classifier = time.monotonic(), classifier
        chunk_rows = EXPLAINED_ROWS if self.args.explain else classifier.engine.chunk_rows
        try:
            begun = on_main(lambda: self._begin(chunk_rows))
            if begun is None:
                logger.info("%s is finished: the same command wrote it before. Nothing to do.", self.output)
                return json.loads(self.summary_path.read_bytes())
            self.added, self.schema, finished = begun
            n_rows = sum(found["rows"] for found in self.inputs)
            n_finished = sum(finished.values())
            chunks = writers.fit_chunks(self.sources, self.format, chunk_rows)
            unfinished = (chunk for _, chunk in chunks if chunk.first not in finished)
            share = islice(unfinished, rank(), None, world_size())
            # Reading with tokenising, the model, and writing run in parallel, each in its own thread
            encoded = _ahead((chunk, classifier.encode(chunk.texts)) for chunk in share)
            predicted = _ahead((chunk, classifier.classify(*tokens)) for chunk, tokens in encoded)
            with tqdm(total=n_rows, initial=n_finished, unit=" rows", desc=self.output.name, disable=rank() > 0) as bar:
                for chunk, added in predicted:
                    self._write_shard(chunk, added)
                    # the other ranks have done about as much
                    bar.update(min(chunk.n_read * world_size(), n_rows - bar.n))
            return on_main(lambda: self._finish(n_rows, n_finished, time.monotonic() - started))
        except OSError as error:
            if error.errno is not None and self.shards.is_dir():  # not an error of smsa's own, and shards exist
                logger.warning("Finished shards are kept in %s: the same command resumes from them.", self.shards)
                # the system does not name a file if the disk is full
                error.filename = error.filename or str(self.output)
            raise
        finally:
            self.lock.release()

    def _begin(self, chunk_rows: int) -> tuple[list[str], pa.Schema, dict[int, int]] | None:
        """Lock the output; return the names of the added columns in `classify`, the output's schema, what is finished.

        The last maps the first row of each finished shard to its number of rows. None: the output is complete already.
        """
        classifier, engine, nothing = self.classifier, self.classifier.engine, pa.array([], pa.string())
        added = classifier.classify(*classifier.encode(nothing))
        if self.args.explain:
            added = classifier.add_words(nothing, added)
        names = [name for name in added.column_names if not self.args.labels_only or name in writers.LABEL_COLUMNS]
        prefix, columns = "", sorted({name for source in self.sources for name in source.names})
        if self.format != "submission":
            prefix = writers.find_prefix(names, columns, self.args.prefix, f"{self.output}: ")
        new = [added.schema.field(name).with_name(f"{prefix}{name}") for name in names]
        schema = pa.schema([*self.original, *new], self.original.metadata)  # the metadata of Parquet
        writers.write_tables(BytesIO(), self.format, schema, [])  # refuses a prefix that the format cannot hold
        options = ("labels_only", "explain", "on_bad_row", "escape_formulas", "sheet")
        job = self.job = {  # what all shards have in common
            "inputs": self.inputs,
            "columns": columns,
            "format": self.format,
            "compression": self.compression,
            **{name: getattr(self.args, name) for name in options},
            "model": classifier.sha256,
            "labels": list(classifier.labels),
            "max_length": classifier.max_length,
            "prefix": prefix,
            "device": engine.device.type,
            "backend": engine.backend,
            "precision": engine.precision,
            "chunk_rows": chunk_rows,
        }
        if self.output.exists():
            summary = json.loads(self.summary_path.read_bytes())
            if (summary.get("job"), summary.get("bytes")) != (job, self.output.stat().st_size):
                raise FileExistsError(f"{self.output} exists already: choose another --output, or remove it first.")
            shutil.rmtree(self.shards, ignore_errors=True)
            return None
        self.shards.mkdir(parents=True, exist_ok=True)
        # killed processes may need a moment to end
        take_lock(self.lock, 3, f"another run is writing {self.output}: wait for it, or stop it.")
        spans = [map(int, path.stem.split("-")[1:]) for path in self.shards.glob("part-*.arrow")]
        path = self.shards / "job.json"
        if not spans:  # without shards, the file may be half written: write it again
            path.write_text(json.dumps(job, indent=2, ensure_ascii=False), encoding="utf-8")
        before = {"inputs": []} | json.loads(path.read_bytes())
        if changed := {key: (before.get(key), job[key]) for key in job if before.get(key) != job[key]}:
            if "inputs" in changed:  # maybe thousands: show the first that differs
                changed["inputs"] = next((was, now) for was, now in zip_longest(*changed["inputs"]) if was != now)
            listed = "; ".join(f"{key} was {was}, is {now}" for key, (was, now) in changed.items())
            raise UserError(
                f"{self.shards} holds finished shards of another job: {listed}. Run the earlier command to resume it, "
                "choose another --output, or remove that folder to start again."
            )
        self.rejects_path.unlink(missing_ok=True)  # of an earlier job
        return names, schema, {first: last - first + 1 for first, last in spans}

    def _write_shard(self, chunk: Chunk, added: pa.Table) -> None:
        """Write the rows of a chunk as in the output; its metadata hold the bad rows and the counts for the summary."""
        if self.args.explain:
            added = self.classifier.add_words(chunk.texts, added)
        counts = {name: sum(added[name].to_pylist()) for name in ("empty", "truncated")}
        counts["labels"] = Counter(added["label"].drop_null().to_pylist())
        counts["rejects"] = [
            {"file": str(bad.path), "line": bad.line, "row": number, "value": bad.value, "reason": bad.reason}
            for number, bad in chunk.bad_rows
        ]
        columns = [*chunk.table.columns, *added.select(self.added).columns]
        schema = self.schema.with_metadata({"counts": json.dumps(counts, default=str)})
        unfinished = self.shards / f"part-{chunk.first:012d}-{chunk.first + chunk.n_read - 1:012d}.tmp"
        with unfinished.open("wb") as stream, pa.ipc.new_file(stream, schema) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema).combine_chunks())  # dictionaries become one
        unfinished.replace(unfinished.with_suffix(".arrow"))

    def _finish(self, n_rows: int, n_finished: int, seconds: float) -> dict:
        """Merge the shards, move the output into place, and return the summary."""
        for source, modified in zip(self.sources, self.modified, strict=True):
            if source.path.stat().st_mtime_ns != modified:
                shutil.rmtree(self.shards, ignore_errors=True)  # they may hold rows of both versions
                raise UserError(f"{source.path} was changed while it was predicted: run the same command again.")
        paths = sorted(self.shards.glob("part-*.arrow"))
        spans = [tuple(map(int, path.stem.split("-")[1:])) for path in paths]
        if [*(first for first, _ in spans), n_rows] != [0, *(last + 1 for _, last in spans)]:
            raise UserError(f"{self.shards} lacks rows, or has some twice: remove it and start again.")
        counts, labels = Counter(), Counter(dict.fromkeys(self.classifier.labels, 0))
        for path in paths:
            try:
                with path.open("rb") as stream:
                    found = json.loads(pa.ipc.open_file(stream).schema.metadata[b"counts"])
            except pa.ArrowInvalid as error:
                raise UserError(f"{path} is broken ({error}): remove it, and run the same command again.") from error
            labels.update(found.pop("labels"))
            if rejects := found.pop("rejects"):
                with self.rejects_path.open("a") as stream:
                    stream.writelines(f"{json.dumps(rejected)}\n" for rejected in rejects)
            counts.update(found, rejected=len(rejects))
        merged = self.shards / "merged.tmp"
        shards = (pa.ipc.open_file(path.read_bytes()).read_all().replace_schema_metadata() for path in paths)
        with pa.output_stream(str(merged), compression=self.compression) as stream:
            if self.format in ("csv", "tsv") and self.sources[0].encoding in ("utf-8-sig", "utf-16"):
                stream.write("\ufeff".encode())  # the inputs have a byte-order mark
            writers.write_tables(stream, self.format, self.schema, shards, self.keep_lines, self.args.escape_formulas)
        with merged.open("rb+") as stream:
            os.fsync(stream.fileno())
        summary = {
            "read": n_rows,
            "predicted": labels.total(),
            **{name: counts[name] for name in ("empty", "rejected", "truncated")},
            "labels": dict(labels),
            "seconds": round(seconds, 3),
            "rows_per_second": round((n_rows - n_finished) / seconds, 1),
            "bytes": merged.stat().st_size,
            "job": self.job,
        }
        self.summary_path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        merged.replace(self.output)
        shutil.rmtree(self.shards, ignore_errors=True)
        return summary


def _ahead(items: Iterator[tuple]) -> Iterator[tuple]:
    """Yield `items`; a thread of its own makes them, at most two ahead."""
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, items, None) for _ in range(2))
        while item := pending.popleft().result():
            pending.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error, nobody needs the rest
