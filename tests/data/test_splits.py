"""Splits: stratified, seeded, and no group on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertiray.data.splits import holdout, join_groups
from fertiray.errors import InputError


def test_items_that_share_any_key_are_one_group():
    # By hand: 0-1 share patient a, 1-3 share pixels x, so 0, 1, 3 are one; 2 and 4 stand alone.
    groups = join_groups(["a", "a", None, "b", None], ["w", "x", "y", "x", "z"])
    assert groups[0] == groups[1] == groups[3]
    assert len({groups[0], groups[2], groups[4]}) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(10, 40))
def test_groups_stay_on_one_side(seed, patients):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, patients, 400)
    labels = rng.integers(0, 2, 400)
    training, held_out = holdout(labels, groups, 0.2, seed)
    assert not set(groups[training]) & set(groups[held_out])
    assert sorted([*training, *held_out]) == list(range(400))
    again = holdout(labels, groups, 0.2, seed)
    assert np.array_equal(held_out, again[1])


def test_stratified_to_within_one_group():
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    _, held_out = holdout(labels, np.arange(200), 0.2, 0)
    assert np.bincount(labels[held_out]).tolist() == [20, 12, 8]


def test_too_few_groups_and_one_sided_classes_are_refused():
    with pytest.raises(InputError, match="needs at least 5 patients"):
        holdout(np.array([0, 1] * 10), np.repeat([0, 1], 10), 0.2, 0)
    labels = np.zeros(50, int)
    labels[:3] = 1  # the only positive crops are one patient's
    groups = np.concatenate([np.zeros(3, int), np.arange(1, 48)])
    with pytest.raises(InputError, match="class number 1 has no crop"):
        holdout(labels, groups, 0.2, 0)
