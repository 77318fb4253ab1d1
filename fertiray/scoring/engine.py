"""How a network is executed: the reference, and faster ways that must say the same.

``eager`` is the reference: PyTorch, float32. ``auto`` times every way that this machine has on a
probe of real crops and takes the fastest that passes the gate (:data:`GATE`); a way that fails it
is never used, and ``run.json`` says why.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fertiray import checkpoint
from fertiray.data.images import CROP, ImageError, decode
from fertiray.errors import InputError
from fertiray.models.device import usable
from fertiray.models.predict import VIEWS, Execute, Predictor, autocast, call
from fertiray.models.preprocess import resize_crop

EAGER, AUTO = "eager", "auto"
ENGINES = (AUTO, EAGER, "bf16", "compile", "openvino-bf16", "openvino-mixed", "openvino-fp32")

# Batches that OpenVINO's programs are made for: single requests, and the largest whose maps still
# fit into the cache (8 was as fast as 4 to 32 or faster for every network tried).
SHAPES = (1, 8)
IN_FLIGHT = 2  # requests of one thread
CALL = 1024  # crops handed to OpenVINO at a time

# openvino-mixed: crops whose most probable class has less than this are done again in float32.
SURE = 0.95

PROBE_CROPS = 256
PROBE_SECONDS = 10.0  # of the reference; a slow network is probed with fewer crops
FEWEST = 32


@dataclass(frozen=True)
class Gate:
    """What a faster way must keep, against the reference on the same crops.

    Attributes:
        agreement: least share of crops that are called the same class.
        difference: largest difference of a probability, but for ``beyond`` of the crops.
        beyond: share of crops that may differ more.
        fraction: largest difference of the share of crops in any class.
    """

    agreement: float = 0.995
    difference: float = 0.02
    beyond: float = 0.001
    fraction: float = 0.001


GATE = Gate()


@dataclass(frozen=True)
class Choice:
    """Which way a network is executed, and what was tried.

    Attributes:
        engine: the name.
        tried: by way: ``engine``, ``crops_per_s``, ``agreement``, ``largest_dp``,
            ``fraction_difference``, ``passed``, ``why`` (empty where it passed).
    """

    engine: str
    tried: tuple[dict[str, Any], ...]


def torch_device(device: str) -> str:
    """``auto`` as the device that this machine has; see :func:`fertiray.models.device.usable`."""
    return usable(device)


def use(predictor: Predictor, engine: str, streams: int = 1) -> None:
    """Makes a predictor execute its program in another way.

    Args:
        predictor: changed in place.
        engine: one of :data:`ENGINES` except ``auto``.
        streams: threads that will call it at the same time.

    Raises:
        InputError: an unknown way, or one that this machine does not have.
    """
    if engine not in ENGINES or engine == AUTO:
        raise InputError(f"--engine {engine}: unknown; choose one of: {', '.join(ENGINES)}")
    if engine == "openvino-mixed":
        both = [_openvino(predictor, precision, streams) for precision in ("bf16", "fp32")]
        predictor.execute = _mixed(*both)
        predictor.batch_size = CALL
    elif engine.startswith("openvino"):
        predictor.execute = _openvino(predictor, engine.removeprefix("openvino-"), streams)
        predictor.batch_size = CALL
    elif engine != EAGER:
        predictor.execute = _torch(predictor, compiled=engine == "compile")


def candidates(device: str) -> list[str]:
    """The ways beside ``eager`` that ``auto`` tries here, the likely fastest first."""
    if torch.device(device).type == "cuda":
        return ["compile", "bf16"]
    if importlib.util.find_spec("openvino") is not None:
        return ["openvino-bf16", "openvino-mixed", "openvino-fp32"]
    return ["bf16"] if torch.cpu._is_avx512_bf16_supported() else []


def choose_engines(
    folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
) -> tuple[Choice, ...]:
    """Settles how each checkpoint is executed on this machine.

    Args:
        folders: checkpoint folders.
        engine: one of :data:`ENGINES`; ``auto`` measures.
        device: a torch device, or ``auto``.
        crops: encoded images to measure on; those that cannot be read are left out.

    Raises:
        InputError: an unknown way, or one that this machine does not have.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}: unknown; choose one of: {', '.join(ENGINES)}")
    device = torch_device(device)
    if engine != AUTO:
        use(checkpoint.load_predictor(folders[0], device=device)[0], engine)
        return tuple(Choice(engine, ()) for _ in folders)
    images = []
    for crop in crops:
        with suppress(ImageError):
            images.append(decode(crop, limits=CROP))
    if len(images) < FEWEST:
        return tuple(Choice(EAGER, ()) for _ in folders)  # too few to judge by
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in scoring, where crops are the parallelism
    try:
        return tuple(_chosen(folder, device, images) for folder in folders)
    finally:
        torch.set_num_threads(threads)


