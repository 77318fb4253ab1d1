"""What each network costs to run, in every way that this device has, beside the papers' figures.

A forward pass is so many multiply-adds an image, and the processor does so many a second at best:
their ratio is the ceiling, see :mod:`fertiray.bench.peak`. How near a way of executing the network
(an engine) comes to it depends on what it does between the products: ``eager`` runs one operation
after the other and writes every map to memory; compilers fuse normalisation and activation into the
convolution; bfloat16 halves the bytes and doubles the multiply-adds of an instruction. So every row
says its share of the peak of its own arithmetic, and how many times as fast as ``eager`` it is.

A machine that others use too has no speed, it has one a minute. So after the best batch of each
engine is known the engines take turns, forth and back, and in a turn the GEMM peak, the throughput
and the latency are measured right after each other. A ratio is the median over rounds of the ratio
within a round: what slows the machine down slows both sides. Not equally: threads that wait for
one another at every operation lose more to a neighbour on their core, so ``ratio_of_fastest`` is
given too, and far from the median it says that the machine was not at rest.

A call goes the way it does in scoring, from uint8 crops in the host's memory to probabilities
there; on a GPU it holds both copies and ends when the device has ended. Latency follows the MS-Res
paper's protocol: single images one after the other, after a warm-up, and their mean, standard
deviation, minimum and maximum.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fertiray import provenance
from fertiray.bench.networks import pictures, preprocessing_of, random_network
from fertiray.bench.peak import (
    Arithmetic,
    copy_rate,
    gemm_rate,
    roofline,
    saturating_size,
    traffic,
)
from fertiray.bench.ways import Way, rates_by_batch, summary
from fertiray.console import Report
from fertiray.errors import InputError
from fertiray.models.describe import describe
from fertiray.models.predict import Predictor
from fertiray.models.registry import MODELS
from fertiray.papers.reported import REPORTED
from fertiray.scoring.engine import (
    AUTO,
    EAGER,
    ENGINES,
    SHAPES,
    candidates,
    compare,
    torch_device,
    use,
)

# The papers' networks and their baselines; ablations, twins and stand-ins on demand.
MEASURED = (
    *("msres", "densenet121", "resnet50", "memebg", "simple_cnn", "efficientnet_b0"),
    *("effnet_cbam", "madrnet", "madrnet_eb0", "vgg13", "resnet34", "basic_cnn"),
)

ROUNDS = 5
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (1, 8, 32, 128)}
SETTLING = 4  # crops that a random network's statistics are taken from
PARITY, FEWEST = 32, 8  # crops that two engines are compared on, at most and at least


def bench_models(
    names: Sequence[str],
    engines: Sequence[str],
    device: str,
    *,
    seconds: float,
    threads: int,
    report: Report,
) -> list[dict[str, Any]]:
    """Measures networks with random weights; nothing should run beside it.

    Args:
        names: networks of the registry that classify.
        engines: beside ``eager``, which is always measured; if empty, all that the device has.
        device: torch device, or ``auto``.
        seconds: of each measurement: throughput and latency of an engine, each over all rounds;
            a fifth of it for every batch size that is tried.
        threads: of torch and OpenVINO on the CPU.
        report: called with the networks done and their number.

    Returns:
        A row a network and engine: ``name``, ``params``, ``gmacs``; what :func:`summary` returns;
        ``roofline``, of :func:`fertiray.bench.peak.roofline`, None on a CPU, whose caches hold
        most maps; ``parity`` with eager, of :func:`fertiray.scoring.engine.compare`, and on how
        many ``crops``; ``paper``, its printed figures and their ``protocol``, empty where there are
        none; ``failed``, why an engine could not be used, else None; ``device``, ``threads``,
        ``seconds``, ``command``, ``machine``, ``versions``.

    Raises:
        InputError: an unknown network or engine, or a network without classes.
    """
    device = torch_device(device)
    known = [name for name, spec in MODELS.items() if spec.classes is not None]
    for name in names:
        if name not in known:
            raise InputError(f"--model {name}: no such classifier; there are {', '.join(known)}")
    others = [engine for engine in engines or candidates(device) if engine != EAGER]
    ways = [engine for engine in ENGINES if engine != AUTO]
    for engine in others:
        if engine not in ways:
            raise InputError(f"--engine {engine}: unknown; choose of: {', '.join(ways)}")
    made = {
        "device": torch.device(device).type,
        "threads": threads,
        "seconds": seconds,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    rows: list[dict[str, Any]] = []
    sides: dict[Arithmetic, int] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for done, name in enumerate(names):
            report(done, len(names))
            found = _bench_model(name, others, device, seconds, sides)
            rows += [{**row, **made} for row in found]
    finally:
        torch.set_num_threads(before)
    report(len(names), len(names))
    return rows


def _bench_model(
    name: str, others: Sequence[str], device: str, seconds: float, sides: dict[Arithmetic, int]
) -> list[dict[str, Any]]:
    """The rows of one network; ``sides`` of the largest products are found once for all."""
    batches = BATCHES[torch.device(device).type]
    crops = pictures(batches[-1], MODELS[name].size)
    model = random_network(name, crops[:SETTLING])
    torch.compiler.reset()  # it gives up compiling after some networks of one class

    def ready(engine: str) -> Way:
        preprocessing = preprocessing_of(MODELS[name])
        predictor = Predictor(copy.deepcopy(model), preprocessing, device)
        if engine != EAGER:
            use(predictor, engine)
        way = Way(engine, predictor, _arithmetic(engine, device))
        if way.arithmetic not in sides:
            sides[way.arithmetic] = saturating_size(device, way.arithmetic)

        def rate(batch: int) -> float:
            way.rate(crops[:batch], 0)  # compiles and warms up
            return way.rate(crops[:batch], seconds / ROUNDS)

        way.by_batch = rates_by_batch(rate, _sizes(engine, batches), seconds)
        return way

    eager = ready(EAGER)
    compared = crops[: min(PARITY, max(FEWEST, int(seconds * eager.by_batch[eager.batch])))]
    expected = eager.probabilities(compared)
    eager.parity = compare(expected, expected)
    ways, failed = [eager], {}
    for engine in others:
        try:
            way = ready(engine)
            way.parity = compare(expected, way.probabilities(compared))
        except InputError:
            raise
        except Exception as error:
            # Compilers fail in ways of their own; the other networks are still to be measured.
            failed[engine] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        ways.append(way)
    turn = seconds / ROUNDS
    for number in range(ROUNDS):
        for way in ways if number % 2 == 0 else reversed(ways):
            side = sides[way.arithmetic]
            way.peaks.append(gemm_rate(device, way.arithmetic, side, turn / 4))
            way.rates.append(way.rate(crops[: way.batch], turn))
            way.singles += way.latencies(crops, turn)
    described = describe(name, MODELS[name])
    gmacs = described["gmacs"]
    shared = {"name": name, "params": described["params"], "gmacs": gmacs, "paper": printed(name)}
    rows = [
        {
            **shared,
            **summary(way, eager, gmacs),
            "roofline": _roofline(way, gmacs, crops, turn),
            "parity": {**way.parity, "crops": len(compared)},
            "failed": None,
        }
        for way in ways
    ]
    nothing = dict.fromkeys(rows[0])
    return rows + [
        {**nothing, **shared, "engine": engine, "failed": why} for engine, why in failed.items()
    ]


def printed(name: str) -> dict[str, Any]:
    """A network's cost as its paper prints it, and the ``protocol``; empty where it does not."""
    for tables in REPORTED.values():
        table = tables.get("efficiency")
        if table is not None and name in table.rows:
            return {**table.rows[name], "protocol": table.protocol}
    return {}


def _arithmetic(engine: str, device: str) -> Arithmetic:
    if engine in {EAGER, "openvino-fp32"}:
        on_gpu = torch.device(device).type == "cuda"
        return "tf32" if on_gpu and torch.backends.cudnn.allow_tf32 else "fp32"
    return "bf16"


def _sizes(engine: str, batches: Sequence[int]) -> Sequence[int]:
    if engine.startswith("openvino"):
        return SHAPES
    # Every shape is a compilation, which takes up to minutes.
    return (batches[0], batches[-1]) if engine == "compile" else batches


def _roofline(
    way: Way, gmacs: float, crops: NDArray[np.uint8], seconds: float
) -> dict[str, float] | None:
    device = way.predictor.device
    if torch.device(device).type != "cuda":
        return None
    images = way.predictor.program.normalise(torch.from_numpy(crops[:1]).to(device))
    return roofline(
        gmacs,
        max(way.peaks),
        traffic(way.predictor.model, images),
        way.batch,
        way.arithmetic,
        copy_rate(device, seconds),
    )
