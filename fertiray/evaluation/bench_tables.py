"""Benchmarks of networks as cells of a table, for the terminal and for README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fertiray.evaluation.tables import markdown

COLUMNS: tuple[str, ...] = (
    *("network", "parameters, M", "GMACs", "engine", "images/s", "batch", "x eager (range)"),
    *("one image, ms: mean ± sd (min to max)", "share of GEMM peak", "paper"),
)
MEMORY_COLUMNS: tuple[str, ...] = ("passes", "backward", "kept, MB an image", "peak of a step, MB")
ADAPTIVE_COLUMNS: tuple[str, ...] = (
    *("verdict on", "crops come in", "not scored (95% CI)"),
    *("verdict not that of all crops", "the same, men near a boundary"),
)
PIPELINE_MEASURES = ("ceiling", "local_rate", "local_ratio", "rate", "ratio", "start_s")
SERVE_MEASURES = (
    *("rate", "score_rate", "ratio_to_score", "batch1_ms", "capacity_per_s"),
    *("p50_ms", "p95_ms", "p99_ms", "p99_over_batch1", "alone_p99_ms", "errors"),
)


def model_cells(row: dict[str, Any]) -> list[str]:
    """The cells of :data:`COLUMNS`.

    Args:
        row: of :func:`fertiray.bench.models.bench_models`.
    """
    head = [row["name"], f"{row['params'] / 1e6:.3f}", f"{row['gmacs']:.2f}", row["engine"]]
    if row["failed"] is not None:
        return [*head, row["failed"], *[""] * (len(COLUMNS) - len(head) - 1)]
    times = row["latency_ms"]
    low, high = row["ratio_range"]
    is_reference = row["engine"] == "eager"
    return [
        *head,
        f"{row['throughput']:.3g}",
        str(row["batch"]),
        "1" if is_reference else f"{row['ratio_to_eager']:.2f} ({low:.2f} to {high:.2f})",
        f"{times['mean']:.3g} ± {times['sd']:.2g} ({times['min']:.3g} to {times['max']:.3g})",
        f"{row['peak_share']:.0%} of {row['arithmetic']}",
        paper_cell(row["paper"]) if is_reference else "",
    ]


def paper_cell(paper: dict[str, Any]) -> str:
    """What a paper prints of a network's cost, in one line; empty for nothing."""
    parts = []
    if "params" in paper:
        parts.append(f"{paper['params'] / 1e6:.7g} M parameters")
    if "gmacs" in paper:
        parts.append(f"{paper['gmacs']:g} GMACs")
    if "latency_ms" in paper:
        spread = f" ± {paper['latency_ms_sd']:g}" if "latency_ms_sd" in paper else ""
        if "latency_ms_min" in paper:
            spread += f" ({paper['latency_ms_min']:g} to {paper['latency_ms_max']:g})"
        parts.append(f"{paper['latency_ms']:g}{spread} ms")
    if "images_per_s" in paper:
        parts.append(f"{paper['images_per_s']:g} images/s")
    return f"{', '.join(parts)}; {paper['protocol']}" if parts else ""


def memory_cells(row: dict[str, Any]) -> list[str]:
    """The cells of :data:`MEMORY_COLUMNS`.

    Args:
        row: of :func:`fertiray.bench.memory.training_memory`.
    """
    ways = {True: "rebuilds the maps", False: "stored maps", None: "no sequence"}
    peak = row["peak_mb"]
    return [
        str(row["passes"]),
        ways[row["recompute"]],
        f"{row['kept_mb']:.1f}",
        "–" if peak is None else f"{peak:.0f}",
    ]


def models_bench_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench models``: its ``rows``."""
    rows = result["rows"]
    measured = [row for row in rows if row["failed"] is None]
    peaks = {
        kind: max(row["peak_gmacs_per_s"] for row in measured if row["arithmetic"] == kind)
        for kind in dict.fromkeys(row["arithmetic"] for row in measured)
    }
    told = ", ".join(f"{kind} {rate:.4g}" for kind, rate in peaks.items())
    threads = f"{rows[0]['threads']} threads. " if rows[0]["device"] == "cpu" else ""
    table = markdown(list(COLUMNS), [model_cells(row) for row in rows])
    return f"{table}\n{threads}GEMM peak, 10^9 multiply-adds a second: {told}.\n"


def memory_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench models --training-memory``: its ``rows``."""
    return markdown(list(MEMORY_COLUMNS), [memory_cells(row) for row in result["rows"]])


