"""A search from its declaration to its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from fertiray import config, storage
from fertiray.errors import InputError
from fertiray.evaluation.results import origin
from fertiray.papers import Paper
from fertiray.tuning.cells import Cell, Space
from fertiray.tuning.config_file import write_config
from fertiray.tuning.drawings import search_figures
from fertiray.tuning.files import absolute, write_study
from fertiray.tuning.search import OVER, Record, Search
from fertiray.tuning.summary import settings_columns
from fertiray.tuning.tables import search_table
from fertiray.tuning.trials import cell_settings
from fertiray.tuning.views import View, Views

Algorithm = Literal["asha", "tpe"]


class Searcher(Protocol):
    """Runs the trials of a search."""

    def __call__(
        self,
        search: Search,
        view: View,
        *,
        trials: int,
        seed: int,
        algorithm: Algorithm,
        report: Callable[[str | None], None],
    ) -> dict[str, str]:
        """Runs trials until there are so many, those that are over included.

        Args:
            search: what is searched.
            view: of the data.
            trials: how many.
            seed: of the parameters.
            algorithm: ``asha`` (random parameters) or ``tpe`` (those of Optuna's sampler); both
                stop trials early.
            report: called as each trial ends, with what went wrong, None where nothing did.

        Returns:
            What went wrong with the trials that crashed, by the place of their record.
        """


def chosen(paper: Paper, name: str) -> Space:
    """A paper's search space.

    Raises:
        InputError: there is none of that name; lists those there are.
    """
    if name not in paper.spaces:
        raise InputError(
            f"--search {name}: {paper.name} has no such space;"
            f" choose one of: {', '.join(paper.spaces)}"
        )
    return paper.spaces[name]


def run_search(
    paper: Paper,
    name: str,
    data: str,
    out: str,
    searcher: Searcher,
    *,
    settings: Sequence[str] = (),
    trials: int = 20,
    seed: int = 42,
    algorithm: Algorithm = "asha",
    from_scratch: bool = False,
    report: Callable[[int, int, str | None], None] = lambda done, total, error: None,
) -> dict[str, Any]:
    """Searches a paper's space; the same call goes on where it was interrupted.

    Args:
        paper: declares the space.
        name: of the space.
        data: labelled folder or labelled crop store, local or ``s3://``.
        out: the studies' folder; the records and the result lie in ``OUT/NAME``.
        searcher: runs the trials.
        settings: ``key=value`` changes of all trials.
        trials: how many, those of earlier calls included.
        seed: of the parameters; that of the split and the trainings is the recipe's own.
        algorithm: ``asha`` or ``tpe``.
        from_scratch: no pretrained weights.
        report: called with the trials that ended, all of them, and what went wrong.

    Returns:
        ``trials``, best first: ``number`` (in the order in which they were begun), ``parameters``,
        ``status``, ``epochs``, ``best_epoch``, ``value``, ``seconds``, ``error``, ``address``;
        ``best``: the best finished one with ``config``, the file of its recipe; ``table``,
        ``files``, ``ran``, ``kept``, ``failed``, ``seconds``, ``trials_per_hour``, and how it was
        made. One training chose the best on one validation part: confirm it with
        ``fertiray crossval --config``.

    Raises:
        InputError: an unknown space, or data or settings that cannot be trained on.
    """
    space = chosen(paper, name)
    if trials < 1:
        raise InputError(f"--trials {trials}: give 1 or more")
    began = time.perf_counter()
    cell = Cell(name, space.model, space.settings)
    base = cell_settings(paper, cell, settings, from_scratch=from_scratch)
    view = Views(paper, data, None, aspects=base.loss.harc != "none")(base)
    folder = storage.join(absolute(out), name)
    search = Search(paper.name, space, base, view.crops.digest, storage.join(folder, "records"))
    for domain in (0, 0.999):  # what does not fit is refused before anything runs
        search.settings({key: own.at(domain) for key, own in space.domains.items()})
    before = {record.place for record in search.records() if record.status in OVER}
    ended = len(before)

    def heard(error: str | None) -> None:
        nonlocal ended
        ended += 1
        report(ended, trials, error)

    crashed: dict[str, str] = {}
    if len(before) < trials:
        crashed = searcher(
            search, view, trials=trials, seed=seed, algorithm=algorithm, report=heard
        )
    search.close(crashed)
    records = search.records()
    for record in records:
        if record.place in crashed:
            record.write("failed", crashed[record.place])
    seconds = time.perf_counter() - began
    rows = sorted(
        (_row(search, number, record) for number, record in enumerate(records, 1)),
        key=lambda row: _rank(row, space.mode),
    )
    best = next((row for row in rows if row["status"] == "finished"), None)
    ran = sum(record.place not in before for record in records)
    values: dict[str, Any] = {
        "paper": paper.name,
        "search": name,
        "about": space.about,
        "metric": space.metric,
        "algorithm": algorithm,
        "trials": rows,
        "best": best and {**best, "config": storage.join(folder, "best.json")},
        "table": search_table(rows, space.metric),
        "ran": ran,
        "kept": len(before),
        "failed": len(crashed),
        "seconds": seconds,
        "trials_per_hour": 3600 * ran / seconds if ran else None,
        "protocol": {"settings": [*settings], "from_scratch": from_scratch},
        "origin": origin(seed, view.crops.digest),
    }
    if best is not None:
        write_config(values["best"]["config"], search.settings(best["parameters"]))
    by_address = {_address(record): record for record in records}
    ordered = [by_address[row["address"]] for row in rows]
    table = [
        {
            **{key: value for key, value in row.items() if key != "parameters"},
            **settings_columns(search.settings(record.parameters)),
        }
        for row, record in zip(rows, ordered, strict=True)
    ]
    figures = search_figures(space, rows, [record.lines for record in ordered])
    values["files"] = write_study(folder, values, table, figures)
    return values


def _row(search: Search, number: int, record: Record) -> dict[str, Any]:
    value = search.value(record.lines)
    at = [line["epoch"] for line in record.lines if line[search.space.metric] == value]
    return {
        "number": number,
        "parameters": record.parameters,
        "status": record.status,
        "epochs": len(record.lines),
        "best_epoch": int(at[0]) if at else None,
        "value": value,
        "seconds": sum(line["seconds"] for line in record.lines),
        "error": record.error,
        "address": _address(record),
        "config_digest": config.digest(search.settings(record.parameters)),
    }


def _address(record: Record) -> str:
    return record.place.rpartition("/")[2].removesuffix(".json")


def _rank(row: dict[str, Any], mode: str) -> tuple[bool, float]:
    """Trials that came to nothing last; else by value."""
    value = row["value"]
    lost = value is None or row["status"] in {"refused", "failed"}
    return lost, (value if mode == "min" else -value) if value is not None else 0.0
