"""CycleGAN's training: two unpaired looks in, a generator folder out."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fertiray import config as configs
from fertiray import generator_checkpoint, provenance, storage
from fertiray.data.domains import Domains, load_domains
from fertiray.data.images import encode_png
from fertiray.errors import InputError
from fertiray.evaluation.domains import check_domains, grey, sample_sheet
from fertiray.models.cyclegan import CycleGANGenerator
from fertiray.models.preprocess import Normalise
from fertiray.models.translator import Translator
from fertiray.training.cyclegan_config import CycleGANConfig
from fertiray.training.cyclegan_step import LOSSES, CycleGANStep
from fertiray.training.state import pack, unpack
from fertiray.training.worker import LocalWorker, Worker

FEWEST_HELD_OUT = 8  # images of either look: fewer are better trained on than measured with
MOST_CHECKED = 500  # images of either look
SHOWN = 8

Indices = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class FittedCycleGAN:
    """Two trained generators.

    Attributes:
        to_clinical: from the laboratory to the clinical look; in evaluation mode, on the CPU.
        to_lab: the way back.
        history: one line an epoch: ``epoch`` from 1, ``lr``, the epoch's mean of every loss term
            before its weight (``cyclegan_step.LOSSES``) and ``generator``, the weighted sum that
            the generators minimise.
        training: indices of the laboratory and of the clinical images trained on.
        held_out: indices of those that were not; empty with fewer than eight of either.
    """

    to_clinical: CycleGANGenerator
    to_lab: CycleGANGenerator
    history: list[dict[str, float]]
    training: Indices
    held_out: Indices


def fit_cyclegan(
    config: CycleGANConfig, domains: Domains, worker: Worker | None = None
) -> FittedCycleGAN:
    """Trains both generators and keeps those of the last epoch.

    Both looks are shuffled on their own, so pairs are new in every epoch; the smaller look is gone
    through again where the larger needs more, and the first images again to fill the last batch.
    (The reference implementation draws clinical images with replacement.)

    The same configuration, images and number of threads give the same networks, bit for bit on a
    CPU, interrupted and resumed or not; the same with several workers, within rounding. On a GPU
    the backward pass of reflection padding adds up in any order.

    Args:
        config: the recipe.
        domains: both looks at ``config.preprocessing.size``.
        worker: the process that this loop runs in; one on the CPU that keeps nothing by default.

    Raises:
        InputError: a batch smaller than the number of workers, a kept state of another training,
            or a loss that is no longer a number.
    """
    worker = worker or LocalWorker()
    if config.batch_size < worker.size:
        raise InputError(
            f"batch_size {config.batch_size} is less than {worker.size} workers: give each at least"
            " one image, --set batch_size=..., or take fewer workers"
        )
    parts = [
        _hold_out(digests, config.held_out, config.seed + number)
        for number, digests in enumerate(domains.digests)
    ]
    if min(len(held_out) for _, held_out in parts) < FEWEST_HELD_OUT:
        parts = [
            (np.arange(len(digests)), np.arange(0, dtype=np.int64)) for digests in domains.digests
        ]
    (lab, lab_held_out), (clinical, clinical_held_out) = parts
    step = CycleGANStep(config, worker.device, worker.rank, worker.size)
    views = [
        _Views(domains.source[lab], config, worker.device),
        _Views(domains.target[clinical], config, worker.device),
    ]
    of = {"config": configs.digest(config), "data": domains.digest}
    history: list[dict[str, float]] = []
    kept = worker.resume()
    if kept is not None:
        state = unpack(kept, "the kept state")
        if state.get("of") != of:
            raise InputError(
                "the kept state belongs to a training with other settings or images: delete it, or"
                " give those of that training"
            )
        step.restore(state["step"])
        history = state["history"]
    for epoch in range(len(history) + 1, config.epochs + 1):
        began, rate = time.perf_counter(), config.rate(epoch)
        step.set_rate(rate)
        history.append(
            {"epoch": epoch, "lr": rate} | _epoch(config, step, views, epoch, worker.size)
        )
        if not all(map(math.isfinite, history[-1].values())):
            raise InputError(
                f"epoch {epoch}: a loss is no longer a number: the training diverged; train again"
                f" with a lower learning rate than {config.lr:g}"
            )
        worker.report(
            history[-1] | {"seconds": time.perf_counter() - began},
            lambda: pack({"of": of, "step": step.state(), "history": history}),
        )
    return FittedCycleGAN(
        step.to_clinical.cpu().eval(),
        step.to_lab.cpu().eval(),
        history,
        (lab, clinical),
        (lab_held_out, clinical_held_out),
    )


def train_cyclegan(
    paper: str,
    config: CycleGANConfig,
    data: str,
    out: str,
    worker: Worker | None = None,
) -> dict[str, Any]:
    """Trains on the images of two looks and writes a generator folder.

    The folder holds the generator from the laboratory to the clinical look (see
    :mod:`fertiray.generator_checkpoint`) and ``samples.png``: laboratory images, translated, and
    back again, above real clinical ones.

    Args:
        paper: key of the paper whose protocol this is.
        config: the recipe.
        data: folder with both looks, see :mod:`fertiray.data.domains`.
        out: folder to write, local or ``s3://``; by the first worker.
        worker: the process that this runs in.

    Returns:
        ``checkpoint`` (the folder), ``metrics`` (the last epoch's losses and a
        :class:`~fertiray.evaluation.domains.DomainCheck`, on ``held_out`` images where there are
        enough, else on ``training`` ones), ``n`` of each part, ``excluded`` and ``history``.

    Raises:
        InputError: data that cannot be trained on; the message says what to do.
    """
    worker = worker or LocalWorker()
    domains = load_domains(data, config.preprocessing)
    fitted = fit_cyclegan(config, domains, worker)
    on = "held_out" if len(fitted.held_out[0]) else "training"
    lab, clinical = getattr(fitted, on)
    source, target = domains.source[lab[:MOST_CHECKED]], domains.target[clinical[:MOST_CHECKED]]
    if config.preprocessing.colour == "grey":  # as the networks see them
        source, target = grey(source), grey(target)
    translated = Translator(fitted.to_clinical, config.preprocessing, worker.device)(source)
    back = Translator(fitted.to_lab, config.preprocessing, worker.device)(translated)
    check = check_domains(source, translated, back, target)
    metrics = {**fitted.history[-1], **check.as_dict(), "checked_on": on}
    if worker.rank == 0:
        sheet = sample_sheet(
            {
                "laboratory": source[:SHOWN],
                "translated": translated[:SHOWN],
                "back again": back[:SHOWN],
                "clinical": target[:SHOWN],
            },
            scale=max(1, 96 // config.preprocessing.size),
        )
        storage.write_bytes(storage.join(out, generator_checkpoint.SAMPLES), encode_png(sheet))
        generator_checkpoint.save(
            out,
            fitted.to_clinical,
            generator_checkpoint.GeneratorMeta(
                name=_name(out),
                paper=paper,
                preprocessing=config.preprocessing,
                data_digest=domains.digest,
                args={"width": config.width, "blocks": len(fitted.to_clinical.blocks)},
                metrics=metrics,
                history={
                    "epochs": len(fitted.history),
                    "first": fitted.history[0],
                    "last": fitted.history[-1],
                },
                config=dataclasses.asdict(config),
                provenance={
                    "versions": provenance.versions(),
                    "commit": provenance.commit(),
                    "trained": provenance.now(),
                    "config_digest": configs.digest(config),
                },
            ),
        )
    return {
        "checkpoint": out,
        "metrics": metrics,
        "n": {
            "lab": {"training": len(fitted.training[0]), "held_out": len(fitted.held_out[0])},
            "clinical": {"training": len(fitted.training[1]), "held_out": len(fitted.held_out[1])},
            "excluded": len(domains.excluded),
        },
        "excluded": [dataclasses.asdict(one) for one in domains.excluded],
        "history": fitted.history,
    }


def _name(out: str) -> str:
    folder = out.rstrip("/").rpartition("/")[2]
    return folder if folder not in {"", ".", ".."} else "cyclegan"


def _hold_out(digests: Sequence[str], share: float, seed: int) -> Indices:
    """Indices to train on and to hold out, sorted; equal pixels stay on one side."""
    different = sorted(set(digests))
    order = np.random.default_rng(seed).permutation(len(different))
    chosen = {different[i] for i in order[: round(share * len(different))]}
    out = np.array([digest in chosen for digest in digests])
    return np.flatnonzero(~out), np.flatnonzero(out)


class _Views:
    """A look's training images as the networks see them.

    Args:
        images: N x S x S x 3 uint8.
        config: gives the normalisation and the changes.
        device: a torch device.
    """

    def __init__(self, images: NDArray[np.uint8], config: CycleGANConfig, device: str) -> None:
        self.images = torch.from_numpy(images)
        self.normalise = Normalise(config.preprocessing).to(device)
        self.config, self.device = config, device

    def order(self, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """The images of each step, B int64, going through all of them again and again."""
        wanted, count = steps * self.config.batch_size, len(self.images)
        rounds = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count))]
        yield from torch.cat(rounds)[:wanted].split(self.config.batch_size)

    def take(self, picked: Tensor, part: slice, generator: torch.Generator) -> Tensor:
        """Changed images, n x C x S x S float: ``part`` of those picked, draws made for all."""
        config, size = self.config, self.config.preprocessing.size
        flips = torch.rand(len(picked), generator=generator)[part] < 0.5
        corners = torch.rand(len(picked), 2, generator=generator)[part]
        x: Tensor = self.normalise(self.images[picked[part]].to(self.device))
        if config.hflip:
            x = torch.where(flips.to(self.device).view(-1, 1, 1, 1), x.flip(-1), x)
        if config.load_size is not None and config.load_size > size:
            large = F.interpolate(x, (config.load_size,) * 2, mode="bicubic").clamp(-1, 1)
            room = config.load_size - size + 1
            x = torch.stack(
                [
                    image[:, top : top + size, left : left + size]
                    for image, (top, left) in zip(
                        large, (corners * room).long().tolist(), strict=True
                    )
                ]
            )
        return x


def _epoch(
    config: CycleGANConfig, step: CycleGANStep, views: Sequence[_Views], epoch: int, workers: int
) -> dict[str, float]:
    """One pass; the mean of every loss term over all workers, and their weighted sum."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    steps = -(-max(len(view.images) for view in views) // config.batch_size)
    orders = [view.order(steps, generator) for view in views]
    total = torch.zeros(len(LOSSES), device=step.weights.device)
    for picked in zip(*orders, strict=True):
        batch = [
            view.take(part, step.part, generator) for view, part in zip(views, picked, strict=True)
        ]
        total += step(*batch) * (len(batch[0]) / config.batch_size)
    if workers > 1:
        dist.all_reduce(total)
    means = total / steps
    generators = (means[: len(step.weights)] * step.weights).sum().item()
    return dict(zip(LOSSES, means.tolist(), strict=True)) | {"generator": generators}
