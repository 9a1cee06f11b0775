"""Accuracy on pictures with one label and with several, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from fastheads.data import eval_transform
from fastheads.data.images import Pictures
from fastheads.pipelines.stream_measures import measure
from fastheads.targets import SparseTargets


class _Table(nn.Module):
    """Gives a row of scores for each picture, whose first pixel is its number."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, images):
        numbers = (127.5 * (images[:, 0, 0, 0] + 1)).round().long()
        return self.scores[numbers]


def _pictures(labels):
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Pictures(images, np.arange(len(labels)), SparseTargets.from_lists(labels))


SCORES = [
    # label 0 .. 7, best first: 7 6 5 4 3
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
]


def test_shares_by_hand():
    # The best two are its two; both among five; one of two; none.
    pictures = _pictures([[7, 6], [7, 3], [5, 0], [1]])
    found = measure(_Table(SCORES), pictures, eval_transform, 8)
    assert found["top1"] == 2 / 4
    assert found["top5"] == 3 / 4
    assert found["all"] == 2 / 4
    assert found["exact"] == 1 / 4
    assert found["pictures"] == [1, 1, 0, 1, 0, 1, 1, 2]
    assert found["found"] == [0, 0, 0, 1, 0, 1, 1, 2]


def test_more_labels_than_five():
    pictures = _pictures([[2, 3, 4, 5, 6, 7], [1, 3, 4, 5, 6, 7]])
    found = measure(_Table(SCORES), pictures, eval_transform, 8)
    assert found["all"] == found["exact"] == 1 / 2
    assert found["found"][7] == 2 and found["found"][2] == 0  # by label only the best five count


@pytest.mark.parametrize("labels", [1, 3])
def test_fewer_labels_than_five(labels):
    pictures = _pictures([[0], [labels - 1]])
    scores = [list(range(labels))] * 2
    found = measure(
        _Table([[float(s) for s in row] for row in scores]), pictures, eval_transform, labels
    )
    assert found["top5"] == found["all"] == 1
    assert found["top1"] == (1.0 if labels == 1 else 0.5)
