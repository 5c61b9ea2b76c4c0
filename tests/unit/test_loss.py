"""The contrastive term is the cross-entropy of two errors; wrong classes are equally likely."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy

from diffdx.diffusion.loss import contrastive_losses, other_labels

SCALE = 0.05


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_another_label_is_any_other_equally_often(num_classes):
    y = torch.arange(num_classes).repeat_interleave(3000)
    other = other_labels(y, num_classes, torch.Generator().manual_seed(0))
    counts = torch.zeros(num_classes, num_classes)
    counts.index_put_((y, other), torch.ones(len(y)), accumulate=True)
    assert (counts.diagonal() == 0).all()
    shares = counts[~torch.eye(num_classes, dtype=torch.bool)] / 3000
    assert (shares - 1 / (num_classes - 1)).abs().max() < 0.04


def test_the_contrastive_term_is_the_cross_entropy_of_the_two_errors():
    generator = torch.Generator().manual_seed(0)
    right, wrong = torch.rand(2, 50, generator=generator, dtype=torch.float64) * 0.2 + 0.9
    shares = torch.stack([right, wrong]) ** (-1 / SCALE)
    expected = binary_cross_entropy(
        shares[0] / shares.sum(0), torch.ones(50, dtype=torch.float64), reduction="none"
    )
    torch.testing.assert_close(contrastive_losses(right, wrong, SCALE), expected)
