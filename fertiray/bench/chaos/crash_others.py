"""Training, segmentation and tuning that are killed at random moments, each in its own terms.

A training that is taken up again gives the history and the weights of an undisturbed one, bit for
bit, and learns one epoch again at most. A segmentation gives the same store and leaves the parts
that were there alone. A study repeats no finished trial and comes to the same results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fertiray import checkpoint
from fertiray.bench.chaos.crash_commands import CTRL_C, DRIVER, FULL, Command
from fertiray.bench.chaos.crash_moments import (
    Stamps,
    Tried,
    figures,
    stamps,
    summary,
    told,
    tried,
    watched,
)
from fertiray.data.synthetic import synth_crops, synth_fields

KINDS = (DRIVER, CTRL_C, FULL)
FIELDS_PER_PART = 32  # as fertiray.data.extract has it

Say = Callable[[str], None]
Figures = dict[str, Any]


def training(
    folder: Path, *, moments: int = 3, seed: int = 0, epochs: int = 12, say: Say
) -> Figures:
    """Hits ``fertiray train`` at random moments.

    Args:
        folder: to work in.
        moments: how many; SIGKILL, Ctrl-C and a full disk take turns.
        seed: of the moments.
        epochs: of each training.
        say: is told of each moment.

    Returns:
        As :func:`fertiray.bench.chaos.crash.crash`, with epochs for shards; ``differing`` is the
        number of trainings whose history or weights are not those of the undisturbed one.
    """
    data = folder / "data"
    synth_crops(data, patients=6, crops=16, seed=seed, fractions=0.5)
    settings = (f"epochs={epochs}", "batch_size=8", "preprocessing.size=32")
    base = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", str(data), "--local", "--json"]
    base += [f"--set={setting}" for setting in settings]

    def done(out: Path, command: Command) -> int:
        return _epochs(command.said)

    def line(came: Tried, out: Path, whole: Path) -> Figures:
        again = 0
        if came.again is not came.ended:
            again = max(0, _epochs(came.ended.said) + _epochs(came.again.said) - epochs)
        histories = [json.loads((own / "history.json").read_text()) for own in (out, whole)]
        return {
            "differing": int(histories[0] != histories[1] or not _same_weights(out, whole)),
            "recomputed": again,
            "beyond": max(0, again - 1),
        }

    def keep(out: Path, document: Figures | None) -> None:
        (out / "history.json").write_text(json.dumps(document and document["history"]))

    return _moments(
        base, folder, moments, seed, done=done, kept=lambda out: {}, line=line, keep=keep, say=say
    )


def segmentation(
    folder: Path, *, moments: int = 3, seed: int = 0, parts: int = 6, workers: int = 2, say: Say
) -> Figures:
    """Hits ``fertiray segment`` at random moments.

    Args:
        folder: to work in.
        moments: as :func:`training`, with ``seed`` and ``say``.
        seed: of the moments.
        parts: of the store.
        workers: processes.
        say: is told of each moment.

    Returns:
        As :func:`fertiray.bench.chaos.crash.crash`, with parts for shards; ``differing`` is the
        number of files that are not those of the undisturbed store.
    """
    fields = folder / "fields"
    synth_fields(
        fields, patients=2, crops=parts * FIELDS_PER_PART // 2, heads_per_field=1, seed=seed,
        size=(192, 160), scale=7, fractions=0.5, extension="png",
    )  # fmt: skip
    base = ["segment", str(fields), "--head-length", "33", "--workers", str(workers), "--json"]
    kept = partial(_files, pattern="part-*.parquet")

    def line(came: Tried, out: Path, whole: Path) -> Figures:
        ours, theirs = _contents(out), _contents(whole)
        names = ours.keys() | theirs.keys()
        return {
            "differing": sum(ours.get(name) != theirs.get(name) for name in names),
            "recomputed": came.recomputed,
            "beyond": max(0, came.recomputed - workers),
        }

    return _moments(base, folder, moments, seed, done=_count(kept), kept=kept, line=line, say=say)


def tuning(folder: Path, *, moments: int = 3, seed: int = 0, folds: int = 2, say: Say) -> Figures:
    """Hits ``fertiray tune --grid`` at random moments.

    Args:
        folder: to work in.
        moments: as :func:`training`, with ``seed`` and ``say``.
        seed: of the moments.
        folds: of each of the grid's four cells.
        say: is told of each moment.

    Returns:
        As :func:`fertiray.bench.chaos.crash.crash`, with trials for shards; ``differing`` is the
        number of trials whose figures are not those of the undisturbed study.
    """
    data = folder / "data"
    synth_crops(data, patients=6, crops=10, seed=seed, fractions=0.5)
    settings = ("epochs=4", "batch_size=8", "preprocessing.size=32")
    base = ["tune", "zona_vgg13", "--grid", "basic_lr", "--data", str(data), "--local", "--json"]
    base += ["--folds", str(folds), *(f"--set={setting}" for setting in settings)]
    kept = partial(_files, pattern="cells/*/fold-*.json")

    def line(came: Tried, out: Path, whole: Path) -> Figures:
        ours, theirs = _trials(out), _trials(whole)
        names = ours.keys() | theirs.keys()
        return {
            "differing": sum(ours.get(name) != theirs.get(name) for name in names),
            "recomputed": came.recomputed,
            "beyond": max(0, came.recomputed - 1),
        }

    return _moments(base, folder, moments, seed, done=_count(kept), kept=kept, line=line, say=say)


def _moments(
    base: list[str],
    folder: Path,
    moments: int,
    seed: int,
    *,
    done: Callable[[Path, Command], int],
    kept: Callable[[Path], Stamps],
    line: Callable[[Tried, Path, Path], Figures],
    keep: Callable[[Path, Figures | None], None] = lambda out, document: None,
    say: Say,
) -> Figures:
    """Some moments of one command.

    Args:
        base: the command without ``--out``.
        folder: to work in.
        moments: how many.
        seed: of the moments.
        done: number of units that are done, by the command's folder.
        kept: files of such units.
        line: figures of a moment, from the command's folder and the undisturbed one.
        keep: puts what a command printed into its folder.
        say: is told of each moment.
    """
    whole = folder / "whole"
    ended, course = watched([*base, "--out", str(whole)], partial(done, whole))
    keep(whole, ended.document)
    say(f"undisturbed, {base[0]}: {course.end:.1f} s")
    rng = np.random.default_rng(seed)
    found = []
    for number in range(moments):
        out = folder / f"moment-{number + 1}"
        came = tried(
            [*base, "--out", str(out)], KINDS[number % len(KINDS)], course, rng,
            done=partial(done, out), kept=partial(kept, out),
        )  # fmt: skip
        keep(out, came.again.document)
        found.append(figures(came, base[0], **line(came, out, whole)))
        say(f"{number + 1}/{moments}, {told(found[-1])}")
    return summary(found)


def _count(kept: Callable[[Path], Stamps]) -> Callable[[Path, Command], int]:
    return lambda out, command: len(kept(out))


def _files(out: Path, pattern: str) -> Stamps:
    return stamps(out, pattern)


def _epochs(said: str) -> int:
    return said.count(": loss ")


def _same_weights(*folders: Path) -> bool:
    states = [checkpoint.load(str(folder))[0].state_dict() for folder in folders]
    return states[0].keys() == states[1].keys() and all(
        bool((value == states[1][name]).all()) for name, value in states[0].items()
    )


def _contents(store: Path) -> dict[str, bytes]:
    """The files of a store but its record, which has times and places."""
    files: Iterable[Path] = store.rglob("[!.]*.parquet")
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


def _trials(out: Path) -> dict[tuple[str, int], Figures]:
    """Figures of a study's trials by cell and fold, without times."""
    study = json.loads((out / "basic_lr" / "study.json").read_text())
    return {
        (row["cell"], row["fold"]): {k: v for k, v in row.items() if k not in ("seconds", "kept")}
        for row in study["trials"]
    }
