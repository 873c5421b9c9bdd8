"""Files in, a folder of labelled files out, on a Ray cluster: its scheduling and retries, our reader and writers.

A task reads each file, row by row as on one machine; actors hold the model; tasks write. Each is done again where a
process or a machine was lost, and writes to the same name, so that every row is there once.
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

_FORMATS = ("parquet", "csv", "tsv", "jsonl")  # whose files may be parts of one output
_TEXTS = "texts of smsa"  # the column between reading and writing that holds what is labelled
_ROW_BYTES = 512  # a task labels about `CHUNK_ROWS` times so many bytes of rows
_FILE_ROWS = 2**17  # in a file of the output, if there are so many
_ACTOR_THREADS = 4  # a chunk of short texts makes few batches: more threads would idle at its end


def predict_on_ray(args: PredictionArguments, engine_args: EngineArguments) -> dict:
    """Label files of any storage that fsspec knows, and return what was counted.

    Args:
        args: inputs are files, globs and folders; the output is a folder that does not exist yet. Without an address,
            Ray is started on this machine.
        engine_args: num_threads are the cores of an actor, which has a model of its own; on GPUs it has one of them.

    Returns:
        `read`, `empty`, `labels` (count of each), `seconds`, `rows_per_second`.

    Raises:
        UserError: for what this engine cannot do, a model that cannot be used, and bad rows; then the output may hold
            a part of the rows.
    """
    if not args.input or not all([*args.input, args.output]):
        raise UserError("name an input and an output: --input and --output are empty.")
    if "-" in [*args.input, args.output] or args.on_bad_row == "skip" or world_size() > 1:
        raise UserError("--engine ray has no stdin, no stdout, no --on_bad_row skip, and no launcher: leave them out.")
    files = _find_files(args)
    first = Source(files[0], args.input_format, text_column=args.text_column, sheet=args.sheet)
    if not first.names:
        raise UserError(f"{first.path} is empty: leave it out, for the columns are those of the first file.")
    of_others = {"txt": "csv", "json": "jsonl", **dict.fromkeys(SHEETS, "csv")}
    kind = args.format or of_others.get(first.format, first.format)
    if kind not in _FORMATS:
        raise UserError(f"--format {kind} is one file: --engine ray writes a folder of {', '.join(_FORMATS)}.")
    output = UPath(args.output).absolute()
    if output.exists():
        raise FileExistsError(f"{output} exists already: choose another --output, or remove it first.")
    options = {"text_column": _TEXTS} | {name: getattr(args, name) for name in ("labels_only", "explain", "prefix")}
    new = find_added([*first.names, _TEXTS], args.model, args.model_revision, **options).names
    prefix = new[0].removesuffix("label")  # the first of them
    all_names = pa.schema([(name, pa.string()) for name in [*first.names, *new]])
    writers.write_tables(BytesIO(), kind, all_names, [])  # so that names that it cannot hold are told now

    cluster = {"address": args.ray_address} if args.ray_address else {"address": "local", "include_dashboard": False}
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.WARNING, **cluster)
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # the bars of a terminal stay
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
        compute=ActorPoolStrategy(  # one batch is tokenised while the model has another; a machine may be lost
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
    """Return how many actors the cluster holds, what each of them takes of a machine, and how its engine runs."""
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
    """Return the files that are meant, as `find_inputs` does; also those of other storage, whose names are URLs."""
    files = []
    for name in args.input:
        if "://" not in name:
            files += find_inputs([name], Path(args.output), args.input_format)
            continue
        try:
            storage, path = fsspec.url_to_fs(name)
        except (ImportError, ValueError) as error:  # s3fs is not installed; nothing is called so
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
    """Yield the rows of a file as the output can hold them, and what is to be labelled in one more column."""
    path = UPath(batch["file"][0])
    options = {"text_column": first.text_column, "sheet": args.sheet, "keep_lines": keep_lines}
    source = Source(path, args.input_format, **options)
    is_alike = source.keep_lines if keep_lines else source.schema.equals(first.schema)
    if source.names and not is_alike:
        raise UserError(f"{path} has other columns than {first.path}, or of other types: label it by itself.")
    for _, chunk in writers.fit_chunks([source], kind, rows):
        if chunk.bad_rows:
            bad_rows = [row for _, row in chunk.bad_rows]
            raise UserError(str(BadRowsError(bad_rows, "Correct them, and remove the output before the next run.")))
        if taken := {name.lower() for name in source.names} & {name.lower() for name in new}:
            raise UserError(f"{path} has a column {', '.join(taken)} already: give --prefix.")
        yield chunk.table.append_column(_TEXTS, chunk.texts)


class _Sink(BlockBasedFileDatasink):
    """Writes files as on one machine, and counts what stands in them."""

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
    """Return the error of ours that Ray wraps, or else what it raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError | OSError) and not isinstance(cause, ray.exceptions.RayError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    # of an actor that could not be made, Ray 2.60 keeps the traceback as text only
    found = re.search(r"smsa\.errors\.UserError: (.*)", str(error), re.DOTALL)
    return UserError(found[1].strip()) if found else error
