"""What a network costs beside its accuracy: parameters, training memory, latency.

The memory of a training step is mostly what autograd keeps between forward and backward, which is
counted exactly, on any device; on a GPU the peak of a whole step is measured too.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fertiray import provenance
from fertiray.data.labelled import LabelledCrops
from fertiray.models.predict import autocast
from fertiray.models.weights import parameter_count
from fertiray.training.config import TrainConfig
from fertiray.training.fit import build_network
from fertiray.tuning.trials import untrained

BATCH = 2  # BatchNorm needs two; what is kept grows with the batch
WARM_UP, TIMES = 3, 20


def efficiency(settings: TrainConfig, crops: LabelledCrops, device: str) -> dict[str, Any]:
    """Measures a recipe's network with random weights; nothing should run beside it.

    Args:
        settings: the recipe.
        crops: the data, for its classes; no pixel is looked at.
        device: a torch device.

    Returns:
        ``params``; ``kept_mb``: MB (10^6 bytes) for an image that autograd keeps between forward
        and backward; ``peak_mb``: for a step of two images, CUDA's peak, None elsewhere;
        ``latency_ms`` of a single image, ``median``, ``q1`` and ``q3`` of 20; ``size``,
        ``precision``, ``threads``, ``machine``.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Pretrained weights change neither memory nor time.
        model = build_network(untrained(settings), crops).to(device)
    channels, size = settings.preprocessing.channels, settings.preprocessing.size
    images = torch.zeros(BATCH, channels, size, size, device=device)
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    kept, peak = _training_bytes(model, images, settings, device)
    times = _latencies(model, images[:1], settings, device)
    q1, median, q3 = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return {
        "params": parameter_count(model),
        "kept_mb": kept / BATCH / 1e6,
        "peak_mb": None if peak is None else peak / 1e6,
        "latency_ms": {"median": median, "q1": q1, "q3": q3},
        "size": size,
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "machine": provenance.machine(),
    }


def _training_bytes(
    model: nn.Module, images: Tensor, settings: TrainConfig, device: str
) -> tuple[int, int | None]:
    """Bytes that autograd keeps in a step, parameters not counted, and CUDA's peak."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    model.train()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(device, settings.precision),
    ):
        output = model(images)
        logits = list(output.values()) if isinstance(output, dict) else [output]
        loss = torch.stack([values.float().square().mean() for values in logits]).sum()
    total = sum(kept.values())
    loss.backward()
    model.zero_grad()
    return total, torch.cuda.max_memory_allocated() if on_gpu else None


@torch.inference_mode()
def _latencies(model: nn.Module, image: Tensor, settings: TrainConfig, device: str) -> list[float]:
    """Milliseconds of single images, one after the other."""
    model.eval()
    times = []
    for number in range(WARM_UP + TIMES):
        began = time.perf_counter()
        with autocast(device, settings.precision):
            model(image)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        if number >= WARM_UP:
            times.append((time.perf_counter() - began) * 1000)
    return times
