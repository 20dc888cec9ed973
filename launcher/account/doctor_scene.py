"""What doctor's checks share: the finding that each makes, and the account as far as it is known."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher.aws.errors import explained
from launcher.aws.identity import Identity, fetch_identity
from launcher.aws.quick import Task, make_quick_client
from launcher.aws.session import Session, check_region
from launcher.aws.site import LOCAL_SITE, find_role_and_bucket, named_role_and_bucket, stack_name
from launcher.errors import CloudError, CredentialsError, LauncherError, SiteError
from launcher.recipe import Recipe

State = Literal["ok", "missing", "unknown", "skipped", "broken"]
# How our reading of an answer ends where that has another shape than AWS documents; and how a slip of ours ends, too.
BREAKS = (LookupError, TypeError, ValueError, AttributeError, OSError)
FIRST_S = 1.8  # for who is signed in and for the stack, on which other checks hang
LIMIT_S = 2.0  # for all checks once it is known who is signed in; what has not answered by then is said to be unknown
GRACE_S = 0.4  # for them where nobody answered: there is nothing left to wait for but the Hub
LOCAL_LIMIT_S = 15.0  # the local endpoint loads moto at the first question
GLOBAL = {"iam", "sts"}
DENIED = {"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation"}
MakeClient = Callable[[str, str], Any]


@dataclass(frozen=True)
class Finding:
    """One line: "unknown" is what could not be asked, "skipped" what this place does not have, "broken" a bug."""

    name: str
    state: State
    text: str
    fix: str = ""
    link: str = ""


def ok(text: str) -> Finding:
    return Finding("", "ok", text)


def missing(text: str, fix: str, link: str = "") -> Finding:
    return Finding("", "missing", text, fix, link)


def unknown(text: str, fix: str = "", link: str = "") -> Finding:
    return Finding("", "unknown", text, fix, link)


def broken(error: Exception) -> Finding:
    """A check that ended as nobody meant it to: said with its place, and never taken for an answer."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        "",
        "broken",
        f"this check ended in {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})",
        "The other lines stand. This is a bug of the launcher, or an answer that AWS does not document: report it.",
    )


def only_on_aws() -> Finding:
    return Finding("", "skipped", "the local endpoint needs none")


def find_region_problem(region: str) -> LauncherError | None:
    if not region:
        return SiteError("none is set", hint="Set compute.region in the recipe, AWS_REGION, or one in ~/.aws/config.")
    try:
        check_region(region)
    except SiteError as error:
        return error
    return None


def code_of(error: LauncherError) -> str:
    """AWS's code behind an error of ours, which may have been told once more on its way."""
    cause: BaseException | None = error
    while cause is not None:
        if response := getattr(cause, "response", None):
            return str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    return ""


@dataclass(frozen=True)
class FoundSite:
    """Role and bucket as far as they are known. `problem` is why the stack did not add what is empty."""

    role: str
    bucket: str
    problem: LauncherError | None = None
    bucket_key: str = ""  # of the stack's bucket, where bootstrap was given one

    def lack(self) -> Finding:
        """What to say of the empty one: missing only where the account was asked, and answered."""
        error = self.problem or SiteError("the recipe names none", hint="`launcher bootstrap` makes one.")
        if isinstance(error, SiteError) and not code_of(error):
            return missing(error.message, error.hint)
        return unknown(f"the recipe names none, and the stack was not seen: {error.message}", error.hint)


@dataclass(frozen=True)
class _Clients:
    """Clients for the look at the stack, which does not wait until it is known who is signed in."""

    region: str
    client: Callable[[str], Any]


