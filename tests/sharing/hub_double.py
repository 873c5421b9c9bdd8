"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create, push, and load, and its faults.

It keeps repositories in memory. A `Fault` answers in its place. All files go with the commit: storage of large ones,
and leaving out those that have not changed, are between the Hub and its client.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_doubleDOUBLEdouble"
OWNERS = ("me", "team")  # the user, and an organisation


@dataclass
class Repository:
    """Commits, and the branches and tags that name them; a commit is the files of that moment."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    refs: dict[str, int] = field(default_factory=lambda: {"main": 0})
    committed: list[list[str]] = field(default_factory=list)  # paths of each commit that was made

    def find(self, revision: str) -> int:
        return self.refs[revision] if revision in self.refs else int(revision, 16)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]


@dataclass
class Fault:
    """What the double answers to requests of this method and path; 0 cuts the true answer."""

    method: str
    path: str  # a regular expression
    status: int


@dataclass
class Hub:
    """The state of the double."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)  # every byte of every request's body


@contextmanager
def run_hub():
    """Serve a new, empty Hub on the loopback until the end of the block."""
    hub = Hub()
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


ROUTES: list[tuple[str, Callable]] = []


def route(pattern: str):
    """Register a method of `_Handler`, which takes the groups of `pattern` and returns status, content and headers."""
    of_repository = pattern.replace("REPO", "(?P<name>[^/]+/[^/]+)")
    return lambda action: ROUTES.append((of_repository, action)) or action


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.received += self.body
        faults = [f for f in self.hub.faults if f.method == self.command and re.search(f.path, path)]
        if faults and faults[0].status:
            status, content, headers = faults[0].status, {"error": "a fault of the double"}, {}
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status, content, headers = 401, {"error": "Invalid credentials"}, {}
        else:
            action, found = next((act, m) for pattern, act in ROUTES if (m := re.fullmatch(pattern, path)))
            status, content, headers = action(self, **found.groupdict())
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for header in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(*header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if faults and not faults[0].status else body)

    do_HEAD = do_POST = do_GET

    @route("/api/repos/create")
    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or OWNERS[0]
        name = f"{owner}/{asked['name']}"
        if owner not in OWNERS:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}, {}
        is_new = name not in self.hub.repositories
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories.setdefault(name, Repository(is_private))
        return 200 if is_new else 409, {"url": f"{self.hub.url}/{name}"}, {}

    @route("/api/validate-yaml|/api/models/REPO/auth-check/write")
    def accept(self, name: str | None = None):
        return 200, {"errors": [], "warnings": []}, {}

    @route("/api/models/REPO/preupload/.+")
    def preupload(self, name: str):
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        kind = {"oid": None, "uploadMode": "regular", "shouldIgnore": False}
        return 200, {"files": [{"path": path, **kind} for path in paths]}, {}

    @route("/api/models/REPO/commit/(?P<revision>.+)")
    def commit(self, name: str, revision: str):
        repository, is_proposed = self.hub.repositories[name], "create_pr" in self.path
        values = [entry["value"] for entry in map(json.loads, self.body.splitlines()) if entry["key"] == "file"]
        files = {value["path"]: base64.b64decode(value["content"]) for value in values}
        repository.committed.append(sorted(files))
        repository.commits.append(repository.files(revision) | files)
        oid = len(repository.commits) - 1
        repository.refs["refs/pr/1" if is_proposed else revision] = oid
        address = {"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if is_proposed else {}
        return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid:040x}", "commitOid": f"{oid:040x}", **address}, {}

    @route("/api/models/REPO/branch/(?P<branch>.+)")
    def branch(self, name: str, branch: str):
        self.hub.repositories[name].refs.setdefault(branch, 0)
        return 200, {}, {}

    @route("/api/models/REPO/tag/(?P<revision>.+)")
    def tag(self, name: str, revision: str):
        repository, tag = self.hub.repositories[name], json.loads(self.body)["tag"]
        if tag in repository.refs:
            return 409, {"error": "Tag reference exists already"}, {}
        repository.refs[tag] = repository.find(revision)
        return 200, {}, {}

    @route("/api/models/REPO(/revision/(?P<revision>.+))?")
    def info(self, name: str, revision: str | None):
        repository = self.hub.repositories.get(name)
        if repository is None:
            return 404, {"error": "RepoNotFound"}, {"X-Error-Code": "RepoNotFound"}
        oid = repository.find(revision or "main")
        files = [{"rfilename": path} for path in repository.commits[oid]]
        values = {"id": name, "sha": f"{oid:040x}", "private": repository.private, "siblings": files, "tags": []}
        return 200, values, {}

    @route("/REPO/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, name: str, revision: str, path: str):
        repository = self.hub.repositories[name]
        content, oid = repository.files(revision).get(path), repository.find(revision)
        if content is None:
            return 404, {"error": "EntryNotFound"}, {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha1(content).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": f"{oid:040x}"}

    @route(".*")
    def refuse(self):
        return 404, {"error": f"the double does not know {self.command} {self.path}"}, {}
