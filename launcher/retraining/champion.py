"""The gate's pointer, from outside a job: who is champion, who was, promoting by hand, going back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from container_src.sft import champion as sft
from container_src.sft.artifact import ADAPTER_FILES
from container_src.sft.comparison import LEAST_ROWS
from launcher.aws import jobs, s3
from launcher.aws.session import Session
from launcher.errors import ArtifactError, RunError
from launcher.job import Job, Status, attach
from launcher.plan import make_key, recipe_key
from launcher.progress import Say, silent
from launcher.recipe import Recipe
from launcher.request import key_of
from launcher.results.adapters import fetch_adapter
from launcher.retraining.publication import Shelf, open_shelf
from launcher.tables import html_table


@dataclass(frozen=True)
class Line:
    """The champions of the recipe of this name: the folder in S3 that holds the pointer, them and their history."""

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

    def command(self, verb: str) -> str:
        """The command line for it: a name in S3 does not tell which file the recipe is."""
        place = " --instance local" if self.session.place == "local" else ""
        return f"`launcher champion {verb} RECIPE{place}`"

    def folder(self, job: str) -> str:
        return f"{self.root}{job or sft.PLACEHOLDER}/"


@dataclass(frozen=True)
class Champion:
    """What the pointer names. `missing` lists what should be there and is not, `damaged` says what cannot be read."""

    line: Line
    record: Mapping[str, Any]
    etag: str
    missing: tuple[str, ...] = ()
    damaged: str = ""
    is_pointed: bool = True

    @property
    def job(self) -> str:
        return str(self.record["job"])

    def rows(self) -> list[tuple[str, str]]:
        """As people read it."""
        if not self.job:
            return [("recipe", self.line.recipe), ("champion", "none yet")]
        if "promoted" not in self.record:
            return [("recipe", self.line.recipe), ("champion", self.job), ("problem", self.problem)]
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
        return {"recipe": self.line.recipe, **self.record, "missing": list(self.missing), "damaged": self.damaged}

    def _repr_html_(self) -> str:
        return html_table(["champion", self.job], self.rows()[2:])

    @property
    def problem(self) -> str:
        """Why no job can mount it, or ""."""
        if self.missing:
            return f"has lost {self.missing[0]}"
        return f"cannot be read: {self.damaged}" if self.damaged else ""

    def check(self) -> Champion:
        """Itself, if a job can mount all that belongs to it."""
        if self.problem:
            raise ArtifactError(
                f"The champion {self.job or 'placeholder'} of {self.line.recipe} {self.problem}. No job can mount it.",
                hint=f"{self.line.command('rollback')} goes back to the newest one that is whole.",
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
    key = key_of(shelf.recipe, f"champions/{recipe_key(shelf.recipe)}/")
    return Line(shelf.session, shelf.recipe.name, f"s3://{shelf.site.bucket}/{key}")


def find_champion(recipe: Recipe) -> Champion:
    """The recipe's champion; before the first one, with an empty job."""
    return read_champion(open_line(recipe))


def read_champion(line: Line) -> Champion:
    """From the pointer on; somebody may have deleted or changed anything of it. Another recipe's is refused."""
    bucket, key = line.place
    if s3.find_object(line.session, bucket, key) is None:
        found = _unpointed(line, "")
        return replace(found, missing=(line.pointer,)) if found.job else found
    content, etag = s3.get_bytes(line.session, bucket, key)
    try:
        prefix, names = sft.read_pointer(content)
    except ValueError as error:
        return replace(_unpointed(line, etag), damaged=f"{line.pointer}: {error}")
    job = sft.job_in(prefix)
    record, damaged = _read_record(line, prefix)
    if (owner := record.get("recipe_name", line.recipe)) != line.recipe:
        raise RunError(
            f"{line.pointer} names the champion {job} of the recipe {owner}, and this one is {line.recipe}.",
            hint="Give this one another `name`: what is published and who is champion goes by it.",
        )
    unknown = {**sft.make_placeholder(prefix, line.pointer), "job": job}
    return Champion(line, record or unknown, etag, _find_missing(line, prefix, job, names), damaged)


