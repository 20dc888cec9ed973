"""A handle on one job, in the manner of concurrent.futures: it can be made anew from the name at any time."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from launcher import ledger, on_demand, outcomes
from launcher.aws import jobs
from launcher.aws.logs import iter_log_lines
from launcher.aws.reasons import ON_DEMAND, find_fix, is_capacity_error
from launcher.aws.s3 import find_object, split_uri
from launcher.aws.session import Session, open_session
from launcher.errors import ArtifactError, CloudError, CredentialsError, JobFailed, JobStopped, UnknownJob
from launcher.job_names import is_scheduled, run_of
from launcher.price_table import Price
from launcher.progress import Say, Track, silent, untracked
from launcher.results.adapters import Adapter, fetch_adapter
from launcher.results.comparison import Results, fetch_results
from launcher.results.metrics import Metrics, iter_metrics
from launcher.tables import html_table

TAIL_LINES = 40
STATUS_POLL_S = 5.0
LOCAL_STATUS_POLL_S = 0.5


class Status(enum.Enum):
    """Ours; AWS's grow "subject to change", so unknown is a value."""

    PENDING = "pending"
    STARTING = "starting"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    UPLOADING = "uploading"
    INTERRUPTED = "interrupted"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.STOPPED)


SECONDARY = {
    "Pending": Status.PENDING,
    "Starting": Status.STARTING,
    "LaunchingMLInstances": Status.STARTING,
    "PreparingTrainingStack": Status.STARTING,
    "DownloadingTrainingImage": Status.DOWNLOADING,
    "Downloading": Status.DOWNLOADING,
    "Training": Status.TRAINING,
    "Restarting": Status.STARTING,
    "Updating": Status.TRAINING,
    "Uploading": Status.UPLOADING,
    "Interrupted": Status.INTERRUPTED,
    "Stopping": Status.STOPPING,
}
PRIMARY = {
    "Completed": Status.COMPLETED,
    "Failed": Status.FAILED,
    "Stopped": Status.STOPPED,
    "Stopping": Status.STOPPING,
}


def make_status(description: dict[str, Any]) -> Status:
    primary = PRIMARY.get(description["TrainingJobStatus"])
    return primary or SECONDARY.get(description.get("SecondaryStatus", ""), Status.UNKNOWN)


@dataclass(frozen=True)
class JobState:
    """What is known of a job at one moment."""

    name: str
    status: Status
    message: str
    reason: str
    instance: str
    count: int
    spot: bool
    interruptions: int
    secondary: str
    created: datetime
    started: datetime | None
    ended: datetime | None
    training_s: int | None
    billed_s: int | None
    model_uri: str
    place: str
    checkpoints: str = ""
    outcome: str = ""
    goes_on: bool = False  # whoever waits for it starts the job that follows it on demand

    def describe(self) -> dict[str, Any]:
        """For --json."""
        return {
            key: value.isoformat()
            if isinstance(value, datetime)
            else value.value
            if isinstance(value, Status)
            else value
            for key, value in vars(self).items()
        }

    @property
    def lacked_capacity(self) -> bool:
        """Whether it is over because AWS had no instance for it."""
        return self.status.is_over and (self.secondary == "MaxWaitTimeExceeded" or is_capacity_error(self.reason))

    def rows(self, price: Price | None = None) -> list[tuple[str, str]]:
        """As people read it; with the on-demand price of one instance, in dollars too."""
        rows = [("job", self.name), ("status", self.status.value)]
        if self.outcome:
            rows.append(("outcome", self.outcome))
        if not self.reason and self.message != self.outcome:
            rows.append(("doing", self.message))
        rows += [
            ("place", self.place),
            ("instance", self._instance_words()),
            ("created", f"{self.created:%Y-%m-%d %H:%M:%S %Z}"),
        ]
        if self.spot:
            rows.append(("spot", f"{self.interruptions} interruption{'' if self.interruptions == 1 else 's'}"))
        rows += self._cost_rows(price)
        if self.status.is_over and self.model_uri:
            rows.append(("model", self.model_uri))
        if self.reason:
            rows.append(("reason", self.reason))
        if self.status.is_over and (fix := self._fix()):
            rows.append(("fix", fix))
        elif self.status is Status.STOPPED and not is_scheduled(self.name):
            rows.append(("next", _stopped_hint(self.name)))
        return rows

    def _instance_words(self) -> str:
        if self.place == "local":
            return "local"  # the request names a type, since AWS's has to; it is this machine all the same
        return f"{self.count} x {self.instance}" if self.count > 1 else self.instance

    def _fix(self) -> str:
        return ON_DEMAND.format(job=self.name) if self.goes_on else find_fix(self.reason, self.secondary)

    def _cost_rows(self, price: Price | None) -> list[tuple[str, str]]:
        if self.training_s is None:
            return []
        words = f"{self.training_s:,} s"
        if self.billed_s is not None:
            words += f", {self.billed_s:,} s billed"
            if self.spot and self.training_s:
                words += f", {1 - self.billed_s / self.training_s:.0%} saved"
        rows = [("time", words)]
        if price is not None and self.billed_s is not None:
            # AWS bills the billable seconds at the on-demand price: they hold the saving already
            dollars = self.billed_s * self.count * price.usd_per_hour / 3600
            rows.append(("cost", f"${dollars:.2f} at ${price.usd_per_hour:g} an hour ({price.source})"))
        return rows


