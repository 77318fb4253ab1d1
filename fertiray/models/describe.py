"""The list of networks as ``fertiray models`` prints it: parameters, multiply-adds and shapes.

Counted on the meta device, so nothing is allocated and no weight is loaded. Multiply-adds are 1
each (papers' "FLOPs" are often these); normalisation, activation and pooling are not counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fertiray.models.registry import MODELS, ModelSpec, build_model
from fertiray.models.weights import parameter_count


def describe_models() -> list[dict[str, Any]]:
    """One row per registered network, at its paper's input.

    Returns:
        ``name``; ``paper`` (key of its first paper) and ``papers`` (all that use it); ``note``;
        ``params`` and ``trainable`` (counts); ``gmacs`` (10^9 multiply-adds for one image);
        ``input_shape`` and ``outputs`` (shape by name, batch of one); ``reported`` (``params`` and
        ``gmacs`` as the paper prints them, ``None`` where it does not).
    """
    return [describe(name, spec) for name, spec in MODELS.items()]


def describe(name: str, spec: ModelSpec) -> dict[str, Any]:
    """The row of one network; see :func:`describe_models`."""
    classes = spec.classes if isinstance(spec.classes, int) else 2
    args = {"pretrained": False} if spec.pretrained else {}
    shape = (1, spec.in_channels, spec.size, spec.size)
    with torch.device("meta"):
        model = build_model(
            name, classes, in_channels=spec.in_channels, size=spec.size, args=args
        ).eval()
        gmacs, output = multiply_adds(model, torch.empty(shape))
    outputs = output if isinstance(output, dict) else {spec.output: output}
    reported = spec.reported_params
    return {
        "name": name,
        "paper": spec.papers[0],
        "papers": list(spec.papers),
        "note": spec.note,
        "params": parameter_count(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gmacs": round(gmacs, 4),
        "input_shape": list(shape),
        "outputs": {key: list(value.shape) for key, value in outputs.items()},
        "reported": {
            "params": None if reported is None else round(reported * 1e6),
            "gmacs": spec.reported_gmacs,
        },
    }


@torch.no_grad()
def multiply_adds(model: nn.Module, x: Tensor) -> tuple[float, Any]:
    """10^9 multiply-adds of one forward pass, and its output.

    Args:
        model: in evaluation mode.
        x: its input, on any device.
    """
    with FlopCounterMode(display=False) as counter:
        output = model(x)
    # The counter takes a multiply-add for two operations.
    gmacs = counter.get_total_flops() / 2 / 1e9
    return gmacs, output


def models_table() -> str:
    """The networks as a Markdown table, the papers' figures in brackets."""
    lines = [
        "| network | papers | input | outputs | parameters, M | GMACs | |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for row in describe_models():
        _, channels, height, width = row["input_shape"]
        outputs = ", ".join(
            f"{name} {' x '.join(map(str, shape[1:]))}" for name, shape in row["outputs"].items()
        )
        params, gmacs = row["reported"]["params"], row["reported"]["gmacs"]
        lines.append(
            f"| `{row['name']}` | {', '.join(row['papers'])} | {channels} x {height} x {width}"
            f" | {outputs} | {row['params'] / 1e6:.3f}"
            + (f" ({params / 1e6:.7g})" if params else "")
            + f" | {row['gmacs']:.3f}"
            + (f" ({gmacs:g})" if gmacs else "")
            + f" | {row['note']} |"
        )
    return "\n".join(lines) + "\n"