@dataclass
class Scene:
    """Where the checks look: the recipe, and an account that is asked once what many of them need."""

    recipe: Recipe
    region: str = ""
    session: Session | None = None
    region_problem: LauncherError | None = None  # none is set, or there is none of this name
    problem: LauncherError | None = None  # why nobody can be asked at all
    make_client: MakeClient | None = None
    _lock: Any = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Ask who is signed in, and for the stack, side by side."""
        self._until = time.monotonic() + (LOCAL_LIMIT_S if self.is_local else FIRST_S)
        self._identity = Task(self._ask_identity)
        self._site = Task(self._find_site)

    def find_limit(self) -> float:
        """How long the checks may go on, which hangs on whether anybody answers at all."""
        if self.is_local:
            return LOCAL_LIMIT_S
        try:
            self.find_who()
        except (LauncherError, *BREAKS):
            return GRACE_S
        return LIMIT_S

    @property
    def is_local(self) -> bool:
        return self.recipe.compute.place == "local"

    def find_who(self) -> Identity:
        """Waits for the answer; raises why there is none."""
        try:
            who: Identity = self._identity.result(self._left())
        except TimeoutError as error:
            raise CloudError(
                f"While asking who is signed in: no answer within {FIRST_S:g} s.", hint="Check the network."
            ) from error
        return who

    @property
    def who(self) -> Identity:
        return self._signed_in()

    def _signed_in(self) -> Identity:
        """As find_who, for a check that is about something else."""
        try:
            return self.find_who()
        except CredentialsError as error:
            raise CredentialsError("nobody is signed in.", hint="Mend the identity first.") from error
        except CloudError as error:
            raise CloudError("it is not known who is signed in.", hint="Mend the identity first.") from error

    @property
    def site(self) -> FoundSite:
        try:
            site: FoundSite = self._site.result(self._left())
        except TimeoutError:
            late = CloudError(
                f"While looking for the stack {stack_name()} in {self.region}: no answer within {FIRST_S:g} s.",
                hint="Try again, or set compute.role and output.bucket.",
            )
            return FoundSite(*named_role_and_bucket(self.recipe), late)
        return site

    @property
    def role(self) -> str:
        """Its ARN; empty where none is known."""
        role = self.site.role
        return f"arn:{self.partition}:iam::{self.who.account}:role/{role}" if role and ":" not in role else role

    @property
    def bucket(self) -> str:
        return self.site.bucket

    @property
    def bucket_key(self) -> str:
        """The key of one's own that the stack's bucket encrypts with; mostly empty."""
        return self.site.bucket_key

    @property
    def partition(self) -> str:
        return self.who.arn.split(":")[1]

    def client(self, service: str, region: str = "") -> Any:
        """Raises what must be mended before anything can be asked."""
        self._signed_in()
        self._check_region(service)
        return self._make(service, region)

    def arn(self, service: str, rest: str) -> str:
        self._check_region(service)
        return f"arn:{self.partition}:{service}:{self.region}:{self.who.account}:{rest}"

    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def _ask_identity(self) -> Identity:
        if self.problem:
            raise self.problem
        return fetch_identity(self._make("sts", ""))

    def _find_site(self) -> FoundSite:
        """What the recipe and the environment name, else the stack's."""
        if self.is_local:
            return FoundSite(LOCAL_SITE.role, LOCAL_SITE.bucket)
        named = named_role_and_bucket(self.recipe)
        if all(named):
            return FoundSite(*named)
        try:
            if self.problem:
                raise CredentialsError("nobody is signed in.", hint="Mend the identity first.") from self.problem
            self._check_region("cloudformation")
            clients = _Clients(self.region, lambda service: self._make(service, ""))
            found = find_role_and_bucket(clients, self.recipe)
            return FoundSite(found.role, found.bucket, bucket_key=found.bucket_key)
        except LauncherError as error:
            return FoundSite(*named, error)

    def _check_region(self, service: str) -> None:
        if self.region_problem and service not in GLOBAL:
            raise CloudError("there is no region to ask in.", hint="Mend the region first.")

    def _make(self, service: str, region: str) -> Any:
        with self._lock, explained(f"reaching {service}"):  # botocore's sessions make one client at a time
            if self.make_client:
                return self.make_client(service, region)
            assert self.session, "opened, or there is a problem"
            return make_quick_client(self.session, service, region)
