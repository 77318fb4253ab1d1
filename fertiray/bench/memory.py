"""What MADRNet's training keeps in memory against its passes, rebuilt and stored.

Autograd keeps the maps of every pass of the sequence until backward; the reversible sequence
rebuilds them from its output, so what is kept should not grow with the passes. The paper's own grew
by 0.13 GB a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fertiray import provenance
from fertiray.bench.training import StepBench
from fertiray.papers import PAPERS
from fertiray.papers.reported import reported
from fertiray.tuning.efficiency import efficiency

PASSES = tuple(range(7))


def training_memory(
    device: str, *, model: str = "madrnet", size: int = 512, passes: Sequence[int] = PASSES
) -> list[dict[str, Any]]:
    """Measures the network with random weights at every number of passes.

    Args:
        device: torch device.
        model: ``madrnet`` or ``madrnet_eb0``.
        size: height and width of its input in pixels.
        passes: n, each in 0 to 6; 0 leaves the sequence out.

    Returns:
        A row a number of passes and way: ``name``, ``passes``, ``recompute`` (rebuilt in backward;
        None without a sequence), what :func:`fertiray.tuning.efficiency.efficiency` returns,
        ``paper``, ``command``, ``versions``.
    """
    crops, _ = StepBench(size=1, batch_size=2, epoch=1).crops()  # only their classes are read
    recipe = PAPERS["sperm_madrnet"].config(model)
    recipe = replace(recipe, preprocessing=replace(recipe.preprocessing, size=size))
    rows = []
    for n in passes:
        for recompute in (True, False) if n else (None,):
            args = {"n": n} if recompute is None else {"n": n, "recompute": recompute}
            rows.append(
                {
                    "name": model,
                    "passes": n,
                    "recompute": recompute,
                    **efficiency(replace(recipe, model_args=args), crops, device),
                    "paper": reported(f"sperm_madrnet/efficiency/{model}"),
                    "command": provenance.command(),
                    "versions": provenance.versions(),
                }
            )
    return rows
