"""Pushing to a Hub: the real client over HTTP, in a process of its own as a user runs it, against hub_double.py."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cards import check_card
from conftest import ROOT, make_model, make_tokenizer
from hub_double import TOKEN, Fault, run_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from test_scripts import call as call_finetune

from smsa.sharing import hub as hub_module
from smsa.sharing.card import render_card
from smsa.sharing.hub import list_uploads

CARD = "---\nlanguage: id\n---\n\n# A model\n"
GOES_UP = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"),
    *("metrics.json", "history.csv", "history.png"),
}
STAYS = {
    *("run.json", "predictions_valid.csv", "submission.csv", "running.json", "run.lock", "training_args.bin"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", ".env", "train.tsv", "notes.log"),
}


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "run"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    for name in GOES_UP | STAYS:
        if not (folder / name).exists():
            (folder / name).write_text(f"{name} of a run")
    (folder / "checkpoint-9").mkdir()
    for name in ("model.safetensors", "config.json", "optimizer.pt"):
        (folder / "checkpoint-9" / name).write_text("of a checkpoint")
    return folder


@pytest.fixture
def folder(_finished):
    yield _finished
    (_finished / "README.md").write_text(CARD)


@pytest.fixture
def hub():
    with run_hub() as running:
        yield running


def environment(hub, home, token=TOKEN):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return kept | ({"HF_TOKEN": token} if token else {})


def push(hub, home, *words, token=TOKEN) -> tuple[int, str]:
    command = [sys.executable, "scripts/push.py", *map(str, words)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(hub, home, token) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def hash_all(folder) -> dict:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_what_goes_up_is_named_and_nothing_else_does(hub, folder, tmp_path):
    before = hash_all(folder)
    status, text = push(hub, tmp_path, folder, "me/model", "--private")
    assert status == 0, text
    repository = hub.repositories["me/model"]
    assert repository.private
    assert [set(paths) for paths in repository.committed] == [GOES_UP]  # one commit
    files = repository.commits[repository.branches["main"]]
    assert {name: files[name] for name in GOES_UP} == {name: (folder / name).read_bytes() for name in GOES_UP}
    assert "model.safetensors" in repository.lfs
    assert f"{hub.url}/me/model/commit/{repository.branches['main']}" in text
    assert hash_all(folder) == before
    assert TOKEN not in text and TOKEN.encode() not in hub.received
    for path in (*tmp_path.rglob("*"), *folder.rglob("*")):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path

    status, text = push(hub, tmp_path, folder, "model")  # in one's own namespace, and unchanged: no commit
    assert status == 0 and len(repository.committed) == 1, text
    assert f"commit/{repository.branches['main']}" in text
    (folder / "README.md").write_text(CARD + "More.\n")
    status, text = push(hub, tmp_path, folder, "me/model")
    assert status == 0 and repository.committed[1:] == [["README.md"]], text


def test_branches_tags_and_pull_requests(hub, folder, tmp_path):
    status, text = push(hub, tmp_path, folder, "team/model", "--revision", "v2", "--tag", "first")
    assert status == 0, text
    repository = hub.repositories["team/model"]
    assert set(repository.commits[repository.branches["v2"]]) >= GOES_UP
    assert set(repository.commits[repository.branches["main"]]) == {".gitattributes"}
    assert repository.tags == {"first": repository.branches["v2"]}
    hub.faults.append(Fault("GET", "auth-check", 403))  # to propose takes no right to write
    status, text = push(hub, tmp_path, folder, "team/model", "--pull_request")
    assert status == 0 and f"is proposed: {hub.url}/team/model/discussions/1" in text
    assert hub.requests_of("POST", "/api/repos/create") == 1
    assert set(repository.commits[repository.branches["main"]]) == {".gitattributes"}
    assert set(repository.pull_requests[0]) >= GOES_UP


@pytest.mark.slow
def test_a_pushed_model_loads_with_equal_logits(hub, folder, tmp_path):
    status, text = push(hub, tmp_path, folder, "me/model")
    assert status == 0, text
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T, pipeline\n"
        "tokens = T.from_pretrained('me/model')(['enak dan murah'], return_tensors='pt')\n"
        "logits = [M.from_pretrained(name).eval()(**tokens).logits for name in ('me/model', sys.argv[1])]\n"
        "assert torch.equal(*logits)\n"
        "print(pipeline('text-classification', model='me/model')('enak')[0]['label'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=environment(hub, tmp_path / "home"), capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.split()[-1] in ("positive", "neutral", "negative"), done.stderr
    (tmp_path / "texts.txt").write_text("enak dan murah\nkotor sekali\n")
    scored = []
    for model, extra in ((str(folder), {}), ("me/model", {}), ("me/model", {"HF_HUB_OFFLINE": "1"})):
        output = tmp_path / f"{len(scored)}.csv"
        words = ["--model", model, "--input", tmp_path / "texts.txt", "--output", output, "--backend", "torch"]
        done = subprocess.run(
            [sys.executable, "scripts/predict.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
            env=environment(hub, tmp_path / "home") | {"PYTHONPATH": str(ROOT)} | extra,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        scored.append(output.read_bytes())
    assert scored[0] == scored[1] == scored[2]


TROUBLE = {
    "429 with Retry-After": Fault("POST", "/commit/", 429, {"Retry-After": "1"}, times=1),
    "500 once": Fault("POST", "/preupload/", 500, times=1),
    "500 from the storage": Fault("PUT", "/storage/", 500, times=1),
    "a cut upload": Fault("PUT", "/storage/", times=1, cut_after=10),
    "a cut commit": Fault("POST", "/commit/", times=1, cut_after=100),
}


@pytest.mark.parametrize("fault", TROUBLE.values(), ids=TROUBLE)
def test_trouble_that_passes_is_waited_for(hub, folder, tmp_path, fault):
    hub.faults.append(fault)
    status, text = push(hub, tmp_path, folder, "me/model")
    assert status == 0 and fault.times == 0, text
    assert [set(paths) for paths in hub.repositories["me/model"].committed] == [GOES_UP]


REFUSED = {
    "no token": (
        {"token": None},
        "me/model",
        None,
        "There is no token of the Hub: run `hf auth login`, or set HF_TOKEN",
    ),
    "a refused token": ({"token": "hf_wrong"}, "me/model", None, r"refuses the token for me/model \(401\)"),
    "another's namespace": ({}, "you/model", None, r"refuses the token for you/model \(403\)"),
    "a token that may only read": (
        {},
        "me/model",
        Fault("POST", "/api/repos/create", 403),
        r"refuses the token for me/model \(403\)",
    ),
    "no right to write": ({}, "me/model", Fault("GET", "auth-check", 403), r"refuses the token for me/model \(403\)"),
    "no name": ({}, "me/a/b", None, "'me/a/b' is no name on the Hub"),
    "409 of another kind": ({}, "me/model", Fault("POST", "/commit/", 409), "me/model on the Hub: "),
    "404 while it is pushed": (
        {},
        "me/model",
        Fault("POST", "/preupload/", 404, {"X-Error-Code": "RepoNotFound"}),
        "The Hub has no me/model",
    ),
}


@pytest.mark.parametrize("options, name, fault, message", REFUSED.values(), ids=REFUSED)
def test_what_the_hub_refuses_is_said_with_the_way_out(hub, folder, tmp_path, options, name, fault, message):
    hub.faults += [fault] if fault else []
    before = hash_all(folder)
    status, text = push(hub, tmp_path, folder, name, **options)
    assert status == 1 and re.search(rf"^error: .*{message}", text, re.MULTILINE), text
    assert "Traceback" not in text and "hf_wrong" not in text and TOKEN not in text
    assert hash_all(folder) == before
    assert not any(repository.committed for repository in hub.repositories.values())


def finetune(hub, home, encoder, data_dir, output_dir, *words, n_processes=1, token=TOKEN) -> tuple[int, str]:
    """Run scripts/finetune.py for two epochs, as a launch of one process or two, to be pushed to me/model."""
    config = "accelerate_config.yaml" if n_processes == 1 else "configs/accelerate/cpu.yaml"
    command = ["accelerate", "launch", "--config_file", config, "--num_processes", n_processes, "scripts/finetune.py"]
    command += ["--model_name_or_path", encoder, "--data_dir", data_dir, "--output_dir", output_dir, "--max_length", 64]
    command += ["--num_train_epochs", 2, "--precision", "no", "--push_to_hub", "--hub_model_id", "me/model", *words]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment(hub, home, token) | {"PATH": path}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def encoder(tmp_path):
    make_model().save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_run_ends_on_the_hub_as_one_commit(hub, encoder, smsa_dir, tmp_path, n_processes):
    home, run = tmp_path / "home", tmp_path / "run"
    status, text = finetune(hub, home, encoder, smsa_dir, run, n_processes=n_processes)
    assert status == 0, text
    repository = hub.repositories["me/model"]
    assert [set(paths) for paths in repository.committed] == [GOES_UP]
    assert f"It is on the Hub: {hub.url}/me/model/commit/{repository.branches['main']}" in text
    files = repository.commits[repository.branches["main"]]
    for name in GOES_UP - {"README.md"}:
        assert files[name] == (run / name).read_bytes(), name
    card = files["README.md"].decode()
    assert card == render_card(run, "me/model") and str(tmp_path) not in card
    check_card(card, *(json.loads((run / name).read_bytes()) for name in ("metrics.json", "run.json")))
    assert TOKEN not in text and TOKEN.encode() not in hub.received
    for path in (*home.rglob("*"), *run.rglob("*")):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    if n_processes == 1:  # a finished run: nothing is trained, and nothing new is there to push
        status, text = finetune(hub, home, encoder, smsa_dir, run, "--resume", "auto")
        assert status == 0 and "is finished: nothing to do" in text and len(repository.committed) == 1, text


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_refused_token_stops_a_run_before_it_starts(hub, encoder, smsa_dir, tmp_path, n_processes):
    run = tmp_path / "run"
    status, text = finetune(hub, tmp_path / "home", encoder, smsa_dir, run, n_processes=n_processes, token="hf_wrong")
    assert status != 0 and text.count("error: The Hub refuses the token for me/model (401)") == 1, text
    assert "Epoch" not in text and "hf_wrong" not in text
    assert not run.exists() and not hub.repositories


@pytest.mark.slow
def test_an_upload_that_fails_leaves_the_model_and_says_how_to_go_on(hub, encoder, smsa_dir, tmp_path):
    fault = Fault("POST", "/commit/", 403)
    hub.faults.append(fault)
    run = tmp_path / "run"
    status, text = finetune(hub, tmp_path / "home", encoder, smsa_dir, run, "--hub_private_repo")
    assert status != 0 and "The Hub refuses the token for me/model (403)" in text
    (again,) = re.findall(r"is finished and whole; this pushes it: python (.*)", text)
    assert again == f"scripts/push.py {run} me/model --private"
    assert {path.name for path in run.iterdir() if path.is_file()} >= GOES_UP | {"run.json"}
    hub.faults.clear()
    status, text = push(hub, tmp_path / "home", *again.split()[1:])
    assert status == 0 and [set(paths) for paths in hub.repositories["me/model"].committed] == [GOES_UP], text


def test_several_seeds_are_not_pushed():
    with pytest.raises(SystemExit, match="--seeds leaves several models: choose one, and push it with scripts/push.py"):
        call_finetune("--seeds", "1", "2", "--push_to_hub", "--hub_model_id", "me/model", "--output_dir", "nowhere")


def test_the_hubs_options_go_together(capsys):
    for words in (["--push_to_hub"], ["--hub_model_id", "me/model"], ["--hub_private_repo"]):
        with pytest.raises(SystemExit) as stopped:
            call_finetune(*words)
        assert stopped.value.code == 2 and "--push_to_hub" in capsys.readouterr().err


def test_a_card_goes_up_under_the_name_of_the_repository_unless_its_owner_took_it_over(hub, folder, tmp_path):
    for text in (CARD, None):
        if text is None:
            (folder / "README.md").unlink()
        status, said = push(hub, tmp_path, folder, "me/model")
        assert status == 0 and ("the model goes to the Hub without a card" in said) == (text is None), said
    repository = hub.repositories["me/model"]
    assert repository.commits[repository.branches["main"]]["README.md"].decode() == CARD


def test_a_public_repository_is_not_pushed_to_as_a_private_one(hub, folder, tmp_path):
    assert push(hub, tmp_path, folder, "me/model")[0] == 0
    (folder / "README.md").write_text(CARD + "Secret.\n")
    status, text = push(hub, tmp_path, folder, "me/model", "--private")
    assert status == 1 and "error: me/model is there already, and public" in text
    assert len(hub.repositories["me/model"].committed) == 1


def answer(status: int, **headers) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=SimpleNamespace(status_code=status, headers=headers, request=None))


TRIED_AGAIN = {
    "500": ([answer(500), answer(503), answer(500)], [1, 2, 4], False),
    "429 with Retry-After": (
        [answer(429, **{"Retry-After": "7"}), answer(429, **{"Retry-After": "900"})],
        [7, 60],
        False,
    ),
    "cut": ([ConnectionError("cut"), HTTPError("cut")], [1, 2], False),
    "500 for ever": ([answer(500)] * 9, [1, 2, 4, 8], True),
    "409": ([answer(409)], [], True),
    "offline, as was asked": ([OfflineModeIsEnabled("offline")], [], True),
    "a refused card": ([ValueError("a refused card")], [], True),
}


@pytest.mark.parametrize("failures, waits, is_given_up", TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_trouble_is_waited_for_as_long_as_it_may_pass(monkeypatch, failures, waits, is_given_up):
    """The Hub's client tries some requests again by itself; this is about what we add."""
    waited, pending = [], list(failures)
    monkeypatch.setattr(hub_module.time, "sleep", waited.append)

    def question():
        if pending:
            raise pending.pop(0)
        return "answer"

    if is_given_up:
        with pytest.raises(hub_module.HubError, match="me/model on the Hub: "):
            hub_module._ask(question, "me/model")
        assert len(failures) - len(pending) == len(waits) + 1
    else:
        assert hub_module._ask(question, "me/model") == "answer"
    assert waited == waits


