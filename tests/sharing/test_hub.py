"""Pushing to a Hub: the real client over HTTP against hub_double.py."""

import re
import threading

import pytest
from conftest import ROOT, contents, save_tiny
from hub_double import TOKEN, Hub
from huggingface_hub import constants
from killed import run_script
from processes import Forks, launch, run, run_here
from test_card import check_card, read

from smsa import SentimentClassifier
from smsa.errors import UserError
from smsa.sharing.card import render_card
from smsa.sharing.hub import push

CARD = "---\nlanguage: id\n---\n\n# A model\n"
UPLOADED = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
    *("metrics.json", "history.csv", "history.png"),
}
KEPT = {"run.json", "predictions_valid.csv", "training_args.bin", "optimizer.pt", ".env", "checkpoint-9/config.json"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / "checkpoint-9").mkdir(parents=True)
    for name in UPLOADED | KEPT:
        (tmp_path / "run" / name).write_text(f"{name} of a run")
    (tmp_path / "run" / "README.md").write_text(CARD)
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch):
    """A double of the Hub, to which the client of this process talks."""
    with Hub() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running
        running.shutdown()


def at(hub, home, token=TOKEN) -> dict[str, str]:
    """Return the environment of a program whose Hub is the double."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return settings | {"HF_TOKEN": token, "NO_PROXY": "127.0.0.1"}


def test_what_is_uploaded_is_named_and_nothing_else_is(hub, folder):
    before = contents(folder)
    text = run_here("scripts/push.py", folder, "me/model", "--private")
    repository = hub.repositories["me/model"]
    assert repository.private
    assert [set(paths) for paths in repository.committed] == [UPLOADED]  # one commit
    files = repository.files()
    assert {name: files[name] for name in UPLOADED} == {name: (folder / name).read_bytes() for name in UPLOADED}
    address = f"{hub.url}/me/model/commit/{1:040x}"
    assert f"{folder} is on the Hub: {address}" in text
    assert contents(folder) == before
    assert TOKEN not in text and TOKEN.encode() not in hub.received
    (folder / "README.md").unlink()
    assert push(folder, "model") != address  # in one's own namespace
    assert repository.files()["README.md"].decode() == CARD


def test_branches_tags_and_pull_requests(hub, folder):
    push(folder, "team/model", revision="v2", tag="first")
    repository = hub.repositories["team/model"]
    assert set(repository.files("v2")) >= UPLOADED
    assert repository.refs == {"main": 0, "v2": 1, "first": 1}
    hub.faults.append(("GET", "auth-check", 403))  # to propose takes no right to write
    assert push(folder, "team/model", pull_request=True) == f"{hub.url}/team/model/discussions/1"
    assert hub.requests.count("POST /api/repos/create") == 1
    assert repository.refs == {"main": 0, "v2": 1, "first": 1, "refs/pr/1": 2}
    with pytest.raises(UserError, match="leave --tag and --revision out"):
        push(folder, "team/model", pull_request=True, tag="second")
    hub.faults.clear()
    with pytest.raises(UserError, match="team/model is public: .* leave --private .* out"):
        push(folder, "team/model", private=True)
    with pytest.raises(UserError, match=r"already\. The commit itself is made: http"):  # it stays with its commit
        push(folder, "team/model", tag="first")
    hub.faults.append(("POST", "/commit/", 409))
    with pytest.raises(UserError, match="This sends .*: python scripts/push.py .* --revision=v2 --tag=a$"):
        push(folder, "team/model", revision="v2", tag="a")
    with pytest.raises(UserError, match="This sends .*: python scripts/push.py .* --pull_request$"):
        push(folder, "team/model", pull_request=True)
    assert repository.refs == {"main": 3, "v2": 1, "first": 1, "refs/pr/1": 2}


@pytest.mark.parametrize("token, name, fault, message", [
    ("", "me/model", None, r"\(401\).* Run `hf auth login`, or set HF_TOKEN"),
    ("hf_wrong", "me/model", None, r"the token for me/model \(401\).* Run `hf auth login`, or set HF_TOKEN"),
    (TOKEN, "you/model", None, r"refuses the token for you/model \(403\)"),
    (TOKEN, "me/model", ("GET", "auth-check", 403), r"the token for me/model \(403\)"),
    (TOKEN, "me/a/b", None, "me/a/b on the Hub: Repo id must be"),
])  # fmt: skip
def test_what_the_hub_refuses_is_an_error_that_says_the_way_out(hub, folder, monkeypatch, token, name, fault, message):
    hub.faults += [fault] if fault else []
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=message) as raised:
        push(folder, name)
    assert "hf_wrong" not in str(raised.value) and TOKEN not in str(raised.value)
    assert not any(repository.committed for repository in hub.repositories.values())


def test_a_card_of_smsa_gets_the_name_on_the_hub_and_keeps_the_licence_that_its_owner_wrote(hub, tmp_path):
    run = save_tiny(tmp_path / "run")
    bundled = ROOT / "smsa" / "bundled" / "mini-sentiment"
    for name in ("metrics.json", "run.json"):
        (run / name).write_bytes((bundled / name).read_bytes())
    (run / "README.md").write_text(render_card(run, str(run), "---\nlicense: cc-by-4.0\n---\n"))
    push(run, "me/model")
    pushed = hub.repositories["me/model"].files()["README.md"].decode()
    assert "\nlicense: cc-by-4.0\n" in pushed and str(tmp_path) not in pushed and '"me/model"' in pushed
    (run / "run.json").unlink()  # what came from the Hub has none: its card is uploaded as it stands
    push(run, "me/fork")
    assert hub.repositories["me/fork"].files()["README.md"] == (run / "README.md").read_bytes()


@pytest.mark.parametrize("names", [(), ("config.json", "pytorch_model.bin"), ("model.safetensors",)])
def test_a_folder_that_is_no_model_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="is no finished model: it lacks config.json or model.safetensors"):
        push(tmp_path, "me/model")


@pytest.mark.slow
def test_a_cut_download_is_named_and_the_next_predicts_as_the_folder_and_offline_too(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    folder = save_tiny(tmp_path / "model")
    push(folder, "me/model")
    hub.faults.append(("GET", "model.safetensors", 0))
    with pytest.raises(UserError, match="me/model: .* If a download failed, try again; .* peer closed"):
        SentimentClassifier.from_pretrained("me/model")
    hub.faults.clear()
    classifiers = [SentimentClassifier.from_pretrained(name, backend="torch") for name in (folder, "me/model")]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    classifiers.append(SentimentClassifier.from_pretrained("me/model", backend="torch"))
    here, there, offline = (classifier(["enak dan murah", "kotor sekali"]) for classifier in classifiers)
    assert here == there == offline


@pytest.fixture
def options(smsa_dir, tmp_path) -> list:
    """Fine-tune a tiny encoder into tmp_path/run, and push it to me/model."""
    words = "--num_train_epochs 2 --max_length 64 --precision no --push_to_hub --hub_model_id me/model".split()
    words += ["--model_name_or_path", save_tiny(tmp_path / "encoder"), "--data_dir", smsa_dir]
    return [*words, "--output_dir", tmp_path / "run"]


def finetune(address: str, *words: object) -> None:
    """Run the script in a fork, where the Hub's client has been imported; its Hub is the double."""
    constants.ENDPOINT, constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = address, False, True
    run_script("scripts/finetune.py", *words)


