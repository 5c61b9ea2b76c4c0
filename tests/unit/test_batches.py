"""The order of training images: a function of (seed, step) in which every image has its turn."""

from collections import Counter

import numpy as np
import pytest

from diffdx.training.batches import BatchOrder

LABELS = np.array([0] * 7 + [1] * 3 + [2] * 5)


def visited(order, first, count):
    return np.concatenate([order.batch(step) for step in range(first, first + count)])


@pytest.mark.parametrize("balanced", [True, False])
def test_a_batch_depends_on_the_step_alone(balanced):
    forward, backward = (BatchOrder(LABELS, 4, 0, balanced) for _ in range(2))
    batches = {step: forward.batch(step).tolist() for step in range(40)}
    for step in reversed(range(40)):
        assert backward.batch(step).tolist() == batches[step]


def test_without_balance_an_epoch_holds_every_image_once():
    order = BatchOrder(LABELS, 5, 0, balanced=False)
    per_epoch = len(LABELS) // 5
    epochs = [visited(order, e * per_epoch, per_epoch).tolist() for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(LABELS)))
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch has its own order"


def test_a_batch_may_straddle_epochs_without_loss():
    counts = Counter(visited(BatchOrder(LABELS, 4, 0, balanced=False), 0, 15).tolist())
    assert counts == dict.fromkeys(range(len(LABELS)), 4)


def test_a_batch_may_be_larger_than_the_data():
    counts = Counter(BatchOrder(LABELS, 45, 0, balanced=False).batch(2).tolist())
    assert counts == dict.fromkeys(range(len(LABELS)), 3)


def test_balanced_classes_take_turns_and_each_visits_all_its_images():
    order = BatchOrder(LABELS, 5, 0, balanced=True)
    # 63 slots are 21 of each class: 3, 7 and 4 1/5 epochs of theirs.
    indices = visited(order, 0, 21)[:63]
    assert LABELS[indices].tolist() == [0, 1, 2] * 21
    counts = Counter(indices.tolist())
    assert all(counts[i] == 3 for i in range(7))
    assert all(counts[i] == 7 for i in range(7, 10))
    assert sorted(counts[i] for i in range(10, 15)) == [4, 4, 4, 4, 5]


def test_strata_of_a_class_take_turns_and_classes_keep_theirs():
    strata = np.array([0] * 6 + [1] + [0] * 3 + [1, 1, 0, 0, 0])
    order = BatchOrder(LABELS, 5, 0, balanced=True, strata=strata)
    indices = visited(order, 0, 21)[:63]
    assert LABELS[indices].tolist() == [0, 1, 2] * 21, "a class of one stratum has no more or less"
    assert strata[indices[0::3]].tolist() == [0, 1] * 10 + [0]
    assert strata[indices[2::3]].tolist() == [0, 1] * 10 + [0]
    counts = Counter(indices.tolist())
    assert counts[6] == 10, "the only image of its stratum"
    assert sorted(counts[i] for i in range(6)) == [1, 2, 2, 2, 2, 2]


def test_one_stratum_is_none():
    plain = BatchOrder(LABELS, 5, 0, balanced=True)
    order = BatchOrder(LABELS, 5, 0, balanced=True, strata=np.zeros_like(LABELS))
    assert visited(order, 0, 21).tolist() == visited(plain, 0, 21).tolist()


def test_seeds_give_other_orders():
    orders = {tuple(visited(BatchOrder(LABELS, 5, seed, True), 0, 6)) for seed in range(5)}
    assert len(orders) == 5


def test_classes_are_not_in_step_with_each_other():
    """Two classes of one size must not visit their images in the same order."""
    order = BatchOrder(np.array([0] * 8 + [1] * 8), 16, 0, balanced=True)
    indices = order.batch(0)
    assert (indices[::2] != indices[1::2] - 8).any()
