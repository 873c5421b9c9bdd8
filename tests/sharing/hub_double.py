"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create, push, and load, and its faults.

It keeps repositories in memory and counts commits. All files go with the commit: storage of large ones is between the
Hub and its client.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

TOKEN = "hf_doubleDOUBLEdouble"
OWNERS = ("me", "team")  # the user, and an organisation
MODEL = "/api/models/{repo:path}"


@dataclass
class Repository:
    """Commits, each the files of that moment, and their names by branch, pull request and tag."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])
    refs: dict[str, str] = field(default_factory=lambda: {"main": f"{0:040x}"})
    sent: list[list[str]] = field(default_factory=list)  # paths of each commit that a client has made

    def find(self, revision: str) -> str:
        """Return the commit of a branch, pull request or tag; or that which is named."""
        return self.refs.get(revision, revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[int(self.find(revision), 16)]


@dataclass
class Hub:
    """The state of the double."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)  # status by a pattern of "METHOD /path"
    cut: str = ""  # the file whose downloads end half-way
    received: bytearray = field(default_factory=bytearray)  # every byte of every request's body


@contextmanager
def run_hub():
    """Serve a new, empty Hub on the loopback until the end of the block."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(make_app(hub), log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hub.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield hub
        finally:
            server.should_exit = True
            thread.join()


def hash_blob(content: bytes) -> str:
    """Return Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_app(hub: Hub) -> FastAPI:
    """Return what answers: one request at a time, for no function below waits for anything but its request."""
    app = FastAPI()

    @app.middleware("http")
    async def admit(request: Request, answer):
        asked = f"{request.method} {request.url.path}"
        hub.received += await request.body()
        for pattern, status in hub.faults.items():
            if re.search(pattern, asked):
                return Response(status_code=status)
        needs_token = request.method == "POST" or asked.endswith("/auth-check/write")
        if needs_token and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Response(status_code=401)
        return await answer(request)

    @app.get(MODEL + "/auth-check/write")
    async def check_access(repo: str):
        return {}

    @app.post("/api/repos/create")
    async def create(request: Request, response: Response):
        asked = await request.json()
        owner = asked.get("organization") or OWNERS[0]
        if owner not in OWNERS:
            raise HTTPException(403)
        repo = f"{owner}/{asked['name']}"
        if repo in hub.repositories:
            response.status_code = 409
        hub.repositories.setdefault(repo, Repository(asked.get("visibility") == "private"))
        return {"url": f"{hub.url}/{repo}"}

    @app.post("/api/validate-yaml")
    async def validate_card():
        return {"errors": [], "warnings": []}

    @app.post(MODEL + "/preupload/{revision:path}")
    async def preupload(repo: str, revision: str, request: Request):
        here = hub.repositories[repo].files(revision)
        paths = [file["path"] for file in (await request.json())["files"]]
        oids = {path: hash_blob(here[path]) if path in here else None for path in paths}
        same = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": path, "oid": oid, **same} for path, oid in oids.items()]}

    @app.post(MODEL + "/commit/{revision:path}")
    async def commit(repo: str, revision: str, request: Request, create_pr: bool = False):
        repository = hub.repositories[repo]
        entries = map(json.loads, (await request.body()).splitlines())
        sent = {entry["value"]["path"]: entry["value"]["content"] for entry in entries if entry["key"] == "file"}
        repository.sent.append(sorted(sent))
        oid = f"{len(repository.commits):040x}"
        changes = {path: base64.b64decode(content) for path, content in sent.items()}
        repository.commits.append(repository.files(revision) | changes)
        repository.refs["refs/pr/1" if create_pr else revision] = oid
        address = {"pullRequestUrl": f"{hub.url}/{repo}/discussions/1"} if create_pr else {}
        return {"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid, **address}

    @app.post(MODEL + "/branch/{branch:path}")
    async def make_branch(repo: str, branch: str):
        refs = hub.repositories[repo].refs
        refs.setdefault(branch, refs["main"])
        return {}

    @app.post(MODEL + "/tag/{revision:path}")
    async def make_tag(repo: str, revision: str, request: Request):
        repository, tag = hub.repositories[repo], (await request.json())["tag"]
        if tag in repository.refs:
            raise HTTPException(409, headers={"X-Error-Message": "Tag reference exists already"})
        repository.refs[tag] = repository.find(revision)
        return {}

    @app.get(MODEL)
    @app.get(MODEL + "/revision/{revision:path}")  # registered, and so tried, before the one above
    async def describe(repo: str, revision: str = "main"):
        found = hub.repositories[repo]
        files = [{"rfilename": path} for path in found.files(revision)]
        return {"id": repo, "sha": found.find(revision), "private": found.private, "siblings": files, "tags": []}

    @app.api_route("/{repo:path}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def download(repo: str, revision: str, path: str):
        repository = hub.repositories[repo]
        content = repository.files(revision).get(path)
        if content is None:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        described = {"ETag": f'"{hash_blob(content)}"', "X-Repo-Commit": repository.find(revision)}
        described["Content-Length"] = str(len(content))
        return Response(content[: len(content) // 2] if path == hub.cut else content, headers=described)

    return app
