"""The service on Ray Serve: deployments around the objects of ``fertiray.serving``.

``Door``     the HTTP interface; computes interactive requests itself where there is no ``Scoring``.
             On one machine it listens itself: Serve's proxy before it takes as much of the
             processor for a request as a small network does.
``Scoring``  interactive requests, batched as they wait; as many replicas as the load asks for, on
             other nodes and GPUs. The hop to them costs as much as the proxy, so one machine is
             better off without (``Settings.scorers = 0``).
``Jobs``     claims accepted jobs and works them off; one replica
``Shards``   score the shards of jobs; like ``Jobs`` they compute while the others do not

Nothing that must not be lost is in a process: a job's record and files lie in ``Settings.state``,
so any replica, the controller or the whole node may be killed at any time.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from fertiray import config
from fertiray.data.crops import RowGroup
from fertiray.errors import InputError, StorageError
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.telemetry import export_worker
from fertiray.processes import cores
from fertiray.scoring.engine import Choice, choose_engines
from fertiray.scoring.shards import ScoringJob, ShardResult, ShardScorer
from fertiray.serving import measures
from fertiray.serving.address import Address
from fertiray.serving.api import create_app
from fertiray.serving.bulk import Workers
from fertiray.serving.catalogue import Served, served
from fertiray.serving.interactive import MODELS_HELD, Backend, Batcher, EngineOf, Networks, Row
from fertiray.serving.listener import Listener
from fertiray.serving.settings import Settings, prepare, service_of, work_of

APP = "fertiray"
LOST = (RayActorError, ReplicaUnavailableError)  # the replica died or left; another one can do it
TRIES = 5
# Requests that a replica with networks takes: more than the door lets in, so that they wait where
# they can be put into one batch.
ROOM = 4096
QUIET = {"enable_access_log": False}  # the audit log is the record; it holds no paths
COMMON: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, "logging_config": QUIET}


def build(args: Mapping[str, Any]) -> Application:
    """The application behind Serve's proxies, for ``serve deploy``.

    Args:
        args: fields of :class:`fertiray.serving.settings.Settings`.

    Raises:
        InputError: an unknown field, or something that the service needs is missing.
    """
    return _application(config.load(Settings, args, "args"), None)


def _application(settings: Settings, address: Address | None) -> Application:
    """The deployments; with an address the door listens there itself."""
    # Replicas may start in another folder and environment.
    settings = dataclasses.replace(
        settings, state=str(settings.places.root), tokens=settings.token_file
    )
    prepare(settings)
    door = serve.deployment(
        ListeningDoor if address else serve.ingress()(Door),
        name="Door",
        max_ongoing_requests=256,
        max_queued_requests=512,  # beyond, the proxy itself refuses
        backpressure_config={"status_code": 503, "retry_after_s": 2},
        graceful_shutdown_timeout_s=60,
        **COMMON,
    )
    scoring = serve.deployment(
        Scoring,
        name="Scoring",
        max_ongoing_requests=ROOM,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": max(1, settings.scorers),  # without any it is not bound below
            "target_ongoing_requests": 4,
            "upscale_delay_s": 5,
        },
        graceful_shutdown_timeout_s=60,
        **COMMON,
    )
    jobs = serve.deployment(Jobs, name="Jobs", num_replicas=1, **COMMON)
    shards = serve.deployment(
        Shards,
        name="Shards",
        num_replicas=settings.workers,
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=60,
        **COMMON,
    )
    parts = (
        settings,
        jobs.bind(settings, shards.bind(settings)),
        scoring.bind(settings) if settings.scorers else None,
    )
    app: Application = door.bind(*parts, address) if address else door.bind(*parts)
    return app


class Door:
    """The HTTP interface, reached through Serve's proxies.

    Args:
        settings: of the service.
        jobs: bound to this application so that it runs; spoken to through the jobs' record.
        scoring: gives scores and heatmaps; None to compute them here.
    """

    def __init__(
        self, settings: Settings, jobs: DeploymentHandle, scoring: DeploymentHandle | None
    ) -> None:
        export_worker()
        self._settings, self._jobs = settings, jobs
        engine_of = settings.interactive_engine
        self._backend: Backend
        if scoring is None:
            self._backend = Networks(settings.device, engine_of, threads=cores())
        else:
            self._backend = Replicas(scoring, engine_of)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(service_of(self._settings, self._backend))


class ListeningDoor(Door):
    """The HTTP interface at an address of its own.

    Args:
        settings, jobs, scoring: see :class:`Door`.
        address: where it listens.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: DeploymentHandle,
        scoring: DeploymentHandle | None,
        address: Address,
    ) -> None:
        super().__init__(settings, jobs, scoring)
        # The replica before this one may not be quite gone.
        self._listener = Listener(self.__serve_build_asgi_app__(), address, patience=60)

    def check_health(self) -> None:
        """Raises where nothing answers any more, and Serve replaces the replica."""
        if not self._listener.alive:
            raise RuntimeError("the HTTP interface has ended")

    def __del__(self) -> None:
        if hasattr(self, "_listener"):
            self._listener.close()


