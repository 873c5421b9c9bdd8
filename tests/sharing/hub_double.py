"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create and push, and its faults.

All files go with the commit: storage of large ones is between the Hub and its client.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_doubleDOUBLEdouble"
OWNERS = ("me", "team")  # the user, and an organisation


class Repository:
    def __init__(self, private: bool):
        self.private = private
        self.branches: dict[str, dict[str, bytes]] = {"main": {".gitattributes": b""}}  # files by their paths
        self.tags: dict[str, str] = {}  # what each names: a branch or a commit
        self.committed: list[list[str]] = []  # paths of each commit that was made

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return self.branches[branch]


class Hub:
    """The state of the double."""

    def __init__(self, url: str):
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.faults: list[tuple[str, str, int]] = []  # method, part of a path, and the status of the answer
        self.requests: list[str] = []
        self.received = b""  # every request's body
        self.lock = threading.Lock()  # one request at a time

    def answer(self, method: str, path: str, query: str, body: bytes, token: str | None) -> tuple[int, dict]:
        """Return the status and the content of the answer to a request."""
        for fault_method, part, status in self.faults:
            if fault_method == method and part in path:
                return status, {"error": "a fault of the double"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        name, action, target = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([\w-]+)/(.+))?", path).groups()
        if name not in self.repositories:
            return 404, {"error": "RepoNotFound"}
        repository = self.repositories[name]
        match action:
            case "auth-check":
                return (200 if name.split("/")[0] in OWNERS else 403), {}
            case "preupload":
                here, files = repository.branches[target], json.loads(body)["files"]
                return 200, {"files": [self.describe(file["path"], here.get(file["path"])) for file in files]}
            case "commit":
                return self.commit(name, target, "create_pr" in query, body)
            case "branch":
                repository.branches.setdefault(target, repository.branches["main"])
                return 200, {}
            case "tag":
                tag = json.loads(body)["tag"]
                if tag in repository.tags:
                    return 409, {"error": "Tag reference exists already"}
                repository.tags[tag] = target
                return 200, {}
        oid = f"{len(repository.committed):040x}"
        return 200, {"id": name, "sha": oid, "private": repository.private, "siblings": [], "tags": []}

    def create(self, asked: dict) -> tuple[int, dict]:
        owner = asked.get("organization") or OWNERS[0]
        if owner not in OWNERS:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        name = f"{owner}/{asked['name']}"
        is_new = name not in self.repositories
        if is_new:
            self.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        return (200 if is_new else 409), {"url": f"{self.url}/{name}"}

    @staticmethod
    def describe(path: str, content: bytes | None) -> dict:
        """Say how a file is to be uploaded, and Git's name of what is there, so that no equal file is."""
        oid = None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"path": path, "oid": oid, "uploadMode": "regular", "shouldIgnore": False}

    def commit(self, name: str, branch: str, is_proposed: bool, body: bytes) -> tuple[int, dict]:
        repository = self.repositories[name]
        values = [entry["value"] for entry in map(json.loads, body.splitlines()) if entry["key"] == "file"]
        files = repository.branches[branch] | {v["path"]: base64.b64decode(v["content"]) for v in values}
        repository.committed.append(sorted(value["path"] for value in values))
        repository.branches["refs/pr/1" if is_proposed else branch] = files
        oid = f"{len(repository.committed):040x}"
        proposed = {"pullRequestUrl": f"{self.url}/{name}/discussions/1"} if is_proposed else {}
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid, **proposed}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        hub, (path, _, query) = self.server.hub, unquote(self.path).partition("?")
        with hub.lock:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append(f"{self.command} {path}")
            hub.received += body
            status, content = hub.answer(self.command, path, query, body, self.headers.get("Authorization"))
        answer = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET


@contextmanager
def run_hub():
    """Serve a new, empty Hub on the loopback until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
