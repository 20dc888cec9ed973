"""The gate's pointer, from outside a job: who is champion, who was, promoting by hand, going back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from container_src.sft import champion as sft
from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.errors import ArtifactError, RunError
from launcher.job import Job, Status, attach
from launcher.plan import make_key, recipe_key
from launcher.publication import Shelf, open_shelf
from launcher.recipe import Recipe
from launcher.request import key_of
from launcher.results.adapters import fetch_adapter
from launcher.tables import html_table


@dataclass(frozen=True)
class Line:
    """A recipe's line of champions: the folder in S3 that holds its pointer, the champions and their history."""

    session: Session
    recipe: str
    root: str

    @property
    def pointer(self) -> str:
        return self.root + sft.POINTER

    @property
    def place(self) -> tuple[str, str]:
        """Bucket and key of the pointer."""
        return s3.split_uri(self.pointer)

    def folder(self, job: str) -> str:
        return f"{self.root}{job or sft.PLACEHOLDER}/"


@dataclass(frozen=True)
class Champion:
    """What the pointer names. `missing` lists what it names and nobody finds."""

    line: Line
    record: Mapping[str, Any]
    etag: str
    missing: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        return str(self.record["job"])

    def rows(self) -> list[tuple[str, str]]:
        """As people read it."""
        if not self.job:
            return [("recipe", self.line.recipe), ("champion", "none yet")]
        return [
            ("recipe", self.line.recipe),
            ("champion", self.job),
            ("promoted", f"{self.record['promoted']} by {self.record['by']}"),
            ("base", str(self.record["model"])),
            ("evaluation", str(self.record["evaluation"]["sentence"])),
            ("adapter", str(self.record["prefix"])),
            ("before it", sft.job_in(str(self.record["previous"])) or "nobody"),
        ]

    def describe(self) -> dict[str, Any]:
        """For --json."""
        return {"recipe": self.line.recipe, **self.record, "missing": list(self.missing)}

    def _repr_html_(self) -> str:
        return html_table(["champion", self.job], self.rows()[2:])

    def check(self) -> Champion:
        """Itself, if all that the pointer names is there."""
        if self.missing:
            raise ArtifactError(
                f"The champion {self.job or 'placeholder'} of {self.line.recipe} has lost {self.missing[0]}: "
                "no job can mount it.",
                hint=f"`launcher champion rollback {self.line.recipe}` goes back to the one before it.",
            )
        return self


@dataclass(frozen=True)
class Move:
    """One line of the history."""

    time: str
    before: str
    after: str
    by: str
    why: str

    def describe(self) -> dict[str, Any]:
        return dict(vars(self))


def open_line(recipe: Recipe) -> Line:
    return line_beside(open_shelf(recipe))


def line_beside(shelf: Shelf) -> Line:
    """In the bucket of the publications."""
    recipe = recipe_key(shelf.recipe)
    key = key_of(shelf.recipe, f"champions/{recipe}/")
    return Line(shelf.session, recipe, f"s3://{shelf.site.bucket}/{key}")


def find_champion(recipe: Recipe) -> Champion:
    """The recipe's champion; before the first one, with an empty job."""
    return read_champion(open_line(recipe))


def read_champion(line: Line) -> Champion:
    """From the pointer on. What it names may have been deleted by somebody."""
    bucket, key = line.place
    if s3.find_object(line.session, bucket, key) is None:
        return Champion(line, sft.make_placeholder(line.folder(""), line.pointer), "")
    content, etag = s3.get_bytes(line.session, bucket, key)
    prefix, names = sft.read_prefix(content), json.loads(content)[1:]
    there = set(s3.iter_keys(line.session, *s3.split_uri(prefix)))
    _, folder = s3.split_uri(prefix)
    missing = tuple(prefix + name for name in names if folder + name not in there)
    if prefix + sft.RECORD in missing:
        record = {**sft.make_placeholder(prefix, line.pointer), "job": sft.job_in(prefix)}
        return Champion(line, record, etag, missing)
    record = json.loads(s3.get_bytes(line.session, bucket, folder + sft.RECORD)[0])
    return Champion(line, record, etag, missing)


def ensure_pointer(line: Line) -> None:
    """A channel needs objects: before the first champion the pointer names a placeholder."""
    bucket, key = line.place
    if s3.find_object(line.session, bucket, key) is not None:
        return
    prefix = line.folder("")
    record = json.dumps(sft.make_placeholder(prefix, line.pointer)).encode()
    s3.put_bytes(line.session, record, bucket, s3.split_uri(prefix)[1] + sft.RECORD)
    # False: a champion, or another placeholder, was there first
    s3.put_bytes(line.session, sft.make_pointer(prefix, []), bucket, key, IfNoneMatch="*")


def list_moves(recipe: Recipe) -> list[Move]:
    """Every change of champion, the newest first."""
    line = open_line(recipe)
    bucket, folder = s3.split_uri(line.root + "moves/")
    moves = []
    for key in sorted(s3.iter_keys(line.session, bucket, folder), reverse=True):
        move = json.loads(s3.get_bytes(line.session, bucket, key)[0])
        moves.append(Move(move["time"], move["from"], move["to"], move["by"], move["why"]))
    return moves


def roll_back_champion(recipe: Recipe) -> Champion:
    """The champion before the current one; the placeholder before the first."""
    current = read_champion(open_line(recipe))
    line = current.line
    if not current.job:
        raise RunError(
            f"{line.recipe} has no champion to go back from.", hint="`launcher champion promote JOB` makes one."
        )
    before = _previous_of(current)
    prefix = line.folder(before)
    bucket, folder = s3.split_uri(prefix)
    names = [key.removeprefix(folder) for key in s3.iter_keys(line.session, bucket, folder)]
    if sft.RECORD not in names:
        raise ArtifactError(
            f"The champion before {current.job}, {before or 'the placeholder'}, is gone from {prefix}.",
            hint="`launcher champion promote JOB` makes another job's adapter the champion.",
        )
    _move(line, current, before, sft.make_pointer(prefix, names), "hand", f"rolled back from {current.job}")
    return read_champion(line)


