"""A few crops at once, answered at once: what waits goes through the network together."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from fertiray.checkpoint import load
from fertiray.data.images import CROP, decode, encode_png
from fertiray.errors import InputError
from fertiray.evaluation.explain.explainer import Explainer
from fertiray.evaluation.explain.overlay import overlay
from fertiray.models.preprocess import resize_crop
from fertiray.scoring.engine import EAGER, torch_device
from fertiray.scoring.scorer import Scorer
from fertiray.serving.catalogue import Served, served

log = logging.getLogger(__name__)

MOST_TOGETHER = 64
MOST_WAITING = 512
MODELS_HELD = 4

Row = dict[str, Any]
EngineOf = Callable[[Served], str]


class BusyError(Exception):
    """So much waits already that nothing more is taken in; ask again in a second."""


class Backend(Protocol):
    """What the HTTP interface asks for scores and heatmaps: this process, or replicas."""

    async def score(self, model: Served, crops: Sequence[bytes]) -> list[Row]:
        """Rows of encoded crops, in their order; see :func:`rows`. May raise BusyError."""
        ...

    async def explain(self, model: Served, crop: bytes, method: str) -> bytes:
        """A PNG of a crop with its heatmap over it. May raise BusyError and ImageError."""
        ...


class Batcher:
    """Puts requests that wait for the same network into one batch, without ever waiting for more.

    While a batch is computed, what arrives waits; as soon as the network is free, all of it goes
    next. So a lone request is computed at once and load makes batches larger. (``serve.batch``
    forms its batches before the network is free: without a waiting time they stay single
    requests, and with one every request pays it.)

    Args:
        score: computes the rows of a batch; called in a thread of ``pool``.
        pool: of one thread, shared by all networks of a process.
        together: crops in a batch; a request with more is one batch.
        waiting: crops that may wait.
    """

    def __init__(
        self,
        score: Callable[[Sequence[bytes]], list[Row]],
        pool: ThreadPoolExecutor,
        together: int = MOST_TOGETHER,
        waiting: int = MOST_WAITING,
    ) -> None:
        self._score, self._pool = score, pool
        self._together, self._most = together, waiting
        self._queue: deque[tuple[Sequence[bytes], asyncio.Future[list[Row]]]] = deque()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, crops: Sequence[bytes]) -> list[Row]:
        """The rows of a request.

        Raises:
            BusyError: more crops wait than are allowed.
        """
        if self._waiting and self._waiting + len(crops) > self._most:
            raise BusyError
        future: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()
        self._queue.append((crops, future))
        self._waiting += len(crops)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            crops = [crop for own, _ in batch for crop in own]
            try:
                rows = await loop.run_in_executor(self._pool, self._score, crops)
            except Exception as error:  # belongs to the requests, and is raised there
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            start = 0
            for own, future in batch:
                if not future.done():
                    future.set_result(rows[start : start + len(own)])
                start += len(own)

    def _next(self) -> list[tuple[Sequence[bytes], asyncio.Future[list[Row]]]]:
        batch: list[tuple[Sequence[bytes], asyncio.Future[list[Row]]]] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0][0]) <= self._together):
            crops, future = self._queue.popleft()
            self._waiting -= len(crops)
            if not future.done():  # else its client has gone
                batch.append((crops, future))
                size += len(crops)
        return batch


class Networks:
    """The networks of this process: loaded when first asked for, the least used given up.

    Args:
        device: torch device, or ``auto``.
        engine_of: how a model's network is executed; asked at every request.
        threads: of torch in this process; None leaves them as they are.
    """

    def __init__(
        self,
        device: str,
        engine_of: EngineOf = lambda model: EAGER,
        threads: int | None = None,
    ) -> None:
        self._device, self._engine_of, self._threads = torch_device(device), engine_of, threads
        # One thread: networks that compute at the same time only take the cores from each other.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="networks")
        self._batchers: OrderedDict[str, Batcher] = OrderedDict()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unusable: set[str] = set()
        self._explainers: OrderedDict[str, Explainer] = OrderedDict()

    async def score(self, model: Served, crops: Sequence[bytes]) -> list[Row]:
        """See :class:`Backend`."""
        batcher = await self._batcher(model, self._engine_of(model))
        return await batcher(crops)

    async def explain(self, model: Served, crop: bytes, method: str) -> bytes:
        """See :class:`Backend`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._explain, model, crop, method)

    def load(self, model: Served, engine: str) -> Batcher:
        """A network ready to be called.

        Args:
            model: whose network it is.
            engine: how it is executed.

        Raises:
            InputError: the checkpoint is not the one that was listed.
        """
        _check(model)
        scorer = Scorer(
            [model.folder], device=self._device, engines=[engine], threads=self._threads
        )
        return Batcher(lambda crops: rows(scorer, crops), self._pool)

    async def _batcher(self, model: Served, engine: str) -> Batcher:
        """A network's batcher; where it is executed in a new way, the old one until that is ready.

        However many requests wait for it, it is loaded once.
        """
        key = f"{model.id} {engine}"
        while key not in self._batchers:
            others = [k for k in self._batchers if k.startswith(f"{model.id} ")]
            if key not in self._loading and not (others and key in self._unusable):
                task = asyncio.create_task(self._load(key, model, engine))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # logged
                self._loading[key] = task
            if others:
                key = others[-1]
            else:
                await asyncio.shield(self._loading[key])
        self._batchers.move_to_end(key)
        return self._batchers[key]

    async def _load(self, key: str, model: Served, engine: str) -> None:
        try:
            self._batchers[key] = await asyncio.to_thread(self.load, model, engine)
            _trim(self._batchers)
        except Exception:
            self._unusable.add(key)
            log.exception("%s cannot be executed as %s", model.id, engine)
            raise
        finally:
            del self._loading[key]

    def _explain(self, model: Served, crop: bytes, method: str) -> bytes:
        if model.id not in self._explainers:
            _check(model)
            network, meta = load(model.folder)
            self._explainers[model.id] = Explainer(network, meta.preprocessing, self._device)
            _trim(self._explainers)
        self._explainers.move_to_end(model.id)
        image = resize_crop(decode(crop, limits=CROP), model.meta.preprocessing)
        (heat,) = self._explainers[model.id](image[None], method).values()
        return encode_png(overlay(image, heat[0]))


def rows(scorer: Scorer, crops: Sequence[bytes]) -> list[Row]:
    """What a Scorer of one checkpoint says of encoded crops.

    Returns:
        A row for each crop: ``label``, ``probabilities`` by class, ``ood`` and ``spread`` (see
        ``scorer.ScoredModel``), or ``stage`` and ``error`` where it has no scores. What is not
        known is None.
    """
    batch = scorer(crops)
    (meta,), (model,) = scorer.metas, batch.models
    return [
        {
            "label": None if stage else meta.classes[model.labels[place]],
            "probabilities": None
            if stage
            else dict(zip(meta.classes, model.probabilities[place].tolist(), strict=True)),
            "ood": _known(model.ood[place]),
            "spread": _known(model.spread[place]),
            "stage": stage,
            "error": error,
        }
        for place, (stage, error) in enumerate(zip(batch.stages, batch.errors, strict=True))
    ]


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _trim(held: OrderedDict[str, Any]) -> None:
    while len(held) > MODELS_HELD:
        held.popitem(last=False)


def _check(model: Served) -> None:
    if served(model.folder).id != model.id:
        raise InputError(f"{model.id}: its folder holds another checkpoint by now; serve that one")
