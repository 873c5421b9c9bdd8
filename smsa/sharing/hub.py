"""A finished model folder -> one commit on the Hugging Face Hub; nothing goes up but what is named here.

The token is the Hub client's own: that of `hf auth login`, or HF_TOKEN. It is never an option, and never written.
"""

import logging
import time
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from smsa.errors import UserError
from smsa.sharing.card import CARD, is_renewable, read_card, render_card

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


def require_access(repo_id: str, private: bool = False) -> str:
    """Make the repository if there is none, and refuse a name or a token by which `push` could not commit to it.

    Args:
        repo_id: `namespace/name`, or a name in the token's own namespace.
        private: make a new repository private, and refuse one that is not.

    Returns:
        The name with its namespace.

    Raises:
        HubError: with the way out.
    """
    _require_name(repo_id)
    api = HfApi()
    repo_id = _ask(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True), repo_id).repo_id
    _ask(lambda: api.auth_check(repo_id, write=True), repo_id)
    if private and not _ask(lambda: api.model_info(repo_id), repo_id).private:
        raise HubError(f"{repo_id} is there already, and public: change that in its settings, or leave --private out.")
    return repo_id


def _require_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name on the Hub: {error}") from error
    if get_token() is None:
        raise HubError("There is no token of the Hub: run `hf auth login`, or set HF_TOKEN.")


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
        repo_id, private: as in `require_access`.
        revision: branch to commit to, made if there is none; main if not given.
        tag: name for the commit; not with `pull_request`.
        pull_request: propose the commit to a repository that is there, which takes no right to write.

    Returns:
        The address of the commit, or of the pull request; of the newest commit if nothing has changed.

    Raises:
        HubError: if the Hub refuses, or stays out of reach.
        FileNotFoundError: as `list_uploads`.
        ValueError: for a tag or a revision of a pull request; as `render_card`.
    """
    if pull_request and (tag or revision):
        raise UserError("a pull request proposes a commit to the main branch: leave --tag and --revision out.")
    contents: dict[str, Path | bytes] = {path.name: path for path in list_uploads(folder)}
    if CARD not in contents:
        logger.warning("%s has no %s: the model goes to the Hub without a card.", folder, CARD)
    _require_name(repo_id)
    api = HfApi()
    repo_id = repo_id if pull_request else require_access(repo_id, private)
    if is_renewable(folder):
        contents[CARD] = render_card(folder, repo_id, read_card(folder)).encode()
    if revision is not None:
        _ask(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), repo_id)

    def commit():
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=contents[name]) for name in contents]
        return api.create_commit(
            repo_id, operations, commit_message="Model by smsa", revision=revision, create_pr=pull_request
        )

    made = _ask(commit, repo_id)
    if tag is not None:
        _ask(lambda: api.create_tag(repo_id, tag=tag, revision=made.oid, exist_ok=True), repo_id)
        tags = {ref.name: ref.target_commit for ref in _ask(lambda: api.list_repo_refs(repo_id), repo_id).tags}
        if tags[tag] != made.oid:
            raise HubError(
                f"{made.commit_url} is made, but the tag {tag!r} is that of an earlier commit: give another."
            )
    return made.pr_url or made.commit_url


def _ask(question: Callable[[], _T], repo_id: str) -> _T:
    """Ask the Hub, again where that may help; get its answer.

    Raises:
        HubError: if it refuses.
    """
    for attempt in count(1):
        try:
            return question()
        except RepositoryNotFoundError as error:
            raise HubError(
                f"The Hub has no {repo_id}, or does not show it to this token: {_one_line(error)}"
            ) from error
        except (HTTPError, ConnectionError, ValueError) as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if status in (401, 403):
                raise HubError(
                    f"The Hub refuses the token for {repo_id} ({status}): it must be valid and may write there. "
                    "Run `hf auth login`, or set HF_TOKEN."
                ) from error
            # hf_xet, by which large files go up where it is installed, raises plain ConnectionError
            is_cut = isinstance(error, (HTTPError, ConnectionError)) and not isinstance(error, HfHubHTTPError)
            is_cut &= not isinstance(error, OfflineModeIsEnabled)
            may_pass = is_cut or status == 429 or (status or 0) >= 500
            if not may_pass or attempt == N_TRIES:
                raise HubError(f"{repo_id} on the Hub: {_one_line(error)}") from error
            asked = "" if response is None else response.headers.get("Retry-After", "")
            seconds = min(int(asked) if asked.isdecimal() else 2 ** (attempt - 1), LONGEST_WAIT)
            logger.warning("The Hub: %s; trying again in %d s", _one_line(error), seconds)
            time.sleep(seconds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)
