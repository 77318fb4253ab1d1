"""What made a result: versions, machine, code and time, in one readable record."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "fertiray",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "opencv-python",
    "pillow",
    "pyarrow",
    "polars",
    "s3fs",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Version of Python and of every package that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str | int]:
    """Processor, cores available to this process and GPU, without host name or user."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": cores or 1,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def commit() -> str | None:
    """The git commit of the code that runs, with ``+`` where the tree has changes, if known."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("FERTIRAY_COMMIT")
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        # What a run records does not change the code that ran.
        code = ("--", ".", ":!dashboards/results", ":!README.md")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", *code)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty else "")


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """The command line that runs, without this machine's places.

    The program's path is shortened to its name, and the folders of data and weights to the
    variables that name them.
    """
    line = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    for variable in ("FERTIRAY_DATA", "FERTIRAY_WEIGHTS"):
        if folder := os.environ.get(variable):
            line = line.replace(folder, f"${variable}")
    return line
