"""The pipeline on several cores: processes of our own, each fed through its pipes.

Not multiprocessing: it would run the user's main module again, and forking under threads is not safe.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from launcher.data.blocks import Block
from launcher.data.pipeline import Batch, Pipeline
from launcher.errors import LauncherError

MAX_WORKERS = 8
Answer = SimpleQueue[Batch | BaseException]
START = "from launcher.data.workers import serve; serve()"


def count_workers() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


class Workers:
    """Blocks in, batches out, in the same order."""

    def __init__(self, settings: tuple[Any, ...], count: int) -> None:
        self._settings = settings
        self._count = count

    def run(self, blocks: Iterable[Block]) -> Iterator[Batch]:
        with _asking(self._settings, self._count) as ask:
            waiting: deque[Answer] = deque()
            for block in blocks:
                waiting.append(ask(block))
                if len(waiting) > 2 * self._count:
                    yield _take(waiting.popleft())
            while waiting:
                yield _take(waiting.popleft())


@contextlib.contextmanager
def _asking(settings: tuple[Any, ...], count: int) -> Iterator[Callable[[Block], Answer]]:
    """Workers, each with a thread of ours at its pipes.

    The threads and queues are the plain ones of C: a Ctrl-C inside a lock that is written in Python, as those of
    `threading` and `concurrent.futures` are, can come out as "release unlocked lock".
    """
    questions: SimpleQueue[tuple[Block, Answer] | None] = SimpleQueue()
    ended: SimpleQueue[None] = SimpleQueue()
    workers: list[subprocess.Popen[bytes]] = []
    threads = 0

    def ask(block: Block) -> Answer:
        answer: Answer = SimpleQueue()
        questions.put((block, answer))
        return answer

    try:
        for _ in range(count):
            workers.append(_start(settings))
            _thread.start_new_thread(_feed, (workers[-1], questions, ended))
            threads += 1
        yield ask
    finally:
        for worker in workers:
            worker.kill()  # it holds nothing; one that waits for a block would wait on
        for _ in range(threads):
            questions.put(None)
        for _ in range(threads):
            ended.get()
        for worker in workers:
            worker.communicate()


def _start(settings: tuple[Any, ...]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        worker = subprocess.Popen(
            [sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
    except OSError as error:
        raise LauncherError(
            f"A process that reads rows could not be started: {error.strerror}.", hint="Is there enough memory?"
        ) from error
    _send(worker.stdin, settings)
    return worker


def _feed(worker: subprocess.Popen[bytes], questions: SimpleQueue[Any], ended: SimpleQueue[None]) -> None:
    for block, answer in iter(questions.get, None):
        try:
            answer.put(_ask(worker, block))
        except BaseException as error:  # for the one who waits: _take raises it there
            answer.put(error)
    ended.put(None)


def _ask(worker: subprocess.Popen[bytes], block: Block) -> Batch | LauncherError:
    try:
        _send(worker.stdin, block)
        return pickle.load(worker.stdout)  # type: ignore[no-any-return, arg-type]
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise LauncherError(
            f"A worker that read {block.file} ended with {worker.poll()}.", hint="Is there enough memory? Try again."
        ) from error


def _take(answer: Answer) -> Batch:
    batch = answer.get()
    if isinstance(batch, BaseException):
        raise batch
    return batch


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
