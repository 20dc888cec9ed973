"""Every error a user can meet. An error says what we were doing, what happened, and what to do next.

LauncherError                  1   a bug of ours, unless a subclass says otherwise
|-- InputError                 2   something the user wrote
|   |-- RecipeError                a recipe or an override
|   |-- DataError                  a row, a file, a channel
|   |-- RunError                   this run cannot be submitted like this
|   `-- UnknownJob                 no job of that name
|-- CloudError                 3   AWS, or the endpoint that stands in for it, refused
|   |-- CredentialsError           nobody is signed in
|   |-- SiteError                  no bucket, no role, wrong region
|   |-- NextJobRefused             a spot job is over, and the one on demand after it could not be started
|   `-- LocalEndpointError         the endpoint on this machine
|-- JobFailed                  4   the job ran and failed
|   `-- ArtifactError              what it left cannot be used
`-- JobStopped                 5   the job was stopped before its end
"""

from __future__ import annotations


class LauncherError(Exception):
    """The root: a message, a hint that says what to do next, and an exit code."""

    exit_code = 1
    usual_hint = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(LauncherError):
    exit_code = 2


class RecipeError(InputError):
    usual_hint = "`launcher recipe show` lists every key, its value and where that came from."


class DataError(InputError):
    usual_hint = "Mend the file and submit again; nothing was uploaded."


class RunError(InputError):
    pass


class UnknownJob(InputError):
    pass


class CloudError(LauncherError):
    exit_code = 3
    usual_hint = "Try again; what was there already is kept."


class CredentialsError(CloudError):
    pass


class SiteError(CloudError):
    pass


class NextJobRefused(CloudError):
    pass


class LocalEndpointError(CloudError):
    pass


class JobFailed(LauncherError):
    exit_code = 4
    usual_hint = "`launcher logs JOB` shows what it did."


class ArtifactError(JobFailed):
    pass


class JobStopped(LauncherError):
    exit_code = 5
