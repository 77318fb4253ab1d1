"""``fertiray bench``: ceilings and ratios, measured in one run, ending in JSON."""

from __future__ import annotations

from typing import Annotated

import typer

from fertiray import console
from fertiray.cli_options import Address, Json, Record, Workers, cores
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


@app.command("tune")
def bench_tune(
    trials: Annotated[int, typer.Option(min=2, help="Of the plain loop and of a study.")] = 24,
    trainer_trials: Annotated[
        int, typer.Option(min=1, help="With a TorchTrainer in each; they take long.")
    ] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Of each trial.")] = 10,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; by default one a core.")
    ] = None,
    address: Address = None,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure trials an hour, beside a plain loop and beside a TorchTrainer for each trial."""
    from fertiray.evaluation import results
    from fertiray.on_ray.bench_tune import bench_tune as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            trials=trials,
            trainer_trials=trainer_trials,
            epochs=epochs,
            concurrent=concurrent,
            address=address,
        )
        if record:
            results.record("bench_tune", values, seed=0, data_digest="drawn")
    rows = [
        [f"{name}, trials an hour", f"{values[name]['trials_per_hour']:.0f}"]
        for name in ("plain_loop", "ours", "torch_trainer")
    ]
    rows += [
        [name, f"{values[name]:.3g}"]
        for name in ("work_s", "ratio_to_plain", "ratio_to_torch_trainer")
    ]
    show(Result(values, console.table("measure", "value", rows=rows)), as_json=json)


@app.command("serve")
def bench_serve(
    model: Annotated[str, typer.Option(help="A recipe of zona_vgg13; random weights.")] = "vgg13",
    crops: Annotated[int, typer.Option(min=1024, help="Crops of a job.")] = 8192,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Score and job take turns.")] = 2,
    workers: Workers = None,
    engine: Annotated[str, typer.Option(help="How the networks are executed.")] = "auto",
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure the HTTP endpoint: jobs beside `fertiray score`, and what a single request waits."""
    from fertiray.evaluation import results
    from fertiray.on_ray.bench_serve import bench_serve as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            model=model,
            crops=crops,
            seconds=seconds,
            rounds=rounds,
            workers=workers or cores(),
            engine=engine,
            device=device,
        )
        if record:
            results.record("bench_serve", values, seed=0, data_digest="drawn")
    shown = ("rate", "score_rate", "ratio_to_score", "batch1_ms", "p50_ms", "p95_ms", "p99_ms")
    rows = [[name, f"{values[name]:.4g}"] for name in (*shown, "p99_over_batch1", "errors")]
    show(Result(values, console.table("measure", "value", rows=rows)), as_json=json)
