"""The pipeline on several cores: processes of our own, each fed through its pipes.

Not multiprocessing: it would run the user's main module again, and forking under threads is not safe.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from launcher.data.blocks import Block
from launcher.data.pipeline import Batch, Pipeline
from launcher.errors import LauncherError

MAX_WORKERS = 8
START = "from launcher.data.workers import serve; serve()"


def count_workers() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


class Workers:
    """Blocks in, batches out, in the same order."""

    def __init__(self, settings: tuple[Any, ...], count: int) -> None:
        self._settings = settings
        self._count = count

    def run(self, blocks: Iterable[Block]) -> Iterator[Batch]:
        with contextlib.ExitStack() as stack:
            idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
            for _ in range(self._count):
                idle.put(stack.enter_context(_started(self._settings)))
            threads = stack.enter_context(ThreadPoolExecutor(self._count))
            waiting: deque[Future[Batch]] = deque()
            try:
                for block in blocks:
                    waiting.append(threads.submit(_ask, idle, block))
                    if len(waiting) > 2 * self._count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


@contextlib.contextmanager
def _started(settings: tuple[Any, ...]) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        _send(worker.stdin, settings)
        yield worker
    finally:
        worker.kill()  # it holds nothing; one that waits for a block would wait on
        worker.communicate()


def _ask(idle: SimpleQueue[subprocess.Popen[bytes]], block: Block) -> Batch:
    worker = idle.get()
    try:
        _send(worker.stdin, block)
        answer = pickle.load(worker.stdout)  # type: ignore[arg-type]
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise LauncherError(
            f"A worker that read {block.file} ended with {worker.poll()}.", hint="Is there enough memory? Try again."
        ) from error
    finally:
        idle.put(worker)  # a dead one too: who waits for it then hears of it
    if isinstance(answer, LauncherError):
        raise answer
    return answer  # type: ignore[no-any-return]


def _send(pipe: Any, value: Any) -> None:
    pickle.dump(value, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """A worker's life: the settings, then block after block, until it is killed or its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    gc.disable()  # what a block leaves has no circles; looking for them takes a tenth of the time
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipeline = Pipeline(*pickle.load(source))
        while True:
            block = pickle.load(source)
            try:
                answer: Batch | LauncherError = pipeline.run(block)
            except LauncherError as error:
                error.__cause__ = None
                answer = error
            _send(answers, answer)
