"""Files in, a folder of labelled files out, on a Ray cluster: Ray schedules and retries, smsa reads and writes.

One task reads each file, as on one machine; actors hold the model; tasks write. If a process or machine is lost, its
work is repeated and written to the same file, so that the output has every row once.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, BlockBasedFileDatasink, DataContext, TaskPoolStrategy
from upath import UPath

from smsa.data.formats import INPUT_SUFFIXES, SHEETS, BadRowsError
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.inference import writers
from smsa.inference.batches import BatchPredictor, find_added, locate
from smsa.inference.engine import CHUNK_ROWS, EngineArguments
from smsa.inference.job import BESIDE, EXPLAINED_ROWS, PredictionArguments, find_inputs
from smsa.runtime import world_size

_FORMATS = ("parquet", "csv", "tsv", "jsonl")  # formats of which several files can be one output
_TEXTS = "texts of smsa"  # the texts to label, a column that exists only between reading and writing
_ROW_BYTES = 512  # assumed per row: a task labels about `CHUNK_ROWS` times as many bytes
_FILE_ROWS = 2**17  # least rows of an output file, if there are so many
_ACTOR_THREADS = 4  # a chunk of short texts makes few batches: more threads would idle at its end


def predict_on_ray(args: PredictionArguments, engine_args: EngineArguments) -> dict:
    """Label files on any storage that fsspec knows, and return the counts.

    Args:
        args: inputs are files, globs and folders; the output is a folder that does not exist yet. Without an address,
            Ray is started on this machine.
        engine_args: `num_threads` is the number of cores of an actor. Each has its own model and, on GPUs, its own GPU.

    Returns:
        `read`, `empty`, `labels` (count of each), `seconds`, `rows_per_second`.

    Raises:
        UserError: for options that this engine lacks, a model that cannot be used, or bad rows; after bad rows, the
            output may hold some of the rows.
    """
    if not args.input or not all([*args.input, args.output]):
        raise UserError("--input or --output is empty: name an input and an output.")
    if "-" in [*args.input, args.output] or args.on_bad_row == "skip" or world_size() > 1:
        raise UserError("--engine ray supports no stdin, stdout, --on_bad_row skip or launcher: leave them out.")
    files = _find_files(args)
    first = Source(files[0], args.input_format, text_column=args.text_column, sheet=args.sheet)
    if not first.names:
        raise UserError(f"{first.path} is empty, but the first file sets the columns: leave it out.")
    of_others = {"txt": "csv", "json": "jsonl", **dict.fromkeys(SHEETS, "csv")}
    kind = args.format or of_others.get(first.format, first.format)
    if kind not in _FORMATS:
        raise UserError(f"--format {kind} makes one file, --engine ray a folder: choose one of {', '.join(_FORMATS)}.")
    output = UPath(args.output).absolute()
    if output.exists():
        raise FileExistsError(f"{output} exists already: choose another --output, or remove it first.")
    options = {"text_column": _TEXTS} | {name: getattr(args, name) for name in ("labels_only", "explain", "prefix")}
    new = find_added([*first.names, _TEXTS], args.model, args.model_revision, **options).names
    prefix = new[0].removesuffix("label")  # label is the first of the added columns
    all_names = pa.schema([(name, pa.string()) for name in [*first.names, *new]])
    writers.write_tables(BytesIO(), kind, all_names, [])  # refuses names that the format cannot hold

    cluster = {"address": args.ray_address} if args.ray_address else {"address": "local", "include_dashboard": False}
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING, **cluster)
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # progress bars stay
    n_actors, resources, engine_args = _plan_actors(engine_args)
    chunk_rows = EXPLAINED_ROWS if args.explain else CHUNK_ROWS["cuda" if "num_gpus" in resources else "cpu"]
    DataContext.get_current().target_max_block_size = chunk_rows * _ROW_BYTES
    keep_lines = kind == "jsonl" and first.format in ("jsonl", "json")
    reading = {"args": args, "kind": kind, "keep_lines": keep_lines, "first": first, "new": new, "rows": chunk_rows}
    rows = ray.data.from_items(
        [{"file": str(UPath(file).absolute())} for file in files], override_num_blocks=len(files)
    )
    # reading and writing take the cores that the model leaves, as on one machine
    beside = {"compute": TaskPoolStrategy(min(n_actors, len(files))), "num_cpus": 0}
    rows = rows.map_batches(_read, batch_size=1, batch_format="numpy", fn_kwargs=reading, **beside)
    options |= {"model": locate(args.model), "revision": args.model_revision, "prefix": prefix}
    rows = rows.map_batches(
        BatchPredictor,
        fn_constructor_kwargs=options | asdict(engine_args),
        batch_size=chunk_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(  # two calls: one tokenises while the other runs; min_size: machines may be lost
            min_size=1,
            initial_size=n_actors,
            max_size=n_actors,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
        **resources,
    )
    sink = _Sink(output, kind, keep_lines, args.escape_formulas, prefix)
    started = time.monotonic()
    try:
        rows.write_datasink(sink, ray_remote_args={"num_cpus": 0})
    except Exception as error:
        raise _find_cause(error) from error
    seconds = time.monotonic() - started
    return sink.summary | {"seconds": seconds, "rows_per_second": sink.summary["read"] / seconds}


def _plan_actors(engine_args: EngineArguments) -> tuple[int, dict[str, int], EngineArguments]:
    """Return the number of actors for the cluster, the resources of each, and the arguments of its engine."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    n_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if n_gpus and (engine_args.device or "cuda").startswith("cuda"):
        return n_gpus, {"num_gpus": 1}, engine_args
    cores = [int(node.get("CPU", 0)) for node in nodes]
    n_threads = engine_args.num_threads or min([_ACTOR_THREADS, *filter(None, cores)])
    if not (n_actors := sum(n // n_threads for n in cores)):
        raise UserError(f"no machine of the cluster has {n_threads} cores: give fewer with --num_threads.")
    return n_actors, {"num_cpus": n_threads}, replace(engine_args, num_threads=n_threads)


def _find_files(args: PredictionArguments) -> list[Path]:
    """Return the input files as `find_inputs` does, and also files on other storage, which are named by URLs."""
    files = []
    for name in args.input:
        if "://" not in name:
            files += find_inputs([name], Path(args.output), args.input_format)
            continue
        try:
            storage, path = fsspec.url_to_fs(name)
        except (ImportError, ValueError) as error:  # s3fs is not installed, or the scheme is unknown
            raise UserError(f"{name}: {error}") from error
        found = storage.find(path, maxdepth=1) if storage.isdir(path) else sorted(storage.glob(path))
        any_suffix = "" if args.input_format else INPUT_SUFFIXES
        found = [
            file for file in found if file == path or (file.lower().endswith(any_suffix) and not file.endswith(BESIDE))
        ]
        if not found:
            raise FileNotFoundError(f"{name} does not exist, or has no file of a known format.")
        files += [UPath(storage.unstrip_protocol(file)) for file in found]
    for file, n_named in Counter(str(UPath(file).resolve()).removeprefix("file://") for file in files).items():
        if n_named > 1:
            raise UserError(f"{file} is named twice: its rows would be predicted twice.")
    return files


def _read(
    batch: dict, args: PredictionArguments, kind: str, keep_lines: bool, first: Source, new: list[str], rows: int
) -> Iterator[pa.Table]:
    """Yield the rows of a file in types that the output can hold, with the texts to label as one more column."""
    path = UPath(batch["file"][0])
    options = {"text_column": first.text_column, "sheet": args.sheet, "keep_lines": keep_lines}
    source = Source(path, args.input_format, **options)
    is_alike = source.keep_lines if keep_lines else source.schema.equals(first.schema)
    if source.names and not is_alike:
        raise UserError(f"{path} has other columns than {first.path}, or of other types: label it separately.")
    for _, chunk in writers.fit_chunks([source], kind, rows):
        if chunk.bad_rows:
            bad_rows = [row for _, row in chunk.bad_rows]
            raise UserError(str(BadRowsError(bad_rows, "Correct them, and remove the output before the next run.")))
        if taken := {name.lower() for name in source.names} & {name.lower() for name in new}:
            raise UserError(f"{path} has a column {', '.join(taken)} already: give --prefix.")
        yield chunk.table.append_column(_TEXTS, chunk.texts)


class _Sink(BlockBasedFileDatasink):
    """Write files as on one machine, and count their labels."""

    def __init__(self, output: Path, kind: str, keep_lines: bool, escapes: bool, prefix: str):
        super().__init__(str(output), min_rows_per_file=_FILE_ROWS, file_format=kind)
        self._kind, self._keep_lines, self._escapes, self._prefix = kind, keep_lines, escapes, prefix
        self.summary: dict = {}

    def write(self, blocks, ctx) -> Counter:
        table = pa.concat_tables(blocks)
        super().write([table], ctx)
        return Counter(table[f"{self._prefix}label"].to_pylist())

    def write_block_to_file(self, block, file) -> None:
        table = block.to_arrow().drop_columns([_TEXTS])
        writers.write_tables(file, self._kind, table.schema, [table], self._keep_lines, self._escapes)

    def on_write_complete(self, write_result) -> None:
        labels = sum(write_result.write_returns, Counter())
        n_empty = labels.pop(None, 0)
        self.summary = {"read": labels.total() + n_empty, "empty": n_empty, "labels": dict(labels)}
        super().on_write_complete(write_result)


def _find_cause(error: BaseException) -> BaseException:
    """Return the error of smsa or the system that Ray has wrapped, or else Ray's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError | OSError) and not isinstance(cause, ray.exceptions.RayError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    # if an actor could not be created, Ray 2.60 keeps the traceback only as text
    found = re.search(r"smsa\.errors\.UserError: (.*)", str(error), re.DOTALL)
    return UserError(found[1].strip()) if found else error
