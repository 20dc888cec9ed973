"""Why the job failed, in a sentence: output/failure, whose first 1,024 characters become SageMaker's FailureReason."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from .config import ConfigError
from .masks import hide
from .out_of_memory import TEXTS

LIMIT = 1024
# where a missing name means another version
TRAINING_CODE = ("trl.", "accelerate.", "transformers.train")
# there from the start and gone at the end: a process that is killed cannot write it then
LAST_WORDS = (
    "The process was killed or crashed before it could say why. Most often the machine's memory (not the GPU's) ran "
    "out and the kernel sent SIGKILL: take an instance with more memory, or halve per_device_train_batch_size and "
    "double gradient_accumulation_steps (the same step in less memory). Another job of the same run goes on from its "
    "last checkpoint, under such settings too."
)


class JobError(RuntimeError):
    """A failure whose message already says what happened and what to do next."""


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    return isinstance(error, MemoryError) or any(known in text for known in TEXTS)


def _status(error: BaseException) -> int:
    """What an HTTP server answered, as the clients of the Hub keep it; 0 for any other error."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _is_rejected_token(error: BaseException, text: str) -> bool:
    """Without a token 401 means a model that is private or does not exist; with one, that it is no longer valid."""
    request = getattr(getattr(error, "response", None), "request", None)
    sent = request is not None and "Authorization" in request.headers
    return "invalid credentials in authorization header" in text or (_status(error) == 401 and sent)


def _is_gated(error: BaseException, text: str) -> bool:
    return type(error).__name__ == "GatedRepoError" or "gated repo" in text or "access to model" in text


def _is_missing_model(error: BaseException, text: str) -> bool:
    names = ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError")
    return (
        type(error).__name__ in names
        or _status(error) == 404
        or "is not a valid model identifier" in text
        or "not a valid git identifier" in text
    )


def _has_no_safetensors(error: BaseException, text: str) -> bool:
    missing = "does not appear to have a file named" in text or "no file named" in text
    return missing and "model.safetensors" in text


def _is_damaged_model(error: BaseException, text: str) -> bool:
    return type(error).__name__ == "SafetensorError" and "deserializing header" in text


def _is_busy_hub(error: BaseException, text: str) -> bool:
    return _status(error) == 429


def _is_refused_by_hub(error: BaseException, text: str) -> bool:
    return 400 <= _status(error) < 500


def _is_hub_trouble(error: BaseException, text: str) -> bool:
    return _status(error) >= 500 or "server error" in text


def _is_no_network(error: BaseException, text: str) -> bool:
    names = (
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectionError",
        "MaxRetryError",
        "gaierror",
    )
    return type(error).__name__ in names or "couldn't connect to" in text or "offline mode" in text


def _is_disk_full(error: BaseException, text: str) -> bool:
    # the last one is how torch.save puts it, whatever the system said
    texts = ("no space left on device", "disk quota exceeded", "file too large", "enforce fail at inline_container")
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        known in text for known in texts
    )


def _is_version_mismatch(error: BaseException, text: str) -> bool:
    if isinstance(error, AttributeError):
        return _lacks_library_name(error)
    return isinstance(error, ImportError) or (isinstance(error, TypeError) and "unexpected keyword argument" in text)


def _lacks_library_name(error: AttributeError) -> bool:
    """Whether it is a module or a trainer that lacks a name; what a model or a row lacks says nothing of versions."""
    holder = error.obj if isinstance(error.obj, type) else type(error.obj)
    return holder is ModuleType or any(part.__module__.startswith(TRAINING_CODE) for part in holder.__mro__)


# the first kind that fits any of the causes wins, so the narrow ones stand first
KINDS: tuple[tuple[Callable[[BaseException, str], bool], str], ...] = (
    (
        _is_out_of_memory,
        "Out of memory. Halve per_device_train_batch_size and double gradient_accumulation_steps (the same step in "
        "less memory), set gradient_checkpointing = true, lower max_length, or take an instance with more memory. A "
        "run goes on from its checkpoint under any of these but another max_length, which needs --fresh.",
    ),
    (
        _is_disk_full,
        "The disk is full. Raise the volume size, or lower save_total_limit so that fewer checkpoints are kept.",
    ),
    (
        _is_rejected_token,
        "The Hub rejected the token. Make a new one on the Hub's page of access tokens and store it in the secret that "
        "secrets.hf_token names (by hand: in HF_TOKEN), or pass the model as a channel in S3.",
    ),
    (
        _is_missing_model,
        "The model was not found. Check the spelling of model.id and model.revision, or use a folder. A private model "
        "is found with a token only (secrets.hf_token).",
    ),
    (
        _is_gated,
        "The model is gated. Accept its licence on its Hub page and give the job a token that may read it, or pass the "
        "model as a channel in S3.",
    ),
    (
        _has_no_safetensors,
        "The model has no safetensors weights; pickled ones, which can run code, are not loaded. Convert it with "
        "save_pretrained(..., safe_serialization=True), and pass the folder or a channel.",
    ),
    (
        _is_damaged_model,
        "The model's weights are damaged or were cut short. Upload them again and compare their sizes.",
    ),
    (
        _is_busy_hub,
        "The Hub takes no more requests from here for now. Try again later, give the job a token (secrets.hf_token), "
        "which may ask more often, or pass the model as a channel in S3.",
    ),
    (
        _is_refused_by_hub,
        "The Hub refused to give the model out. Give the job a token that may read it (secrets.hf_token), or pass the "
        "model as a channel in S3.",
    ),
    (
        _is_hub_trouble,
        "The Hub answered with an error of its own. Try again later, or pass the base model as a channel in S3.",
    ),
    (
        _is_no_network,
        "The model could not be downloaded: no network reaches the Hub from here. Pass the base model as a channel, "
        "use a local folder, or train the stand-in with --smoke.",
    ),
    (
        _is_version_mismatch,
        "A library here does not fit this code. Use an image from the launcher's table of known images, or compare its "
        "versions with the manifest of a job that worked.",
    ),
)


def explain(error: BaseException) -> str:
    """What happened and what to do next, from the error or whatever caused it."""
    if isinstance(error, (JobError, ConfigError)):
        return str(error)
    for fits, sentence in KINDS:
        for cause in _causes(error):
            if fits(cause, str(cause).lower()):
                return f"{sentence} ({_short(cause)})"
    return f"Training failed in {_place(error)}: {_short(error)}. The log has the full traceback."


def report(error: BaseException, folder: Path) -> None:
    """Write the failure file and, unless it is a plain refusal, the traceback. The first process to fail is quoted."""
    sentence = hide(explain(error))
    if sentence != str(error):
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.write(f"[failure] {sentence}\n")
    sys.stderr.flush()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take_back_last_words(folder)
        with (folder / "failure").open("x", encoding="utf-8") as file:
            file.write(sentence[:LIMIT])
    except FileExistsError:
        pass  # another process of this job failed first, and this one most likely because of it
    except OSError as problem:
        sys.stderr.write(f"[failure] the failure file could not be written: {problem}\n")


def clear(folder: Path) -> None:
    """Drop what an earlier attempt left in the same folder, or this one's last words at its good end."""
    (folder / "failure").unlink(missing_ok=True)


def write_last_words(folder: Path) -> None:
    """What is read if this process ends without a word."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure").write_text(LAST_WORDS, encoding="utf-8")


def _take_back_last_words(folder: Path) -> None:
    file = folder / "failure"
    if file.is_file() and file.read_text(encoding="utf-8") == LAST_WORDS:
        file.unlink()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}sft{os.sep}" in frame.filename] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
