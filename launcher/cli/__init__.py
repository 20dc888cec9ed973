"""The command line: parse -> one API call -> console. One file for each noun."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence

from launcher.cli import account, checking, data, jobs, local, recipes
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
    except (PermissionError, NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        from launcher import console

        console.print_error(InputError(f"{error.filename}: {error.strerror}.", hint="Name another file or folder."))
        return InputError.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # `launcher logs JOB | head` closed the pipe; nothing is wrong
        return 0


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
    jobs.add_verbs(verbs)
    local.add_verbs(verbs)
    account.add_verbs(verbs)
    return parser
