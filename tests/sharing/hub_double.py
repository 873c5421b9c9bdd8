"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create, push, and load, and its faults.

It keeps repositories in memory, checks sizes and hashes as the Hub does, and counts commits. A `Fault` answers in its
place: a status, or a connection that is cut in the middle of an upload.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_doubleDOUBLEdouble"
USER, ORGANISATION = "me", "team"


def blob_oid(content: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def find_fault(card: str) -> str | None:
    """What the Hub would not take in the metadata of a model card, as far as its documentation says."""
    if not card.startswith("---\n") or "\n---\n" not in card[4:]:
        return "no metadata"
    try:
        metadata = yaml.safe_load(card[4:].split("\n---\n")[0])
        for model in metadata.get("model-index", []):
            for result in model["results"]:
                strings = [model["name"], result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]]
                strings += [metric["type"] for metric in result["metrics"]]
                if not all(isinstance(text, str) and text for text in strings) or not result["metrics"]:
                    return "model-index is not complete"
                if not all(isinstance(metric["value"], float) for metric in result["metrics"]):
                    return "a metric is no number"
        if not isinstance(metadata.get("language", "id"), str) or not isinstance(metadata.get("tags", []), list):
            return "language or tags are of another type"
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return f"metadata cannot be read: {error!r}"
    return None


@dataclass
class Repository:
    """Branches, tags and commits; a commit is the files of that moment."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)  # paths
    committed: list[list[str]] = field(default_factory=list)  # paths of each commit that was made
    pull_requests: list[dict[str, bytes]] = field(default_factory=list)

    def add(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[branch]]

    def find(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.branches.get(revision) or self.tags.get(revision)


@dataclass
class Fault:
    """What the double does instead of answering requests of this method and path; `times` of them, or all."""

    method: str
    path: str  # a regular expression
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 10**9
    cut_after: int | None = None  # bytes of the body, no more than it has, before the connection is cut


class Hub:
    """The state of the double; `url` is its address."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by sha256
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.received = bytearray()  # every byte of every request's body
        self.lock = threading.Lock()
        self.url = ""

    def requests_of(self, method: str, pattern: str) -> int:
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)


