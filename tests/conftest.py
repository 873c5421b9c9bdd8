"""A tiny encoder, tiny data and real SmSA rows where they are at hand; nothing here needs a network."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hub's client is imported; child processes inherit it
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # this Python's programs first

import pytest  # noqa: E402
import torch  # noqa: E402
from processes import ROOT, run  # noqa: E402
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer  # noqa: E402

from smsa.data.datasets import find_smsa  # noqa: E402
from smsa.data.labels import label_maps  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # under `make test &`; child processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tiny models: faster, and the same sums on every machine


def refuse_network(self, address, connect=socket.socket.connect):
    """Refuse connections to other machines, so that a test that reaches for the network fails at once."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a test reached for the network: {address}")
    return connect(self, address)


SAMPLE_DIR = ROOT / "data" / "sample"
WORDS = "enak murah bagus ramah puas pergi ke pasar rapat hari buka kotor mahal rusak lambat kecewa dan sekali".split()
# Proxies that do not exist, in forms that httpx refuses: SOCKS without its package, an address in brackets.
PROXIES = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "localhost,[::1]"}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz", *".,!?"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY_ROWS = [
    ("enak dan murah sekali !", "positive"),
    ("pergi ke pasar", "neutral"),
    ("kotor dan mahal", "negative"),
    ("ramah , puas sekali", "positive"),
    ("rapat hari buka .", "neutral"),
    ("rusak , lambat , kecewa !", "negative"),
    ("bagus dan ramah", "positive"),
]


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A clean clone of what is committed, with the environment that `make` has built here, or builds now."""
    folder = tmp_path_factory.mktemp("clone") / "smsa"
    run("git", "clone", "--quiet", ROOT, folder)
    run("make", "--quiet", ".venv/.installed", timeout=1500)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    run("make", "--touch", ".venv/.installed", cwd=folder)  # or make would build it again
    return folder


# The longest files come first: xdist hands out whole files in order, and no worker should wait for one in the end.
LONGEST = ("readme", "recipes", "architectures", "kills", "hosts", "predict", "platforms", "page", "tutorial", "export")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONGEST, item.path.stem[5:]).index(item.path.stem[5:]))
    for item in items:
        slow = item.get_closest_marker("slow")
        if slow is None or slow.args:  # a test that takes longer hangs
            item.add_marker(pytest.mark.timeout(*(slow.args if slow else (180,))))


def pytest_configure(config):
    """Keep all tests off the network, and all but those that need a GPU on the CPU, for which they are written."""
    socket.socket.connect = refuse_network
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Start each test as a plain `python` process of one thread, whatever started pytest or ran before it."""
    torch.set_num_threads(1)  # an earlier test may have parsed training arguments, which set all cores
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def make_tokenizer() -> BertTokenizer:
    """Return a lower-casing WordPiece tokenizer of a few words and all letters."""
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=64)


def make_model(labels=("positive", "neutral", "negative"), dropout: float = 0.0, seed: int = 0, vocab_size: int = 0):
    """Return a random two-layer BERT of width 32."""
    torch.manual_seed(seed)
    shape = SHAPE | {"vocab_size": vocab_size or len(VOCABULARY), "max_position_embeddings": 128}
    dropouts = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    config = BertConfig(**shape, **dropouts, **label_maps(labels))
    return BertForSequenceClassification(config)


def save_tiny(folder: Path, model=None, **options) -> Path:
    """Save a model, None for a random one with these options, and the tokenizer; return their folder."""
    (model or make_model(**options)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_model():
    return make_model()


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def classifier(tiny_model, tokenizer):
    """The random model as a classifier with chunks of eight rows."""
    from tables import make_classifier

    return make_classifier(tiny_model, tokenizer)


@pytest.fixture
def smsa_dir(tmp_path):
    """A folder with SmSA's file names and seven rows a file."""
    folder = tmp_path / "smsa"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        rows = "".join(f"{text}\t{label}\n" for text, label in TINY_ROWS)
        (folder / f"{split}_preprocess.tsv").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def real_files():
    """Train and valid of the real SmSA where SMSA_DATA_DIR names it, else of the bundled sample."""
    return find_smsa(os.environ.get("SMSA_DATA_DIR") or SAMPLE_DIR)


@pytest.fixture(scope="session")
def smsa_files(real_files):
    """The real SmSA, for tests whose claim is about it."""
    if not os.environ.get("SMSA_DATA_DIR"):
        pytest.skip("needs the real SmSA: set SMSA_DATA_DIR to its folder")
    return real_files


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the labelled sets, for tests that need it and the texts of SMSA_CORPUS_DIR."""
    if not (os.environ.get("SMSA_CORPUS_DIR") and os.environ.get("SMSA_LABELLED_DIR")):
        pytest.skip("needs corpus and labelled sets: set SMSA_CORPUS_DIR and SMSA_LABELLED_DIR to their folders")
    return Path(os.environ["SMSA_LABELLED_DIR"])


class Canary:
    """What a hostile pickle does: it makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def read_json(path: Path):
    return json.loads(path.read_bytes())


def contents(folder: Path) -> dict[str, bytes]:
    """Return what is in each file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