class Replicas:
    """A :class:`fertiray.serving.interactive.Backend` of replicas.

    Args:
        scoring: the replicas.
        engine_of: how a model's network is executed.
    """

    def __init__(self, scoring: DeploymentHandle, engine_of: EngineOf) -> None:
        self._scoring, self._engine_of = scoring, engine_of

    async def score(self, model: Served, crops: Sequence[bytes]) -> list[Row]:
        """See Backend."""
        rows: list[Row] = await self._ask("score", model, crops)
        return rows

    async def explain(self, model: Served, crop: bytes, method: str) -> bytes:
        """See Backend."""
        picture: bytes = await self._ask("explain", model, crop, method)
        return picture

    async def _ask(self, method: str, model: Served, *args: Any) -> Any:
        engine = self._engine_of(model)
        held = self._scoring.options(multiplexed_model_id=f"{model.id} {engine}")
        call = getattr(held, method)
        for attempt in range(TRIES):
            try:
                return await call.remote(model, engine, *args)
            except LOST:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")


class Scoring:
    """Networks for interactive requests; several at once, each loaded when it is first asked for.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        export_worker()
        threads = max(1, cores() // settings.scorers)
        self._networks = Networks(settings.device, threads=threads)
        self._known: dict[str, tuple[Served, str]] = {}

    @serve.multiplexed(max_num_models_per_replica=MODELS_HELD)  # type: ignore[untyped-decorator]
    async def network(self, key: str) -> Batcher:
        """A network that is ready; Serve sends requests to a replica that holds theirs."""
        return await asyncio.to_thread(self._networks.load, *self._known[key])

    async def score(self, model: Served, engine: str, crops: Sequence[bytes]) -> list[Row]:
        """Rows of encoded crops."""
        key = f"{model.id} {engine}"
        self._known[key] = model, engine
        batcher: Batcher = await self.network(key)
        return await batcher(crops)

    async def explain(self, model: Served, engine: str, crop: bytes, method: str) -> bytes:
        """A PNG of a crop with its heatmap; always by the reference, which has gradients."""
        del engine
        return await self._networks.explain(model, crop, method)


class Jobs:
    """Claims accepted jobs and works them off on :class:`Shards`.

    Args:
        settings: of the service.
        shards: score shards.
    """

    def __init__(self, settings: Settings, shards: DeploymentHandle) -> None:
        sys.argv = ["fertiray", "serve"]  # the command that a run's record names
        export_worker()
        _stand_back()
        on_replicas = OnReplicas(shards)
        work = work_of(settings, on_replicas, on_replicas.choose)
        self._jobs = work.jobs
        self._workers = Workers(work, settings.jobs_at_once)

    def check_health(self) -> None:
        """Raises where a thread has died, and Serve replaces the replica; tells of the jobs too."""
        measures.tell(self._jobs)
        if not self._workers.alive():
            raise RuntimeError("a thread that works off jobs has died")

    def __del__(self) -> None:
        self._workers.stop()


class OnReplicas:
    """A :class:`fertiray.scoring.run.Runner`: every shard goes to the next free replica."""

    __name__ = "ray serve"

    def __init__(self, shards: DeploymentHandle) -> None:
        self._shards = shards

    def __call__(
        self,
        job: ScoringJob,
        groups: Sequence[RowGroup],
        workers: int,
        report: Callable[[ShardResult], None],
    ) -> None:
        """Scores row groups; a shard whose replica dies is given to another one.

        Raises:
            InputError: what a replica found unusable.
        """
        if not groups:
            return
        with ThreadPoolExecutor(min(workers, len(groups))) as pool:
            tasks = [pool.submit(self._score, job, group) for group in groups]
            try:
                for task in as_completed(tasks):
                    report(task.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def choose(
        self, folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
    ) -> tuple[Choice, ...]:
        """``choose_engines`` in a replica, where the networks will be executed."""
        answer = self._ask("choose", tuple(folders), engine, device, list(crops))
        return tuple(Choice(row["engine"], tuple(row["tried"])) for row in answer)

    def _score(self, job: ScoringJob, group: RowGroup) -> ShardResult:
        return ShardResult(**self._ask("score_shard", job, group))

    def _ask(self, method: str, *args: Any) -> Any:
        for attempt in range(TRIES):
            try:
                answer = getattr(self._shards, method).remote(*args).result()
            except LOST:
                if attempt == TRIES - 1:
                    raise
                time.sleep(2**attempt)
                continue
            if isinstance(answer, str):
                raise InputError(answer)
            return answer
        raise AssertionError("unreachable")


class Shards:
    """Scores shards, one at a time.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        export_worker()
        _stand_back()
        self._held: OrderedDict[tuple[str, ...], ShardScorer] = OrderedDict()
        self._lock = threading.Lock()

    async def score_shard(self, job: ScoringJob, group: RowGroup) -> dict[str, Any] | str:
        """The fields of the shard's result, or what is wrong with the store or a checkpoint."""
        return await asyncio.to_thread(self._score, job, group)

    async def choose(
        self, folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
    ) -> list[dict[str, Any]] | str:
        """The fields of the choices, or what is wrong with a checkpoint."""
        return await asyncio.to_thread(_choose, folders, engine, device, crops)

    def _score(self, job: ScoringJob, group: RowGroup) -> dict[str, Any] | str:
        try:
            return dataclasses.asdict(self._scorer(job)(group))
        except StorageError:
            raise  # the job is tried again
        except InputError as error:
            return str(error)

    def _scorer(self, job: ScoringJob) -> ShardScorer:
        """A scorer for a job, with networks that an earlier job may have loaded."""
        with self._lock:
            versions = (*(served(folder).id for folder in job.checkpoints), *job.engines)
            if versions not in self._held:
                self._held[versions] = ShardScorer(job)
                while len(self._held) > MODELS_HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(versions)
            scorer = copy.copy(self._held[versions])
            scorer.job = job
            return scorer


def _choose(
    folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
) -> list[dict[str, Any]] | str:
    try:
        return [dataclasses.asdict(c) for c in choose_engines(folders, engine, device, crops)]
    except InputError as error:
        return str(error)


def _stand_back() -> None:
    """This process computes when others do not: all its threads, and so those that they start.

    ``nice`` would not do: Ray gives all its workers 15 of at most 19.
    """
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))


def run(settings: Settings, address: Address, ready: Callable[[], None]) -> None:
    """Serves on a Ray of this machine until it is interrupted.

    Args:
        settings: of the service.
        address: where it listens.
        ready: called once it does.
    """
    with cluster(quiet=True), serving(settings, address):
        ready()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


@contextmanager
def serving(settings: Settings, address: Address) -> Iterator[None]:
    """A service that answers at an address of this machine, on the Ray that is connected to."""
    address = dataclasses.replace(  # replicas may start in another folder
        address, certificate=_absolute(address.certificate), key=_absolute(address.key)
    )
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    try:
        serve.run(_application(settings, address), name=APP, route_prefix=None)
        yield
    finally:
        serve.shutdown()


def _absolute(file: str) -> str:
    return os.path.abspath(file) if file else ""
