"""Whatever the patients are: none is divided, every image has one role, order does not matter."""

from hypothesis import given, settings
from hypothesis import strategies as st

from diffdx.data import ROLES, Dataset, Record, check_splits, make_splits
from diffdx.data.dataset import FileSource


@st.composite
def record_lists(draw):
    """Two classes of 4 to 20 patients with 1 to 5 images each, some of them published as test."""
    records = []
    for label in "ab":
        for patient in range(draw(st.integers(4, 20))):
            for image in range(draw(st.integers(1, 5))):
                name = f"{label}{patient}"
                records.append(Record(f"{name}-{image}", name, label, name))
    for patient in range(draw(st.integers(0, 5))):
        records.append(
            Record(f"t{patient}", "t", draw(st.sampled_from("ab")), f"t{patient}", "test")
        )
    return records


def dataset_of(records):
    return Dataset("drawn", records, ("a", "b"), None, True, [], FileSource())


@settings(max_examples=60, deadline=None)
@given(record_lists(), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_splits_divide_no_patient_and_ignore_the_order(records, seed, random):
    dataset = dataset_of(records)
    splits = make_splits(dataset, seed=seed)
    assert splits["image_id"].tolist() == [record.image_id for record in dataset.records]
    assert (splits.groupby("patient_id")["role"].nunique() == 1).all()
    assert check_splits(splits) == []
    for label in "ab":
        assert set(splits.loc[splits["label"] == label, "role"]) == set(ROLES) or any(
            record.role == "test" for record in dataset.records
        )
    shuffled = list(dataset.records)
    random.shuffle(shuffled)
    again = make_splits(dataset.subset(shuffled), seed=seed)
    assert dict(zip(again["image_id"], again["role"], strict=True)) == dict(
        zip(splits["image_id"], splits["role"], strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(record_lists(), st.integers(0, 2**32 - 1))
def test_each_role_is_within_one_patient_of_its_share(records, seed):
    dataset = dataset_of(records)
    splits = make_splits(dataset, seed=seed)
    if any(record.role == "test" for record in dataset.records):
        expected = {"train": 0.7, "val": 0.1, "calib": 0.2}
    else:
        expected = {"train": 0.6, "val": 0.1, "calib": 0.15, "test": 0.15}
    dealt = splits[~splits["patient_id"].str.startswith("t")]
    for _, images in dealt.groupby("label"):
        counts = images["role"].value_counts()
        largest = images["patient_id"].value_counts().max()
        for role, share in expected.items():
            # A patient goes only to a role that is furthest behind: it overshoots by one at most.
            assert counts.get(role, 0) - share * len(images) <= largest
