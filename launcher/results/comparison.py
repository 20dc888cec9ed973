"""What finished jobs measured, side by side, beside the base model before tuning."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.aws.s3 import find_object, iter_chunks, split_uri
from launcher.aws.session import Session
from launcher.errors import ArtifactError
from launcher.progress import Track, untracked
from launcher.results.adapters import holds_artifact
from launcher.tables import html_table

MANIFEST, METRICS, EVALUATION = NOTES = ("manifest.json", "metrics.json", "evaluation.json")
NOTE_BYTES = 16 * 1024 * 1024
# one base scored twice: padding and the order of sums move a loss in bfloat16 by less
SAME_LOSS = 0.005
HEAD = ("JOB", "OUTCOME", "STEPS", "PEAK GIB", "SECONDS", "LOSS", "EVAL LOSS", "PERPLEXITY", "ACCURACY", "VERDICT")
MEASURES = ("loss", "perplexity", "token_accuracy")

Measure = dict[str, Any]  # value, low, high: numbers, or words such as "inf", which JSON has no number for


@dataclass(frozen=True)
class Base:
    """A model before tuning, as one job scored it on rows that it did not train on."""

    model: str
    held_as: str
    evaluated_on: str
    rows: int
    tokens: int
    measures: dict[str, Measure]

    def is_like(self, other: Base) -> bool:
        """Whether jobs that were weighed against the two can be held against each other."""
        kinds = [(base.model, base.held_as, base.evaluated_on, base.rows, base.tokens) for base in (self, other)]
        mine, its = (_value(base.measures["loss"]) for base in (self, other))
        # two that are no numbers are not alike
        return self is other or kinds[0] == kinds[1] and math.isclose(mine, its, rel_tol=SAME_LOSS)

    def row(self) -> tuple[str, ...]:
        words = f"base {self.model}, {self.held_as}, {self.rows:,} {self.evaluated_on} rows"
        return (words, "", "0", "", "", "", *_words(self.measures), "")

    def describe(self) -> dict[str, Any]:
        facts = {name: value for name, value in vars(self).items() if name != "measures"}
        return facts | self.measures


@dataclass(frozen=True)
class Results:
    """What one job measured; `base` is None, and `measures` empty, where it ended without a final evaluation."""

    job: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    base: Base | None
    measures: dict[str, Measure]
    verdict: str = ""
    chosen_by_rows: bool = False  # the adapter was kept for its loss on these same rows

    def row(self) -> tuple[str, ...]:
        return (
            self.job,
            str(self.manifest["outcome"]),
            f"{self.manifest['steps_done']:,}",
            _number(self.metrics.get("peak_memory_gib"), ".2f"),
            _number(self.metrics.get("seconds"), ",.0f"),
            _number(self.metrics.get("loss"), ".4f"),
            *_words(self.measures),
            self.verdict,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "recipe": self.manifest.get("recipe_name", ""),
            "outcome": self.manifest["outcome"],
            "reason": self.manifest.get("reason", ""),
            "steps": self.manifest["steps_done"],
            "trainable_parameters": self.manifest.get("trainable_parameters"),
            **{name: self.metrics.get(name) for name in ("peak_memory_gib", "seconds", "seconds_training")},
            "train_loss": self.metrics.get("loss"),
            **{name: self.measures.get(name) for name in MEASURES},
            "verdict": self.verdict or None,
        }


@dataclass(frozen=True)
class Comparison:
    """Jobs below the base that each of them was weighed against."""

    bases: tuple[Base, ...]
    jobs: tuple[Results, ...]

    def place(self, job: Results) -> int | None:
        """The number of the job's base."""
        return next((number for number, base in enumerate(self.bases) if job.base and base.is_like(job.base)), None)

    def rows(self) -> list[tuple[str, ...]]:
        rows = []
        for number, base in enumerate(self.bases):
            rows += [base.row(), *(job.row() for job in self.jobs if self.place(job) == number)]
        return rows + [job.row() for job in self.jobs if job.base is None]

    def notes(self) -> list[str]:
        """What must be known before numbers of different rows are held against each other."""
        notes = [
            f"{job.job} {job.manifest['outcome']} without a final evaluation"
            + (f" ({job.manifest['reason']})" if job.manifest.get("reason") else "")
            for job in self.jobs
            if job.base is None
        ]
        notes += [
            f"{job.job} kept the best of several adapters by their loss on these rows, which flatters it"
            for job in self.jobs
            if job.chosen_by_rows
        ]
        if len(self.bases) > 1:
            notes.append(
                f"the jobs were weighed against {len(self.bases)} bases, or on other rows: compare what stands below "
                "one base alone"
            )
        return notes

    def describe(self) -> dict[str, Any]:
        """For --json; a job's `base` is its number in `bases`."""
        return {
            "bases": [base.describe() for base in self.bases],
            "jobs": [job.describe() | {"base": self.place(job)} for job in self.jobs],
            "notes": self.notes(),
        }

    def _repr_html_(self) -> str:
        return html_table(HEAD, self.rows())


