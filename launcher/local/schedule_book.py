"""The book of schedules, their groups and their executions: one SQLite file, kept through any end of the endpoint."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.cron import Rate, find_zone, iter_firings, parse_expression
from launcher.local.database import Database
from launcher.local.jobs import Document

SCHEMA = """
CREATE TABLE IF NOT EXISTS schedule_group (name TEXT PRIMARY KEY, document TEXT NOT NULL, tags TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS schedule (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    group_name TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    anchor REAL NOT NULL,
    next_at REAL,
    UNIQUE (group_name, name)
);
CREATE TABLE IF NOT EXISTS execution (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule INTEGER NOT NULL,
    schedule_arn TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    scheduled_at REAL NOT NULL,
    target TEXT,
    due_at REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL,
    result TEXT,
    error TEXT,
    dead_letter TEXT,
    ended_at REAL,
    UNIQUE (schedule, scheduled_at)
);
CREATE TABLE IF NOT EXISTS token (token TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), now REAL NOT NULL);
"""
KEPT_EXECUTIONS = 10_000
KEPT_TOKENS = 1_000
PENDING, RUNNING, STARTED, FAILED, MISSED, CANCELLED = "pending", "running", "started", "failed", "missed", "cancelled"


class Taken(Exception):
    """A schedule or a group of this name exists."""


class Unknown(Exception):
    """No schedule or group of this name."""


@dataclass(frozen=True)
class Schedule:
    number: int
    group: str
    name: str
    document: Document
    anchor: float  # what a rate counts from
    next_at: float | None

    @property
    def arn(self) -> str:
        return str(self.document["Arn"])

    def iter_times(self, after: float) -> Iterator[float]:
        """Its firings later than `after`; a paused one has them too."""
        document = self.document
        expression = parse_expression(document["ScheduleExpression"])
        start = document.get("StartDate")
        if start is None and isinstance(expression, Rate):
            start = self.anchor
        firings = iter_firings(
            expression,
            find_zone(document["ScheduleExpressionTimezone"]),
            datetime.fromtimestamp(after, UTC),
            start=None if start is None else datetime.fromtimestamp(start, UTC),
            end=datetime.fromtimestamp(document["EndDate"], UTC) if document.get("EndDate") else None,
        )
        return (firing.timestamp() for firing in firings)

    def find_next(self, after: float) -> float | None:
        return next(self.iter_times(after), None) if self.document["State"] == "ENABLED" else None


@dataclass(frozen=True)
class Execution:
    """One firing on its way to its target, however many attempts that takes."""

    number: int
    schedule: int
    schedule_arn: str
    id: str
    scheduled_at: float
    target: Document
    due_at: float
    attempts: int


class ScheduleBook(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA)

    def together(self) -> AbstractContextManager[object]:
        """Several changes as one."""
        return self._transaction()

    # Groups

    def add_group(self, document: Document, tags: dict[str, str]) -> None:
        row = (document["Name"], json.dumps(document), json.dumps(tags))
        with self._transaction() as db:
            try:
                db.execute("INSERT INTO schedule_group VALUES (?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise Taken(document["Name"]) from error

    def group(self, name: str) -> Document:
        return _load(self._group_column(name, "document"))

    def groups(self) -> list[Document]:
        """All of them, by name."""
        return [_load(row[0]) for row in self._rows("SELECT document FROM schedule_group ORDER BY name")]

    def delete_group(self, name: str) -> None:
        """With every schedule in it."""
        with self._transaction() as db:
            self.group(name)
            for schedule in self.schedules(name):
                self.delete(schedule)
            db.execute("DELETE FROM schedule_group WHERE name = ?", (name,))

    def tags(self, group: str) -> dict[str, str]:
        return dict(_load(self._group_column(group, "tags")))

    def set_tags(self, group: str, tags: dict[str, str]) -> None:
        with self._transaction() as db:
            db.execute("UPDATE schedule_group SET tags = ? WHERE name = ?", (json.dumps(tags), group))

    # Schedules

    def add(self, document: Document, anchor: float, next_at: float | None) -> None:
        row = (document["GroupName"], document["Name"], json.dumps(document), anchor, next_at)
        with self._transaction() as db:
            self.group(document["GroupName"])
            try:
                db.execute(
                    "INSERT INTO schedule (group_name, name, document, anchor, next_at) VALUES (?, ?, ?, ?, ?)", row
                )
            except sqlite3.IntegrityError as error:
                raise Taken(document["Name"]) from error

    def get(self, group: str, name: str) -> Schedule:
        found = self._schedules("WHERE group_name = ? AND name = ?", group, name)
        if not found:
            raise Unknown(name)
        return found[0]

    def schedules(self, group: str | None = None) -> list[Schedule]:
        """By group and name."""
        where = "" if group is None else "WHERE group_name = ?"
        return self._schedules(f"{where} ORDER BY group_name, name", *([group] if group else []))

    def replace(self, schedule: Schedule, document: Document, anchor: float, next_at: float | None) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE schedule SET document = ?, anchor = ?, next_at = ? WHERE number = ?",
                (json.dumps(document), anchor, next_at, schedule.number),
            )

    def delete(self, schedule: Schedule) -> None:
        """With what is still to be tried again for it."""
        with self._transaction() as db:
            db.execute("DELETE FROM schedule WHERE number = ?", (schedule.number,))
            db.execute(
                "UPDATE execution SET outcome = ?, due_at = NULL, target = NULL WHERE schedule = ? AND outcome = ?",
                (CANCELLED, schedule.number, PENDING),
            )

    def due(self, now: float) -> list[Schedule]:
        return self._schedules("WHERE next_at <= ? ORDER BY next_at, number", now)

    def find_next_time(self) -> float | None:
        """When something is to be done next: a firing, or another attempt of one."""
        query = "SELECT MIN(at) FROM (SELECT MIN(next_at) AS at FROM schedule UNION SELECT MIN(due_at) FROM execution)"
        time_s: float | None = self._rows(query)[0][0]
        return time_s

    # Executions

    def fire(self, schedule: Schedule, scheduled_at: float, execution_id: str, now: float) -> None:
        """Enter a firing; the same one a second time is dropped."""
        target = json.dumps(schedule.document["Target"])
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO execution (schedule, schedule_arn, id, scheduled_at, target, due_at, outcome)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (schedule.number, schedule.arn, execution_id, scheduled_at, target, now, PENDING),
            )
            db.execute(
                "DELETE FROM execution WHERE due_at IS NULL AND outcome != ? AND number <="
                " (SELECT MAX(number) FROM execution) - ?",
                (RUNNING, KEPT_EXECUTIONS),
            )

    def note_missed(self, schedule: Schedule, scheduled_at: float, execution_id: str, why: str, now: float) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO execution (schedule, schedule_arn, id, scheduled_at, outcome, error, ended_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (schedule.number, schedule.arn, execution_id, scheduled_at, MISSED, why, now),
            )

    def set_next(self, schedule: Schedule, next_at: float | None) -> None:
        with self._transaction() as db:
            db.execute("UPDATE schedule SET next_at = ? WHERE number = ?", (next_at, schedule.number))

    def waiting(self, now: float) -> list[Execution]:
        """The executions that are to be attempted now, in the order of their time."""
        columns = "number, schedule, schedule_arn, id, scheduled_at, target, due_at, attempts"
        rows = self._rows(f"SELECT {columns} FROM execution WHERE due_at <= ? ORDER BY due_at, number", now)
        return [
            Execution(**dict(zip(columns.split(", "), row, strict=True)) | {"target": _load(row[5])}) for row in rows
        ]

    def claim(self, execution: Execution) -> bool:
        """Take an attempt on; False when somebody else has it, or it was cancelled."""
        with self._transaction() as db:
            claimed = db.execute(
                "UPDATE execution SET outcome = ?, due_at = NULL, attempts = attempts + 1"
                " WHERE number = ? AND outcome = ? AND attempts = ?",
                (RUNNING, execution.number, PENDING, execution.attempts),
            )
            return bool(claimed.rowcount)

    def put_off(self, execution: Execution, due_at: float, error: str) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE execution SET outcome = ?, due_at = ?, error = ? WHERE number = ?",
                (PENDING, due_at, error, execution.number),
            )

    def finish(self, execution: Execution, outcome: str, now: float, **columns: str | None) -> None:
        names = "".join(f", {name} = ?" for name in columns)
        with self._transaction() as db:
            db.execute(
                f"UPDATE execution SET outcome = ?, ended_at = ?, target = NULL{names} WHERE number = ?",
                (outcome, now, *columns.values(), execution.number),
            )
            self._delete_completed(db, execution)

    def recover(self, now: float) -> None:
        """Attempts that an endpoint was killed in are made again; whoever makes them can see that by their number."""
        with self._transaction() as db:
            db.execute(
                "UPDATE execution SET outcome = ?, due_at = ? WHERE outcome = ?",
                (PENDING, now, RUNNING),
            )

    def executions(self, schedule_arn: str | None = None) -> list[dict[str, Any]]:
        """What became of the firings, oldest first."""
        columns = "schedule_arn, id, scheduled_at, outcome, attempts, result, error, dead_letter, ended_at"
        where = "" if schedule_arn is None else "WHERE schedule_arn = ?"
        query = f"SELECT {columns} FROM execution {where} ORDER BY number"
        rows = self._rows(query, *([schedule_arn] if schedule_arn else []))
        return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]

    # Requests made twice, and the simulated clock

    def find_answer(self, token: str) -> tuple[str, Document] | None:
        """The request that came with this token, and what it was answered."""
        rows = self._rows("SELECT request, answer FROM token WHERE token = ?", token)
        return (str(rows[0][0]), _load(rows[0][1])) if rows else None

    def keep_answer(self, token: str, request: str, answer: Document) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO token VALUES (?, ?, ?)", (token, request, json.dumps(answer)))
            db.execute("DELETE FROM token WHERE rowid <= (SELECT MAX(rowid) FROM token) - ?", (KEPT_TOKENS,))

    def simulated_now(self) -> float | None:
        rows = self._rows("SELECT now FROM clock")
        return rows[0][0] if rows else None

    def keep_simulated_now(self, now: float) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (now,))

    # SQLite

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _schedules(self, where: str, *values: Any) -> list[Schedule]:
        rows = self._rows(f"SELECT number, group_name, name, document, anchor, next_at FROM schedule {where}", *values)
        return [
            Schedule(number, group, name, _load(document), anchor, next_at)
            for number, group, name, document, anchor, next_at in rows
        ]

    def _group_column(self, name: str, column: str) -> str:
        rows = self._rows(f"SELECT {column} FROM schedule_group WHERE name = ?", name)
        if not rows:
            raise Unknown(name)
        return str(rows[0][0])

    def _delete_completed(self, db: sqlite3.Connection, execution: Execution) -> None:
        """A schedule that was to go after its last firing, when nothing of it is under way any more."""
        db.execute(
            "DELETE FROM schedule WHERE number = ? AND next_at IS NULL"
            " AND json_extract(document, '$.ActionAfterCompletion') = 'DELETE'"
            " AND json_extract(document, '$.State') = 'ENABLED'"
            " AND NOT EXISTS (SELECT 1 FROM execution WHERE schedule = ? AND outcome IN (?, ?))",
            (execution.schedule, execution.schedule, PENDING, RUNNING),
        )


def _load(text: str) -> Document:
    document: Document = json.loads(text)
    return document
