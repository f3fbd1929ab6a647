"""The votes of a study, in one SQLite file: several raters at once, and nothing that was answered is lost."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

CHOICES = ("left", "right", "equal")
NAME_LENGTH = 60

_TABLES = """
CREATE TABLE IF NOT EXISTS raters (
    number INTEGER PRIMARY KEY, secret TEXT NOT NULL UNIQUE, name TEXT NOT NULL, began REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS votes (
    rater INTEGER NOT NULL REFERENCES raters (number), item INTEGER NOT NULL, preferred TEXT NOT NULL,
    side TEXT NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL, PRIMARY KEY (rater, item)
);
"""


@dataclass(frozen=True)
class Rater:
    """A person who votes.

    Args:
        number: 1, 2, ... in the order in which they began.
        secret: what their browser shows to be known again.
        name: as they gave it; may be empty.
    """

    number: int
    secret: str
    name: str


@dataclass(frozen=True)
class Vote:
    """One answer.

    Args:
        preferred: kind of the clip that was chosen ("a", "b", "real", "worse"), or "equal".
        side: where it stood: "left", "right" or "equal".
        seconds: from when the pair was shown.
    """

    rater: int
    item: int
    preferred: str
    side: str
    seconds: float


class Votes:
    """The file, made at the first use. Each call has a connection of its own, so threads may share this."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
            db.executescript(_TABLES)

    def begin(self, name: str) -> Rater:
        """A new rater."""
        secret, name = secrets.token_urlsafe(24), " ".join(name.split())[:NAME_LENGTH]
        with self._open() as db:
            row = db.execute("INSERT INTO raters (secret, name, began) VALUES (?, ?, ?)", (secret, name, time.time()))
            assert row.lastrowid is not None
            return Rater(row.lastrowid, secret, name)

    def find(self, secret: str) -> Rater | None:
        """The rater with this secret."""
        with self._open() as db:
            row = db.execute("SELECT number, secret, name FROM raters WHERE secret = ?", (secret,)).fetchone()
        return Rater(*row) if row else None

    def add(self, vote: Vote) -> bool:
        """Keep a vote on the disk itself; False, and nothing is changed, where this rater has voted on the item."""
        with self._open() as db:
            row = db.execute(
                "INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?, ?, ?)",
                (vote.rater, vote.item, vote.preferred, vote.side, vote.seconds, time.time()),
            )
            return row.rowcount == 1

    def voted(self, rater: int) -> set[int]:
        """The items on which a rater has voted."""
        with self._open() as db:
            return {item for (item,) in db.execute("SELECT item FROM votes WHERE rater = ?", (rater,))}

    def all(self) -> list[Vote]:
        """Every vote, in the order in which they came."""
        with self._open() as db:
            rows = db.execute("SELECT rater, item, preferred, side, seconds FROM votes ORDER BY time, rowid").fetchall()
        return [Vote(*row) for row in rows]

    def raters(self) -> list[Rater]:
        """Everyone who began."""
        with self._open() as db:
            return [Rater(*row) for row in db.execute("SELECT number, secret, name FROM raters ORDER BY number")]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection; what is done in the block is kept if it ends well."""
        with closing(sqlite3.connect(self.file, timeout=30)) as db:
            db.execute("PRAGMA synchronous = FULL")
            with db:
                yield db
