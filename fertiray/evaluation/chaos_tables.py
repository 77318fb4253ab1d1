"""What came of ``bench chaos``, as cells of a table, for the terminal and for README."""

from __future__ import annotations

from typing import Any

from fertiray.evaluation.tables import markdown

CHAOS_COLUMNS = ("fault", "times", "what came of it")
COMMANDS = ("score", "train", "segment", "tune")
STOPS = ("outage", "vanished", "expired", "truncated", "other_columns")


def chaos_cells(part: str, values: dict[str, Any]) -> list[list[str]]:
    """The rows of :data:`CHAOS_COLUMNS` for one part.

    Args:
        part: of :data:`fertiray.bench.chaos.parts.PARTS`.
        values: its figures.
    """
    if part in COMMANDS:
        return [
            [f"`fertiray {part}`: {kind}", str(own["moments"]), _resumed(own)]
            for kind, own in values["kinds"].items()
        ]
    return {"storage": _storage, "files": _files, "load": _load}[part](values)


def chaos_table(result: dict[str, Any]) -> str:
    """Markdown of a result of ``bench chaos``: its ``rows``, one a part."""
    rows = [cells for row in result["rows"] for cells in chaos_cells(row["name"], row["result"])]
    return markdown(list(CHAOS_COLUMNS), rows)


def _resumed(own: dict[str, Any]) -> str:
    after = own["seconds_to_finish"]
    parts = [
        f"{own['finished']} finished",
        *(f"{own[key]} rows {key}" for key in ("lost", "duplicated") if key in own),
        f"{own['differing']} different",
        f"at most {own['most_recomputed']} finished pieces done again",
    ]
    if own["hangs"] or own["orphans"] or own["wrong_ends"]:
        parts.append(
            f"{own['hangs']} hung, {own['orphans']} processes left, {len(own['wrong_ends'])} did"
            " not end as promised"
        )
    if after is not None:
        parts.append(f"done {after:.0f} s after the command was given again")
    return "; ".join(parts)


def _storage(values: dict[str, Any]) -> list[list[str]]:
    faulty, place = values["faulty"], "S3, Ray" if values["on_ray"] else "S3"
    kinds = ", ".join(f"{count} {kind}" for kind, count in faulty["faults"].items())
    rows = [
        [
            f"{place}: {values['share']:.0%} of the requests spoilt ({kinds})",
            str(faulty["requests"]),
            f"{'same rows' if faulty['equal'] else 'OTHER ROWS'}; {faulty['lost']} lost,"
            f" {faulty['duplicated']} duplicated; {faulty['seconds']:.0f} s, undisturbed"
            f" {faulty['undisturbed_s']:.0f}",
        ]
    ]
    for name in STOPS:
        own = values[name]
        text = f"exit code {own['exit']}, one line, after {own['seconds']:.0f} s"
        if again := own.get("again"):
            same = "same rows" if again["equal"] else "OTHER ROWS"
            text += f"; the same command again: exit code {again['exit']}, {same}"
        rows.append([f"{place}: {name.replace('_', ' ')}", "1", text])
    return rows


def _files(values: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"hostile files: {name}",
            str(own["files"]),
            f"{own['crashes']} crashes, {own['hangs']} hangs, {own['wrong']} wrong answers; memory"
            f" {own['peak_mb']:.0f} MB over the start at most (limit {own['limit_mb']:.0f})",
        ]
        for name, own in values["doors"].items()
    ]


def _load(values: dict[str, Any]) -> list[list[str]]:
    soak, over = values["soak"], values["overload"]
    growth = soak["growth"]
    calm = over["recovery_s"]
    return [
        [
            f"{soak['seconds']:.0f} s of jobs and requests",
            f"{soak['jobs']} jobs, {soak['requests']} requests",
            f"{soak['failed_jobs']} jobs and {soak['errors']} requests failed; p99"
            f" {soak['p99_ms']:.0f} ms; from the second quarter to the last memory"
            f" {growth['rss_mb']:+.1%}, open files {growth['descriptors']:+.1%}, processes"
            f" {growth['processes']:+.1%}",
        ],
        [
            "ten times too many requests",
            str(over["requests"]),
            f"{over['answered']} answered, {over['refused']} refused with a time to come back,"
            f" {over['errors']} errors; calm after {'NO' if calm is None else f'{calm:.1f}'} s",
        ],
        [
            "twice as many jobs as may wait",
            str(over["jobs_sent"]),
            f"{over['jobs_accepted']} accepted, {over['crops_lost']} of their crops lost",
        ],
    ]
