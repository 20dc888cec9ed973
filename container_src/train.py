"""Entry point of a training job: hyperparameters in argv, channels and folders where SageMaker puts them."""

from __future__ import annotations

import os
import sys

from sft import failure, log, masks, paths, stop
from sft.config import parse_args


def main(argv: list[str]) -> int:
    # first of all, and before the slow imports: a stop may come at any moment
    stopping = stop.watch_sigterm()
    masks.mask_streams()
    output = paths.output_folder(os.environ)
    try:
        paths.write_pid(os.environ)
        if log.is_first_process():
            failure.clear(output)
            failure.write_last_words(output)
        config = parse_args(argv)
        from sft.job import run_job

        run_job(config, stopping)
        if log.is_first_process():
            failure.clear(output)
    except Exception as error:
        failure.report(error, output)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
