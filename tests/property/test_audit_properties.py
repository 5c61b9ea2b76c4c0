"""The search for near duplicates finds all pairs, in memory that grows with the images alone."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from diffdx.data.audit.neighbours import RADIUS, near_pairs, words
from diffdx.data.audit.rules import FOLDS, _folds


def brute_force(found):
    distance = np.bitwise_count(found[:, None] ^ found[None, :])
    return {(i, j) for i, j in np.argwhere(distance <= RADIUS).tolist() if i < j}


def listed(found):
    pairs = [
        (min(a, b), max(a, b)) for i, j in near_pairs(found) for a, b in zip(i, j, strict=True)
    ]
    assert len(pairs) == len(set(pairs)), "a pair is yielded once"
    return set(pairs)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_all_pairs_within_three_bits_are_found_once(seed, n, num_parents):
    """Words are copies of a few parents with up to six bits turned: many lie near the radius."""
    rng = np.random.default_rng(seed)
    parents = rng.integers(0, 2**63, num_parents, dtype=np.uint64)
    found = parents[rng.integers(0, num_parents, n)]
    for _ in range(6):
        turned = rng.random(n) < 0.5
        bits = np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
        found = np.where(turned, found ^ bits, found)
    assert listed(found) == brute_force(found)


def test_memory_grows_with_the_number_of_images_not_of_pairs():
    n = 50_000
    rng = np.random.default_rng(0)
    found = words(rng.standard_normal((n, 64)).astype(np.float32))
    tracemalloc.start()
    for _ in near_pairs(found):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Bands, order, two index arrays and masks: under 120 bytes a word; all pairs would be 10 GB.
    assert peak < 120 * n


@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.integers(5, 60))
@settings(max_examples=40, deadline=None)
def test_folds_keep_patients_together_and_classes_in_proportion(seed, n, num_units):
    rng = np.random.default_rng(seed)
    units = rng.integers(0, num_units, n)
    label_of_unit = rng.integers(0, 3, num_units)
    folds = _folds(label_of_unit[units], units)
    assert len(set(zip(units.tolist(), folds.tolist(), strict=True))) == len(np.unique(units))
    for k in range(3):
        of_class = np.unique(units[label_of_unit[units] == k])
        fold_of = dict(zip(units.tolist(), folds.tolist(), strict=True))
        counts = np.bincount([fold_of[u] for u in of_class.tolist()], minlength=FOLDS)
        # Dealt out in turn: a fold has at most one patient of a class more than another.
        assert counts.max() - counts.min() <= 1
