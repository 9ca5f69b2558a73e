"""A bucket of Google Cloud Storage in memory: as much of its JSON API as gcsfs, tensorstore and Orbax ask for."""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.loopback import serving

BUCKET = "bucket"
OBJECTS = f"/storage/v1/b/{BUCKET}/o"
UPLOADS = f"/upload{OBJECTS}"
DOWNLOADS = f"/download{OBJECTS}"
WHEN = "2026-01-01T00:00:00.000Z"
PAGE = 100


@dataclass
class FakeGcs:
    """What the bucket holds, and what was asked of it.

    Args:
        objects: content and generation by name.
        requests: method and path of each request, in order.
        refuse: asked of each request; a status that it returns is the answer.
    """

    url: str = ""
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: dict[str, tuple[str, bytearray]] = field(default_factory=dict)
    refuse: Callable[[str, str], int | None] = lambda method, path: None
    generation: int = 1
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, name: str, content: bytes) -> dict[str, Any]:
        """Store an object under a new generation."""
        self.generation += 1
        self.objects[name] = (content, self.generation)
        return self.about(name)

    def about(self, name: str) -> dict[str, Any]:
        """An object's metadata."""
        content, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "id": f"{BUCKET}/{name}/{generation}",
            "name": name,
            "bucket": BUCKET,
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "md5Hash": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "etag": str(generation),
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": WHEN,
            "updated": WHEN,
            "mediaLink": f"{self.url}{DOWNLOADS}/{quote(name, safe='')}?alt=media",
        }

    def page(self, prefix: str, delimiter: str, after: str, start: str, end: str, size: int) -> dict[str, Any]:
        """One page of names in order; what lies behind a delimiter is one prefix."""
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last = ""
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            rest = name.removeprefix(prefix)
            folder = prefix + rest.split(delimiter)[0] + delimiter if delimiter and delimiter in rest else ""
            key = folder or name
            if key <= after or folder in prefixes:
                continue
            if len(items) + len(prefixes) == size:
                return {"kind": "storage#objects", "items": items, "prefixes": prefixes, "nextPageToken": last}
            last = key
            if folder:
                prefixes.append(folder)
            else:
                items.append(self.about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": prefixes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gcs: FakeGcs

    def log_message(self, *args: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        if isinstance(body, dict):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, why: str) -> None:
        reason = {404: "notFound", 412: "conditionNotMet", 403: "forbidden"}.get(status, "backendError")
        errors = [{"message": why, "domain": "global", "reason": reason}]
        self._answer(status, {"error": {"code": status, "message": why, "errors": errors}})

    def _serve(self) -> None:
        body = self._body()
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        with self.gcs.lock:
            self.gcs.requests.append(f"{self.command} {self.path}")
            refused = self.gcs.refuse(self.command, unquote(self.path))
            if refused is not None:
                self._error(refused, "refused")
            else:
                self._route(self.command, address.path, query, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve  # noqa: N815

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if path == UPLOADS:
            self._upload(method, query, body)
        elif path == OBJECTS and method == "GET":
            size = int(query.get("maxResults") or PAGE)
            bounds = [query.get(key, "") for key in ("prefix", "delimiter", "pageToken", "startOffset", "endOffset")]
            self._answer(200, self.gcs.page(*bounds, size=min(size, PAGE)))
        elif path == f"/storage/v1/b/{BUCKET}":
            self._answer(
                200,
                {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET, "location": "US", "locationType": "region",
                 "storageClass": "STANDARD", "timeCreated": WHEN, "updated": WHEN},
            )  # fmt: skip
        elif path == f"/storage/v1/b/{BUCKET}/storageLayout":
            self._answer(200, {"kind": "storage#storageLayout", "bucket": BUCKET, "location": "US"})
        elif move := re.fullmatch(rf"{OBJECTS}/([^/]+)/moveTo/o/([^/]+)", path):
            self._move(*map(unquote, move.groups()))
        elif found := re.fullmatch(rf"(?:{OBJECTS}|{DOWNLOADS}|/{BUCKET})/(.+)", path):
            self._object(method, unquote(found[1]), query, media=path.startswith((DOWNLOADS, f"/{BUCKET}/")))
        else:
            self._error(404, f"no such place: {path}")

    def _condition(self, name: str, query: dict[str, str]) -> bool:
        wanted = query.get("ifGenerationMatch")
        have = self.gcs.objects[name][1] if name in self.gcs.objects else 0
        other = query.get("ifGenerationNotMatch")
        return (wanted is None or int(wanted) == have) and (other is None or int(other) != have)

    def _object(self, method: str, name: str, query: dict[str, str], media: bool) -> None:
        if name not in self.gcs.objects:
            self._error(404, f"No such object: {BUCKET}/{name}")
        elif not self._condition(name, query):
            self._error(412 if "ifGenerationMatch" in query else 304, "generation")
        elif method == "DELETE":
            del self.gcs.objects[name]
            self._answer(204)
        elif media or query.get("alt") == "media":
            self._content(name)
        else:
            self._answer(200, self.gcs.about(name))

    def _content(self, name: str) -> None:
        content, generation = self.gcs.objects[name]
        headers = {"X_Goog_Generation": str(generation), "Content_Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, content, **headers)
            return
        first = int(asked[1]) if asked[1] else max(0, len(content) - int(asked[2]))
        last = min(int(asked[2]) if asked[1] and asked[2] else len(content) - 1, len(content) - 1)
        if first > last:
            self._answer(416, Content_Range=f"bytes */{len(content)}")
            return
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], **headers)

    def _move(self, source: str, destination: str) -> None:
        if source not in self.gcs.objects:
            self._error(404, f"No such object: {BUCKET}/{source}")
        else:
            self._answer(200, self.gcs.put(destination, self.gcs.objects.pop(source)[0]))

    def _upload(self, method: str, query: dict[str, str], body: bytes) -> None:
        kind, name = query.get("uploadType"), query.get("name", "")
        if "upload_id" in query:
            self._resumed(query["upload_id"], body)
        elif kind == "resumable":
            about = json.loads(body or b"{}")
            identity = str(len(self.gcs.uploads) + 1)
            self.gcs.uploads[identity] = (name or about["name"], bytearray())
            place = f"{self.gcs.url}{UPLOADS}?uploadType=resumable&upload_id={identity}"
            self._answer(200, Location=place, X_GUploader_UploadID=identity)
        else:
            if kind == "multipart":
                about, body = _parts(self.headers["Content-Type"], body)
                name = name or about["name"]
            if not self._condition(name, query):
                self._error(412, "generation")
            else:
                self._answer(200, self.gcs.put(name, body))

    def _resumed(self, identity: str, body: bytes) -> None:
        name, content = self.gcs.uploads[identity]
        content += body
        total = self.headers.get("Content-Range", "").rpartition("/")[2]
        if total in {"", str(len(content))}:
            self._answer(200, self.gcs.put(name, bytes(content)))
        elif content:
            self._answer(308, Range=f"bytes=0-{len(content) - 1}")
        else:
            self._answer(308)


def _parts(kind: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Metadata and content of a multipart upload."""
    mark = re.search(r"boundary=['\"]?([^'\";]+)", kind)
    assert mark is not None
    _, first, second, _ = re.split(
        rb"(?:\r?\n)?--" + re.escape(mark[1].encode()) + rb"(?:--)?\r?\n?", body, maxsplit=3
    )
    about, content = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in (first, second))
    return json.loads(about), content


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """gcsfs hangs up on what it no longer wants to know; anything else is this server's mistake."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def fake_gcs() -> Iterator[FakeGcs]:
    """Serve a bucket on loopback."""
    gcs = FakeGcs()
    with serving(type("Handler", (_Handler,), {"gcs": gcs}), _Server) as port:
        gcs.url = f"http://127.0.0.1:{port}"
        yield gcs


def environment(gcs: FakeGcs) -> dict[str, str]:
    """What directs gcsfs, google-cloud-storage and tensorstore to it, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": gcs.url,
        "TENSORSTORE_GCS_HTTP_URL": gcs.url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
