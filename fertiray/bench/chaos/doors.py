"""The doors that files come in by, tried in a process that may die of them.

``python -m fertiray.bench.chaos.doors DOOR FOLDER SEED FIRST STOP`` prints ``open``, after a first
attempt that is not counted ``ready``, and then a line of JSON for each attempt, which
:mod:`fertiray.bench.chaos.files` reads. What must not happen is
counted as ``wrong`` or ends the process: an exception that is no answer is a crash like any other.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np

from fertiray.bench.chaos.archives import LIMITS, archive
from fertiray.bench.chaos.bombs import bombs, largest
from fertiray.bench.chaos.mutate import hostile, samples
from fertiray.bench.chaos.outcome import Attempt, Outcome
from fertiray.data import crops
from fertiray.data.images import CROP, REASONS, ImageError, decode
from fertiray.data.ingest import ingest
from fertiray.errors import InputError

TREE = 100  # files of a folder for ingest
ODD_NAMES = (
    b"\xff\xfe.png",
    b"-rf.png",
    "b\u0308 \u202e.png".encode(),
    b"new\nline.png",
    b"=1.png",
)


@contextmanager
def decoding(folder: Path, seed: int) -> Iterator[Attempt]:
    """One image through ``decode``."""
    del folder
    whole = {name: decode(data) for name, data in samples().items()}

    def attempt(number: int) -> Outcome:
        file = hostile(number, seed)
        found = Outcome(kinds=Counter([file.kind]))
        try:
            image = decode(file.data, name=file.name, limits=CROP)
        except ImageError as error:
            found.rejects[error.reason] += 1
            found.check(error.reason in REASONS, f"reason {error.reason}")
            found.check("\n" not in str(error), "a reason of several lines")
            return found
        found.pictures += 1
        found.check(image.dtype == np.uint8 and image.shape[2:] == (3,), "no RGB picture")
        found.check(0 < image.shape[0] * image.shape[1] <= CROP.max_pixels, "a size out of bounds")
        if file.kind == "truncated":
            found.check(np.array_equal(image, whole[file.source]), "a part passed for the whole")
        return found

    yield attempt


@contextmanager
def ingesting(folder: Path, seed: int) -> Iterator[Attempt]:
    """A folder of images, with links, pipes and odd names among them, through ``ingest``."""
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret.png").write_bytes(samples()["png-RGB"])

    def attempt(number: int) -> Outcome:
        tree, store = folder / "tree", folder / "store"
        for old in (tree, store):
            shutil.rmtree(old, ignore_errors=True)
        files = [hostile(number * TREE + place, seed) for place in range(TREE)]
        for place, file in enumerate(files):
            slide = tree / f"P{place % 3}" / f"S{place % 2}"
            slide.mkdir(parents=True, exist_ok=True)
            odd = place < len(ODD_NAMES)
            name = os.fsdecode(ODD_NAMES[place]) if odd else file.name
            (slide / name).write_bytes(file.data)
        nasty = _nasty(tree / "P0", outside)
        found = Outcome(TREE + nasty, Counter(file.kind for file in files))
        found.kinds["no regular file"] += nasty
        counts = ingest(str(tree), str(store))
        rows = list(crops.iter_rows(str(store), ["crop_id", "image", "width"]))
        found.pictures = sum(row["width"] is not None for row in rows)
        found.rejects.update(counts["rejected_by_reason"])
        found.check(counts["files"] == TREE + nasty, f"{counts['files']} files seen")
        found.check(
            Counter(row["image"] for row in rows) == Counter(file.data for file in files),
            "bytes in the store that are not those of the files",
        )
        found.check(len({row["crop_id"] for row in rows}) == TREE, "two crops of one id")
        found.check(
            counts["rejected"] == nasty + TREE - found.pictures,
            f"{counts['rejected']} rejects for {nasty + TREE - found.pictures}",
        )
        return found

    yield attempt


def _nasty(folder: Path, outside: Path) -> int:
    """Adds what is no regular file; how many of them are to be rejects."""
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "out").symlink_to(outside)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "round.png").symlink_to("round.png")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.png")
    return 6


@contextmanager
def unpacking(folder: Path, seed: int) -> Iterator[Attempt]:
    """An archive through what the service makes of an upload: unpacked and ingested."""
    from fertiray.serving import archives
    from fertiray.serving.tables import parquet_to_store

    def crops_of(place: Path) -> int:
        if archives.kind_of(place / "upload") == "parquet":
            store = str(place / "store")
            return parquet_to_store(place / "upload", store, LIMITS, lambda: None).files
        archives.unpack(place / "upload", place / "tree", LIMITS, going=lambda: None)
        return int(ingest(str(place / "tree"), str(place / "store"))["crops"])

    def attempt(number: int) -> Outcome:
        sent = archive(number, seed)
        place = folder / "archive"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "upload").write_bytes(sent.data)
        found = Outcome(kinds=Counter([sent.kind]))
        try:
            taken = crops_of(place)
        except InputError as error:
            found.answers["refused"] += 1
            found.check(sent.verdict != "accepted", f"refused: {error}")
            found.check("\n" not in str(error), "a reason of several lines")
        else:
            found.answers["accepted"] += 1
            found.check(sent.verdict != "refused", "accepted")
            found.check(sent.verdict == "either" or taken == sent.images, f"{taken} crops")
        inside = {"stderr", "archive", "upload", "tree", "store"}
        for path in folder.rglob("*"):
            top = set(path.relative_to(folder).parts[:2])
            found.check(top <= inside and not path.is_symlink(), f"left behind {path.name!r}")
        return found

    yield attempt


Opened = Callable[[Path, int], AbstractContextManager[Attempt]]
DOORS: dict[str, Opened] = {
    "decode": decoding,
    "ingest": ingesting,
    "unpack": unpacking,
}


def _door(name: str) -> Opened:
    if name in DOORS:
        return DOORS[name]
    # Its imports take seconds, which the others need not wait for.
    from fertiray.bench.chaos import endpoint

    return {"score": endpoint.scoring, "jobs": endpoint.working}[name]


def _memory_mb() -> tuple[float, float]:
    """Resident memory of this process, now and at most so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    values = {name: rest for name, _, rest in (line.partition(":") for line in status)}
    now, most = (int(values[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def main(door: str, folder: str, seed: int, first: int, stop: int) -> None:
    """Tries a door, and says what became of each attempt."""
    with _door(door)(Path(folder), seed) as attempt:
        print("open", flush=True)
        bombs(), largest()
        attempt(first)  # caches and lazily loaded parts are no memory of the files'
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the most so far begins anew
        start, _ = _memory_mb()
        print("ready", flush=True)
        for number in range(first, stop):
            began = time.process_time()
            found = vars(attempt(number))
            cost = {"cpu_s": time.process_time() - began, "peak_mb": _memory_mb()[1] - start}
            print(json.dumps({"number": number, **found, **cost}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:6]))