def compare(found: Sequence[Results]) -> Comparison:
    """Jobs side by side, each below the base model before tuning that it was weighed against."""
    bases: list[Base] = []
    for base in (job.base for job in found):
        if base is not None and not any(base.is_like(known) for known in bases):
            bases.append(base)
    return Comparison(tuple(bases), tuple(found))


def load_results(folder: Path, job: str = "") -> Results:
    """From the folder of a fetched artifact."""
    return _make_results(job or folder.name, {name: _read(folder / name) for name in NOTES}, str(folder))


def fetch_results(session: Session, uri: str, job: str, folder: Path, track: Track = untracked) -> Results:
    """From the folder that a fetch has filled, else from the archive where it lies, of which nothing is kept."""
    bucket, key = split_uri(uri)
    info = find_object(session, bucket, key)
    if info is None:
        raise ArtifactError(f"{job} left no model: there is nothing at {uri}.", hint=f"`launcher logs {job}`.")
    if holds_artifact(folder, info.etag):
        return load_results(folder, job)
    with track(f"{job}, {Path(key).name}", info.size) as advance:
        archive = _Reader(iter_chunks(session, bucket, key, 0, info.etag), advance)
        return _make_results(job, _find_notes(archive, uri), uri)


def is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file()


class _Reader(io.RawIOBase):
    """Chunks of a download as a file that is read from front to back."""

    def __init__(self, chunks: Iterator[bytes], advance: Any) -> None:
        self._chunks = chunks
        self._advance = advance
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        while len(self._left) < size and (chunk := next(self._chunks, b"")):
            self._advance(len(chunk))
            self._left += chunk
        found, self._left = self._left[:size], self._left[size:]
        return found


def _find_notes(archive: _Reader, uri: str) -> dict[str, bytes]:
    """The job's notes; reads no further than the last of them."""
    notes = dict.fromkeys(NOTES, b"")
    try:
        with tarfile.open(fileobj=archive, mode="r|gz") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                if name not in notes or not entry.isfile() or entry.size > NOTE_BYTES:
                    continue
                file = tar.extractfile(entry)
                notes[name] = file.read() if file else b""
                if all(notes.values()):
                    break
    except (tarfile.TarError, EOFError) as error:
        raise ArtifactError(f"{uri} is damaged: {error}.", hint="Train the job again.") from error
    return notes


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _make_results(job: str, notes: dict[str, bytes], place: str) -> Results:
    for name in (MANIFEST, METRICS):
        if not notes[name]:
            raise ArtifactError(
                f"{place} holds no {name}: the job measured nothing, or was not one of train.py's.",
                hint="Name a finished job, or the folder that `launcher fetch` filled.",
            )
    try:
        # NaN and Infinity, which Python alone takes for JSON, are no numbers to anybody
        manifest, metrics, evaluation = (
            json.loads(notes[name] or b"null", parse_constant=lambda word: None) for name in NOTES
        )
        return Results(
            job,
            manifest,
            metrics,
            _make_base(manifest, evaluation) if evaluation else None,
            {name: evaluation["tuned"][name] for name in MEASURES} if evaluation else {},
            evaluation["verdict"] if evaluation else "",
            bool(evaluation and evaluation.get("chosen_by_these_rows")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"The numbers in {place} cannot be read: {error!r}.", hint="Fetch it again.") from error


def _make_base(manifest: dict[str, Any], evaluation: dict[str, Any]) -> Base:
    config = manifest["config"]
    return Base(
        model=str(config["model_name_or_path"]) + (" (stand-in)" if config["smoke"] else ""),
        held_as=str(manifest["base_model"]["held_as"]),
        evaluated_on=str(evaluation["evaluated_on"]),
        rows=int(evaluation["rows"]),
        tokens=int(evaluation["tokens"]),
        measures={name: evaluation["base"][name] for name in MEASURES},
    )


def _words(measures: dict[str, Measure]) -> tuple[str, str, str]:
    loss, perplexity, accuracy = (_value(measures.get(name, {})) for name in MEASURES)
    return _number(loss, ".4f"), _number(perplexity, ".4g"), _number(accuracy, ".1%")


def _value(measure: Measure) -> float:
    return math.nan if (value := measure.get("value")) is None else float(value)


def _number(value: float | str | None, form: str) -> str:
    return "-" if value is None or math.isnan(float(value)) else format(float(value), form)
