"""Training with Ray Train: the core's own ``train``, in as many workers as asked for.

Each worker runs the function that a laptop runs and is given its rank, its device and a place for
its state. The state of each finished epoch is a Ray checkpoint, so a worker that dies costs the
epoch it was in, and the same command goes on where an interrupted one stopped.

Workers read the data themselves: it must lie where each of them finds it, on shared or S3 storage.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import LoggingConfig

from fertiray import config, console, storage, work
from fertiray.errors import InputError
from fertiray.models.registry import MODELS
from fertiray.on_ray.cluster import cluster, cpus_per_worker, resources
from fertiray.on_ray.telemetry import export_worker
from fertiray.papers import PAPERS, Paper
from fertiray.processes import cores
from fertiray.training.checks import check
from fertiray.training.config import TrainConfig
from fertiray.training.fit import build_network
from fertiray.training.train import prepare, train
from fertiray.training.worker import STATE_FILE

Line = dict[str, Any]

NODE = "ray.io/node-id"  # label that Ray gives each node
RUNS = ".ray"  # in the checkpoint folder, while it is being trained
POLL_S = 0.2
OTHERS_S = 10.0  # seconds in which the other workers find the same data unusable


def train_on_ray(
    paper_name: str,
    settings: TrainConfig,
    data: str,
    out: str,
    *,
    workers: int,
    split: str | None = None,
    address: str | None = None,
    storage_path: str | None = None,
    device: str = "auto",
    max_failures: int = 3,
    resume: bool = True,
    on_epoch: Callable[[Line], None] | None = None,
) -> dict[str, Any]:
    """Trains one network on a cluster and writes its checkpoint; see ``training.train.train``.

    What cannot be trained is refused before a worker is started.

    Args:
        paper_name: key of the paper.
        settings: the recipe; ``batch_size`` is that of all workers together.
        data: labelled folder or labelled crop store that every worker can read.
        out: checkpoint folder to write, local to all nodes or ``s3://``.
        workers: training processes; on a cluster with GPUs each has one.
        split: file of an earlier split to use instead of drawing one.
        address: Ray cluster; None for the job's own or a local one.
        storage_path: where the state of the running training is kept; ``OUT/.ray`` by default.
            It is deleted when the checkpoint is written.
        device: ``cpu``, ``cuda``, or ``auto``: GPUs where the cluster has some.
        max_failures: how often lost workers are replaced before the training is given up.
        resume: go on where the same call was interrupted; else start afresh.
        on_epoch: called in this process with each epoch's metrics.

    Returns:
        What ``train`` returns in its first worker.

    Raises:
        InputError: as ``train``; or the cluster has too few GPUs.
        ray.train.TrainingFailedError: workers kept dying.
    """
    if paper_name not in PAPERS:
        raise InputError(f"paper {paper_name!r} is unknown; choose one of: {', '.join(PAPERS)}")
    settings = dataclasses.replace(
        settings,
        initial=settings.initial and _absolute(settings.initial),
        teacher=settings.teacher and _absolute(settings.teacher),
    )
    place, data, split = _absolute(out), _absolute(data), split and _absolute(split)
    _refuse(PAPERS[paper_name], settings, data, split, workers)
    runs = _absolute(storage_path) if storage_path else storage.join(place, RUNS)
    name = f"{Path(place).name}-{config.digest([config.digest(settings), paper_name, place])}"
    kept = storage.join(runs, name)
    if not resume:
        storage.remove(kept)
    # Without a dashboard, Ray Train's own actors complain of it every second.
    with cluster(address, quiet=True), work.job("train"):
        # Beside this process, which it serves: on another node it could be lost alone.
        here = {NODE: ray.get_runtime_context().get_node_id()}
        board = ray.remote(num_cpus=0, label_selector=here)(_Board).remote(workers)
        job = {"paper": paper_name, "settings": settings, "data": data, "out": place}
        trainer = make_trainer(
            _work,
            {**job, "split": split, "board": board},
            workers=workers,
            device=device,
            name=name,
            storage_path=runs,
            max_failures=max_failures,
        )
        values = _followed(trainer, board, on_epoch or (lambda line: None))
    storage.remove(kept if storage_path else runs)
    return {**values, "checkpoint": out}


def make_trainer(
    work: Callable[[dict[str, Any]], Any],
    job: dict[str, Any],
    *,
    workers: int,
    device: str,
    name: str,
    storage_path: str,
    max_failures: int,
    here: bool = False,
) -> TorchTrainer:
    """A TorchTrainer as this project sets it up, on the cluster that is connected.

    Args:
        work: runs in each worker, with ``job``.
        job: its argument.
        workers: how many.
        device: ``cpu``, ``cuda`` or ``auto``.
        name: of the run; one of the same name and place is gone on with.
        storage_path: where states are kept, local or ``s3://``.
        max_failures: how often lost workers are replaced.
        here: all of them on the node that this process is on.

    Raises:
        InputError: too few GPUs, or a place that cannot be written.
    """
    # The controller looks so often at its workers, and a worker waits for it with every epoch.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    gpus = int(resources().get("GPU", 0)) if device != "cpu" else 0
    if (gpus or device == "cuda") and gpus < workers:
        raise InputError(
            f"--workers {workers}: each takes a GPU and the cluster has {gpus}: take fewer"
        )
    each = {"CPU": cpus_per_worker(workers), **({"GPU": 1.0} if gpus else {})}
    run = RunConfig(
        name=name,
        storage_path=storage_path,
        failure_config=FailureConfig(max_failures=max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    try:
        _ = run.storage_context  # tries the place
    except OSError as error:
        raise InputError(
            f"{storage_path}: cannot be written ({error}); give another place"
        ) from error
    return TorchTrainer(
        work,
        train_loop_config=job,
        # Metrics are summed on the CPU also where gradients travel between GPUs.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=bool(gpus),
            resources_per_worker=each,
            label_selector={NODE: ray.get_runtime_context().get_node_id()} if here else None,
        ),
        run_config=run,
    )


class RayWorker:
    """A worker of Ray Train, as :class:`fertiray.training.worker.Worker`.

    Args:
        on_epoch: called in the first worker with each epoch's metrics.
    """

    def __init__(self, on_epoch: Callable[[Line], None] | None = None) -> None:
        export_worker()
        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()
        self.device = str(ray.train.torch.get_device())
        self.on_epoch = on_epoch or (lambda line: None)
        # Ray gives a worker a thread for each CPU promised to it; the machine may have more.
        torch.set_num_threads(max(1, cores() // context.get_local_world_size()))

    def resume(self) -> bytes | None:
        """See ``Worker``."""
        kept = ray.train.get_checkpoint()
        if kept is None:
            return None
        with kept.as_directory() as folder:
            return Path(folder, STATE_FILE).read_bytes()

    def report(self, metrics: Line, state: Callable[[], bytes]) -> None:
        """See ``Worker``; Ray Train has every rank report and takes the first one's checkpoint."""
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="fertiray-state-") as folder:
            Path(folder, STATE_FILE).write_bytes(state())
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
        self.on_epoch(metrics)