@contextmanager
def run_hub():
    """Serve a new, empty Hub on the loopback until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def handle_request(self):
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            fault = next((f for f in self.hub.faults if f.times > 0 and self._is_hit_by(f)), None)
            if fault:
                fault.times -= 1
        if fault and fault.cut_after is not None:
            self.rfile.read(fault.cut_after)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.body = self._read_body()
        with self.hub.lock:
            self.hub.received += self.body
            if fault:
                return self.answer(fault.status, {"error": "a fault of the double"}, fault.headers)
            for method, pattern, action in ROUTES:
                match = re.fullmatch(pattern, self.route)
                if method == self.command and match:
                    return action(self, **match.groupdict())
        self.answer(404, {"error": f"the double does not know {self.command} {self.route}"})

    def _is_hit_by(self, fault: Fault) -> bool:
        return fault.method == self.command and re.search(fault.path, self.route) is not None

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, content: object = None, headers: dict | None = None, raw: bytes | None = None):
        body = json.dumps(content).encode() if raw is None else raw
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str, headers: dict | None = None):
        self.answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def is_authorised(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer(401, {"error": "Invalid credentials"})
        return False

    def repository(self, repo: str) -> Repository | None:
        """The repository, or None when it has been answered that there is none to be seen."""
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.error(401 if self.headers.get("Authorization") is None else 404, "RepoNotFound")
            return None
        return found

    def who_am_i(self):
        if self.is_authorised():
            self.answer(200, {"type": "user", "name": USER, "orgs": [{"name": ORGANISATION}]})

    def check_access(self, repo: str):
        if self.is_authorised() and self.repository(repo):
            may_write = repo.split("/")[0] in (USER, ORGANISATION)
            self.answer(200 if may_write else 403, {})

    def create(self):
        if not self.is_authorised():
            return
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or USER}/{asked['name']}"
        address = {"url": f"{self.hub.url}/{repo}"}
        if repo.split("/")[0] not in (USER, ORGANISATION):
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if repo in self.hub.repositories:
            return self.answer(409, {"error": "You already created this model repo", **address})
        self.hub.repositories[repo] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        self.hub.repositories[repo].add("main", {".gitattributes": b""})
        self.answer(200, address)

    def validate_card(self):
        content = json.loads(self.body)["content"]
        fault = find_fault(content)
        self.answer(400 if fault else 200, {"errors": [{"message": fault}] if fault else [], "warnings": []})

    def preupload(self, repo: str, revision: str):
        if not self.is_authorised() or not (found := self.repository(repo)):
            return
        if found.find(revision) is None:
            return self.error(404, "RevisionNotFound")
        here, files = found.commits[found.find(revision)], []
        for file in json.loads(self.body)["files"]:
            is_lfs = file["path"].endswith((".safetensors", ".png"))
            content = here.get(file["path"])
            oid = None if content is None else hashlib.sha256(content).hexdigest() if is_lfs else blob_oid(content)
            mode = "lfs" if is_lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def lfs_batch(self, repo: str):
        if not self.is_authorised() or not self.repository(repo):
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.stored:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self.answer(200, {"objects": objects})

    def store(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "not what its sha256 says"})
        self.hub.stored[oid] = self.body
        self.answer(200, {})

    def commit(self, repo: str, revision: str):
        if not self.is_authorised() or not (found := self.repository(repo)):
            return
        if found.find(revision) is None:
            return self.error(404, "RevisionNotFound")
        files, paths = dict(found.commits[found.find(revision)]), []
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
                found.lfs.add(value["path"])
            if "path" in value:
                paths.append(value["path"])
        found.committed.append(sorted(paths))
        if "create_pr" in self.query:
            found.pull_requests.append(files)
            number = len(found.pull_requests)
            oid = found.add(f"refs/pr/{number}", files)
            address = {"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/{number}"}
        else:
            oid, address = found.add(revision, files), {}
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, **address})

    def branch(self, repo: str, name: str):
        if self.is_authorised() and (found := self.repository(repo)):
            if name in found.branches:
                return self.answer(409, {"error": "Reference already exists"})
            found.branches[name] = found.branches["main"]
            self.answer(200, {})

    def tag(self, repo: str, revision: str):
        if self.is_authorised() and (found := self.repository(repo)):
            name = json.loads(self.body)["tag"]
            if name in found.tags:
                return self.answer(409, {"error": "Tag reference exists already"})
            found.tags[name] = found.find(revision)
            self.answer(200, {})

    def refs(self, repo: str):
        if found := self.repository(repo):
            kinds = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
            listed = {
                kind: [
                    {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in refs.items()
                ]
                for kind, (folder, refs) in kinds.items()
            }
            self.answer(200, {**listed, "converts": []})

    def info(self, repo: str, revision: str = "main"):
        if found := self.repository(repo):
            if (oid := found.find(revision)) is None:
                return self.error(404, "RevisionNotFound")
            files = [{"rfilename": path} for path in sorted(found.commits[oid])]
            self.answer(200, {"id": repo, "sha": oid, "private": found.private, "siblings": files, "tags": []})

    def tree(self, repo: str, revision: str, folder: str = ""):
        if found := self.repository(repo):
            oid = found.find(revision)
            if oid is None or folder:
                return self.error(404, "RevisionNotFound" if oid is None else "EntryNotFound")
            files = found.commits[oid].items()
            self.answer(
                200, [{"type": "file", "path": p, "size": len(c), "oid": blob_oid(c)} for p, c in sorted(files)]
            )

    def resolve(self, repo: str, revision: str, path: str):
        if found := self.repository(repo):
            oid = found.find(revision)
            if oid is None:
                return self.error(404, "RevisionNotFound")
            if path not in found.commits[oid]:
                return self.error(404, "EntryNotFound", {"X-Repo-Commit": oid})
            content = found.commits[oid][path]
            headers = {
                "ETag": f'"{blob_oid(content)}"',
                "X-Repo-Commit": oid,
                "Content-Type": "application/octet-stream",
            }
            self.answer(200, headers=headers, raw=content)


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("GET", f"/api/models/{REPO}/auth-check/write", _Handler.check_access),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("POST", f"/api/models/{REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", _Handler.store),
    ("POST", f"/api/models/{REPO}/commit/(?P<revision>.+)", _Handler.commit),
    ("POST", f"/api/models/{REPO}/branch/(?P<name>.+)", _Handler.branch),
    ("POST", f"/api/models/{REPO}/tag/(?P<revision>.+)", _Handler.tag),
    ("GET", f"/api/models/{REPO}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", f"/api/models/{REPO}/refs", _Handler.refs),
    ("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", _Handler.tree),
    ("GET", f"/api/models/{REPO}", _Handler.info),
    ("HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
