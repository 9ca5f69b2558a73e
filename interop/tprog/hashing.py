"""Files that are hashed while they are written, and hashes of files that exist."""

import hashlib
import os
import queue
import threading
from pathlib import Path

from tprog.tensorheader import open_regular

CHUNK = 8 << 20
"""Bytes handed from the writing to the hashing thread at a time."""
_PENDING = 16
_SYNC_EVERY = 64 << 20


class HashedFile:
    """A new file; what is written to it is hashed in a second thread, and on disk once `close` returns.

    A third thread brings to the disk what has gathered, so that little of it is left for the end.

    Example:
        >>> import pathlib, tempfile
        >>> file = HashedFile(pathlib.Path(tempfile.mkdtemp(), "a"))
        >>> file.write(memoryview(b"abc")); file.close(); file.sha256[:8]
        'ba7816bf'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_written = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[memoryview | None] = queue.Queue(_PENDING)
        self._unsynced = 0
        self._due: queue.Queue[bool] = queue.Queue(1)
        self._failure: OSError | None = None
        self._threads = [
            threading.Thread(target=self._consume, name="sha256", daemon=True),
            threading.Thread(target=self._sync, name="fsync", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _consume(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
            del chunk
            self._queue.task_done()
        self._queue.task_done()

    def _sync(self) -> None:
        while self._due.get():
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # A system tells of a lost write once: the next call would succeed.
                self._failure = self._failure or error

    def write(self, data: memoryview) -> None:
        """Append bytes; they must not change until `drain` or `close` has returned."""
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            self._queue.put(chunk)
            written = 0
            while written < len(chunk):
                written += os.write(self._descriptor, chunk[written:])
            self._unsynced += written
            if self._unsynced >= _SYNC_EVERY and self._due.empty():
                self._unsynced = 0
                self._due.put(True)
        self.bytes_written += len(data)

    def drain(self) -> None:
        """Wait until everything written so far is hashed."""
        self._queue.join()

    def close(self) -> None:
        """Wait for the hash, and for the bytes to be on disk.

        Raises:
            OSError: the disk did not take them.
        """
        try:
            os.fsync(self._descriptor)
        finally:
            self.abort()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Close the file as it is."""
        if self._descriptor >= 0:
            self._queue.put(None)
            self._due.put(False)
            for thread in self._threads:
                thread.join()
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def sha256(self) -> str:
        """Hash of everything written, in hexadecimal; once closed."""
        return self._hash.hexdigest()


def hash_file(path: Path) -> tuple[int, str]:
    """Length and sha256 of a file.

    Raises:
        FormatError: it is missing, or no regular file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a"); _ = path.write_bytes(b"abc")
        >>> hash_file(path)[1][:8]
        'ba7816bf'
    """
    digest, size, buffer = hashlib.sha256(), 0, bytearray(CHUNK)
    view = memoryview(buffer)
    descriptor = open_regular(path)
    try:
        while count := os.readv(descriptor, [view]):
            digest.update(view[:count])
            size += count
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()