class _Board:
    """What the workers tell the process that started them, which Ray keeps to itself.

    Ray starts all workers anew when one fails and loses the types of their errors. So unusable
    input is told here, and a second attempt ends at once.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.attempts = 0
        self.lines: list[Line] = []
        self.over: set[int] = set()
        self.refusal: str | None = None

    def begin(self, rank: int) -> str | None:
        """A worker starts; why it need not, or None."""
        self.over.discard(rank)
        self.attempts += rank == 0
        return self.refusal

    def epoch(self, line: Line) -> None:
        self.lines.append(line)

    def refuse(self, refusal: str) -> None:
        self.refusal = self.refusal or refusal

    def end(self, rank: int) -> None:
        self.over.add(rank)

    def all_over(self) -> bool:
        return len(self.over) == self.workers

    def news(self, known: int) -> tuple[list[Line], int, str | None]:
        """Epochs after the first ``known`` ones, the number of attempts, and the refusal."""
        return self.lines[known:], self.attempts, self.refusal


def _work(job: dict[str, Any]) -> dict[str, Any] | None:
    """One worker: the core's ``train``; None where the input is unusable."""
    logging.getLogger().setLevel(logging.WARNING)  # Ray Train would print every epoch's metrics
    board = job["board"]
    worker = RayWorker(lambda line: board.epoch.remote(line))
    if ray.get(board.begin.remote(worker.rank)) is not None:
        return None
    try:
        with work.job("train", part=True):
            values = train(
                PAPERS[job["paper"]],
                job["settings"],
                job["data"],
                job["out"],
                worker=worker,
                split=job["split"],
            )
    except InputError as error:
        ray.get([board.refuse.remote(str(error)), board.end.remote(worker.rank)])
        give_up = time.monotonic() + OTHERS_S
        while not ray.get(board.all_over.remote()):
            if time.monotonic() > give_up:
                raise  # the others wait for this one: Ray ends them
            time.sleep(POLL_S)
        return None
    ray.get(board.end.remote(worker.rank))
    return values


def _followed(
    trainer: TorchTrainer, board: Any, on_epoch: Callable[[Line], None]
) -> dict[str, Any]:
    """Runs the trainer, passing on each epoch as it ends.

    Not in this thread: there Ray would take over Ctrl-C, and end with exit code 0.
    """
    known, attempts = 0, 1
    thread = ThreadPoolExecutor(1, thread_name_prefix="ray-train")
    fitted = thread.submit(trainer.fit)
    thread.shutdown(wait=False)
    refusal: str | None = None
    done = False
    while not done:
        done = bool(wait([fitted], POLL_S).done)
        lines, tried, refusal = ray.get(board.news.remote(known))
        if tried > attempts:
            attempts = tried
            console.notices.print("a worker was lost; going on from the last epoch", markup=False)
        for line in lines:
            on_epoch(line)
        known += len(lines)
    if refusal is not None:
        raise InputError(refusal)
    values: dict[str, Any] = fitted.result().return_value
    return values


def _refuse(
    paper: Paper, settings: TrainConfig, data: str, split: str | None, workers: int
) -> None:
    """Finds here what each worker would find, while there is only one to say so.

    Raises:
        InputError: as ``train``.
    """
    crops, parts, _, _ = prepare(paper, settings, data, split)
    check(settings, crops, parts, workers)
    args = settings.model_args
    if (spec := MODELS.get(settings.model)) is not None and spec.pretrained:
        args = {**args, "pretrained": False}  # weights are the workers' business
    build_network(dataclasses.replace(settings, model_args=args), crops)


def _absolute(location: str) -> str:
    """Workers run in a folder of their own."""
    return location if storage.is_remote(location) else str(Path(location).absolute())
