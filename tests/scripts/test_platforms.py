"""Where people run it: on what is imitated of Windows, on disks that refuse what others do, in a notebook."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import PROXIES
from nbclient import NotebookClient
from processes import ROOT, run
from test_readme import read_blocks

DATA = "data/sample/test_preprocess.tsv"
FINETUNE = ["scripts/finetune.py", "recipes/quickstart.yaml", "--max_steps", "1"]
# Runs scripts in a process that has imported all. A refusal is one line; what is printed matches a pattern.
CHILD = """
import conftest, json, os, re, sys
from processes import run_here
{before}
for environment, reason, words in json.loads(sys.argv[1]):
    os.environ.update(environment)
    printed = run_here(*words, status=int(reason != ""))
    assert re.search(reason, printed) and (reason == "" or len(printed.splitlines()) == 1), [words, printed]
"""
# What Python has not on Windows, where an open file can be neither removed nor replaced, and a name holds no colon.
LIKE_WINDOWS = """
import concurrent.futures, errno, fcntl, multiprocessing, pathlib, shutil, signal, urllib.request
import accelerate, datasets, gradio, openvino, sklearn.linear_model, torch.multiprocessing, transformers
from transformers import AutoModelForSequenceClassification, Trainer
get_flags = fcntl.fcntl
for name in ("register_at_fork fork forkpty O_DIRECTORY O_NOFOLLOW sched_getaffinity getuid geteuid getpgid killpg "
             "setsid uname mkfifo").split():
    delattr(os, name)
for name in "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGPIPE".split():
    delattr(signal, name)
for name in "fcntl resource pwd grp termios".split():
    sys.modules[name] = None
multiprocessing.set_start_method("spawn", force=True)

def refuse(name, number, is_refused):
    function = getattr(os, name)
    def checked(path, *more, **options):
        if is_refused(path, *more):
            raise OSError(number, os.strerror(number), path)
        return function(path, *more, **options)
    setattr(os, name, checked)

def is_open(*given):
    held = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    paths = [path for path in given if isinstance(path, (str, os.PathLike))]
    return any(os.path.realpath(path) in held and os.path.isfile(path) for path in paths)

for name in ("remove", "unlink", "rename", "replace"):
    refuse(name, errno.EACCES, is_open)
refuse("fsync", errno.EBADF, lambda fd: get_flags(fd, 3) & os.O_ACCMODE == os.O_RDONLY)
refuse("mkdir", errno.EINVAL, lambda path, *_: set(os.fspath(path)) & set('<>:"|?*'))

def visit(page):  # in place of serving it until Ctrl-C
    urllib.request.urlopen(page.local_url, timeout=60).close()
    page.close()
gradio.Blocks.block_thread = visit

