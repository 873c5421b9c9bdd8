"""A finished model folder -> one commit on the Hugging Face Hub; only the files named here are uploaded.

The Hub's client takes the token from `hf auth login` or HF_TOKEN. smsa has no option for it, and never writes it.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HTTPError

from smsa.errors import UserError
from smsa.sharing.card import CARD, is_renewable, render_card

UPLOADED = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("README.md", "metrics.json", "history.csv"),
    *("history.png", "scores.png", "confusion.png", "reliability.png"),
)


def require_access(repo_id: str, private: bool = False) -> str:
    """Return the name of a repository with its namespace; create it if there is none.

    Args:
        repo_id: `namespace/name`, or a name in the token's own namespace.
        private: make a new repository private, and refuse one that is not.

    Raises:
        UserError: if `push` could not commit with this name or token; the message has the way out.
    """
    api = HfApi()
    with _explaining(repo_id):
        repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)
        is_public = private and not api.model_info(repo_id).private
    if is_public:
        raise UserError(f"{repo_id} is public: make it private there, or leave --private or --hub_private_repo out.")
    return repo_id


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    pull_request: bool = False,
) -> str:
    """Put those files of a finished model folder that match `UPLOADED` on the Hub as one commit.

    A model card that smsa wrote is rendered for `repo_id`. Nothing on this machine changes.

    Args:
        repo_id, private: as in `require_access`.
        revision: branch to commit to, created if there is none; main if not given.
        tag: name for the commit; `pull_request` takes neither a tag nor a revision.
        pull_request: propose the commit to a repository that exists; this needs no right to write.

    Returns:
        The address of the commit, or of the pull request; of the newest commit if nothing has changed.

    Raises:
        FileNotFoundError: if the folder has no config.json or no safetensors.
        UserError: if the Hub refuses or cannot be reached, or a pull request has a tag or a revision.
    """
    if pull_request and (tag or revision):
        raise UserError("a pull request proposes a commit to the main branch: leave --tag and --revision out.")
    found = sorted(path for pattern in UPLOADED for path in Path(folder).glob(pattern) if path.is_file())
    if not {"config.json", ".safetensors"} <= {text for path in found for text in (path.name, path.suffix)}:
        raise FileNotFoundError(f"{folder} is no finished model: it lacks config.json or model.safetensors.")
    contents: dict[str, Path | bytes] = {path.name: path for path in found}
    if not pull_request:
        repo_id = require_access(repo_id, private)
    if is_renewable(folder):
        contents[CARD] = render_card(folder, repo_id).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents[name]) for name in contents]
    api = HfApi()
    command = ["python", "scripts/push.py", str(folder), repo_id]
    command += ["--private"] * private + ["--pull_request"] * pull_request
    command += [f"--{name}={value}" for name, value in (("revision", revision), ("tag", tag)) if value]
    with _explaining(repo_id, f" This sends what is missing: {shlex.join(command)}"):
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message="Model by smsa", revision=revision, create_pr=pull_request
        )
    if tag is not None:
        with _explaining(repo_id, f" The commit itself is made: {commit.commit_url}"):
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit.pr_url or commit.commit_url


@contextmanager
def _explaining(repo_id: str, way_out: str = "") -> Iterator[None]:
    """Turn what the Hub's client raises into a UserError."""
    try:
        yield
    # HTTPError: the Hub's answer, or none; ConnectionError: hf_xet's; ValueError: a name or a card that is refused.
    except (HTTPError, ConnectionError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"{repo_id} on the Hub: {' '.join(str(error).split()).rstrip('.') or repr(error)}."
        if status in (401, 403):
            reason = (
                f"The Hub refuses the token for {repo_id} ({status}): it must be valid and have the right to "
                "write there. Run `hf auth login`, or set HF_TOKEN."
            )
        raise UserError(reason + way_out) from error
