"""Splits: stratified, seeded, no group on both sides, and the same wherever they are made."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertiray import storage
from fertiray.data.labelled import Excluded, LabelledCrops
from fertiray.data.splits import (
    PARTS,
    Parts,
    folds,
    join_groups,
    load_split,
    save_split,
    three_parts,
)
from fertiray.errors import InputError


def of(parts: Parts) -> list[np.ndarray]:
    return [getattr(parts, name) for name in PARTS]


def test_items_that_share_any_key_are_one_group():
    # By hand: 0-1 share patient a, 1-3 share pixels x, so 0, 1, 3 are one; 2 and 4 stand alone.
    groups = join_groups(["a", "a", None, "b", None], ["w", "x", "y", "x", "z"])
    assert groups[0] == groups[1] == groups[3]
    assert len({groups[0], groups[2], groups[4]}) == 3


def test_the_embryo_papers_sizes():
    """The paper: 640 / 80 / 81 of 801, 546 / 94 by class in training and 69 / 12 in the test."""
    labels = np.repeat([0, 1], [546 + 69 + 68, 94 + 12 + 12])
    found = of(three_parts(labels, np.arange(801), validation=0.1, test=0.1, seed=7))
    assert [np.bincount(labels[part]).tolist() for part in found] == [[546, 94], [68, 12], [69, 12]]


def test_the_sperm_papers_sizes():
    """70 / 15 / 15 of HuSHeM's 216: its test set has 33 images."""
    labels = np.repeat([0, 1, 2, 3], [54, 53, 57, 52])
    found = of(three_parts(labels, np.arange(216), validation=0.15, test=0.15, seed=0))
    assert [len(part) for part in found] == [151, 32, 33]
    for part, share in zip(found, (0.7, 0.15, 0.15), strict=True):
        assert (abs(np.bincount(labels[part]) - share * np.array([54, 53, 57, 52])) < 1).all()


shares = st.floats(0, 0.4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), shares, shares, st.integers(1, 6))
def test_shares_are_met_by_single_images(seed, validation, test, kinds):
    rng = np.random.default_rng(seed)
    strata = rng.integers(0, kinds, 300)
    found = of(three_parts(strata, np.arange(300), validation=validation, test=test, seed=seed))
    assert sorted(np.concatenate(found)) == list(range(300))
    totals = np.bincount(strata, minlength=kinds)
    wanted = (1 - validation - test, validation, test)
    # Each class may need its one image in a held-out part, and training gives to both of them.
    slack = (2 * kinds + 1, kinds + 1, kinds + 1)
    for part, share, more in zip(found, wanted, slack, strict=True):
        assert abs(len(part) - share * 300) <= more
        if share * min(totals) >= 2:
            own = np.bincount(strata[part], minlength=kinds)
            assert (abs(own - share * totals) <= 2).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(12, 60))
def test_three_parts_keep_groups_whole_and_forget_the_order(seed, patients):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, patients, 400)
    strata = rng.integers(0, 4, 400)
    names = np.array([f"{number:06d}" for number in rng.permutation(400)])

    def split(order):
        return of(
            three_parts(
                strata[order], groups[order], validation=0.15, test=0.15, seed=seed,
                names=names[order],
            )
        )  # fmt: skip

    straight = split(np.arange(400))
    sides = [{*groups[part]} for part in straight]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert all(np.array_equal(np.sort(part), part) for part in straight)
    largest = np.bincount(groups).max()
    for part, share in zip(straight, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(part) - share * 400) <= largest
        assert {*strata[part]} == {0, 1, 2, 3}
    order = rng.permutation(400)
    mixed = split(order)
    for part, other in zip(straight, mixed, strict=True):
        assert {*names[part]} == {*names[order][other]}


def test_another_seed_is_another_split_and_the_split_itself_is_known():
    labels = np.repeat([0, 1], 10)
    first = three_parts(labels, np.arange(20), validation=0, test=0.2, seed=0)
    other = three_parts(labels, np.arange(20), validation=0, test=0.2, seed=1)
    assert not np.array_equal(first.test, other.test)
    assert len(first.validation) == 0
    # Recorded once: by hashes alone, so that it is this on any machine and with any library.
    assert first.test.tolist() == [2, 8, 10, 15]


def test_rare_strata_do_not_stop_a_split_and_every_class_is_everywhere():
    classes = np.repeat([0, 1], [96, 4])
    strata = np.concatenate([np.repeat([0, 1], 48), [2, 3, 4, 5]])  # four strata of one image
    parts = three_parts(strata, np.arange(100), validation=0.1, test=0.1, seed=0, classes=classes)
    assert all({*classes[part]} == {0, 1} for part in of(parts))
    assert all(len(fold) == 20 for fold in folds(strata, np.arange(100), 5, 0))


def test_a_class_of_one_patient_is_where_it_is_and_one_of_three_is_everywhere():
    labels = np.concatenate([np.zeros(90, int), np.ones(10, int), np.full(30, 2)])
    groups = np.concatenate([np.arange(90), np.full(10, 90), np.repeat([91, 92, 93], 10)])
    parts = of(three_parts(labels, groups, validation=0.1, test=0.1, seed=3))
    assert sum(1 in labels[part] for part in parts) == 1
    assert all(2 in labels[part] for part in parts)


