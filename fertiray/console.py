"""What every command shares: one JSON document on stdout, progress on stderr, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Report = Callable[[int, int], None]

notices = Console(stderr=True, highlight=False)


@dataclass
class Result:
    """What a command prints.

    Attributes:
        values: the JSON document.
        table: rows for a person; None prints ``values`` line by line.
        lines: printed below the table.
    """

    values: Any
    table: Table | None = None
    lines: list[str] = field(default_factory=list)


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Sends everything written to stdout, by any library or child process, to stderr.

    So ``--json`` prints one document and nothing else, whatever runs underneath.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


def show(result: Result, *, as_json: bool) -> None:
    """Prints a result on stdout: one JSON document, or a table or lines for a person."""
    if as_json:
        print(json.dumps(result.values, indent=2, default=str))
        return
    # In a file or a pipe there is no width to fit into, and no reason to cut words.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    if result.table is not None:
        console.print(result.table)
    else:
        for key, value in result.values.items():
            console.print(f"{key}: {_short(value)}", markup=False)
    for line in result.lines:
        console.print(line, markup=False)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} entries"
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


@contextmanager
def progress(task: str, unit: str) -> Iterator[Report]:
    """A progress bar on stderr, moved by calling the yielded function with done and total.

    Where stderr is not a terminal, a line at every tenth of the work instead.
    """
    if not notices.is_terminal:
        yield _Lines(task, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=notices, transient=True) as bar:
        number = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


class _Lines:
    def __init__(self, task: str, unit: str) -> None:
        self._task, self._unit, self._tenth = task, unit, -1

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if tenth != self._tenth:
            self._tenth = tenth
            notices.print(f"{self._task}: {done}/{total} {self._unit}", markup=False)


def table(*columns: str, rows: list[list[Any]], title: str | None = None) -> Table:
    """A plain table for the terminal; numbers are to be formatted by the caller."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column)
    for row in rows:
        made.add_row(*(str(value) for value in row))
    return made