def test_a_card_keeps_the_licence_that_its_owner_wrote(hub, encoder, smsa_dir, tmp_path):
    run = tmp_path / "run"
    call_finetune(
        "--model_name_or_path", encoder, "--data_dir", smsa_dir, "--output_dir", run, "--max_length", 64,
        "--num_train_epochs", 1, "--precision", "no",
    )  # fmt: skip
    card = (run / "README.md").read_text()
    assert "\nlicense:" not in card and str(run) in card
    (run / "README.md").write_text(card.replace("language: id\n", "language: id\nlicense: cc-by-sa-4.0\n"))
    assert push(hub, tmp_path, run, "model")[0] == 0
    files = hub.repositories["me/model"].commits[hub.repositories["me/model"].branches["main"]]
    pushed = files["README.md"].decode()
    assert "\nlicense: cc-by-sa-4.0\n" in pushed and str(tmp_path) not in pushed and '"me/model"' in pushed
    # what came from the Hub has no run.json: its card goes up as it stands
    (run / "run.json").unlink()
    assert push(hub, tmp_path, run, "me/fork")[0] == 0
    fork = hub.repositories["me/fork"]
    assert fork.commits[fork.branches["main"]]["README.md"] == (run / "README.md").read_bytes()


def test_a_hub_that_stays_broken_is_given_up(hub, folder, tmp_path):
    hub.faults.append(Fault("POST", "/api/repos/create", 429, {"Retry-After": "0"}))
    status, text = push(hub, tmp_path, folder, "me/model")
    assert status == 1 and "error: me/model on the Hub: " in text
    assert hub.requests_of("POST", "/api/repos/create") == 5


@pytest.mark.slow
def test_a_tag_stays_with_its_commit(hub, folder, tmp_path):
    for _ in range(2):  # the same again is no failure
        status, text = push(hub, tmp_path, folder, "me/model", "--tag", "v1")
        assert status == 0, text
    first = dict(hub.repositories["me/model"].tags)
    (folder / "README.md").write_text(CARD + "More.\n")
    status, text = push(hub, tmp_path, folder, "me/model", "--tag", "v1")
    repository = hub.repositories["me/model"]
    address = f"{hub.url}/me/model/commit/{repository.branches['main']}"
    assert status == 1 and f"error: {address} is made, but the tag 'v1' is that of an earlier commit" in text
    assert repository.tags == first


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    for names in ((), ("config.json", "pytorch_model.bin"), ("model.safetensors",)):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(FileNotFoundError, match="is no finished model: it lacks config.json or model.safetensors"):
            list_uploads(tmp_path)
        for name in names:
            (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError):
        list_uploads(tmp_path / "nowhere")
