"""What one names on the command line -> jobs: files, globs, folders, stdin and stdout."""

import glob
import logging
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from smsa.distributed import count_processes, is_main, joined
from smsa.errors import UserError
from smsa.files import naming
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.job import Job
from smsa.inference.writers import INPUT_FORMATS, find_layout

logger = logging.getLogger(__name__)


def score_paths(
    classifier: SentimentClassifier,
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    input_format: str | None = None,
    output_format: str | None = None,
    **options: object,
) -> list[dict]:
    """Label files, globs or folders of files; `-` stands for stdin and stdout.

    Stdin is read to its end first, and stdout is written when all is done.

    Args:
        classifier: a loaded model.
        inputs: see `find_inputs`.
        output: a file, or a folder for a file each (see `pair_outputs`).
        input_format, output_format: formats to go by instead of the suffixes; `-` is txt and jsonl otherwise.
        options: as in `Job`.

    Returns:
        The summary of each output, as `score_files`; raises what it raises.
    """
    inputs = [os.fspath(name) for name in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    output = os.fspath(output)
    if not inputs or not all(inputs) or not output:
        raise UserError("name an input and an output: --input and --output are empty.")
    reads_stdin, writes_stdout = "-" in inputs, output == "-"
    if reads_stdin and len(inputs) > 1:
        raise UserError("--input - is stdin alone; give no other file beside it.")
    if (reads_stdin or writes_stdout) and count_processes() > 1:
        raise UserError("several processes share files, not stdin or stdout: name an input and an output file.")
    if writes_stdout and options.get("on_bad_row") == "skip":
        raise UserError("--on_bad_row skip writes the bad rows beside the output: name an output file.")
    with TemporaryDirectory(prefix="smsa-") as folder, joined():
        if writes_stdout:
            output = str(Path(folder, f"stdout.{output_format or 'jsonl'}"))
        if reads_stdin:
            files = [Path(folder, f"stdin.{input_format or 'txt'}")]
            if sys.stdin is None:
                raise UserError("--input - is stdin, which is closed: name a file.")
            if input_format is None:
                logger.info("stdin is read as plain lines, a text each; for CSV give --input_format csv")
            with naming(files[0]), files[0].open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
        else:
            files = find_inputs(inputs, Path(output), input_format)
        formats = {"input_format": input_format, "output_format": output_format}
        pairs = pair_outputs(files, output, **formats)
        jobs = [Job(classifier, paths, target, **formats, **options) for paths, target in pairs]
        for job in jobs:  # a bad row in the last file is told before the first is scored
            job.check()
        summaries = [job.run() for job in jobs]
        if writes_stdout:
            with Path(output).open("rb") as stream:
                shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        elif is_main():
            logger.info("Output: %s", ", ".join(str(target) for _, target in pairs))
        return summaries


def find_inputs(names: Iterable[str], output: Path, input_format: str | None = None) -> list[Path]:
    """Get the files that are meant by files, globs and folders, in the order given, each of these sorted by name.

    Of a folder, the files that have one of the known suffixes are taken, and the others are named in the log. A glob
    does not match what the same command wrote before.

    Raises:
        FileNotFoundError: for a name that matches no file.
        ValueError: if a file is named twice, is a pipe, or belongs to the output.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            if path.resolve() in (output.resolve(), output.resolve().parent if output.suffix else None):
                raise UserError(
                    f"{output} lies in the input folder {path}, and would be read as input: write elsewhere."
                )
            found = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            known = [file for file in found if input_format or _is_known(file)]
            if passed_over := [file.name for file in found if file not in known]:
                logger.info("%s: not read, for their suffixes: %s", path, ", ".join(passed_over))
        elif path.exists():
            if not path.is_file():
                raise UserError(
                    f"{name} is a pipe or a device, which can be read only once: give - and feed it to stdin."
                )
            known = [path]
        else:
            matches = [file for match in sorted(glob.glob(name, recursive=True)) if (file := Path(match)).is_file()]
            written = _find_written(output)
            known = [file for file in matches if written.isdisjoint([file.resolve(), *file.resolve().parents])]
            if matches and not known:
                raise UserError(f"{name} matches only what belongs to the output {output}: write elsewhere.")
        if not known:
            raise FileNotFoundError(f"{name} does not exist, or holds no file to score.")
        files += known
    if len({file.resolve() for file in files}) < len(files):
        twice = next(file for i, file in enumerate(files) if file.resolve() in {f.resolve() for f in files[:i]})
        raise UserError(f"{twice} is named twice: its rows would be scored twice.")
    return files


def _find_written(output: Path) -> set[Path]:
    """Get all that jobs with this output may have left: files, and folders of parts.

    Where the output is a folder, it holds a job for each input, told by its summary or its parts.
    """
    outputs = [output.resolve()]
    if output.is_dir():
        marks = [(path, mark) for mark in (".summary.json", ".parts") for path in outputs[0].glob(f"*{mark}")]
        outputs = [path.with_name(path.name.removesuffix(mark)) for path, mark in marks]
    suffixes = ("", ".summary.json", ".rejects.jsonl", ".parts")
    return {path.with_name(f"{path.name}{suffix}") for path in outputs for suffix in suffixes}


def _is_known(path: Path) -> bool:
    try:
        find_layout(path, INPUT_FORMATS)
    except ValueError:
        return False
    return True


def pair_outputs(
    files: list[Path], output: str, input_format: str | None = None, output_format: str | None = None
) -> list[tuple[list[Path], Path]]:
    """Get which files go into which output: all into one, or each into a file of its name if `output` is a folder.

    `output` is a folder if it is one already, ends with a slash, or has no suffix. There a .txt becomes a .csv, for
    lines hold no columns.

    Raises:
        ValueError: if two files would go to the same name, or the output is an input, a pipe or a device.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir() and not folder.is_file():
        raise UserError(f"{output} is a pipe or a device: give - for stdout, or name a file.")
    if not folder.is_dir() and folder.suffix and not output.endswith("/"):
        return _require_apart([(files, folder)])
    pairs: dict[Path, list[Path]] = {}
    for file in files:
        layout = find_layout(file, INPUT_FORMATS, input_format)
        chosen = output_format or ("csv" if layout.format == "txt" else layout.format)
        stem = file.name[: -len("".join(file.suffixes[-2:] if layout.compression else file.suffixes[-1:])) or None]
        compression = "".join(file.suffixes[-1:]) if layout.compression and chosen != "parquet" else ""
        target = folder / f"{stem}.{'csv' if chosen == 'submission' else chosen}{compression}"
        if target in pairs:
            raise UserError(f"{pairs[target][0]} and {file} would both go to {target}: score them apart.")
        pairs[target] = [file]
    return _require_apart([(inputs, target) for target, inputs in pairs.items()])


def _require_apart(pairs: list[tuple[list[Path], Path]]) -> list[tuple[list[Path], Path]]:
    read = {file.resolve() for inputs, _ in pairs for file in inputs}
    for _, target in pairs:
        if target.resolve() in read:
            raise UserError(f"{target} is an input and the output, too: choose another --output.")
    return pairs