def _unpointed(line: Line, etag: str) -> Champion:
    """Without a readable pointer the history tells who is champion."""
    newest = next(_iter_moves(line), None)
    job = newest.after if newest else ""
    record = {**sft.make_placeholder(line.folder(job), line.pointer), "job": job}
    return Champion(line, record, etag, is_pointed=False)


def _find_missing(line: Line, prefix: str, job: str, names: list[str]) -> tuple[str, ...]:
    """What the pointer names and nobody finds, and what a job cannot do without and the pointer does not name."""
    bucket, folder = s3.split_uri(prefix)
    there = set(s3.iter_keys(line.session, bucket, folder))
    needed = (sft.RECORD, *(ADAPTER_FILES if job else ()))
    lost = [name for name in (*needed, *names) if name not in names or folder + name not in there]
    return tuple(prefix + name for name in dict.fromkeys(lost))


def _read_record(line: Line, prefix: str) -> tuple[dict[str, Any], str]:
    """champion.json, and what is wrong with it."""
    bucket, key = s3.split_uri(prefix + sft.RECORD)
    if s3.find_object(line.session, bucket, key) is None:
        return {}, f"{prefix}{sft.RECORD} is lost"
    try:
        return sft.read_record(s3.get_bytes(line.session, bucket, key)[0]), ""
    except ValueError as error:
        return {}, f"{prefix}{sft.RECORD}: {error}"


def ensure_pointer(line: Line) -> None:
    """A channel needs objects: before the first champion the pointer names a placeholder."""
    current = read_champion(line)
    if current.job or (current.is_pointed and not current.problem):
        return
    _put_placeholder(line)
    if not current.is_pointed:
        # False: a champion, or another placeholder, was there first
        s3.switch_bytes(line.session, sft.make_pointer(line.folder(""), []), *line.place, current.etag)


def _put_placeholder(line: Line) -> None:
    prefix = line.folder("")
    record = json.dumps(sft.make_placeholder(prefix, line.pointer)).encode()
    bucket, folder = s3.split_uri(prefix)
    s3.put_bytes(line.session, record, bucket, folder + sft.RECORD)


def list_moves(recipe: Recipe) -> list[Move]:
    """Every change of champion, the newest first."""
    line = open_line(recipe)
    read_champion(line)  # refuses a line of another recipe's
    return list(_iter_moves(line))


def _iter_moves(line: Line) -> Iterator[Move]:
    bucket, folder = s3.split_uri(line.root + "moves/")
    for key in sorted(s3.iter_keys(line.session, bucket, folder), reverse=True):
        content = s3.get_bytes(line.session, bucket, key)[0]
        try:
            move = json.loads(content)
            yield Move(move["time"], move["from"], move["to"], move["by"], move["why"])
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"s3://{bucket}/{key} is no line of a history: it holds {content[:40]!r}.",
                hint="Delete that object: a line less does no harm.",
            ) from error


def roll_back_champion(recipe: Recipe, *, say: Say = silent) -> Champion:
    """The newest champion before the current one that is whole; the placeholder before the first."""
    line = open_line(recipe)
    current = read_champion(line)
    if not current.job and not current.problem:
        raise RunError(
            f"{line.recipe} has no champion to go back from.", hint="`launcher champion promote JOB` makes one."
        )
    for before in _iter_earlier(current):
        prefix = line.folder(before)
        bucket, folder = s3.split_uri(prefix)
        names = [key.removeprefix(folder) for key in s3.iter_keys(line.session, bucket, folder)]
        lost = _find_missing(line, prefix, before, names)
        problem = f"it has lost {lost[0]}" if lost else _read_record(line, prefix)[1]
        if not problem:
            break
        say(f"{before} is passed over: {problem}")
    else:
        before, names = "", []
        _put_placeholder(line)
    why = f"rolled back from {current.job or 'a damaged pointer'}"
    _move(line, current, before, sft.make_pointer(line.folder(before), names), "hand", why)
    return read_champion(line)