def _previous_of(current: Champion) -> str:
    """By its record; where that is lost, by the history."""
    if current.line.folder(current.job) + sft.RECORD not in current.missing:
        return sft.job_in(str(current.record["previous"]))
    bucket, folder = s3.split_uri(current.line.root + "moves/")
    for key in sorted(s3.iter_keys(current.line.session, bucket, folder), reverse=True):
        move = json.loads(s3.get_bytes(current.line.session, bucket, key)[0])
        if move["to"] == current.job:
            return str(move["from"])
    return ""


def promote_job(name: str, place: str | None = None) -> Champion:
    """Make a finished job's adapter the champion, if the gate found it better than the one there is."""
    job = attach(name, place)
    line, current = _line_of(job)
    verdict = _check_worthy(job, current)
    with tempfile.TemporaryDirectory(prefix="champion-") as temporary:
        folder = Path(temporary)
        fetch_adapter(job.session, job.state().model_uri, folder)
        manifest, evaluation = (_read_json(job, folder / name) for name in ("manifest.json", "evaluation.json"))
        if verdict is None and evaluation["verdict"] != "better":
            raise RunError(f"{job.name} is not better than its base: {evaluation['sentence']}", hint=TRAIN_MORE)
        if problem := sft.find_other_base(sft.Champion(folder, current.record), manifest["config"]):
            raise RunError(f"{job.name}: {problem}.")
        previous = str(current.record["prefix"]) if current.job else ""
        record = sft.make_record(job.name, line.folder(job.name), line.pointer, previous, manifest, evaluation, "hand")
        names = _upload(line, job.name, folder, record)
    why = str((verdict or evaluation)["sentence"])
    _move(line, current, job.name, sft.make_pointer(line.folder(job.name), names), "hand", why)
    return read_champion(line)


TRAIN_MORE = "The champion stays. More or better data, or another recipe, may do it."


def _line_of(job: Job) -> tuple[Line, Champion]:
    """From the job's own request: the recipe may have changed, or be elsewhere."""
    described = job.description()
    root = described["OutputDataConfig"]["S3OutputPath"].removesuffix("/output")
    recipe = json.loads(described["HyperParameters"].get("recipe_name", '""'))
    channels = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
        for channel in described.get("InputDataConfig", [])
    }
    pointer = channels.get("champion") or f"{root}/champions/{make_key(recipe)}/{sft.POINTER}"
    folder = pointer.removesuffix(sft.POINTER)
    line = Line(job.session, folder.rstrip("/").rpartition("/")[2], folder)
    return line, read_champion(line)


def _check_worthy(job: Job, current: Champion) -> Mapping[str, Any] | None:
    """The gate's verdict, if it allows a promotion; None where there is neither a verdict nor a champion to beat."""
    state = job.state()
    if state.status is not Status.COMPLETED:
        raise RunError(f"{job.name} is {state.status.value}; only a completed job can be promoted.")
    if current.job == job.name:
        raise RunError(f"{job.name} is the champion already.", hint=f"`launcher champion show {current.line.recipe}`.")
    verdict = jobs.find_note(job.session, state.checkpoints, sft.VERDICT)
    if verdict is None:
        if state.outcome.startswith("unchanged"):
            raise RunError(f"{job.name} is {state.outcome}.", hint="There is nothing to promote.")
        if current.job:
            raise RunError(
                f"{job.name} was never weighed against the champion {current.job}.",
                hint="A scheduled job is: `launcher schedule trigger NAME` starts one.",
            )
        return None
    if verdict["decision"] not in ("better", "promoted"):
        raise RunError(f"The gate's verdict on {job.name} is {state.outcome}", hint=TRAIN_MORE)
    if verdict["champion_before"] != current.job:
        raise RunError(
            f"{job.name} was weighed against {verdict['champion_before'] or 'no champion'}, and the champion is "
            f"{current.job or 'nobody'} now.",
            hint="`launcher schedule trigger NAME` weighs a new job against it.",
        )
    return verdict


def _read_json(job: Job, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(
            f"{job.name} left no {path.name}, so nobody knows whether it is better.",
            hint="A gate needs eval or test rows: give the recipe data.eval, and train again.",
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _upload(line: Line, job: str, folder: Path, record: dict[str, Any]) -> list[str]:
    bucket, prefix = s3.split_uri(line.folder(job))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for path in files if not (name := path.relative_to(folder).as_posix()).startswith(".")]
    for name in names:
        s3.upload_file(line.session, folder / name, bucket, prefix + name)
    s3.put_bytes(line.session, json.dumps(record, indent=1).encode(), bucket, prefix + sft.RECORD)
    return names


def _move(line: Line, current: Champion, after: str, pointer: bytes, by: str, why: str) -> None:
    bucket, key = line.place
    condition = {"IfMatch": current.etag} if current.etag else {"IfNoneMatch": "*"}
    if not s3.put_bytes(line.session, pointer, bucket, key, **condition):
        winner = read_champion(line).job or "nobody"
        raise RunError(
            f"The champion of {line.recipe} changed in this moment: it is {winner} now. Nothing was moved.",
            hint=f"`launcher champion history {line.recipe}` shows what happened.",
        )
    name, content = sft.make_move(current.job, after, by, why)
    s3.put_bytes(line.session, content, bucket, key.removesuffix(sft.POINTER) + name)
