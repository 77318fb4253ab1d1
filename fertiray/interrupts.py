"""Ctrl-C: noticed whatever it interrupts, and kept from what must not be left half done."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # exit code of a command that was stopped with Ctrl-C
AGAIN_S = 0.05


class Interrupt:
    """Notices Ctrl-C while the context is open, and sees to it that it takes effect.

    ``KeyboardInterrupt`` is raised wherever the interpreter happens to be. A function that compiled
    code has called may swallow it: then it is raised again a moment later. Or it comes out as
    an error of that library: whoever catches that asks whether Ctrl-C came.

    Attributes:
        came: whether it was pressed.
    """

    def __init__(self) -> None:
        self.came = False
        self._open = False

    def __enter__(self) -> None:
        if _here() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._open = True
            self._hook = sys.unraisablehook
            signal.signal(signal.SIGINT, self._notice)
            sys.unraisablehook = self._swallowed

    def __exit__(self, *error: object) -> None:
        if self._open:
            self._open = False
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = self._hook

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.default_int_handler(number, frame)

    def _swallowed(self, what: sys.UnraisableHookArgs) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            timer = threading.Timer(AGAIN_S, self._again)
            timer.daemon = True
            timer.start()
        else:
            self._hook(what)

    def _again(self) -> None:
        if self._open:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C takes effect after this block, not within it; elsewhere than in main no block can."""
    if not _here() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    came = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


def _here() -> bool:
    """Only the main thread may set handlers, and only it is interrupted."""
    return threading.current_thread() is threading.main_thread()