class Job:
    """One attempt at a run. Nothing is cached that can change."""

    def __init__(self, name: str, session: Session) -> None:
        self.name = name
        self.session = session

    def __repr__(self) -> str:
        return f"Job({self.name!r}, place={self.session.place!r})"

    def _repr_html_(self) -> str:
        return html_table(["job", self.name], self.state().rows())

    @property
    def run(self) -> str:
        return run_of(self.name)

    def description(self) -> dict[str, Any]:
        """AWS's own words."""
        return jobs.describe_job(self.session, self.name)

    def state(self) -> JobState:
        description = self.description()
        state = find_state(self.session, description)
        if state.spot and state.lacked_capacity:
            return dataclasses.replace(state, goes_on=on_demand.is_due(self.session, description))
        return state

    @property
    def status(self) -> Status:
        return self.state().status

    def logs(self, follow: bool = False, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
        """The log so far; with follow, until the job is over."""
        is_over = (lambda: self.status.is_over) if follow else (lambda: True)
        return iter_log_lines(self.session, self.name, is_over=is_over, sleep=sleep)

    def metrics(self) -> list[Metrics]:
        """Every metric line of the log, in order."""
        return list(iter_metrics(self.logs()))

    def wait(
        self, timeout: float | None = None, *, say: Say = silent, sleep: Callable[[float], None] = time.sleep
    ) -> JobState:
        """Until the job is over. Raises JobFailed or JobStopped; TimeoutError leaves the job running."""
        return self.check(self.wait_over(timeout, say=say, sleep=sleep))

    def wait_over(
        self, timeout: float | None = None, *, say: Say = silent, sleep: Callable[[float], None] = time.sleep
    ) -> JobState:
        """Until the job is over, however it ended, and with it the on-demand job that may follow it: see go_on."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = STATUS_POLL_S if self.session.place == "aws" else LOCAL_STATUS_POLL_S
        while True:
            state = self.state()
            if state.status.is_over and not self.go_on(state, say, sleep=sleep):
                return state
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.name} is not over after {timeout:g} s; it goes on.")
            if not state.status.is_over:
                sleep(pause)

    def go_on(self, state: JobState, say: Say = silent, *, sleep: Callable[[float], None] = time.sleep) -> bool:
        """Of a spot job that got no capacity, become the job that follows it on demand, where its recipe says so.

        That job is started here, unless another follower has; this handle is a handle on it from then on.
        """
        if not (state.spot and state.lacked_capacity):
            return False
        sleep(0)  # where a Ctrl-C that was kept ends it: what comes now may start a job that costs
        following = on_demand.find_next(self.session, self.description(), say, sleep=sleep)
        self.name = following or self.name
        return bool(following)

    def check(self, state: JobState) -> JobState:
        """The state of a job that is over, if it ended well; else the error that tells how it ended."""
        if state.status is Status.FAILED:
            tail = list(self.logs())[-TAIL_LINES:]
            fix = find_fix(state.reason)
            raise JobFailed(
                "\n".join([f"{self.name} failed{self._how_often(state)}: {state.reason}", *tail]),
                hint=f"{fix} `launcher logs {self.name}` shows all of it.".lstrip() if tail or not fix else fix,
            )
        if state.status is Status.STOPPED:
            hint = find_fix("", state.secondary) or _stopped_hint(self.name)
            by_itself = state.message.startswith(outcomes.BY_ITSELF)
            said = state.message if by_itself else f"was stopped: {state.message}"
            raise JobStopped(f"{self.name} {said}", hint=hint)
        return state

    def _how_often(self, state: JobState) -> str:
        """For want of capacity: how many jobs of the run in a row have ended so, as far as the last few tell."""
        if not is_capacity_error(state.reason):
            return ""
        times = 0
        for summary in itertools.islice(jobs.iter_jobs(self.session, f"{self.run}-", page_size=10), 10):
            if run_of(summary["TrainingJobName"]) != self.run or summary["TrainingJobName"] > self.name:
                continue
            reason = jobs.describe_job(self.session, summary["TrainingJobName"]).get("FailureReason", "")
            if not is_capacity_error(reason):
                break
            times += 1
        return f", {times} times in a row" if times > 1 else ""

    def has_model(self, state: JobState) -> bool:
        """Whether the model is there: AWS names its place from the beginning, whatever comes of it."""
        return bool(state.model_uri) and find_object(self.session, *split_uri(state.model_uri)) is not None

    def stop(self) -> None:
        """Ask it to stop; a job that trains saves what it has."""
        jobs.stop_job(self.session, self.name)

    def fetch(self, folder: str | Path = "", track: Track = untracked) -> Adapter:
        """Download the adapter into a folder (runs/<job> when none is given), check it, and return it."""
        return fetch_adapter(self.session, self._model_uri(), self._folder(folder), track)

    def results(self, folder: str | Path = "", track: Track = untracked) -> Results:
        """What it measured: from the folder, where its adapter has been fetched, else from its archive."""
        return fetch_results(self.session, self._model_uri(), self.name, self._folder(folder), track)

    def _folder(self, asked: str | Path) -> Path:
        return Path(asked or Path("runs") / self.name)

    def _model_uri(self) -> str:
        """Where the model of a job that is over lies."""
        state = self.state()
        if not state.status.is_over:
            raise ArtifactError(
                f"{self.name} is {state.status.value}; its model comes at the end.",
                hint=f"`launcher wait {self.name}` waits for it.",
            )
        if state.outcome.startswith("unchanged"):
            raise ArtifactError(f"{self.name} is {state.outcome}.", hint="Fetch the champion that it names.")
        if not self.has_model(state):
            raise ArtifactError(f"{self.name} left no model: {state.reason or state.message}")
        return state.model_uri


def find_state(session: Session, description: dict[str, Any]) -> JobState:
    """A job as AWS describes it; one that AWS calls completed is stopped to us where it stopped itself too early."""
    state = _make_state(description, session.place)
    if state.status is not Status.COMPLETED:
        return state
    if stop := outcomes.find_early_stop(session, state.name, state.checkpoints):
        state = dataclasses.replace(state, status=Status.STOPPED, message=stop, outcome=stop)
    if is_scheduled(state.name):
        return dataclasses.replace(state, outcome=outcomes.find_verdict(session, state.checkpoints))
    return state


def _stopped_hint(job: str) -> str:
    return f"`launcher fetch {job}` gets what it saved; another submit of {run_of(job)} goes on where it can."


def _make_state(description: dict[str, Any], place: str) -> JobState:
    transitions = description.get("SecondaryStatusTransitions") or [{}]
    resources = description["ResourceConfig"]
    return JobState(
        name=description["TrainingJobName"],
        status=make_status(description),
        message=transitions[-1].get("StatusMessage", "") or description.get("SecondaryStatus", ""),
        reason=description.get("FailureReason", ""),
        instance=instance_of(resources),
        count=resources.get("SelectedInstanceCount", resources.get("InstanceCount", 1)),
        spot=description.get("EnableManagedSpotTraining", False),
        interruptions=sum(step.get("Status") == "Interrupted" for step in transitions),
        secondary=description.get("SecondaryStatus", ""),
        created=description["CreationTime"],
        started=description.get("TrainingStartTime"),
        ended=description.get("TrainingEndTime"),
        training_s=description.get("TrainingTimeInSeconds"),
        billed_s=description.get("BillableTimeInSeconds"),
        model_uri=description.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""),
        place=place,
        checkpoints=description.get("CheckpointConfig", {}).get("S3Uri", ""),
    )


def instance_of(resources: dict[str, Any]) -> str:
    """The type that runs; of a list that AWS has not chosen from yet, all of it."""
    chosen = resources.get("SelectedInstanceType") or resources.get("InstanceType", "")
    return chosen or ",".join(choice["InstanceType"] for choice in resources.get("InstancePreferences", []))


@dataclass(frozen=True)
class JobSummary:
    """One line of `list`."""

    name: str
    status: Status
    created: datetime
    ended: datetime | None
    place: str

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status.value,
            "created": self.created.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
            "place": self.place,
        }


def list_jobs(place: str | None = None, *, contains: str = "", limit: int = 50) -> list[JobSummary]:
    """The newest jobs, of one place or of every place this machine has used."""
    found: list[JobSummary] = []
    for session in iter_sessions(place):
        for index, summary in enumerate(jobs.iter_jobs(session, contains)):
            if index >= limit:
                break
            found.append(_make_summary(summary, session.place))
    return sorted(found, key=lambda job: job.created, reverse=True)[:limit]


def _make_summary(summary: dict[str, Any], place: str) -> JobSummary:
    return JobSummary(
        summary["TrainingJobName"],
        make_status(summary),
        summary["CreationTime"],
        summary.get("TrainingEndTime"),
        place,
    )


def attach(name: str, place: str | None = None) -> Job:
    """The job of this name; or the newest of the run of this name; or the only job whose name begins like this."""
    if not name:
        raise UnknownJob("No job is named.", hint="`launcher list` shows the jobs that can be seen from here.")
    known = {entry.job: entry for entry in ledger.entries() if place in (None, entry.place)}
    if found := _pick(name, [*reversed(known)]):
        return Job(found, open_session(known[found].place, known[found].region))
    for session in iter_sessions(place):
        names = [summary["TrainingJobName"] for summary in jobs.iter_jobs(session, name)]
        if found := _pick(name, names):
            return Job(found, session)
    raise UnknownJob(f"There is no job {name!r}.", hint=_suggest_job(name, place))


def _pick(name: str, newest_first: list[str]) -> str | None:
    of_run = [job for job in newest_first if name in (job, run_of(job))]
    if of_run:
        return of_run[0]
    begin = [job for job in newest_first if job.startswith(name)]
    if len(begin) > 1:
        raise UnknownJob(f"{name!r} fits {len(begin)} jobs: {', '.join(begin[:5])}.", hint="Give more of the name.")
    return begin[0] if begin else None


def _suggest_job(name: str, place: str | None) -> str:
    close = difflib.get_close_matches(name, [entry.job for entry in ledger.entries()], n=1)
    if close:
        return f"Did you mean {close[0]}?"
    if place is None and "aws" not in {known for known, _ in ledger.places()}:
        return "Only this machine's own jobs were searched, as it has sent none to AWS; `--at aws` asks the account."
    return "`launcher list` shows the jobs that can be seen from here."


def iter_sessions(place: str | None) -> Iterator[Session]:
    """Where to look: the place asked for, else where this machine has sent jobs, else the local endpoint."""
    places = {known for known in ledger.places() if place in (None, known[0])} or {(place or "local", "")}
    errors: list[CloudError] = []
    for where, region in sorted(places, reverse=True):
        try:
            session = open_session(where, region)
        except CredentialsError as error:
            errors.append(error)  # signed out of AWS: what lies on this machine is still shown
            continue
        yield session
    if errors and len(errors) == len(places):
        raise errors[0]
