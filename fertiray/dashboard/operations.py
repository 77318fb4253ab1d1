"""Operations: what is done, how fast, by what, and what waits."""

from __future__ import annotations

from fertiray.dashboard.panels import (
    Dashboard,
    Panel,
    Query,
    of,
    quantile,
    quantiles,
    rate,
    total,
)

_SCORED, _REJECTED = total("crops_scored_total"), total("crops_rejected_total")

_WAITING = 'state=~"queued|running"'

OPERATIONS = Dashboard(
    "operations",
    "FertiRay: operations",
    (
        Panel(
            "scored",
            "Crops scored",
            "Crops with scores, of all jobs in the time shown.",
            "number",
            "short",
            (Query(f"sum({_SCORED})", "scored"),),
        ),
        Panel(
            "reject_share",
            "Share rejected",
            "Crops without scores among all.",
            "number",
            "percentunit",
            (
                Query(
                    f"sum({_REJECTED} or 0 * {_SCORED}) / (sum({_SCORED})"
                    f" + sum({_REJECTED} or 0 * {_SCORED}))",
                    "rejected",
                ),
            ),
        ),
        Panel(
            "nodes",
            "Nodes",
            "Nodes of the Ray clusters.",
            "number",
            "short",
            (Query("count(last_over_time(ray_node_cpu_count[1m]))", "nodes"),),
        ),
        Panel(
            "throughput",
            "Throughput",
            "Crops scored a second.",
            "lines",
            "suffix: crops/s",
            (Query(f"sum by (kind) ({rate('crops_scored_total')})", "{{kind}}"),),
        ),
        Panel(
            "waiting",
            "Waiting crops",
            "Crops of running jobs that have no result yet.",
            "lines",
            "short",
            (Query(f"sum by (kind) ({of('queue_crops')})", "{{kind}}"),),
        ),
        Panel(
            "rejects",
            "Rejected by stage",
            "Crops without scores, by the stage that failed.",
            "bars",
            "short",
            (Query(f"sum by (stage) ({_REJECTED})", "{{stage}}"),),
        ),
        Panel(
            "batch",
            "Batch latency",
            "Time from a batch that was read to its scores.",
            "lines",
            "s",
            quantiles("batch_seconds"),
        ),
        Panel(
            "stages",
            "Time by stage",
            "Median time of each stage for one batch; writing is for a whole shard.",
            "lines",
            "s",
            (Query(quantile(0.5, "stage_seconds", "stage"), "{{stage}}"),),
        ),
        Panel(
            "engines",
            "Engines",
            "Processes by how they execute networks.",
            "lines",
            "short",
            (Query(f"sum by (engine, device) ({of('engine_info')})", "{{engine}} on {{device}}"),),
        ),
        Panel(
            "busy",
            "Processors in use",
            "Share of the machines' processors in use.",
            "lines",
            "percentunit",
            (
                Query("avg(ray_node_cpu_utilization) / 100", "Ray's nodes"),
                Query(f"avg by (resource) ({of('busy_ratio')})", "{{resource}}, as jobs see it"),
            ),
        ),
        Panel(
            "gpus",
            "GPUs in use",
            "Share of the time in which each GPU works, by node.",
            "lines",
            "percentunit",
            (
                Query(
                    "avg by (ip, GpuIndex) (ray_node_gpus_utilization) / 100",
                    "{{ip}} {{GpuIndex}}",
                ),
            ),
            gpu=True,
        ),
        Panel(
            "age",
            "Age of running jobs",
            "Time since the oldest running job of each kind was started.",
            "lines",
            "s",
            (
                Query(
                    f"time() - min by (kind) ({of('job_started_timestamp_seconds')} > 0)",
                    "{{kind}}",
                ),
            ),
        ),
        Panel(
            "silence",
            "Since the last progress",
            "Time since a running job of each kind got something done.",
            "lines",
            "s",
            (
                Query(
                    f"time() - max by (kind) ({of('job_progress_timestamp_seconds')} > 0)",
                    "{{kind}}",
                ),
            ),
        ),
        Panel(
            "jobs",
            "Jobs that ended",
            "By kind and outcome; refused is unusable input.",
            "bars",
            "short",
            (
                Query(
                    f"sum by (kind, outcome) ({total('jobs_ended_total')})", "{{kind}} {{outcome}}"
                ),
            ),
        ),
        Panel(
            "answers",
            "Answer time by route",
            "99th percentile of the service's answers.",
            "lines",
            "s",
            (Query(quantile(0.99, "request_seconds", "route"), "{{route}}"),),
        ),
        Panel(
            "requests",
            "Requests by status",
            "Answers of the service a second.",
            "lines",
            "reqps",
            (Query(f"sum by (status) ({rate('request_seconds', suffix='_count')})", "{{status}}"),),
        ),
        Panel(
            "service_jobs",
            "Jobs of the service",
            "Jobs that wait or are worked on.",
            "lines",
            "short",
            (Query(f"max by (state) ({of('service_jobs', _WAITING)})", "{{state}}"),),
        ),
        Panel(
            "service_ages",
            "Oldest job of the service",
            "Age of the oldest job in each state.",
            "lines",
            "s",
            (Query(f"max by (state) ({of('service_job_age_seconds')})", "{{state}}"),),
        ),
    ),
)
