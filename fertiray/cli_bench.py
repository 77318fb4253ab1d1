"""``fertiray bench``: ceilings and ratios, measured in one run, ending in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fertiray import console
from fertiray.cli_options import Address, Device, Engine, Json, Record, Workers
from fertiray.console import Result, show
from fertiray.processes import cores

MEASURES = ("measure", "value")

app = typer.Typer(help="Benchmarks: ceilings and ratios, one run.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Benchmarks: ceilings and ratios, one run."""


def _finish(
    name: str,
    values: dict[str, Any],
    columns: Sequence[str],
    rows: list[list[str]],
    *,
    record: bool,
    json: bool,
    seed: int = 0,
) -> None:
    """Writes the result of record, where it is asked for, and prints it."""
    from fertiray.evaluation import results

    if record:
        results.record(f"bench_{name}", values, seed=seed, data_digest="drawn")
    show(Result(values, console.table(*columns, rows=rows)), as_json=json)


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
    from fertiray.evaluation import bench_tables
    from fertiray.on_ray.bench_train import bench_train as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            model=model, size=size, batch_size=batch_size, steps=steps, address=address
        )
    rows = bench_tables.measures(values, ("plain_step_ms", "ray_step_ms", "overhead"))
    _finish("train", values, MEASURES, rows, record=record, json=json)


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
    from fertiray.evaluation import bench_tables
    from fertiray.on_ray.bench_tune import bench_tune as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            trials=trials,
            trainer_trials=trainer_trials,
            epochs=epochs,
            concurrent=concurrent,
            address=address,
        )
    rows = [
        [f"{name}, trials an hour", f"{values[name]['trials_per_hour']:.0f}"]
        for name in ("plain_loop", "ours", "torch_trainer")
    ]
    ratios = ("work_s", "ratio_to_plain", "ratio_to_torch_trainer")
    rows += bench_tables.measures(values, ratios)
    _finish("tune", values, MEASURES, rows, record=record, json=json)