def test_what_cannot_be_split_is_refused():
    one = np.zeros(10, int)
    with pytest.raises(InputError, match=r"3 parts need as many patients .* found 2"):
        three_parts(one, np.repeat([0, 1], 5), validation=0.2, test=0.2, seed=0)
    with pytest.raises(InputError, match="give shares from 0, together below 1"):
        three_parts(one, np.arange(10), validation=0.6, test=0.4, seed=0)
    with pytest.raises(InputError, match="leave none of 3 images to learn from"):
        three_parts(one[:3], np.arange(3), validation=0.4, test=0.4, seed=0)
    with pytest.raises(InputError, match="folds 1"):
        folds(one, np.arange(10), 1, 0)
    # A group for each part, though two of the groups are most of the data.
    groups = np.repeat([0, 1, 2], [40, 40, 1])
    parts = three_parts(np.arange(81) % 7, groups, validation=0.1, test=0.1, seed=0)
    assert all(len(part) for part in of(parts))


def test_classes_that_cannot_be_everywhere_are_refused():
    """The Fano plane: seven patients, seven classes of three patients, any two share a class."""
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    groups = np.array([patient for line in lines for patient in line])
    classes = np.repeat(np.arange(7), 3)
    with pytest.raises(InputError, match="one of 3 parts would get no crop of class number"):
        three_parts(classes, groups, validation=0.3, test=0.3, seed=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 10))
def test_folds_are_balanced_whole_and_disjoint(seed, k):
    rng = np.random.default_rng(seed)
    strata = rng.integers(0, 3, 150)
    names = [f"{number:04d}" for number in rng.permutation(150)]
    found = folds(strata, np.arange(150), k, seed, names)
    assert sorted(np.concatenate(found)) == list(range(150))
    counts = np.array([np.bincount(strata[fold], minlength=3) for fold in found])
    assert (np.ptp(counts, axis=0) <= 2).all()
    assert np.ptp(counts.sum(1)) <= 1
    groups = rng.integers(0, 40, 150)
    sides = [{*groups[fold]} for fold in folds(strata, groups, k, seed, names)]
    assert sum(map(len, sides)) == len(set.union(*sides))


@pytest.fixture
def crops() -> LabelledCrops:
    count = 20
    return LabelledCrops(
        images=np.zeros((count, 2, 2, 3), np.uint8),
        targets=np.stack([np.arange(count) % 2, np.full(count, -100)], 1),
        tasks={"ICM": ("A", "B"), "TE": ("A", "B")},
        names=tuple(f"{i}.png" for i in range(count)),
        patients=(None,) * count,
        digests=tuple(f"d{i:02d}" for i in range(count)),
        groups=np.arange(count),
        facets={},
        aspects=np.full(count, np.nan, np.float32),
        excluded=(Excluded("x.png", "unreadable", "truncated"),),
    )


@pytest.fixture
def parts(crops: LabelledCrops) -> Parts:
    return three_parts(crops.labels, crops.groups, validation=0.2, test=0.2, seed=5)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_split_comes_back(where, request, tmp_path, crops, parts):
    root = str(tmp_path) if where == "local" else request.getfixturevalue("s3")
    place = storage.join(root, "split.json")
    digest = save_split(place, crops, parts, seed=5, rule="by hand")
    record = json.loads(storage.read_bytes(place))
    assert record["digest"] == digest
    assert (record["seed"], record["rule"]) == (5, "by hand")
    assert record["sizes"]["test"] == {"n": 4, "ICM": {"A": 2, "B": 2}, "TE": {"A": 0, "B": 0}}
    assert record["digests"]["test"] == [crops.digests[i] for i in parts.test]
    assert record["labels"]["test"][0] in {"ICM=A", "ICM=B"}
    assert record["excluded"] == [{"name": "x.png", "reason": "unreadable", "detail": "truncated"}]
    order = np.random.default_rng(0).permutation(20)
    mixed = load_split(place, crops.take(order))
    for part, own in zip(of(mixed), of(parts), strict=True):
        assert {crops.digests[i] for i in order[part]} == {crops.digests[i] for i in own}
    assert save_split(place, crops.take(order), mixed, seed=5, rule="again") == digest


def test_changed_data_are_refused_and_named(tmp_path, crops, parts):
    place = str(tmp_path / "split.json")
    save_split(place, crops, parts, seed=5, rule="")
    with pytest.raises(InputError, match=r"1 images missing \(19.png\)"):
        load_split(place, crops.take(range(19)))
    save_split(
        place, crops.take(range(19)), Parts(np.arange(19), *2 * [np.zeros(0, int)]), seed=0, rule=""
    )
    with pytest.raises(InputError, match=r"1 images new \(19.png\)"):
        load_split(place, crops)
    other = crops.take(range(19))
    other.targets[3, 0] = 0
    with pytest.raises(InputError, match=r"relabelled \(3.png is ICM=A instead of ICM=B\)"):
        load_split(place, other)
    storage.write_bytes(place, b'{"kind": "something"}')
    with pytest.raises(InputError, match="not the file of a split"):
        load_split(place, crops)
    storage.write_bytes(place, b"{")
    with pytest.raises(InputError, match="not JSON"):
        load_split(place, crops)
    with pytest.raises(InputError, match="no such file"):
        load_split(str(tmp_path / "none.json"), crops)
