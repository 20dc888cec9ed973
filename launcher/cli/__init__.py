"""The command line: parse -> one API call -> console. One file for each noun."""

from __future__ import annotations

import argparse
import errno
import gc
import sys
from collections.abc import Callable, Sequence

from launcher.cli import account, champions, checking, data, health, jobs, local, recipes, schedules
from launcher.cli.following import INTERRUPTED
from launcher.errors import InputError, LauncherError

EXAMPLES = """examples:
  launcher submit --instance local                      train the shipped sample on this machine
  launcher submit my.toml --instance ml.g5.xlarge       train on SageMaker
  launcher submit --train rows.jsonl --set lora.r=8     your rows, another rank
  launcher plan my.toml --json                          the exact request, nothing sent
  launcher logs -f my-run-20260101-120000               follow a job from anywhere
exit codes: 0 done, 1 bug, 2 your input, 3 AWS refused, 4 job failed, 5 job stopped,
            124 waited in vain, 130 interrupted"""


# What the system says of a path, and not of the network or of us.
OF_A_PATH = {
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.EINVAL),
}
SHOWN_PATH = 200


def main(argv: Sequence[str] | None = None) -> int:
    # Modules and service models live to the end; looking through them again and again takes a fifth of a short command.
    gc.set_threshold(100_000)
    args, unknown = make_parser().parse_known_args(argv)
    if unknown:
        args.verb.error(f"unrecognized arguments: {' '.join(unknown)}")  # beside the verb's own flags, not all verbs
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except LauncherError as error:
        from launcher import console

        console.print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # `launcher logs JOB | head` closed the pipe; nothing is wrong
        return 0
    except OSError as error:
        if error.filename is None or error.errno not in OF_A_PATH:
            raise
        from launcher import console

        console.print_error(_refuse_path(str(error.filename), error.strerror or ""))
        return InputError.exit_code


def _refuse_path(path: str, why: str) -> InputError:
    """Every path that somebody types passes here when the system will not have it."""
    shown = path if len(path) <= SHOWN_PATH else f"{path[:SHOWN_PATH]}... ({len(path):,} characters)"
    return InputError(f"{shown}: {why}.", hint="Name another file or folder.")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launcher",
        description="Fine-tune language models with QLoRA on Amazon SageMaker, or on this machine along the same road.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    recipes.add_verbs(verbs)
    data.add_verbs(verbs)
    checking.add_verbs(verbs)
    health.add_verbs(verbs)
    jobs.add_verbs(verbs)
    schedules.add_verbs(verbs)
    champions.add_verbs(verbs)
    local.add_verbs(verbs)
    account.add_verbs(verbs)
    return parser
