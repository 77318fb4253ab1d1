"""``fertiray tune`` as the command line asks for it: which study, on what, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from fertiray import console, storage
from fertiray.console import Result
from fertiray.errors import InputError
from fertiray.evaluation import results
from fertiray.papers import PAPERS, Paper
from fertiray.tuning.grid import Open, run_grid
from fertiray.tuning.searching import Algorithm, run_search
from fertiray.tuning.trials import Executor, Here, Wanted


def tune(
    paper: str,
    data: str,
    *,
    wanted: Wanted,
    grid: str | None = None,
    search: str | None = None,
    out: str | None = None,
    settings: Sequence[str] = (),
    folds: int = 5,
    repeats: int = 1,
    seed: int = 42,
    held_out: str | None = None,
    trials: int = 20,
    algorithm: Algorithm = "asha",
    from_scratch: bool = False,
    local: bool = False,
    device: str = "cpu",
    address: str | None = None,
    record: bool = False,
) -> Result:
    """Runs a grid or a search of a paper.

    Args:
        paper: key of the paper.
        data: labelled folder or labelled crop store.
        grid: name of one of its grids; or
        search: of one of its search spaces.
        out: the studies' folder; ``runs/tune/PAPER`` by default.
        settings: ``key=value`` changes of all trials.
        folds: of a grid's cross-validations.
        repeats: cross-validations of each cell.
        seed: of the folds, or of the search's parameters.
        held_out: labelled folder for a grid's networks to look at.
        trials: of a search.
        algorithm: of a search.
        from_scratch: no pretrained weights.
        wanted: what trials may have of the cluster.
        local: a grid in this process, without Ray.
        device: of that.
        address: Ray cluster.
        record: write the result below ``dashboards/results``.

    Returns:
        The result of :func:`fertiray.tuning.grid.run_grid` or
        :func:`fertiray.tuning.searching.run_search`.

    Raises:
        InputError: an unknown paper, grid or space, or what cannot be trained.
    """
    if paper not in PAPERS:
        raise InputError(f"paper {paper!r} is unknown; choose one of: {', '.join(PAPERS)}")
    chosen = PAPERS[paper]
    if (grid is None) == (search is None):
        raise InputError(f"give --grid or --search; {_choices(chosen)}")
    place = out or storage.join("runs", "tune", paper)
    with console.progress("tuning", "trials") as progress:
        if grid is not None:
            if local:
                opened: Open = partial(_here, device)
            else:
                # The core reaches for the shell here only, and only when it is asked to.
                from fertiray.on_ray.tune import on_ray

                opened = partial(on_ray, wanted, address)
            values = run_grid(
                chosen,
                grid,
                data,
                place,
                opened,
                settings=settings,
                folds=folds,
                repeats=repeats,
                seed=seed,
                held_out=held_out,
                from_scratch=from_scratch,
                progress=progress,
                notice=_notice,
            )
        else:
            assert search is not None
            if local:
                raise InputError("--local: runs grids; a search needs Ray: leave it out")
            from fertiray.on_ray.tune_search import SearchOnRay

            def ended(done: int, total: int, error: str | None) -> None:
                if error is not None:
                    _notice(f"a trial failed: {error}")
                progress(done, total)

            values = run_search(
                chosen,
                search,
                data,
                place,
                SearchOnRay(wanted, address),
                settings=settings,
                trials=trials,
                seed=seed,
                algorithm=algorithm,
                from_scratch=from_scratch,
                report=ended,
            )
    if record:
        _record(values, f"tune_{paper}_{grid or search}", seed)
    return Result(values, lines=_lines(values, paper, data))


def _here(device: str) -> AbstractContextManager[Executor]:
    return nullcontext(Here(device))


def _record(values: dict[str, Any], name: str, seed: int) -> None:
    """Without this machine's places."""
    kept = {key: value for key, value in values.items() if key not in ("files", "origin")}
    if kept["best"] is not None:
        kept["best"] = {key: value for key, value in kept["best"].items() if key != "config"}
    results.record(name, kept, seed=seed, data_digest=values["origin"]["data_digest"])


def _lines(values: dict[str, Any], paper: str, data: str) -> list[str]:
    """What a person reads: the table, how many trials, the best one and what to do with it."""
    rate = values["trials_per_hour"]
    lines = [
        values["table"],
        f"{values['ran']} trials run, {values['kept']} kept, {values['failed']} failed"
        + ("" if rate is None else f"; {rate:.0f} an hour"),
    ]
    best = values["best"]
    if best is not None:
        verb = "train" if "grid" in values else "crossval"
        lines.append(f"best: {best.get('cell') or best['parameters']}")
        lines.append(f"fertiray {verb} {paper} --data {data} --config {best['config']}")
    return [*lines, values["files"][-1]]


def _notice(text: str) -> None:
    console.notices.print(text, markup=False, soft_wrap=True)


def _choices(paper: Paper) -> str:
    return (
        f"{paper.name} has the grids {', '.join(paper.grids)}, the spaces {', '.join(paper.spaces)}"
    )
