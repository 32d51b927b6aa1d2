"""Responses of language models on disk, one by one, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

from ..ty import CutAnswer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cut (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (key TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""
_INSERT_CUT = "INSERT OR IGNORE INTO cut VALUES (?)"
_DELETE_CUT = "DELETE FROM cut WHERE key = ?"


class Store(Protocol):
    """What keeps the responses of an annotation run; see `ResponseStore`."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, value: str) -> None: ...

    def fail(self, key: str, reason: str) -> None: ...

    def failures(self) -> dict[str, str]: ...


class ResponseStore:
    """A SQLite file of responses, each committed the moment it comes.

    With write-ahead logging a commit survives `kill -9` of the process, and several processes may
    read and write the same file. (A power cut can take the last few commits, never more.) Threads
    share one connection, forked processes open their own.

    path (Path): The file; made with its folder when missing.
    timeout (float): Seconds to wait for another process's write.
    """

    def __init__(self, path: Path | str, *, timeout: float = 60.0) -> None:
        self.path = Path(path)
        self.timeout = timeout
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = RLock()
        self._open()
        self._connection.executescript(_SCHEMA)

    @staticmethod
    def key(identity: str, prompt: str) -> str:
        """The key of a response: everything that it depends on.

        identity (str): What names the model, its weights and its decoding.
        prompt (str): The whole prompt.
        RETURNS (str): 64 hexadecimal digits.
        """
        digest = hashlib.sha256(identity.encode("utf8"))
        digest.update(b"\0")
        digest.update(prompt.encode("utf8", errors="surrogatepass"))
        return digest.hexdigest()

    def get(self, key: str) -> str | None:
        """The response stored under a key, or None."""
        rows = self._query(
            "SELECT value, cut.key FROM responses LEFT JOIN cut USING (key) WHERE key = ?", key
        )
        if not rows:
            return None
        ((value, cut),) = rows
        return value if cut is None else CutAnswer(value)

    def put(self, key: str, value: str) -> None:
        """Store a response, for good once this returns; a failure under the key is forgotten."""
        cut = isinstance(value, CutAnswer)
        self._write(
            ("INSERT OR REPLACE INTO responses VALUES (?, ?)", (key, str(value))),
            (_INSERT_CUT if cut else _DELETE_CUT, (key,)),
            ("DELETE FROM failures WHERE key = ?", (key,)),
        )

    def fail(self, key: str, reason: str) -> None:
        """Record why there is no response; `get` still returns None, so it is asked again."""
        self._write(("INSERT OR REPLACE INTO failures VALUES (?, ?)", (key, reason)))

    def failures(self) -> dict[str, str]:
        """The reasons of the requests that have failed and not succeeded since, by key."""
        return dict(self._query("SELECT key, reason FROM failures ORDER BY key"))

    def __len__(self) -> int:
        return int(self._query("SELECT COUNT(*) FROM responses")[0][0])

    def close(self) -> None:
        """Close the file. The store cannot be used afterwards."""
        self._connection.close()

    def __reduce__(self) -> tuple[type[ResponseStore], tuple[Path]]:
        return ResponseStore, (self.path,)

    def _open(self) -> None:
        self._pid = os.getpid()
        self._connection = sqlite3.connect(
            self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )
        self._write_ahead()
        self._connection.execute("PRAGMA synchronous=NORMAL")

    def _write_ahead(self) -> None:
        """Switch to write-ahead logging, waiting as for a write: SQLite itself does not wait here
        for another process that has just made the file."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _query(self, statement: str, *values: str) -> list[Any]:
        with self._lock:
            if self._pid != os.getpid():  # SQLite connections must not cross a fork
                self._open()
            return self._connection.execute(statement, values).fetchall()

    def _write(self, *statements: tuple[str, tuple[str, ...]]) -> None:
        with self._lock:
            self._query("BEGIN IMMEDIATE")
            with self._connection:
                for statement, values in statements:
                    self._query(statement, *values)
