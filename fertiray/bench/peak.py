"""The ceiling of a network: how many multiply-adds, and bytes, a second the processor can do.

Convolutions and linear layers are matrix products, and a large dense product is the best case of
all: n x n by n x n takes n^3 multiply-adds but only 3 n^2 numbers from memory, so that from some n
on nothing but the arithmetic units is the limit. That rate (the GEMM peak), in the network's own
arithmetic and on the same threads, over the multiply-adds of an image is the number of images a
second that no way of executing the network passes, unless it does fewer multiply-adds than the
network has (Winograd's 3 x 3 convolutions) or the library's product is not the processor's best.

What keeps a network below it: depthwise convolutions, normalisation and activation move many bytes
for each multiply-add; single images leave weights used once and units without work; operations one
by one write every map to memory and read it again. The second ceiling is therefore the bandwidth:
the layers with weights read and write their maps at least once, whatever is fused between them.

Arithmetic: ``fp32``; ``bf16``, with twice the numbers in a register and half the bytes; ``tf32``,
float32 of which CUDA's units multiply 10 bits of the mantissa, PyTorch's default for convolutions
on a GPU. The numbers multiplied are random: zeros take less power, and a GPU would clock higher.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Arithmetic = Literal["fp32", "tf32", "bf16"]

# Sides of the products that are tried; the largest takes some tenths of a second.
SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}
COPIED = 2**28  # float32 numbers: beyond every cache


def per_second(work: Callable[[], object], device: str, seconds: float) -> float:
    """Calls a second, one after the other, each to its end on the device.

    Args:
        work: called at least once.
        device: torch device.
        seconds: after which no call is begun.
    """
    on_gpu = torch.device(device).type == "cuda"
    calls, begin = 0, time.perf_counter()
    while True:
        work()
        if on_gpu:
            torch.cuda.synchronize()
        calls += 1
        took = time.perf_counter() - begin
        if took >= seconds:
            return calls / took


def gemm_rate(device: str, arithmetic: Arithmetic, size: int, seconds: float) -> float:
    """10^9 multiply-adds a second of a product of two square matrices, on torch's threads.

    Args:
        device: torch device.
        arithmetic: of the product; ``tf32`` on CUDA only.
        size: side of the matrices.
        seconds: of measurement, after a product to warm up.
    """
    dtype = torch.bfloat16 if arithmetic == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, size, size, generator=generator, device=device).to(dtype)
    product = torch.empty_like(a)
    with _float32_products(arithmetic):
        torch.matmul(a, b, out=product)
        rate = per_second(lambda: torch.matmul(a, b, out=product), device, seconds)
    return rate * size**3 / 1e9


def saturating_size(device: str, arithmetic: Arithmetic, seconds: float = 0.2) -> int:
    """The side, of :data:`SIZES`, at which the product is the fastest.

    Args:
        device: torch device.
        arithmetic: of the product.
        seconds: of each.
    """
    sizes = SIZES[torch.device(device).type]
    return max(sizes, key=lambda size: gemm_rate(device, arithmetic, size, seconds))


def copy_rate(device: str, seconds: float) -> float:
    """10^9 bytes a second, read and written, of a copy in the device's memory."""
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    rate = per_second(lambda: target.copy_(source), device, seconds)
    return rate * (source.nbytes + target.nbytes) / 1e9


@torch.inference_mode()
def traffic(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Numbers that a forward pass moves at least: maps in and out of its products, and weights.

    Everything between convolutions and linear layers is taken as fused; attention is left out.

    Args:
        model: in evaluation mode.
        x: its input, 1 x C x H x W.

    Returns:
        Numbers for the image, and weights, which a batch reads once.
    """
    moved = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += inputs[0].numel() + output.numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()
    return moved, sum(p.numel() for layer in layers for p in layer.parameters())


def roofline(
    gmacs: float,
    gmacs_per_s: float,
    numbers: tuple[int, int],
    batch: int,
    arithmetic: Arithmetic,
    bandwidth: float,
) -> dict[str, float]:
    """The lower of both ceilings of a network (Williams et al. 2009).

    Args:
        gmacs: 10^9 multiply-adds an image.
        gmacs_per_s: GEMM peak.
        numbers: of :func:`traffic`.
        batch: images that share one reading of the weights.
        arithmetic: gives the bytes of a number.
        bandwidth: of :func:`copy_rate`.

    Returns:
        ``bandwidth_gb_per_s``; ``traffic_mb`` an image; ``arithmetic_bound``, ``memory_bound`` and
        ``bound``, the lower of them, in images a second.
    """
    maps, weights = numbers
    gigabytes = (maps + weights / batch) * BYTES[arithmetic] / 1e9
    bounds = {
        "arithmetic_bound": gmacs_per_s / gmacs,
        "memory_bound": bandwidth / gigabytes,
    }
    return {
        "bandwidth_gb_per_s": bandwidth,
        "traffic_mb": 1000 * gigabytes,
        **bounds,
        "bound": min(bounds.values()),
    }


@contextmanager
def _float32_products(arithmetic: Arithmetic) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if arithmetic == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
