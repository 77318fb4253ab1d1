"""Which shards an adaptive run looks at, round by round, and which patients are decided.

A round is a set of shards that go to the workers together; the question of
:mod:`fertiray.scoring.adaptive` is asked between rounds. A patient's slides take turns, and the
shards of a slide come in a random order that the patient's id seeds. The first round takes one
shard of each slide, every later one as many as have been taken before: few rounds, and at most
about twice the crops that were needed.

All of it follows from the store and from scores of earlier rounds, never from the time or order in
which shards are finished. So a run that is taken up again takes the same shards.

A shard may hold crops of several patients. It is skipped only where all of them are decided; a
patient who is decided may so get further crops scored, and those count.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest

import numpy as np
import polars as pl

from fertiray import parquet, storage
from fertiray.data.crops import RowGroup, read_row_group
from fertiray.scoring.adaptive import Adaptive, settled
from fertiray.scoring.aggregate import PLACE, Aggregates, VerdictOn, count_labels
from fertiray.scoring.verdicts import ModelInfo

READERS = 8

Place = tuple[str, str]  # patient, slide
# Positive and scored crops by patient, slide and model.
Counts = Mapping[tuple[str, str, str], tuple[int, int]]


class Rounds:
    """Hands out shards until every patient is decided or has none left.

    Args:
        layout: crops by patient and slide, one mapping a shard.
        models: every model's question has to be decided.
        rates: the error rates.
        verdict_on: what the verdict follows.

    Attributes:
        looked_at: numbers of the shards handed out so far.
        skipped: crops by patient (all of them) in shards that nobody asks for any more.
    """

    def __init__(
        self,
        layout: Sequence[Mapping[Place, int]],
        models: Sequence[ModelInfo],
        rates: Adaptive,
        verdict_on: VerdictOn,
    ) -> None:
        self._layout, self._models = layout, models
        self._rates, self._verdict_on = rates, verdict_on
        self._order = _orders(layout)
        self._slides: dict[str, list[str]] = defaultdict(list)
        self._unseen: Counter[Place] = Counter()
        for place in sorted({place for shard in layout for place in shard}):
            self._slides[place[0]].append(place[1])
        for shard in layout:
            self._unseen.update(shard)
        self._counts: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._undecided = list(self._slides)
        self.skipped = dict.fromkeys(self._slides, 0)
        self.looked_at: set[int] = set()
        self._round = 0

    def next(self) -> list[int]:
        """Numbers of the shards to look at now, in order; none at the end."""
        self._undecided = [name for name in self._undecided if not self._settled(name)]
        self._count_skipped()
        batch: set[int] = set()
        while self._undecided and not batch:
            for name in self._undecided:
                reach = len(self._slides[name]) << self._round
                batch.update(self._order[name][:reach])
            batch -= self.looked_at
            self._round += 1
        self.looked_at |= batch
        return sorted(batch)

    def add(self, shard: int, counts: Counts) -> None:
        """Takes in what was found in a shard that was handed out."""
        self._unseen.subtract(self._layout[shard])
        for key, (positive, scored) in counts.items():
            before = self._counts.get(key, (0, 0))
            self._counts[key] = (before[0] + positive, before[1] + scored)

    def _count_skipped(self) -> None:
        undecided = set(self._undecided)
        self.skipped = dict.fromkeys(self._slides, 0)
        for number, shard in enumerate(self._layout):
            wanted = any(name in undecided for name, _ in shard)
            if number not in self.looked_at and not wanted:
                for (name, _), crops in shard.items():
                    self.skipped[name] += crops

    def _settled(self, name: str) -> bool:
        slides = self._slides[name]
        unseen = [self._unseen[name, slide] for slide in slides]
        for model in self._models:
            counts = [self._counts.get((name, slide, model.name), (0, 0)) for slide in slides]
            positive, scored = ([count[part] for count in counts] for part in (0, 1))
            if not settled(positive, scored, unseen, model, self._rates, self._verdict_on):
                return False
        return True


def _orders(layout: Sequence[Mapping[Place, int]]) -> dict[str, list[int]]:
    """By patient all shards with crops of theirs, in the order in which they are taken.

    A shard is counted to the slide of which it holds most.
    """
    shards: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, shard in enumerate(layout):
        own: dict[str, Counter[str]] = defaultdict(Counter)
        for (name, slide), crops in shard.items():
            own[name][slide] = crops
        for name, slides in own.items():
            shards[name][slides.most_common(1)[0][0]].append(number)
    orders = {}
    for name, by_slide in shards.items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        mixed = [random.permutation(by_slide[slide]).tolist() for slide in sorted(by_slide)]
        turns = chain.from_iterable(zip_longest(*mixed))
        orders[name] = [number for number in turns if number is not None]
    return orders


def read_layout(store: str, groups: Sequence[RowGroup]) -> list[dict[Place, int]]:
    """Crops by patient and slide in every row group; reads these two columns only.

    Raises:
        InputError: as :func:`fertiray.data.crops.iter_batches`.
    """

    def places(group: RowGroup) -> dict[Place, int]:
        rows = read_row_group(store, group, PLACE)
        return Counter(zip(*(rows.column(name).to_pylist() for name in PLACE), strict=True))

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(places, groups))


def read_counts(out: str, shard: str, models: Mapping[str, ModelInfo]) -> Counts:
    """What a run folder holds of a shard that is done."""
    place = storage.join(out, "scores", f"{shard}.parquet")
    labels = count_labels(parquet.read(place, [*PLACE, "model", "label"]))
    found: dict[tuple[str, str, str], tuple[int, int]] = {}
    columns = (*PLACE, "model", "label", "n")
    for name, slide, model, label, crops in labels.select(columns).iter_rows():
        positive, scored = found.get((name, slide, model), (0, 0))
        hit = crops if label == models[model].positive else 0
        found[name, slide, model] = (positive + hit, scored + crops)
    return found


def with_skipped(tables: Aggregates, skipped: Mapping[str, int]) -> Aggregates:
    """The tables with a column ``n_skipped`` for patients: crops that were not looked at."""
    patients, names = tables.patients, list(skipped)
    column = pl.col("patient_id").replace_strict(
        names, list(skipped.values()), return_dtype=pl.Int64
    )
    place = patients.columns.index("n_rejected") + 1
    patients = patients.insert_column(place, patients.select(n_skipped=column).to_series())
    return dataclasses.replace(tables, patients=patients)
