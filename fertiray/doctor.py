"""``fertiray doctor``: what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fertiray import provenance
from fertiray.models.weights import LOCAL_FILES

MODULES = {
    "torch": "pip install torch",
    "torchvision": "pip install torchvision",
    "timm": "pip install timm",
    "cv2": "pip install opencv-python; on Debian also apt-get install libgl1 libglib2.0-0",
    "ray": "pip install 'ray[data,train,tune,serve]' (needed for all but --local)",
    "pyarrow": "pip install pyarrow",
    "polars": "pip install polars",
    "s3fs": "pip install s3fs",
    "prometheus_client": "pip install prometheus-client",
}
# What runs of this project use: Ray's head, dashboard, client and Serve's HTTP door.
PORTS = {6379: "Ray head", 8265: "Ray dashboard and jobs", 10001: "Ray client", 8000: "Ray Serve"}
DATA_SETS = ("hushem", "smids", "hungvuong", "smear_fields")
NEEDED_DISK_GB = 5


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was looked at.
        state: ``ok``, ``note`` (optional, absent) or ``missing``.
        found: what is there.
        remedy: what to do, empty where all is well.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def examine() -> dict[str, Any]:
    """``ok`` and ``checks``: everything that a run of FertiRay rests on."""
    checks = [
        *_python(),
        *_modules(),
        *_devices(),
        *_disk(),
        *_data(),
        *_weights(),
        *_ports(),
    ]
    return {
        "ok": all(check.state != "missing" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _python() -> Iterator[Check]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    version = ".".join(str(part) for part in sys.version_info[:3])
    remedy = "" if good else "use Python 3.11 or 3.12"
    yield Check("python", "ok" if good else "missing", version, remedy)


def _modules() -> Iterator[Check]:
    versions = provenance.versions()
    for module, remedy in MODULES.items():
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            yield Check(module, "missing", str(error), remedy)
            continue
        version = getattr(loaded, "__version__", versions.get(module, "installed"))
        yield Check(module, "ok", str(version))


def _devices() -> Iterator[Check]:
    machine = provenance.machine()
    yield Check("processor", "ok", f"{machine['cores']} cores, {machine['processor']}")
    gpu = machine.get("gpu")
    if gpu:
        yield Check("gpu", "ok", str(gpu))
    else:
        yield Check("gpu", "note", "none", "everything runs on the CPU; a GPU is faster")


def _disk() -> Iterator[Check]:
    for name, place in (("disk here", Path.cwd()), ("disk for Ray", _temporary())):
        free = shutil.disk_usage(place).free / 2**30
        state = "ok" if free >= NEEDED_DISK_GB else "missing"
        remedy = "" if state == "ok" else f"free {NEEDED_DISK_GB} GB there"
        yield Check(name, state, f"{free:.0f} GB free", remedy)
    memory = _shared_memory()
    if memory is not None and memory < 1:
        remedy = "give the container more, such as --shm-size=4g"
        yield Check("shared memory", "note", f"{memory:.2f} GB in /dev/shm", remedy)


def _temporary() -> Path:
    return Path(os.environ.get("RAY_TMPDIR", "/tmp" if os.name == "posix" else "."))


def _shared_memory() -> float | None:
    place = Path("/dev/shm")
    return shutil.disk_usage(place).total / 2**30 if place.is_dir() else None


def _data() -> Iterator[Check]:
    folder = os.environ.get("FERTIRAY_DATA")
    if not folder:
        remedy = "set FERTIRAY_DATA to a folder with " + ", ".join(DATA_SETS)
        yield Check("real image sets", "note", "FERTIRAY_DATA is not set", remedy)
        return
    found = [name for name in DATA_SETS if (Path(folder) / name).is_dir()]
    absent = [name for name in DATA_SETS if name not in found]
    yield Check(
        "real image sets",
        "note" if absent else "ok",
        ", ".join(found) or "none",
        f"not in {folder}: {', '.join(absent)}" if absent else "",
    )


def _weights() -> Iterator[Check]:
    folder = os.environ.get("FERTIRAY_WEIGHTS")
    if not folder:
        yield Check(
            "pretrained weights",
            "note",
            "FERTIRAY_WEIGHTS is not set: they come from timm's hub",
            "without internet, set it to a folder with " + ", ".join(LOCAL_FILES.values()),
        )
        return
    found = [name for name, file in LOCAL_FILES.items() if (Path(folder) / file).is_file()]
    state, remedy = ("ok", "") if found else ("missing", f"none in {folder}: correct the path")
    yield Check("pretrained weights", state, ", ".join(found) or "none", remedy)


def _ports() -> Iterator[Check]:
    for port, use in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(0.2)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        found = "in use" if taken else "free"
        remedy = f"a cluster may be running; else stop what listens on {port}" if taken else ""
        yield Check(f"port {port} ({use})", "note" if taken else "ok", found, remedy)
