"""Order, parity, workers' shares: by counting."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.embryo_msres import MSRES
from fertiray.training.batches import batches, epoch_size, steps_per_epoch
from fertiray.training.config import Augmentation, TrainConfig

CONFIG = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(8),
    epochs=1,
    batch_size=8,
    optimizer="sgd",
    lr=0.1,
    seed=3,
)


def epoch(config, labels, number=0, rank=0, workers=1):
    training = np.arange(100, 100 + len(labels))
    return list(batches(training, np.asarray(labels), config, number, rank, workers))


def test_every_crop_once_an_epoch_in_another_order():
    labels = [0, 1] * 15
    first = torch.cat([batch.whole for batch in epoch(CONFIG, labels)])
    second = torch.cat([batch.whole for batch in epoch(CONFIG, labels, number=1)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100, 130))
    assert not torch.equal(first, second)
    again = torch.cat([batch.whole for batch in epoch(CONFIG, labels)])
    assert torch.equal(first, again)


def test_a_batch_too_short_for_the_workers_is_left_out():
    assert [len(b.whole) for b in epoch(CONFIG, [0, 1] * 8 + [0])] == [8, 8]  # 17: one left over
    assert [len(b.whole) for b in epoch(CONFIG, [0, 1] * 9)] == [8, 8, 2]
    assert [len(b.whole) for b in epoch(CONFIG, [0, 1] * 9, workers=3)] == [8, 8]
    assert steps_per_epoch(np.array([0, 1] * 9), CONFIG, 3) == 2
    assert [len(b.whole) for b in epoch(CONFIG, [0])] == [1]  # all there is


def test_workers_share_a_batch_and_its_draws():
    labels = [0, 1] * 10
    config = replace(CONFIG, augmentation=Augmentation(rotation=10, mixup=0.2))
    one = epoch(config, labels)
    three = [epoch(config, labels, rank=rank, workers=3) for rank in range(3)]
    for step, batch in enumerate(one):
        own = [workers[step] for workers in three]
        assert all(torch.equal(b.whole, batch.whole) for b in own)
        assert all(torch.equal(b.draws.turn, batch.draws.turn) for b in own)
        assert {b.blend for b in own} == {batch.blend}
        places = [place for b in own for place in range(b.start, b.stop)]
        assert places == list(range(len(batch.whole)))


def test_parity_adds_copies_of_the_smaller_class_and_changes_only_them():
    """The Hung Vuong paper: 546 + 94 training images become 546 + 546 by 452 changed copies."""
    labels = np.array([0] * 546 + [1] * 94)
    assert epoch_size(labels, MSRES) == 1092
    found = list(batches(np.arange(640), labels, MSRES, 0, 0, 1))
    whole = torch.cat([batch.whole for batch in found])
    changed = torch.cat([batch.changed for batch in found])
    assert len(whole) == 1088 + 4  # 68 batches of 16 and one of 4
    assert changed.sum() == 452
    assert (whole[changed] >= 546).all()
    assert sorted(whole[~changed].tolist()) == list(range(640))
    counts = torch.bincount(whole[changed] - 546)
    assert counts.min() == 4  # 452 = 4 * 94 + 76
    assert counts.max() == 5


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_pieces_cover_a_share_and_are_never_empty(count):
    (batch, *_) = epoch(replace(CONFIG, batch_size=5), [0, 1] * 3)
    pieces = list(batch.pieces(count))
    assert [place for a, b in pieces for place in range(a, b)] == list(range(5))
    assert len(pieces) == min(count, 5)
    assert all(b > a for a, b in pieces)