import smsa.models.loading as loading  # bundle.py is to replace a copy
shutil.copytree(loading.FOLDER, os.environ["BUNDLED"])
loading.FOLDER = pathlib.Path(os.environ["BUNDLED"])
loading.BUNDLED.update({name: str(loading.FOLDER / name) for name in loading.BUNDLED})
"""


def run_scripts(commands, before="", **environment) -> None:
    """Run commands, each with the variables that are set before it and the reason that it gives where it is refused."""
    child = [sys.executable, "-c", CHILD.format(before=before), json.dumps(commands, default=str)]
    run(*child, timeout=1500, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", **environment)


@pytest.mark.slow(1800)
def test_every_script_runs_without_what_windows_lacks_and_behind_a_proxy_that_is_gone(tmp_path):
    """But for the makers of what is bundled, mixture.py and e5.py; push.py comes as far as a Hub that is not there."""
    run_dir, corpus = tmp_path / "run", tmp_path / "corpus.txt"
    corpus.write_text("".join(f"makanan nomor {i} enak sekali dan murah\n\n" for i in range(300)))
    commands = [
        [*FINETUNE, "--output_dir", run_dir, "--dataloader_num_workers", "1"],
        [*FINETUNE, "--output_dir", run_dir, "--max_steps", "2", "--resume", "auto"],
        ["scripts/quickstart.py", run_dir],
        ["scripts/predict.py", "--model", run_dir, "--input", DATA, "--output", tmp_path / "out.csv"],
        ["scripts/predict.py", "--model", run_dir, "--input", DATA, "--output", tmp_path / "out.csv"],
        ["scripts/baseline.py", "--kind", "tfidf", "--data_dir", "data/sample", "--output", tmp_path / "tfidf"],
        ["scripts/eval.py", "--compare", run_dir, tmp_path / "tfidf", "--data", DATA, "--output", tmp_path / "report"],
        ["scripts/calibrate.py", "--model", run_dir, "--data", DATA, "--output", tmp_path / "calibrated"],
        ["scripts/export.py", run_dir, "--to", "openvino", "--data", DATA],
        ["scripts/pretrain.py", "--model_name_or_path", "new", "--sources", "corpus.txt", "--corpus_dir", tmp_path,
         "--output_dir", tmp_path / "encoder", "--max_steps", "2", "--max_length", "16"],
        ["scripts/demo.py", "--model", run_dir, "--port", "0"],
        ["scripts/bundle.py", "mini", tmp_path / "encoder"],
        ["scripts/push.py", run_dir, "me/model"],
    ]  # fmt: skip
    listed = [(PROXIES, "error: " if words[0] == "scripts/push.py" else "", words) for words in commands]
    run_scripts(listed, LIKE_WINDOWS, BUNDLED=str(tmp_path / "bundled"))
    assert (tmp_path / "bundled" / "mini" / "run.json").is_file()


@pytest.mark.slow(1800)
def test_a_result_comes_onto_any_disk_or_one_sentence_before_the_work(tmp_path):
    library = tmp_path / "disk.so"
    run("gcc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("disk.c"), "-ldl")
    without_lock, read_only = r"No locks available; .*your own, on a disk that has locks", "Read-only file system"
    refusals = dict.fromkeys(("chmod", "fsyncdir", "enosys", "link"), [""] * 3)
    refusals |= {"enolck": [without_lock, without_lock, ""], "readonly": [read_only] * 3}
    commands = []
    for kind, reasons in refusals.items():
        folder = tmp_path / kind
        folder.mkdir()
        for reason, words in zip(reasons, (
            [*FINETUNE, "--output_dir", folder / "run"],
            ["scripts/predict.py", "--model", "mini-sentiment", "--input", DATA, "--output", folder / "out.csv"],
            ["scripts/eval.py", "--model", "mini-sentiment", "--data", DATA, "--output", folder / "report"],
        ), strict=True):  # fmt: skip
            commands.append(({"DISK": str(folder), "REFUSES": kind}, reason, words))
    run_scripts(commands, LD_PRELOAD=str(library))


CELLS = """
import os, signal, time
from transformers import TrainerCallback
{cell}
---
class Ask(TrainerCallback):
    times = 1
    def on_step_begin(self, args, state, control, **kwargs):
        for _ in range(self.times if state.global_step == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
trainer.args.num_train_epochs = 1
ask = Ask()
trainer.add_callback(ask)
trainer.train()
---
assert trainer.state.global_step == 2
trainer.remove_callback(ask)
trainer.predict(splits["test"])
trainer.save_model("runs/stopped")
assert trainer.train(resume_from_checkpoint=True).global_step == trainer.state.max_steps
---
ask.times = 2
trainer.add_callback(ask)
trainer.train()
---
trainer.remove_callback(ask)
assert trainer.train().global_step == trainer.state.max_steps
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.slow
def test_a_notebook_goes_on_after_an_interrupt(tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")
    (cell,) = [code for _, language, code in read_blocks("docs/training.md") if language == "python"]
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS.format(cell=cell).split("---")]
    notebook, here = nbformat.v4.new_notebook(cells=cells), {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, resources=here, allow_errors=True).execute(env=os.environ | {"PYTHONPATH": str(ROOT)})
    found = [[output.ename for output in cell.outputs if output.output_type == "error"] for cell in cells]
    assert found == [[], ["KeyboardInterrupt"], [], ["KeyboardInterrupt"], []], cells
