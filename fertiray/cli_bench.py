"""``fertiray bench``: ceilings and ratios, measured in one run, ending in JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from fertiray import console
from fertiray.cli_options import Address, Json, Record
from fertiray.console import Result, show

app = typer.Typer(help="Benchmarks: ceilings and ratios, one run.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Benchmarks: ceilings and ratios, one run."""


@app.command("train")
def bench_train(
    model: Annotated[str, typer.Option(help="Network to train.")] = "efficientnet_lite0",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 128,
    batch_size: Annotated[int, typer.Option(min=2, help="Crops a step.")] = 16,
    steps: Annotated[int, typer.Option(min=2, help="Steps that count.")] = 80,
    address: Address = None,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure what Ray Train adds to a training step, step by step beside the plain loop."""
    from fertiray.evaluation import results
    from fertiray.on_ray.bench_train import bench_train as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            model=model, size=size, batch_size=batch_size, steps=steps, address=address
        )
        if record:
            results.record("bench_train", values, seed=0, data_digest="drawn")
    shown = ("plain_step_ms", "ray_step_ms", "overhead")
    rows = [[name, f"{values[name]:.4g}"] for name in shown]
    show(Result(values, console.table("measure", "value", rows=rows)), as_json=json)