def _chosen(folder: str, device: str, images: Sequence[NDArray[np.uint8]]) -> Choice:
    meta = checkpoint.read_meta(folder)
    crops = np.stack([resize_crop(image, meta.preprocessing) for image in images])
    positive, threshold = meta.classes.index(meta.positive), meta.operating.threshold

    def calls(values: Tensor) -> Tensor:
        return torch.from_numpy(call(values.numpy(), positive, threshold))

    return choose(lambda: checkpoint.load_predictor(folder, device=device)[0], crops, calls)


def most_probable(values: Tensor) -> Tensor:
    """N x K probabilities to N classes, for networks that have no operating threshold."""
    return values.argmax(1)


def choose(
    make: Callable[[], Predictor],
    crops: NDArray[np.uint8],
    calls: Callable[[Tensor], Tensor] = most_probable,
) -> Choice:
    """Times every way on the same crops and takes the fastest that passes the gate.

    Args:
        make: gives a predictor of the network, each time a new one.
        crops: N x H x W x 3 uint8 RGB at the network's size.
        calls: N x K probabilities to the N classes that scoring calls.
    """
    reference = make()
    begin, parts = time.perf_counter(), []
    for part in torch.from_numpy(crops[:PROBE_CROPS]).split(FEWEST):
        parts.append(reference.execute(part))
        if time.perf_counter() - begin > PROBE_SECONDS:
            break
    expected = _means(parts)
    crops = crops[: len(next(iter(expected.values())))]
    rate = len(crops) / (time.perf_counter() - begin)
    tried: list[dict[str, Any]] = [{"engine": EAGER, "crops_per_s": round(rate, 2), "passed": True}]
    for engine in candidates(reference.device):
        other = make()
        try:
            use(other, engine)
            other.execute(torch.from_numpy(crops[:FEWEST]))  # compiles and warms up
            begin = time.perf_counter()
            found = _means([other.execute(torch.from_numpy(crops))])
            rate = len(crops) / (time.perf_counter() - begin)
        except Exception as error:
            # Compilers fail in ways of their own; the reference is always there.
            why = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            tried.append({"engine": engine, "passed": False, "why": why})
            continue
        differences = compare(expected, found, calls)
        timed = {"engine": engine, "crops_per_s": round(rate, 2)}
        tried.append({**timed, **differences, **_verdict(differences)})
    passed = [row for row in tried if row["passed"]]
    return Choice(max(passed, key=lambda row: float(row["crops_per_s"]))["engine"], tuple(tried))


def compare(
    expected: dict[str, Tensor],
    found: dict[str, Tensor],
    calls: Callable[[Tensor], Tensor] = most_probable,
) -> dict[str, float]:
    """How far two ways differ, the worst of all tasks.

    Args:
        expected: N x K_t probabilities by task.
        found: the same of the other way.
        calls: N x K probabilities to N classes.

    Returns:
        ``agreement``; ``beyond``, the share of crops with a difference above the gate's;
        ``largest_dp``; ``fraction_difference``, of the share of crops in any class.
    """
    rows = []
    for task, values in expected.items():
        called, other = calls(values), calls(found[task])
        # A value that is not a number differs by more than any bound.
        gaps = (values - found[task]).abs().amax(1).nan_to_num(nan=torch.inf)
        k = values.shape[1]
        shares = (torch.bincount(called, minlength=k) - torch.bincount(other, minlength=k)).abs()
        rows.append(
            {
                "agreement": (called == other).float().mean().item(),
                "beyond": (gaps > GATE.difference).float().mean().item(),
                "largest_dp": gaps.max().item(),
                "fraction_difference": shares.max().item() / len(values),
            }
        )
    worst = {key: max(row[key] for row in rows) for key in rows[0]}
    return {**worst, "agreement": min(row["agreement"] for row in rows)}


def _verdict(differences: dict[str, float]) -> dict[str, Any]:
    why = [
        text
        for text, failed in (
            (
                f"labels agree in {differences['agreement']:.2%}",
                differences["agreement"] < GATE.agreement,
            ),
            (
                f"{differences['beyond']:.2%} of crops differ by more than {GATE.difference}",
                differences["beyond"] > GATE.beyond,
            ),
            (
                f"a class's share differs by {differences['fraction_difference']:.2%}",
                differences["fraction_difference"] > GATE.fraction,
            ),
        )
        if failed
    ]
    return {"passed": not why, "why": "; ".join(why)}


