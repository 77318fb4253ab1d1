"""Worker processes of one command: Ctrl-C is the command's alone, and they end when it does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Workers(ProcessPoolExecutor):
    """A pool of processes that are begun afresh.

    A plain pool's processes print a traceback each at Ctrl-C, and wait for ever for more work when
    their command is killed. Leaving this one by an exception drops what no process has taken yet.

    Args:
        workers: how many.
        start: called in each process with ``arguments`` before anything else.
        arguments: of ``start``.
    """

    def __init__(self, workers: int, start: Callable[..., None], *arguments: Any) -> None:
        super().__init__(workers, get_context("spawn"), _begin, (start, arguments))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See :class:`ProcessPoolExecutor`; processes that it begins have SIGINT blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_follow, daemon=True).start()
    start(*arguments)


def _follow() -> None:
    parent = parent_process()
    assert parent is not None  # only workers come here
    parent.join()
    os._exit(1)
