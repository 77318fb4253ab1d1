"""From a folder to patients: every file is counted once, whatever it is and however it is cut."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fertiray.data.crops import SCHEMA, iter_batches, row_groups
from fertiray.data.images import encode_png
from fertiray.data.ingest import ingest
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally


def picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return encode_png(rng.integers(0, 256, (20 + number % 7, 24, 3), np.uint8))


BLANK = encode_png(np.full((20, 20, 3), 200, np.uint8))
# By kind of file: the ending of its name, its bytes, and whether it can be scored.
KINDS = {
    "whole": lambda n: (".png", picture(n), True),
    "the same again": lambda n: (".png", picture(0), True),
    "cut short": lambda n: (".png", picture(n)[:-20], False),
    "empty": lambda n: (".png", b"", False),
    "no image": lambda n: (".txt", b"a note", False),
    "mislabelled": lambda n: (".jpg", picture(n), None),  # refused by its name, not by its bytes
    "blank": lambda n: (".png", BLANK, False),
}
places = st.tuples(st.sampled_from(["A", "B", "C"]), st.sampled_from(["s1", "s2"]))
cohorts = st.lists(st.tuples(places, st.sampled_from(sorted(KINDS))), min_size=1, max_size=30)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cohort=cohorts, group=st.integers(1, 9), workers=st.integers(1, 3))
def test_files_are_scored_or_rejected_and_the_cut_does_not_matter(
    tmp_path_factory, zona_checkpoint, cohort, group, workers
):
    folder: Path = tmp_path_factory.mktemp("counts")
    scored, rejected = Counter(), Counter()
    for number, ((patient, slide), kind) in enumerate(cohort):
        suffix, data, good = KINDS[kind](number)
        place = folder / "in" / patient / slide / f"{number}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        # Scoring sees bytes without a name, so a wrong ending alone costs nothing.
        (rejected if good is False else scored)[patient] += 1
    store = str(folder / "store")
    counts = ingest(str(folder / "in"), store)
    assert counts["files"] == counts["crops"] == len(cohort)
    tables = []
    for cut in (store, recut(store, folder / "recut", group)):
        job = ScoringJob(cut, (zona_checkpoint,), f"{cut}-run", engine="eager")
        result = score(job, score_locally, workers=workers)
        assert result["rows_in"] == len(cohort) == result["scored"] + result["rejected"]
        assert result["scored"] == scored.total()
        tables.append(pl.read_parquet(f"{cut}-run/patients.parquet"))
    assert_frame_equal(*tables)
    found = {row["patient_id"]: row for row in tables[0].to_dicts()}
    assert {*found} == {*scored, *rejected}
    for patient, row in found.items():
        assert (row["n_scored"], row["n_rejected"]) == (scored[patient], rejected[patient])
        assert row["n_positive"] <= row["n_scored"]
        assert (row["verdict"] == "no result") == (not scored[patient])


def recut(store: str, to: Path, rows: int) -> str:
    """The same crops, the last first, in row groups of another size."""
    batches = itertools.chain.from_iterable(iter_batches(store, own) for own in row_groups(store))
    table = pa.Table.from_batches(batches, SCHEMA)
    to.mkdir()
    turned = table.take(list(reversed(range(len(table)))))
    pq.write_table(turned, to / "part-00000.parquet", row_group_size=rows)
    return str(to)
