"""Files that are hashed while they are written, and hashes of files that exist."""

import errno
import hashlib
import os
import queue
import threading
from pathlib import Path

import numpy as np

from tprog.buffers import PAGE, aligned_empty
from tprog.tensorheader import open_regular

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None

CHUNK = 8 << 20
"""Bytes read at a time of a file that exists."""
BLOCK = 4 << 20
"""Bytes written at a time."""
_BLOCKS = 4
_DIRECT = getattr(os, "O_DIRECT", 0) if fcntl else 0

Block = tuple[np.ndarray, int]
"""Memory, and how many bytes of it count."""


class HashedFile:
    """A new file; one thread hashes what is written to it, the next brings it to the disk: all of it by `close`.

    Whole blocks go past the page cache where the file system can do that: a checkpoint is large, and copying it into
    the cache takes as long as writing it, and drives out what others read.

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
        self._direct = _Direct(self._descriptor)
        self._hash = hashlib.sha256()
        self._failure: Exception | None = None
        self._free: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(None)
        self._block: np.ndarray | None = None
        self._filled = 0
        self._to_hash: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._to_store: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._hash_blocks, name="sha256", daemon=True),
            threading.Thread(target=self._store_blocks, name="write", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def write(self, data: memoryview) -> None:
        """Append bytes, which may change as soon as this returns.

        Raises:
            OSError: the disk did not take what was written before.
        """
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            self._check()
            if self._block is None:
                # Memory is made when it is first needed: most files are small.
                free = self._free.get()
                self._block = aligned_empty((BLOCK,), np.dtype(np.uint8), alignment=PAGE) if free is None else free
            part = self._block[self._filled : self._filled + len(rest)]
            part[:] = rest[: len(part)]
            self._filled += len(part)
            self.bytes_written += len(part)
            rest = rest[len(part) :]
            if self._filled == BLOCK:
                self._pass_on()

    def close(self) -> None:
        """Wait for the hash, and for the bytes to be on disk.

        Raises:
            OSError: the disk did not take them.
        """
        try:
            self._pass_on()
            self._finish()
            self._check()
            os.fsync(self._descriptor)
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the file as it is."""
        if self._descriptor >= 0:
            self._finish()
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def sha256(self) -> str:
        """Hash of everything written, in hexadecimal; once closed."""
        return self._hash.hexdigest()

    def _pass_on(self) -> None:
        if self._block is not None:
            self._to_hash.put((self._block, self._filled))
            self._block, self._filled = None, 0

    def _finish(self) -> None:
        self._to_hash.put(None)
        for thread in self._threads:
            thread.join()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _hash_blocks(self) -> None:
        while (block := self._to_hash.get()) is not None:
            self._hash.update(block[0][: block[1]].data)
            self._to_store.put(block)
        self._to_store.put(None)

    def _store_blocks(self) -> None:
        while (block := self._to_store.get()) is not None:
            try:
                if self._failure is None:
                    self._direct.write(block[0][: block[1]].data)
            except Exception as error:
                self._failure = error  # for whoever writes next; this thread goes on, or they would wait for it
            self._free.put(block[0])


class _Direct:
    """Writes to a descriptor, past the page cache as long as blocks are whole and the file system can do it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._possible, self._on = bool(_DIRECT), False

    def write(self, data: memoryview) -> None:
        """Write all of it; `data` begins at the start of a page."""
        whole = len(data) == BLOCK
        while data:
            self._switch(whole and self._possible)
            try:
                count = os.write(self._descriptor, data)
            except OSError as error:
                if not self._on or error.errno != errno.EINVAL:
                    raise
                self._possible, count = False, 0
            data = data[count:]

    def _switch(self, on: bool) -> None:
        if on == self._on:
            return
        assert fcntl is not None
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
            self._on = on
        except OSError:
            self._possible = False


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