@app.command("serve")
def bench_serve(
    model: Annotated[str, typer.Option(help="Network, trained for a moment.")] = "efficientnet_b0",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 128,
    crops: Annotated[int, typer.Option(min=32, help="Crops of a job.")] = 8192,
    seconds: Annotated[float, typer.Option(min=1, help="Of each load.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Score and job take turns.")] = 2,
    workers: Workers = None,
    engine: Engine = "auto",
    device: Device = "auto",
    litserve: Annotated[
        str | None, typer.Option(help="Python of an environment with LitServe: measure it too.")
    ] = None,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure the HTTP endpoint: jobs beside `fertiray score`, and what a single request waits."""
    from fertiray.evaluation import bench_tables
    from fertiray.on_ray.bench_serve import bench_serve as run_bench

    with console.stdout_kept_clean():
        values = run_bench(
            model=model,
            size=size,
            crops=crops,
            seconds=seconds,
            rounds=rounds,
            workers=workers or cores(),
            engine=engine,
            device=device,
            litserve=litserve,
        )
    rows = bench_tables.measures(values, bench_tables.SERVE_MEASURES)
    _finish("serve", values, MEASURES, rows, record=record, json=json)


@app.command("models")
def bench_models(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several; by default the papers' networks and baselines."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Beside eager; repeat; by default all that this device has."),
    ] = None,
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="On the CPU; by default one a core.")
    ] = None,
    training_memory: Annotated[
        bool, typer.Option("--training-memory", help="MADRNet's memory against passes instead.")
    ] = False,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure every network in every engine: latency, throughput and share of the GEMM peak."""
    from fertiray.bench import memory, models
    from fertiray.evaluation import bench_tables
    from fertiray.scoring.engine import torch_device

    device = torch_device(device)
    with console.stdout_kept_clean():
        if training_memory:
            name, columns = "memory", bench_tables.MEMORY_COLUMNS
            cells_of = bench_tables.memory_cells
            rows = memory.training_memory(device)
        else:
            name, columns = "models", bench_tables.COLUMNS
            cells_of = bench_tables.model_cells
            with console.progress("models", "networks") as report:
                rows = models.bench_models(
                    *(model or models.MEASURED, engine or (), device),
                    seconds=seconds,
                    threads=threads or cores(),
                    report=report,
                )
    name += "_cuda" if device.startswith("cuda") else ""
    cells = [cells_of(row) for row in rows]
    _finish(name, {"rows": rows}, columns, cells, record=record, json=json)


@app.command("pipeline")
def bench_pipeline(
    model: Annotated[str, typer.Option(help="Network, trained for a moment.")] = "efficientnet_b0",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 128,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead.")] = None,
    crops: Annotated[int, typer.Option(min=1024, help="Crops of a run.")] = 20480,
    rounds: Annotated[int, typer.Option(min=1, help="Ceiling and runs take turns.")] = 3,
    workers: Workers = None,
    engine: Engine = "auto",
    device: Device = "auto",
    local: Annotated[bool, typer.Option("--local", help="Without Ray.")] = False,
    peers: Annotated[bool, typer.Option("--peers", help="Beside what others would use.")] = False,
    peer_crops: Annotated[int, typer.Option(min=320, help="Crops that the peers score.")] = 4800,
    peer_python: Annotated[
        list[str] | None, typer.Option(help="NAME=PYTHON: a peer in an environment of its own.")
    ] = None,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure bulk scoring against the machine's ceiling, and against what others would use."""
    from fertiray.bench.pipeline import bench_pipeline as run_bench
    from fertiray.bench.pipeline import interpreters
    from fertiray.evaluation import bench_tables

    on_ray = None
    if not local:
        from fertiray.on_ray.cluster import cluster
        from fertiray.on_ray.score import score_on_ray

        on_ray = (lambda: cluster(quiet=True), score_on_ray)
    with console.stdout_kept_clean():
        values = run_bench(
            model=model,
            size=size,
            given=checkpoint,
            crops=crops,
            peer_crops=peer_crops,
            rounds=rounds,
            workers=workers or cores(),
            engine=engine,
            device=device,
            peers=interpreters(peer_python or []) if peers else None,
            on_ray=on_ray,
            say=console.notices.print,
        )
    rows = bench_tables.measures(values, bench_tables.PIPELINE_MEASURES)
    rows += [[f"x {name}", f"{peer['speedup']}"] for name, peer in values["peers"].items()]
    _finish("pipeline", values, MEASURES, rows, record=record, json=json)


@app.command("adaptive")
def bench_adaptive(
    alpha: Annotated[float, typer.Option(help="Chance of a verdict too high.")] = 0.01,
    beta: Annotated[float, typer.Option(help="Chance of a verdict too low.")] = 0.01,
    cohorts: Annotated[int, typer.Option(min=1, help="Of the paper's 117 men.")] = 3,
    crops: Annotated[int, typer.Option(min=1024, help="Of a patient.")] = 30_000,
    seed: Annotated[int, typer.Option(help="Names the simulation.")] = 0,
    record: Record = False,
    json: Json = False,
) -> None:
    """Simulate what adaptive scoring saves, and how often its verdict is not that of all crops."""
    from fertiray.bench.adaptive import bench_adaptive as run_bench
    from fertiray.evaluation import bench_tables
    from fertiray.scoring.adaptive import Adaptive

    rates = Adaptive(alpha, beta)
    with console.progress("simulating", "patients") as progress:
        values = run_bench(rates, cohorts=cohorts, crops=crops, seed=seed, progress=progress)
    rows = [bench_tables.adaptive_cells(point) for point in values["points"]]
    columns = bench_tables.ADAPTIVE_COLUMNS
    _finish("adaptive", values, columns, rows, record=record, json=json, seed=seed)


@app.command("scale")
def bench_scale(
    model: Annotated[str, typer.Option(help="Network, trained for a moment.")] = "basic_cnn",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 64,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead.")] = None,
    most: Annotated[int, typer.Option(min=1000, help="Crops of the largest store.")] = 100_000,
    workers: Workers = None,
    engine: Engine = "auto",
    device: Device = "auto",
    local: Annotated[bool, typer.Option("--local", help="Without Ray.")] = False,
    gpu_rate: Annotated[
        float | None, typer.Option(help="Simulation: crops a second of one GPU.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the plots.")] = None,
    record: Record = False,
    json: Json = False,
) -> None:
    """Measure how time and memory grow with crops and workers; simulate a hundred clinics."""
    from contextlib import nullcontext

    from fertiray.bench.scale import bench_scale as run_bench
    from fertiray.bench.scale import scale_figure
    from fertiray.bench.simulation import simulation_figure
    from fertiray.evaluation.figures.look import save
    from fertiray.scoring.shards import score_locally

    if local:
        runner, session = score_locally, nullcontext
    else:
        from fertiray.on_ray.cluster import cluster
        from fertiray.on_ray.score import score_on_ray

        runner, session = score_on_ray, (lambda: cluster(quiet=True))  # type: ignore[assignment]
    sizes = [count for k in range(3, 9) for count in (10**k, 3 * 10**k) if count < most]
    with console.stdout_kept_clean():
        values = run_bench(
            model=model,
            size=size,
            given=checkpoint,
            crops=(*sizes, most),
            workers=[*range(1, (workers or cores()) + 1)],
            engine=engine,
            device=device,
            runner=runner,
            session=session,
            model_rate=gpu_rate,
            say=console.notices.print,
        )
        if figures is not None:
            save(scale_figure(values["points"]), str(figures), "scale")
            save(simulation_figure(values["simulation"]), str(figures), "simulation")
    rows = [[str(point[key]) for key in values["points"][0]] for point in values["points"]]
    _finish("scale", values, [*values["points"][0]], rows, record=record, json=json)


@app.command("chaos")
def bench_chaos(
    part: Annotated[
        list[str] | None,
        typer.Option(help="score, train, segment, tune, storage, files or load; repeat; or all."),
    ] = None,
    moments: Annotated[int, typer.Option(min=1, help="At which scoring is hit.")] = 20,
    files: Annotated[int, typer.Option(min=100, help="Hostile files to try.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=8, help="Of the soak.")] = 300,
    local: Annotated[bool, typer.Option("--local", help="Without Ray.")] = False,
    seed: Annotated[int, typer.Option(help="Names moments, files and faults.")] = 0,
    record: Record = False,
    json: Json = False,
) -> None:
    """Break it on purpose: kills, storage faults, hostile files, load; and count what is lost."""
    from fertiray.bench.chaos.parts import PARTS, Sizes, run_part
    from fertiray.evaluation import results
    from fertiray.evaluation.chaos_tables import CHAOS_COLUMNS, chaos_cells

    sizes = Sizes(moments, files, seconds, not local, seed)
    values: dict[str, Any] = {}
    with console.stdout_kept_clean():
        for name in part or PARTS:
            values[name] = run_part(name, sizes, console.notices.print)
            if record:  # each part by itself: what follows may be interrupted
                origin = results.origin(seed, "drawn")
                row = {"name": name, "result": {**values[name], "origin": origin}}
                results.append_row("bench_chaos", row)
    rows = [cells for name in values for cells in chaos_cells(name, values[name])]
    table = console.table(*CHAOS_COLUMNS, rows=rows)
    show(Result(values, table), as_json=json)
