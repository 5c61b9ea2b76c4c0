"""The images that a verb is asked about: of a role, a sample of them, with labels that fit."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffdx.errors import DataError

if TYPE_CHECKING:
    from diffdx.cli.models import Model
    from diffdx.data.dataset import Dataset


def chosen_images(
    dataset: "Dataset",
    run: Path,
    model: "Model",
    *,
    split: str | None,
    limit: int | None,
    seed: int,
) -> "Dataset":
    """Return the images of a role, or so many of a seeded shuffle, once their labels are checked.

    Raises:
        DataError: as `of_role` and `check_labels` do.
    """
    images = limited(dataset if split is None else of_role(dataset, run, split), limit, seed)
    check_labels(images, model)
    return images


def of_role(dataset: "Dataset", run: Path, role: str) -> "Dataset":
    """Return the images that the run's own splits file puts into this role.

    Without a splits file, the publishers' split counts.

    Raises:
        DataError: if the dataset is not the run's, or has no image in this role.
    """
    from diffdx.data.splits import load_splits

    file = run / "splits.csv"
    if file.is_file():
        frame = load_splits(file)
        chosen = dataset.select(frame.image_id[frame.role == role])
    else:
        chosen = dataset.subset([r for r in dataset.records if r.role == role])
    if not len(chosen):
        raise DataError(f"{dataset.name} has no image in the role '{role}'; leave out --split")
    return chosen


def check_labels(dataset: "Dataset", model: "Model") -> None:
    """Check that every label is a class of the model; classes are matched by name, not position.

    Raises:
        DataError: listing the labels that the model does not know.
    """
    unknown = sorted({r.label for r in dataset.records if r.label} - set(model.classes))
    if unknown:
        raise DataError(
            f"{dataset.name}: labels {', '.join(map(repr, unknown))} are not classes of the model "
            f"({', '.join(model.classes)}); rename them or leave them blank"
        )


def limited(dataset: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """Return the first `limit` images of a seeded shuffle, in the dataset's order."""
    if limit is None or limit >= len(dataset):
        return dataset
    from diffdx._random import epoch_order

    order = epoch_order(seed, 0, len(dataset))[:limit].tolist()
    return dataset.subset([dataset.records[i] for i in sorted(order)])