def _means(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """N x K_t probabilities by task, averaged over the views."""
    return {
        name.removeprefix(VIEWS): torch.cat([part[name] for part in parts], 1).mean(0)
        for name in parts[0]
        if name.startswith(VIEWS)
    }


def _torch(predictor: Predictor, *, compiled: bool) -> Execute:
    """Channels last and bfloat16, compiled or not."""
    program: Any = predictor.program.eval().to(memory_format=torch.channels_last)
    if compiled:
        program = torch.compile(program, dynamic=False)

    @torch.inference_mode()
    def execute(crops: Tensor) -> dict[str, Tensor]:
        n, size = len(crops), predictor.batch_size
        if compiled and n < size:  # one shape is one compilation
            crops = torch.cat([crops, crops[:1].expand(size - n, -1, -1, -1)])
        with autocast(predictor.device, "bf16"):
            found = program(crops.to(predictor.device))
        return {name: _first(name, value, n).float().cpu() for name, value in found.items()}

    return execute


def _first(name: str, value: Tensor, n: int) -> Tensor:
    return value[:, :n] if name.startswith(VIEWS) else value[:n]


class _Outputs(nn.Module):
    """A program whose outputs are a tuple, as converters want them."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.program(crops).values())


def _openvino(predictor: Predictor, precision: str, streams: int) -> Execute:
    """OpenVINO on the CPU: uint8 in, normalisation inside, requests in flight."""
    # Its conversion would tell its makers of every use, from a forked copy of this process, which
    # can hang where other threads hold locks. Without the package it uses a stub that does nothing.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino as ov
    except ImportError as error:
        raise InputError(
            "--engine openvino: not installed; pip install 'fertiray[openvino]'"
        ) from error
    program = predictor.program.eval()
    size = predictor.preprocessing.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        names = list(program(example))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape that is a number
        converted = ov.convert_model(_Outputs(program), example_input=example)
    core = ov.Core()
    options = {
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp32": "f32"}[precision],
        "INFERENCE_NUM_THREADS": streams * torch.get_num_threads(),
        "NUM_STREAMS": streams,
        # Several processes would be pinned to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = {}
    for n in SHAPES:
        converted.reshape([n, size, size, 3])
        compiled[n] = core.compile_model(converted, "CPU", options)
    rings = threading.local()

    def ring(n: int) -> list[Any]:
        """Requests of this thread.

        No callbacks in Python: a stream's thread that needs Python's lock at the end of one, while
        another frees the program with that lock held, would wait for ever.
        """
        own: dict[int, list[Any]] = rings.__dict__.setdefault("by_shape", {})
        if n not in own:
            own[n] = [compiled[n].create_infer_request() for _ in range(IN_FLIGHT)]
        return own[n]

    def outputs(request: Any) -> list[NDArray[np.float32]]:
        request.wait()
        return [request.get_output_tensor(i).data.copy() for i in range(len(names))]

    def execute(crops: Tensor) -> dict[str, Tensor]:
        pixels = crops.numpy()
        parts: list[list[NDArray[np.float32]]] = []
        running = deque[Any]()
        for turn, (start, n) in enumerate(_split(len(pixels))):
            chunk = pixels[start : start + n]
            shape = next(size for size in SHAPES if size >= len(chunk))
            if len(chunk) < shape:
                chunk = np.concatenate([chunk, np.repeat(chunk[:1], shape - len(chunk), 0)])
            if len(running) == IN_FLIGHT:
                parts.append(outputs(running.popleft()))
            running.append(ring(shape)[turn % IN_FLIGHT])
            running[-1].start_async({0: chunk})
        parts += [outputs(request) for request in running]
        found = {}
        for i, name in enumerate(names):
            pieces = [
                _first(name, torch.from_numpy(part[i]), n)
                for part, (_, n) in zip(parts, _split(len(pixels)), strict=True)
            ]
            found[name] = torch.cat(pieces, 1 if name.startswith(VIEWS) else 0)
        return found

    return execute


def _mixed(quick: Execute, exact: Execute) -> Execute:
    """The quick way for all crops, and the exact one again for those that it is not sure of.

    A rounding error dz of a logit moves a probability by p (1 - p) dz: next to nothing where p is
    near 0 or 1. Which crops are done again depends on their own scores only.
    """

    def execute(crops: Tensor) -> dict[str, Tensor]:
        found = quick(crops)
        sure = torch.ones(len(crops), dtype=torch.bool)
        for values in _means([found]).values():
            sure &= values.amax(1) >= SURE
        again = (~sure).nonzero()[:, 0]
        if len(again):
            for name, values in exact(crops[again]).items():
                if name.startswith(VIEWS):
                    found[name][:, again] = values
                else:
                    found[name][again] = values
        return found

    return execute


def _split(n: int) -> list[tuple[int, int]]:
    """Starts and lengths of the chunks of a call; a few left over go one by one, not padded."""
    full = SHAPES[-1]
    whole = n if n % full > full // 2 else n - n % full
    chunks = [(start, min(full, n - start)) for start in range(0, whole, full)]
    return chunks + [(start, 1) for start in range(whole, n)]
