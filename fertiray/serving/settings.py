"""The settings of a service, and its parts made from them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fertiray.errors import InputError
from fertiray.models.device import known
from fertiray.scoring.engine import AUTO, ENGINES
from fertiray.scoring.run import Chooser, Runner
from fertiray.serving import catalogue, tokens
from fertiray.serving.audit import Audit
from fertiray.serving.bulk import Work
from fertiray.serving.engines import Remembered, Settled
from fertiray.serving.interactive import Backend, EngineOf
from fertiray.serving.jobs import JobStore
from fertiray.serving.limits import Limits
from fertiray.serving.places import Places
from fertiray.serving.service import Service

OPENABLE = ("/openapi.json", "/metrics")
MOST_DAYS = 36525  # a hundred years


@dataclass(frozen=True)
class Settings:
    """What ``fertiray serve`` and ``jobs/serve.yaml`` set.

    Attributes:
        state: folder of the service, on a disk that outlives the processes; see ``places``.
        tokens: file of API tokens; by default that of ``FERTIRAY_TOKENS``.
        checkpoints: folders of the models, the preferred one first; none to go on with those that
            were served before.
        allowed: by clinic, locations below which its crop stores may lie.
        device: torch device, or ``auto``.
        engine: how networks are executed (``scoring.engine``). With ``auto``, the first large
            job of a model takes the fastest way that passes its gate; later jobs take the same, and
            so do interactive requests from then on.
        scorers: replicas for interactive requests, at most; 0 where the HTTP interface computes
            them itself.
        workers: shards of jobs that are scored at a time.
        jobs_at_once: jobs that are worked on at a time.
        open_paths: of ``/openapi.json`` and ``/metrics``, those that need no token.
        limits: what is taken in.
        keep_days: a job that ended so many days ago is deleted with all that was sent and found;
            None keeps them until they are deleted one by one.
    """

    state: str
    tokens: str = ""
    checkpoints: tuple[str, ...] = ()
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    device: str = "auto"
    engine: str = AUTO
    scorers: int = 0
    workers: int = 1
    jobs_at_once: int = 2
    open_paths: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    keep_days: float | None = None

    @property
    def places(self) -> Places:
        """The service's files."""
        return Places(Path(self.state).resolve())

    @property
    def interactive_engine(self) -> EngineOf:
        """How the network of a model is executed for interactive requests."""
        if self.engine == AUTO:
            return Settled(self.places.engines, self.device)
        return lambda model: self.engine

    @property
    def token_file(self) -> str:
        """The file of tokens.

        Raises:
            InputError: none is named.
        """
        found = self.tokens or os.environ.get("FERTIRAY_TOKENS")
        if not found:
            raise InputError(
                "FERTIRAY_TOKENS is not set, so nobody could come in; name a file there and"
                " put tokens into it with `fertiray token add`"
            )
        return str(Path(found).resolve())


def prepare(settings: Settings) -> list[catalogue.Served]:
    """Makes the folder of a service, and checks that everything it needs is there.

    Returns:
        The models that will be served.

    Raises:
        InputError: no tokens, no checkpoint, or an unusable one; an unknown engine or device.
    """
    for path in settings.open_paths:
        if path not in OPENABLE:
            raise InputError(f"open_paths: {path!r} stays closed; choose of {', '.join(OPENABLE)}")
    if settings.engine not in ENGINES:
        raise InputError(
            f"--engine {settings.engine}: unknown; choose one of: {', '.join(ENGINES)}"
        )
    if settings.keep_days is not None and not 0 < settings.keep_days < MOST_DAYS:
        raise InputError(
            f"--keep-days {settings.keep_days:g}: give more than 0 and less than {MOST_DAYS}, or"
            " leave it out to keep jobs until they are deleted"
        )
    known(settings.device)
    tokens.listed(settings.token_file)
    try:
        settings.places.prepare()
    except OSError as error:
        said = error.strerror
        raise InputError(f"--state {settings.state}: {said}; give another folder") from error
    if settings.checkpoints:
        folders = [str(Path(f).resolve()) if "://" not in f else f for f in settings.checkpoints]
        return catalogue.write(settings.places.models, folders)
    if not settings.places.models.exists():
        raise InputError("--checkpoint: name at least one; this service has none yet")
    return catalogue.read(settings.places.models)


def service_of(settings: Settings, backend: Backend) -> Service:
    """What the HTTP interface stands on."""
    places = settings.places
    return Service(
        places,
        JobStore(places.database),
        tokens.Keyring(settings.token_file),
        Audit(places.audit),
        backend,
        settings.limits,
        settings.allowed,
        settings.open_paths,
        settings.keep_days,
    )


def work_of(settings: Settings, runner: Runner, choose: Chooser) -> Work:
    """What works off jobs.

    Args:
        settings: of the service.
        runner: scores shards.
        choose: measures how networks are executed.
    """
    places = settings.places
    return Work(
        JobStore(places.database),
        places,
        settings.limits,
        runner,
        Remembered(places.engines, choose),
        settings.engine,
        settings.workers,
        settings.device,
        Audit(places.audit),
        settings.keep_days,
    )
