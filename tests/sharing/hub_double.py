"""A small Hub on this machine: what huggingface_hub 2.4 asks of the real one to create, push, and load, and its faults.

It keeps repositories in memory. A fault answers in its place. All files go with the commit: storage of large ones, and
leaving out those that have not changed, are between the Hub and its client.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_doubleDOUBLEdouble"
OWNERS = ("me", "team")  # the user, and an organisation


class Repository:
    """Commits, and the branches and tags that name them; a commit is the files of that moment."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: list[dict[str, bytes]] = [{".gitattributes": b""}]
        self.refs = {"main": 0}
        self.committed: list[list[str]] = []  # paths of each commit that was made

    def find(self, revision: str) -> int:
        return self.refs[revision] if revision in self.refs else int(revision, 16)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]


class Hub(HTTPServer):
    """The state of the double, and what serves it on the loopback."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        # method, pattern of the path, and the status that is answered; 0 cuts the true answer
        self.faults: list[tuple[str, str, int]] = []
        self.requests: list[str] = []
        self.received = bytearray()  # every byte of every request's body


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        path, hub = unquote(urlsplit(self.path).path), self.server
        hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.received += self.body
        faults = [status for method, where, status in hub.faults if method == self.command and re.search(where, path)]
        self.is_cut = 0 in faults
        if any(faults):
            self.answer({"error": "a fault of the double"}, faults[0])
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        else:
            self.respond(path.strip("/").split("/"))

    do_HEAD = do_POST = do_GET

    def answer(self, content: object, status: int = 200, **headers: str):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.is_cut else body)

    def respond(self, parts: list[str]):
        """Do what the parts of a path ask for; a revision may have several."""
        url, repositories = self.server.url, self.server.repositories
        match parts:
            case "api", "repos", "create":
                asked = json.loads(self.body)
                owner = asked["organization"] or OWNERS[0]
                name = f"{owner}/{asked['name']}"
                if owner not in OWNERS:
                    return self.answer({"error": "You don't have the rights to create a model there"}, 403)
                status = 409 if name in repositories else 200
                repositories.setdefault(name, Repository(asked.get("visibility") == "private"))
                self.answer({"url": f"{url}/{name}"}, status)
            case ("api", "validate-yaml") | ("api", "models", _, _, "auth-check", "write"):
                self.answer({"errors": [], "warnings": []})
            case "api", "models", _, _, "preupload", *_:
                kind = {"oid": None, "uploadMode": "regular", "shouldIgnore": False}
                self.answer({"files": [{"path": file["path"], **kind} for file in json.loads(self.body)["files"]]})
            case "api", "models", owner, name, "commit", *revision:
                repository, is_proposed = repositories[f"{owner}/{name}"], "create_pr" in self.path
                values = [entry["value"] for entry in map(json.loads, self.body.splitlines()) if entry["key"] == "file"]
                files = {value["path"]: base64.b64decode(value["content"]) for value in values}
                repository.committed.append(sorted(files))
                repository.commits.append(repository.files("/".join(revision)) | files)
                oid, address = len(repository.commits) - 1, f"{url}/{owner}/{name}"
                repository.refs["refs/pr/1" if is_proposed else "/".join(revision)] = oid
                proposed = {"pullRequestUrl": f"{address}/discussions/1"} if is_proposed else {}
                self.answer({"commitUrl": f"{address}/commit/{oid:040x}", "commitOid": f"{oid:040x}", **proposed})
            case "api", "models", owner, name, "branch", *branch:
                repositories[f"{owner}/{name}"].refs.setdefault("/".join(branch), 0)
                self.answer({})
            case "api", "models", owner, name, "tag", *revision:
                repository, tag = repositories[f"{owner}/{name}"], json.loads(self.body)["tag"]
                if tag in repository.refs:
                    return self.answer({"error": "Tag reference exists already"}, 409)
                repository.refs[tag] = repository.find("/".join(revision))
                self.answer({})
            case "api", "models", owner, name, *revision if revision[:1] in ([], ["revision"]):
                repository = repositories.get(f"{owner}/{name}")
                if repository is None:
                    return self.answer({"error": "RepoNotFound"}, 404, X_Error_Code="RepoNotFound")
                oid = repository.find("/".join(revision[1:]) or "main")
                files = [{"rfilename": path} for path in repository.commits[oid]]
                about = {"id": f"{owner}/{name}", "sha": f"{oid:040x}", "private": repository.private}
                self.answer(about | {"siblings": files, "tags": []})
            case owner, name, "resolve", revision, *path:
                repository = repositories[f"{owner}/{name}"]
                content, oid = repository.files(revision).get("/".join(path)), repository.find(revision)
                if content is None:
                    return self.answer({"error": "EntryNotFound"}, 404, X_Error_Code="EntryNotFound")
                self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=f"{oid:040x}")
            case _:
                self.answer({"error": f"the double does not know {self.command} {self.path}"}, 404)
