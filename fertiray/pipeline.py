"""The main job from end to end: stained fields in, each patient's number out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial, update_wrapper
from typing import Any

from fertiray import console, storage
from fertiray.data.extract import segment_store
from fertiray.scoring.aggregate import VerdictOn
from fertiray.scoring.engine import choose_engines
from fertiray.scoring.overlays import write_overlays
from fertiray.scoring.run import Chooser, Runner, score
from fertiray.scoring.shards import ScoringJob, score_locally


def runner(*, local: bool, address: str | None = None) -> Runner:
    """What scores the shards: threads of this process, or Ray.

    Here, in :func:`chooser` and in :func:`session` the core reaches for the shell, and only when
    it is asked to.
    """
    if local:
        return score_locally
    from fertiray.on_ray.score import score_on_ray

    bound = partial(score_on_ray, address=address)
    return update_wrapper(bound, score_on_ray)


def chooser(*, local: bool) -> Chooser:
    """What settles how networks are executed: this process, or a worker's like on Ray."""
    if local:
        return choose_engines
    from fertiray.on_ray.score import choose_on_ray

    return choose_on_ray


def session(
    *, local: bool, address: str | None = None
) -> Callable[[], AbstractContextManager[None]]:
    """What surrounds a run, for :func:`fertiray.scoring.run.score`: nothing, or Ray."""
    if local:
        return nullcontext
    from fertiray.on_ray.cluster import cluster

    return partial(cluster, address)


def run_fields(
    fields: str,
    checkpoints: Sequence[str],
    out: str,
    *,
    group_by: str | None = None,
    engine: str = "auto",
    device: str = "auto",
    workers: int,
    local: bool = False,
    address: str | None = None,
    resume: bool = True,
    verdict_on: VerdictOn = "prevalence",
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Segments, scores, aggregates and reports; goes on where an earlier call stopped.

    Writes the crop store to ``OUT/crops`` and, for each field, an overlay picture and GeoJSON
    contours for QuPath to ``OUT/fields``; the rest of the run folder is that of scoring.

    Args:
        fields: folder, ``patient/slide/field`` tree or ``s3://`` URI.
        checkpoints: checkpoint folders.
        out: run folder.
        group_by: regular expression on the file name that gives the patient.
        engine: how the networks are executed.
        device: torch device.
        workers: processes that segment, and threads or actors that score.
        local: score without Ray.
        address: Ray cluster; None for the job's own or a local one.
        resume: go on with an interrupted run; False starts anew.
        verdict_on: what the verdict follows.
        notes: cautions for the report.

    Returns:
        The counts of segmentation (``fields``, ``crops``, ``rejected_candidates``) and the fields
        of scoring.
    """
    store = storage.join(out, "crops")
    with console.progress("segmenting", "fields") as progress:
        cut = segment_store(
            fields, store, group_by=group_by, workers=workers, progress=progress, resume=resume
        )
    job = ScoringJob(store, tuple(checkpoints), out, device=device, engine=engine)
    with console.progress("scoring", "crops") as progress:
        scored = score(
            job,
            runner(local=local, address=address),
            workers=workers,
            resume=resume,
            verdict_on=verdict_on,
            notes=notes,
            progress=progress,
            session=session(local=local, address=address),
            choose=chooser(local=local),
        )
    overlays = write_overlays(out, store, fields)
    return {
        "fields": cut["fields"],
        "crops": cut["crops"],
        "rejected_candidates": cut["rejected"],
        **scored,
        "overlays": asdict(overlays),
    }
