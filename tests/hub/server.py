"""A model hub on the loopback interface: the requests that huggingface_hub makes to push and to pull, and faults.

Upload: create, preupload, LFS batch, PUT, verify, commit as NDJSON. Download: revision, tree, resolve by HEAD and GET
with ranges; large files are redirected to another path, as they are to a CDN. Faults are queued by `Hub.fail`.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.loopback import serving

TOKEN = "hf_only_for_the_hub_of_the_tests"
LARGE = 2_000
"""Files of this many bytes, and every safetensors file, go through LFS."""
MOST_REQUESTS, MOST_BYTES = 5_000, 64 << 20
_ID = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Branches and commits; a commit is its files by path."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = f"{branch} {len(self.commits)} {sorted(files)}"
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a kind: a status, a cut after `cut` bytes, a flipped bit."""

    method: str
    path: str
    status: int | None = None
    code: str = ""
    cut: int | None = None
    flip: bool = False
    times: int = 1


class Hub:
    """The state of the server, and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []
        self.lock = threading.Lock()
        self.endpoint = self.elsewhere = ""

    def fail(self, method: str, path: str, **how: object) -> None:
        """Queue a fault for requests whose path matches a regular expression."""
        self.faults.append(Fault(method, path, **how))

    def asked(self, method: str, path: str) -> list[str]:
        """Paths of the requests so far that match."""
        return [seen for verb, seen, _ in self.requests if verb == method and re.search(path, seen)]

    def create(self, name: str, files: dict[str, bytes] | None = None, *, private: bool = False) -> Repository:
        """Make a repository with one commit."""
        made = self.repositories[name] = Repository(private)
        made.commit("main", dict(files or {".gitattributes": b"*.safetensors filter=lfs\n"}))
        return made

    def due(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


def is_large(path: str, size: int) -> bool:
    return path.endswith(".safetensors") or size >= LARGE


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _AnswerError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        hub, split = self.hub, urlsplit(self.path)
        path = unquote(split.path)
        length = int(self.headers.get("Content-Length") or 0)
        with hub.lock:
            hub.requests.append((method, path, self.headers.get("Range", "")))
            fault = hub.due(method, path)
            if len(hub.requests) > MOST_REQUESTS or length > MOST_BYTES:
                self.close_connection = True
                return
        self.body = (
            self._chunked() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        )
        self.query = parse_qs(split.query)
        try:
            if fault is not None and fault.status is not None:
                raise _AnswerError(fault.status, fault.code, "asked for by the test")
            with hub.lock:
                for verb, pattern, answer in _ROUTES:
                    if verb == method and (match := re.fullmatch(pattern, path)):
                        status, headers, body = answer(self, **match.groupdict())
                        break
                else:
                    raise _AnswerError(404)
            self._send(status, headers, body, fault)
        except _AnswerError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            body = json.dumps({"error": error.message}).encode()
            self._send(error.status, {name: value for name, value in headers.items() if value}, body)

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None) -> None:
        if status == 200 and (wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) and body:
            start = int(wanted[1])
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            body = body[start:]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.flip:
            body = bytes([body[0] ^ 1]) + body[1:] if len(body) < 300 else body[:-1] + bytes([body[-1] ^ 1])
        if fault is not None and fault.cut is not None:
            body = body[: fault.cut]
            self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)
            self.wfile.flush()

    # --- what every request needs

    def _json(self, value: object, status: int = 200) -> tuple[int, dict[str, str], bytes]:
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _writer(self) -> None:
        if not self._known:
            raise _AnswerError(401, message="Invalid username or password.")

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._known):
            raise _AnswerError(404 if self._known else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit(self, name: str, revision: str) -> tuple[Repository, str]:
        found = self._repository(name)
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            raise _AnswerError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found, commit

    # --- upload

    def create(self) -> tuple:
        self._writer()
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "closed":
            raise _AnswerError(403, message="You don't have the rights to create a model under this namespace")
        if name in self.hub.repositories:
            return self._json({"url": f"{self.hub.endpoint}/{name}"}, 409)
        self.hub.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._json({"url": f"{self.hub.endpoint}/{name}"})

    def branch(self, repo: str, revision: str) -> tuple:
        self._writer()
        found = self._repository(repo)
        if revision in found.branches:
            raise _AnswerError(409)
        found.branches[revision] = found.branches["main"]
        return self._json({})

    def validate(self) -> tuple:
        content = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            data = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
        return self._json({"errors": [], "warnings": warnings})

    def preupload(self, repo: str, revision: str) -> tuple:
        self._writer()
        found, commit = self._commit(repo, revision)
        old = found.commits[commit]

        def answer(file: dict) -> dict:
            path, large = file["path"], is_large(file["path"], file["size"])
            oid = None if path not in old else (sha256 if large else blob_id)(old[path])
            return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

        return self._json({"files": [answer(file) for file in json.loads(self.body)["files"]]})

    def batch(self, repo: str) -> tuple:
        self._writer()
        self._repository(repo)

        def answer(entry: dict) -> dict:
            oid = entry["oid"]
            if oid in self.hub.objects:
                return {"oid": oid, "size": entry["size"]}
            where = {"upload": "lfs/upload", "verify": "lfs/verify"}
            actions = {name: {"href": f"{self.hub.endpoint}/{path}/{oid}"} for name, path in where.items()}
            return {"oid": oid, "size": entry["size"], "actions": actions}

        return self._json({"transfer": "basic", "objects": [answer(o) for o in json.loads(self.body)["objects"]]})

    def upload(self, oid: str) -> tuple:
        if sha256(self.body) != oid:
            raise _AnswerError(400, message="checksum mismatch")
        self.hub.objects[oid] = self.body
        return self._json({})

    def verify(self, oid: str) -> tuple:
        self._writer()
        if len(self.hub.objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise _AnswerError(404)
        return self._json({})

    def commit(self, repo: str, revision: str) -> tuple:
        self._writer()
        found, parent = self._commit(repo, revision)
        files = dict(found.commits[parent])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, parent):
                raise _AnswerError(412, message="A commit has happened since")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = found.commit(revision, files)
        return self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{made}", "commitOid": made})

    # --- download

    def revision(self, repo: str, revision: str = "main") -> tuple:
        found, commit = self._commit(repo, revision)
        siblings = [{"rfilename": path} for path in found.commits[commit]]
        return self._json({"id": repo, "sha": commit, "private": found.private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str, folder: str | None) -> tuple:
        found, commit = self._commit(repo, revision)
        if folder:
            raise _AnswerError(404, "EntryNotFound", "no folder is listed alone here")

        def entry(path: str, data: bytes) -> dict:
            line: dict = {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)}
            if is_large(path, len(data)):
                line["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            return line

        return self._json([entry(*item) for item in found.commits[commit].items()])

    def resolve(self, repo: str, revision: str, file: str) -> tuple:
        found, commit = self._commit(repo, revision)
        if file not in found.commits[commit]:
            raise _AnswerError(404, "EntryNotFound", "Entry not found")
        data = found.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(data)}"', "Accept-Ranges": "bytes"}
        if not is_large(file, len(data)):
            return 200, headers, data
        oid = sha256(data)
        self.hub.objects[oid] = data
        linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return 302, headers | linked | {"Location": f"{self.hub.elsewhere}/cdn/{oid}"}, b""

    def content(self, oid: str) -> tuple:
        if "Authorization" in self.headers:
            raise _AnswerError(400, message="a token was sent to another host")
        return 200, {"Accept-Ranges": "bytes", "ETag": f'"{oid}"'}, self.hub.objects[oid]


_Answer = Callable[..., tuple]
_ROUTES: tuple[tuple[str, str, _Answer], ...] = (
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_ID}/branch/(?P<revision>.+)", _Handler.branch),
    ("POST", f"/api/models/{_ID}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/upload/(?P<oid>\w+)", _Handler.upload),
    ("POST", r"/lfs/verify/(?P<oid>\w+)", _Handler.verify),
    ("POST", f"/api/models/{_ID}/commit/(?P<revision>.+)", _Handler.commit),
    ("GET", f"/api/models/{_ID}/revision/(?P<revision>.+)", _Handler.revision),
    ("GET", f"/api/models/{_ID}", _Handler.revision),
    ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", _Handler.tree),
    ("HEAD", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    ("GET", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    ("GET", r"/cdn/(?P<oid>\w+)", _Handler.content),
)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers on a free port of the loopback interface until the block ends."""
    hub = Hub()
    with serving(type("Handler", (_Handler,), {"hub": hub})) as port:
        # Another name for the same place: a client must not bring its token there.
        hub.endpoint, hub.elsewhere = (f"http://{name}:{port}" for name in ("127.0.0.1", "localhost"))
        yield hub
