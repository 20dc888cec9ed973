"""The book of training jobs: one SQLite file that the endpoint and every runner read and write."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any, Literal

from launcher.local.database import Database
from launcher.local.processes import ProcessId

Document = dict[str, Any]
RunnerId = ProcessId

TERMINAL = frozenset({"Completed", "Failed", "Stopped"})

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    document TEXT NOT NULL,
    request TEXT NOT NULL,
    tags TEXT NOT NULL DEFAULT '{}',
    ask TEXT,
    runner_pid INTEGER,
    runner_started REAL,
    deleted INTEGER NOT NULL DEFAULT 0
)
"""


class NameTaken(Exception):
    """A job of this name exists, or existed: SageMaker never gives a deleted job's name out again."""


class UnknownJob(Exception):
    """No job of this name."""


class JobBook(Database):
    """Safe for several threads, and for several processes at once: each change is one transaction."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA)

    # The Describe document

    def add(self, document: Document, *, tags: dict[str, str] | None = None, request: Document | None = None) -> None:
        """Enter a job, with the request that made it as it came; raises NameTaken."""
        row = (document["TrainingJobName"], *map(json.dumps, (document, tags or {}, request or {})))
        with self._transaction() as db:
            try:
                db.execute("INSERT INTO job (name, document, tags, request) VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise NameTaken(document["TrainingJobName"]) from error

    def get(self, name: str) -> Document:
        return _load(self._column(name, "document"))

    def request(self, name: str) -> Document:
        """The CreateTrainingJob request, as it was received."""
        return _load(self._column(name, "request"))

    def all(self) -> list[Document]:
        """Every job, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT document FROM job WHERE NOT deleted ORDER BY number").fetchall()
        return [_load(row[0]) for row in rows]

    def unfinished(self) -> list[Document]:
        """The jobs that have not come to their end, oldest first."""
        return [document for document in self.all() if document["TrainingJobStatus"] not in TERMINAL]

    def update(self, name: str, **fields: Any) -> Document:
        """Set fields of the document, and its LastModifiedTime."""
        with self._transaction():
            return self._save(self.get(name) | fields)

    def transition(self, name: str, status: str, secondary: str, message: str, **fields: Any) -> Document:
        """Move a job to another state, unless it has come to its end already.

        The same secondary status again only changes the message. A job that is Stopping stays so until its
        end, though its secondary status goes on (Uploading).
        """
        with self._transaction():
            document = self.get(name)
            if document["TrainingJobStatus"] in TERMINAL:
                return document
            now = time.time()
            if document["TrainingJobStatus"] == "Stopping" and status not in TERMINAL:
                status = "Stopping"
            _append_transition(document, secondary, message, now)
            if status in TERMINAL:
                document["SecondaryStatusTransitions"][-1]["EndTime"] = now
                document["TrainingEndTime"] = now
            document.update(TrainingJobStatus=status, SecondaryStatus=secondary)
            return self._save(document | fields)

    def delete(self, name: str) -> None:
        """Forget a job; its name stays taken."""
        self._set(name, deleted=1)

    # Wishes, which outlive both the process that has them and the one that fulfils them

    def ask(self, name: str, what: Literal["stop", "interrupt"]) -> None:
        """Leave a wish for the runner. A stop is never replaced by an interruption."""
        with self._transaction():
            if self.asked(name) != "stop":
                self._set(name, ask=what)

    def asked(self, name: str) -> str | None:
        wish = self._column(name, "ask")
        return None if wish is None else str(wish)

    def clear_ask(self, name: str) -> None:
        self._set(name, ask=None)

    # Runners

    def set_runner(self, name: str, runner: RunnerId | None) -> None:
        self._set(
            name,
            runner_pid=runner.pid if runner else None,
            runner_started=runner.started if runner else None,
        )

    def runner(self, name: str) -> RunnerId | None:
        pid, started = self._row(name, "runner_pid, runner_started")
        return None if pid is None else RunnerId(pid, started)

    def claim(self, name: str, runner: RunnerId) -> bool:
        """Enter the runner unless another living one is in the book: then False, and the claimer must leave.

        A runner calls this first of all, so that an endpoint killed between starting it and writing it down
        never leads to two runners of one job.
        """
        with self._transaction():
            known = self.runner(name)
            if known and known != runner and known.is_alive():
                return False
            self.set_runner(name, runner)
            return True

    # Tags

    def set_tags(self, name: str, tags: dict[str, str]) -> None:
        self._set(name, tags=json.dumps(tags))

    def tags(self, name: str) -> dict[str, str]:
        return dict(_load(self._column(name, "tags")))

    # SQLite

    def _row(self, name: str, columns: str) -> tuple[Any, ...]:
        with self._lock:
            query = f"SELECT {columns} FROM job WHERE name = ? AND NOT deleted"
            row: tuple[Any, ...] | None = self._db.execute(query, (name,)).fetchone()
        if row is None:
            raise UnknownJob(name)
        return row

    def _column(self, name: str, column: str) -> Any:
        return self._row(name, column)[0]

    def _set(self, name: str, **columns: Any) -> None:
        assignments = ", ".join(f"{column} = ?" for column in columns)
        query = f"UPDATE job SET {assignments} WHERE name = ? AND NOT deleted"
        with self._transaction() as db:
            if not db.execute(query, (*columns.values(), name)).rowcount:
                raise UnknownJob(name)

    def _save(self, document: Document) -> Document:
        document["LastModifiedTime"] = time.time()
        self._set(document["TrainingJobName"], document=json.dumps(document))
        return document


def _load(text: str) -> Document:
    document: Document = json.loads(text)
    return document


def _append_transition(document: Document, secondary: str, message: str, now: float) -> None:
    """Close the last SecondaryStatusTransition and open the next."""
    transitions = document.setdefault("SecondaryStatusTransitions", [])
    if transitions and transitions[-1]["Status"] == secondary:
        transitions[-1]["StatusMessage"] = message
        return
    if transitions:
        transitions[-1]["EndTime"] = now
    transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": message})