def measures(result: dict[str, Any], shown: Sequence[str]) -> list[list[str]]:
    """Name and value of a result's plain numbers.

    Args:
        result: of a benchmark.
        shown: its fields, in this order; one that is None or missing is left out.
    """
    found = [(name, result.get(name)) for name in shown]
    return [[name.replace("_", " "), f"{value:.4g}"] for name, value in found if value is not None]


def measures_table(result: dict[str, Any], shown: Sequence[str]) -> str:
    """Markdown of :func:`measures`."""
    return markdown(["measure", "value"], measures(result, shown))


def pipeline_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench pipeline``: every way to score, beside the ceiling."""
    top = result["ceiling"]
    # Ours are medians of each round's own ratio; the others ran once, after the rounds.
    ways = [
        ["ceiling", top, 1.0, None, ""],
        ["fertiray, --local", result["local_rate"], result["local_ratio"], None, ""],
    ]
    if result["rate"] != result["local_rate"]:
        ways.append(["fertiray, on Ray", result["rate"], result["ratio"], None, ""])
    for name, peer in result["peers"].items():
        share = None if peer["rate"] is None else peer["rate"] / top
        told = [name.replace("_", " "), peer["rate"], share, peer["speedup"]]
        ways.append([*told, peer.get("version")])
    rows = []
    for name, rate, share, speedup, version in ways:
        known = rate is not None
        rows.append(
            [
                f"{name} ({version})" if version else name,
                f"{rate:.0f}" if known else "not measured",
                f"{share:.2f}" if known else "",
                f"{speedup:.1f}" if speedup else "",
            ]
        )
    table = markdown(["way", "crops/s", "of the ceiling", "fertiray is faster by"], rows)
    return (
        f"{table}\n{result['model']}, engine {result['engine']}, {result['workers']} workers,"
        f" {result['crops']} crops, medians of {len(result['rounds'])} rounds; one core decodes"
        f" {result['decode_per_core']:.0f} and resizes {result['preprocess_per_core']:.0f} crops/s,"
        f" all run the network on {result['model_rate']:.0f}; start-up {result['start_s']:.1f} s.\n"
    )


def scale_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench scale``: measured points, then simulated ones."""
    points = result["points"]
    head = ("crops", "workers", "seconds", "start_s", "crops_per_s", "peak_rss_mb")
    rows = [[str(point[key]) for key in head] for point in points]
    measured = markdown([key.replace("_", " ") for key in head], rows)
    simulated = [
        [
            str(point["gpus"]),
            f"{point['rate']:.0f}",
            point["bottleneck"],
            f"{point['utilisation']:.0%}",
            f"{point['done_s']['p50'] / 3600:.1f}",
            f"{point['done_s']['p95'] / 3600:.1f}",
            f"{point['finish_h']:.1f}",
        ]
        for point in result["simulation"]["points"]
    ]
    own = result["simulation"]
    unit = f"{own['cluster']['cores_per_gpu']} cores" if own["cluster"]["model_on_cores"] else "GPU"
    columns = [
        *(f"times {unit}", "crops/s", "limit", "in use"),
        *("result after, h (median)", "95%", "last result, h"),
    ]
    return (
        f"{measured}\nSimulated from these rates: {own['clinics']} clinics x {own['patients']}"
        f" patients x {own['crops']} crops in a day of {own['working_hours']:g} hours.\n\n"
        f"{markdown(columns, simulated)}"
    )


def serve_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench serve``."""
    table = measures_table(result, SERVE_MEASURES)
    for name, peer in result["peers"].items():
        rows = [
            [bound, *("–" if held[k] is None else f"{held[k]:.3g}" for k in ("ours", "theirs"))]
            for bound, held in peer["held"].items()
        ]
        table += "\n" + markdown(["requests/s held within", "fertiray", name], rows)
    return table


def adaptive_cells(point: dict[str, Any]) -> list[str]:
    """The cells of :data:`ADAPTIVE_COLUMNS`.

    Args:
        point: of :func:`fertiray.bench.adaptive.bench_adaptive`.
    """
    return [
        point["verdict_on"],
        point["order"],
        "{:.1%} ({:.1%} to {:.1%})".format(point["saved"], *point["saved_ci"]),
        *(f"{own['differs_n']} of {own['patients']}" for own in (point, point["close"])),
    ]


def adaptive_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench adaptive``."""
    rows = [adaptive_cells(point) for point in result["points"]]
    rates = result["rates"]
    table = markdown(list(ADAPTIVE_COLUMNS), rows)
    return (
        f"{table}\nSimulated: {result['cohorts']} cohorts of 117 men with"
        f" {result['crops']} crops each, alpha {rates['alpha']:g}, beta {rates['beta']:g}.\n"
    )
