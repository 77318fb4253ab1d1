"""``fertiray bench``: ceilings and ratios, measured in one run, ending in JSON."""

from __future__ import annotations

from pathlib import Path
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
    litserve: Annotated[
        str | None, typer.Option(help="Python of an environment with LitServe: measure it too.")
    ] = None,
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
            litserve=litserve,
        )
        if record:
            results.record("bench_serve", values, seed=0, data_digest="drawn")
    shown = ("rate", "score_rate", "ratio_to_score", "batch1_ms", "p50_ms", "p95_ms", "p99_ms")
    rows = [[name, f"{values[name]:.4g}"] for name in (*shown, "p99_over_batch1", "errors")]
    show(Result(values, console.table("measure", "value", rows=rows)), as_json=json)


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
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
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
    from fertiray.evaluation import bench_tables, results
    from fertiray.scoring.engine import torch_device

    device = torch_device(device)
    with console.stdout_kept_clean():
        if training_memory:
            name, columns, cells = "memory", bench_tables.MEMORY_COLUMNS, bench_tables.memory_cells
            rows = memory.training_memory(device)
        else:
            name, columns, cells = "models", bench_tables.COLUMNS, bench_tables.model_cells
            with console.progress("models", "networks") as report:
                rows = models.bench_models(
                    *(model or models.MEASURED, engine or (), device),
                    seconds=seconds,
                    threads=threads or cores(),
                    report=report,
                )
        if record:
            place = f"bench_{name}" + ("_cuda" if device.startswith("cuda") else "")
            results.record(place, {"rows": rows}, seed=0, data_digest="drawn")
    show(Result(rows, console.table(*columns, rows=[cells(row) for row in rows])), as_json=json)


@app.command("pipeline")
def bench_pipeline(
    model: Annotated[str, typer.Option(help="Network, trained for a moment.")] = "efficientnet_b0",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 128,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead.")] = None,
    crops: Annotated[int, typer.Option(min=1024, help="Crops of a run.")] = 20480,
    rounds: Annotated[int, typer.Option(min=1, help="Ceiling and runs take turns.")] = 3,
    workers: Workers = None,
    engine: Annotated[str, typer.Option(help="How the network is executed.")] = "auto",
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
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
    from fertiray.evaluation import results

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
        if record:
            results.record("bench_pipeline", values, seed=0, data_digest="drawn")
    shown = ("ceiling", "local_rate", "local_ratio", "rate", "ratio", "start_s")
    rows = [[name, f"{values[name]:.4g}"] for name in shown]
    rows += [[f"x {name}", f"{peer['speedup']}"] for name, peer in values["peers"].items()]
    show(Result(values, console.table("measure", "value", rows=rows)), as_json=json)


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
    from fertiray.evaluation import results
    from fertiray.scoring.adaptive import Adaptive

    rates = Adaptive(alpha, beta)
    with console.progress("simulating", "patients") as progress:
        values = run_bench(rates, cohorts=cohorts, crops=crops, seed=seed, progress=progress)
    if record:
        results.record("bench_adaptive", values, seed=seed, data_digest="drawn")
    columns = (
        *("verdict on", "crops come", "not scored (95% CI)"),
        *("verdict not that of all crops", "the same, men close to the boundary"),
    )
    rows = [
        [
            point["verdict_on"],
            point["order"],
            "{:.1%} ({:.1%} to {:.1%})".format(point["saved"], *point["saved_ci"]),
            *(
                "{:.2%} ({:.2%} to {:.2%})".format(own["differs"], *own["differs_ci"])
                for own in (point, point["close"])
            ),
        ]
        for point in values["points"]
    ]
    show(Result(values, console.table(*columns, rows=rows)), as_json=json)


@app.command("scale")
def bench_scale(
    model: Annotated[str, typer.Option(help="Network, trained for a moment.")] = "basic_cnn",
    size: Annotated[int, typer.Option(help="Side of its input in pixels.")] = 64,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint instead.")] = None,
    most: Annotated[int, typer.Option(min=1000, help="Crops of the largest store.")] = 100_000,
    workers: Workers = None,
    engine: Annotated[str, typer.Option(help="How the network is executed.")] = "auto",
    device: Annotated[str, typer.Option(help="torch device.")] = "auto",
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
    from fertiray.evaluation import results
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
        if record:
            results.record("bench_scale", values, seed=0, data_digest="drawn")
        if figures is not None:
            save(scale_figure(values["points"]), str(figures), "scale")
            save(simulation_figure(values["simulation"]), str(figures), "simulation")
    rows = [[str(point[key]) for key in values["points"][0]] for point in values["points"]]
    show(Result(values, console.table(*values["points"][0], rows=rows)), as_json=json)
