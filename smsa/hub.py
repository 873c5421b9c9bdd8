"""A finished model folder -> one commit on the Hugging Face Hub; nothing goes up but what is named here.

The token is the Hub client's own: that of `hf auth login`, or HF_TOKEN. It is never an option, and never written.
"""

import logging
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from smsa.card import CARD, OURS, read_card, render_card

logger = logging.getLogger(__name__)

UPLOADED = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("README.md", "metrics.json", "history.csv"),
    *("history.png", "scores.png", "confusion.png", "reliability.png"),
)
N_TRIES = 5
LONGEST_WAIT = 60  # seconds between two of them
_T = TypeVar("_T")


class HubError(OSError):
    """The Hub cannot be used as asked; the message says the way out, and nothing on this machine has changed."""


def list_uploads(folder: str | Path) -> list[Path]:
    """Get the files of a model folder that go up, by name.

    Raises:
        FileNotFoundError: if it has no config.json or no safetensors.
    """
    folder = Path(folder)
    found = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    found = sorted(path for path in found if any(fnmatch(path.name, pattern) for pattern in UPLOADED))
    names = {path.name for path in found}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(f"{folder} is no finished model: it lacks config.json or model.safetensors.")
    return found


def require_access(repo_id: str) -> None:
    """Refuse a name or a token that `push` could not use; asks the Hub, and changes nothing there.

    Args:
        repo_id: `namespace/name`, or a name in the token's own namespace.

    Raises:
        HubError: with the way out.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name on the Hub: {error}") from error
    if get_token() is None:
        raise HubError("There is no token of the Hub: run `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    user = _ask(api.whoami, repo_id)
    namespaces = {user["name"], *(organisation["name"] for organisation in user.get("orgs", []))}
    namespace = repo_id.split("/")[0] if "/" in repo_id else user["name"]
    full_name = repo_id if "/" in repo_id else f"{namespace}/{repo_id}"
    try:
        _ask(lambda: api.auth_check(full_name, write=True), repo_id)
    except RepositoryNotFoundError as error:
        if namespace not in namespaces:
            raise HubError(
                f"The token belongs to {user['name']}, who has no namespace {namespace!r} (only "
                f"{', '.join(sorted(namespaces))}), or must not see {repo_id}: choose another name, or another token."
            ) from error


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    pull_request: bool = False,
) -> str:
    """Put a finished model folder on the Hub as one commit, and make the repository if there is none.

    What fails for a while (429, 5xx, a cut connection) is tried again, up to `N_TRIES` times in all. A model card that
    smsa wrote goes up as that of `repo_id`; one that its owner took over, as it stands.

    Args:
        folder: the model; of its files, those that match `UPLOADED` go up.
        repo_id: as in `require_access`.
        private: make a new repository private; one that is there stays as it is.
        revision: branch to commit to, made if there is none; main if not given.
        tag: name for the commit.
        pull_request: propose the commit instead of making it.

    Returns:
        The address of the commit, or of the pull request; of the newest commit if nothing has changed.

    Raises:
        HubError: if the Hub refuses, or stays out of reach.
        FileNotFoundError: as `list_uploads`.
    """
    paths = list_uploads(folder)
    require_access(repo_id)
    api = HfApi()
    try:
        repo_id = _ask(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True), repo_id).repo_id
        card = render_card(folder, repo_id).encode() if OURS in (read_card(folder) or "") else None
        if revision is not None and not pull_request:
            _ask(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), repo_id)

        def commit():
            contents = {path.name: path for path in paths} | ({CARD: card} if card else {})
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents[name]) for name in contents]
            return api.create_commit(
                repo_id, operations, commit_message="Model by smsa", revision=revision, create_pr=pull_request
            )

        made = _ask(commit, repo_id)
        if tag is not None:
            _ask(lambda: api.create_tag(repo_id, tag=tag, revision=made.oid), repo_id)
    except RepositoryNotFoundError as error:
        raise HubError(f"The Hub has no {repo_id}, or does not show it to this token: {_first_line(error)}") from error
    if not (Path(folder) / CARD).exists():
        logger.warning("%s has no %s: the model is on the Hub without a card.", folder, CARD)
    return made.pr_url or made.commit_url


def _ask(question: Callable[[], _T], repo_id: str) -> _T:
    """Ask the Hub, again where that may help; get its answer.

    Raises:
        RepositoryNotFoundError: as it comes.
        HubError: for any other refusal.
    """
    for attempt in range(1, N_TRIES + 1):
        try:
            return question()
        except RepositoryNotFoundError:
            raise
        except (HTTPError, ValueError) as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if status in (401, 403):
                raise HubError(
                    f"The Hub refuses the token for {repo_id} ({status}): it must be valid and may write there. "
                    "Run `hf auth login`, or set HF_TOKEN."
                ) from error
            is_cut = isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)
            may_pass = is_cut or status == 429 or (status or 0) >= 500
            if not may_pass or attempt == N_TRIES:
                raise HubError(f"{repo_id} on the Hub: {_first_line(error)}") from error
            asked = "" if response is None else response.headers.get("Retry-After", "")
            seconds = min(int(asked) if asked.isdecimal() else 2 ** (attempt - 1), LONGEST_WAIT)
            logger.warning("The Hub: %s; trying again in %d s", _first_line(error), seconds)
            time.sleep(seconds)
    raise AssertionError("unreachable")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
