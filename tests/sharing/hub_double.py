"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create, push, and load, and its faults.

It keeps repositories in memory and counts commits. A `Fault` answers in its place. All files go with the commit:
storage of large ones is between the Hub and its client.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_doubleDOUBLEdouble"
OWNERS = ("me", "team")  # the user, and an organisation
REPO = r"(?P<repo>[^/]+/[^/]+)"


def blob_oid(content: bytes) -> str:
    """Return Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Branches, tags and commits; a commit is the files of that moment."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    committed: list[list[str]] = field(default_factory=list)  # paths of each commit that was made

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        oid = f"{len(self.commits):040x}"
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision) or self.tags.get(revision)


@dataclass
class Fault:
    """What the double answers to requests of this method and path; `times` of them, or all. 0 cuts the true answer."""

    method: str
    path: str  # a regular expression
    status: int = 500
    times: int = 10**9


@dataclass
class Hub:
    """The state of the double."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)  # every byte of every request's body
    lock: threading.Lock = field(default_factory=threading.Lock)  # one request at a time


@contextmanager
def run_hub():
    """Serve a new, empty Hub on the loopback until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


ROUTES: list[tuple[str, str, bool, Callable]] = []


def route(methods: str, pattern: str, needs_token: bool = True):
    """Register a method of `_Handler` for requests; it gets the groups of `pattern`, `repo` as its Repository."""
    return lambda action: ROUTES.append((methods, pattern, needs_token, action)) or action


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {self.path}")
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.hub.received += self.body
            self.is_cut = False
            for fault in self.hub.faults:
                if fault.times > 0 and fault.method == self.command and re.search(fault.path, self.route):
                    fault.times -= 1
                    self.is_cut = fault.status == 0
                    if self.is_cut:
                        break
                    return self.answer(fault.status, {"error": "a fault of the double"})
            self.dispatch()

    do_HEAD = do_POST = do_PUT = do_GET

    def dispatch(self):
        for methods, pattern, needs_token, action in ROUTES:
            match = re.fullmatch(pattern, self.route)
            if self.command not in methods.split() or not match:
                continue
            has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if needs_token and not has_token:
                return self.answer(401, {"error": "Invalid credentials"})
            values = match.groupdict()
            if "repo" in values:
                self.name = values["repo"]
                values["repo"] = found = self.hub.repositories.get(self.name)
                if found is None or (found.private and not has_token):
                    return self.error(404 if has_token else 401, "RepoNotFound")
                if values.get("revision") and found.find(values["revision"]) is None:
                    return self.error(404, "RevisionNotFound")
            return action(self, **values)
        self.answer(404, {"error": f"the double does not know {self.command} {self.route}"})

    def answer(self, status: int, content: object = None, headers: dict | None = None, raw: bytes | None = None):
        body = json.dumps(content or {}).encode() if raw is None else raw
        self.send_response(status)
        named = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.is_cut else body)
        self.close_connection |= self.is_cut

    def error(self, status: int, code: str):
        self.answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    @route("GET", f"/api/models/{REPO}/auth-check/write")
    def check_access(self, repo: Repository):
        self.answer(200 if self.name.split("/")[0] in OWNERS else 403)

    @route("POST", "/api/repos/create")
    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or OWNERS[0]
        name = f"{owner}/{asked['name']}"
        if owner not in OWNERS:
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        is_new = name not in self.hub.repositories
        if is_new:
            self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
            self.hub.repositories[name].add("main", {".gitattributes": b""})
        self.answer(200 if is_new else 409, {"url": f"{self.hub.url}/{name}"})

    @route("POST", "/api/validate-yaml", needs_token=False)
    def validate_card(self):
        self.answer(200, {"errors": [], "warnings": []})

    @route("POST", f"/api/models/{REPO}/preupload/(?P<revision>.+)")
    def preupload(self, repo: Repository, revision: str):
        here = repo.commits[repo.find(revision)]
        oids = {file["path"]: here.get(file["path"]) for file in json.loads(self.body)["files"]}
        same = {"uploadMode": "regular", "shouldIgnore": False}
        self.answer(200, {"files": [{"path": p, "oid": c and blob_oid(c), **same} for p, c in oids.items()]})

    @route("POST", f"/api/models/{REPO}/commit/(?P<revision>.+)")
    def commit(self, repo: Repository, revision: str):
        values = [entry["value"] for entry in map(json.loads, self.body.splitlines()) if entry["key"] == "file"]
        files = repo.commits[repo.find(revision)] | {v["path"]: base64.b64decode(v["content"]) for v in values}
        repo.committed.append(sorted(value["path"] for value in values))
        number = sum(branch.startswith("refs/pr/") for branch in repo.branches) + 1
        is_proposed = "create_pr" in self.query
        oid = repo.add(f"refs/pr/{number}" if is_proposed else revision, files)
        address = {"pullRequestUrl": f"{self.hub.url}/{self.name}/discussions/{number}"} if is_proposed else {}
        self.answer(200, {"commitUrl": f"{self.hub.url}/{self.name}/commit/{oid}", "commitOid": oid, **address})

    @route("POST", f"/api/models/{REPO}/branch/(?P<branch>.+)")
    def branch(self, repo: Repository, branch: str):
        repo.branches.setdefault(branch, repo.branches["main"])
        self.answer(200)

    @route("POST", f"/api/models/{REPO}/tag/(?P<revision>.+)")
    def tag(self, repo: Repository, revision: str):
        name = json.loads(self.body)["tag"]
        if name in repo.tags:
            return self.answer(409, {"error": "Tag reference exists already"})
        repo.tags[name] = repo.find(revision)
        self.answer(200)

    @route("GET", f"/api/models/{REPO}(/revision/(?P<revision>.+))?", needs_token=False)
    def info(self, repo: Repository, revision: str | None = None):
        oid = repo.find(revision or "main")
        files = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        self.answer(200, {"id": self.name, "sha": oid, "private": repo.private, "siblings": files, "tags": []})

    @route("GET HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", needs_token=False)
    def resolve(self, repo: Repository, revision: str, path: str):
        oid = repo.find(revision)
        if path not in repo.commits[oid]:
            return self.error(404, "EntryNotFound")
        content = repo.commits[oid][path]
        kind = {"Content-Type": "application/octet-stream"}
        self.answer(200, headers={"ETag": f'"{blob_oid(content)}"', "X-Repo-Commit": oid, **kind}, raw=content)