@pytest.mark.slow
def test_a_run_of_two_processes_ends_on_the_hub_as_one_commit(hub, options, tmp_path):
    text = run(*launch("scripts/finetune.py", *options, n_ranks=2), **at(hub, tmp_path / "home"))
    run_folder, repository = tmp_path / "run", hub.repositories["me/model"]
    assert len(repository.committed) == 1 and "run.json" not in repository.committed[0]
    assert f"{hub.url}/me/model/commit/" in text
    files = repository.files()
    for name in set(repository.committed[0]) - {"README.md"}:
        assert files[name] == (run_folder / name).read_bytes(), name
    card = files["README.md"].decode()
    assert card == render_card(run_folder, "me/model") and str(tmp_path) not in card
    check_card(card, *read(run_folder))
    assert TOKEN not in text and TOKEN.encode() not in hub.received
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_refused_token_stops_a_run_at_its_start_and_a_failed_upload_leaves_the_model(hub, options, tmp_path):
    forks = Forks(**at(hub, tmp_path / "home", "hf_wrong"))
    assert forks.run(finetune, hub.url, *options, n_ranks=2) == [1, 1]  # both end by themselves
    text = forks.printed
    assert text.count("error: The Hub refuses the token for me/model (401)") == 1 and "hf_wrong" not in text, text
    assert not (tmp_path / "run").exists() and not hub.repositories
    hub.faults.append(("POST", "/commit/", 403))
    forks = Forks(**at(hub, tmp_path / "home"))
    assert forks.run(finetune, hub.url, *options, "--hub_private_repo", "--hub_revision", "ready") == [1]
    assert "error: The Hub refuses the token for me/model (403)" in forks.printed
    (again,) = re.findall(r"python (scripts/push.py .*)", forks.printed)
    assert again == f"scripts/push.py {tmp_path / 'run'} me/model --private --revision=ready"
    assert (tmp_path / "run" / "run.json").is_file() and (tmp_path / "run" / "model.safetensors").is_file()
    hub.faults.clear()
    run_here(*again.split())
    assert len(hub.repositories["me/model"].committed) == 1