def _iter_earlier(current: Champion) -> Iterator[str]:
    """By their records and, where those are lost, by the history. A champion that only lost its pointer comes first."""
    line, job, seen = current.line, current.job, {""}
    if job and not current.is_pointed:
        yield job
    while job not in seen:
        seen.add(job)
        job = _previous_of(line, job)
        if job not in seen:
            yield job


def _previous_of(line: Line, job: str) -> str:
    if record := _read_record(line, line.folder(job))[0]:
        return sft.job_in(str(record["previous"]))
    return next((move.before for move in _iter_moves(line) if move.after == job), "")


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
            raise RunError(f"{job.name} is not better than its base: {evaluation['sentence']}", hint=_way_on(current))
        check_base(current, manifest["config"])
        previous = str(current.record["prefix"]) if current.job else ""
        record = sft.make_record(job.name, line.folder(job.name), line.pointer, previous, manifest, evaluation, "hand")
        names = _upload(line, job.name, folder, record)
    why = str((verdict or evaluation)["sentence"])
    _move(line, current, job.name, sft.make_pointer(line.folder(job.name), names), "hand", why)
    return read_champion(line)


GIVE_ROWS = (
    f"A job is judged that trains to its end and has {LEAST_ROWS} rows or more to judge by, as data.test or data.eval."
)


def _advise(verdict: Mapping[str, Any], current: Champion) -> str:
    """What may help a job that the gate did not find better."""
    deciding = verdict.get("champion") or verdict.get("base") or {}
    is_judged = verdict["decision"] != "unjudged" and deciding.get("verdict") != "too few rows"
    return _way_on(current) if is_judged else GIVE_ROWS


def _way_on(current: Champion) -> str:
    stays = f"The champion stays {current.job}" if current.job else "There is no champion yet"
    return f"{stays}. More or better data, or another recipe, may do it."


def _champion_already(current: Champion) -> RunError:
    return RunError(f"{current.job} is the champion already.", hint=f"{current.line.command('show')} shows it.")


def check_base(current: Champion, config: Mapping[str, Any]) -> None:
    """Refuse a champion whose adapter fits another base than this training's."""
    if problem := sft.find_other_base(sft.Champion(Path(), current.record), config):
        raise RunError(
            f"Nothing can be weighed against it: {problem}.",
            hint="A recipe of another `name` has a champion of its own; or train on the base that this one has.",
        )


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
    line = Line(job.session, recipe, pointer.removesuffix(sft.POINTER))
    return line, read_champion(line)


def _check_worthy(job: Job, current: Champion) -> Mapping[str, Any] | None:
    """The gate's verdict, if it allows a promotion; None where there is neither a verdict nor a champion to beat."""
    state = job.state()
    if state.status is not Status.COMPLETED:
        raise RunError(
            f"{job.name} is {state.status.value}; only a completed job can be promoted.",
            hint=f"`launcher status {job.name}` tells more. {GIVE_ROWS}"
            if state.status.is_over
            else f"`launcher wait {job.name}` waits for its end.",
        )
    if current.job == job.name:
        raise _champion_already(current)
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
        raise RunError(f"The gate's verdict on {job.name} is {state.outcome}", hint=_advise(verdict, current))
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
    if not s3.switch_bytes(line.session, pointer, bucket, key, current.etag):
        now = read_champion(line)
        if after and now.job == after:
            raise _champion_already(now)
        winner = now.job or "nobody"
        raise RunError(
            f"The champion of {line.recipe} changed in this moment: it is {winner} now. Nothing was moved.",
            hint=f"{line.command('history')} shows what happened.",
        )
    name, content = sft.make_move(current.job, after, by, why)
    s3.put_bytes(line.session, content, bucket, key.removesuffix(sft.POINTER) + name)
