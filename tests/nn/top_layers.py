"""Small heads of every kind, for the tests of the top layers."""

import numpy as np
import pytest
import torch

from fastheads.labels import Grouping
from fastheads.nn import SelfPacedLogits, fc_fc, fc_sc, sc_sc

GROUP_OF = [1, 0, 2, 2, 0, 1, 2, 2, 0]
IN_ORDER = sorted(GROUP_OF)
KINDS = {
    "fc_fc": lambda *args, **options: fc_fc(*args, **options),
    "fc_sc": lambda *args, **options: fc_sc(*args, **options),
    "fc_sc, generic": lambda *args, **options: fc_sc(*args, generic=2, **options),
    "sc_sc": lambda *args, **options: sc_sc(*args, **options),
}
kinds = pytest.mark.parametrize("kind", KINDS)
groupings = pytest.mark.parametrize("group_of", [GROUP_OF, IN_ORDER])
PACINGS = {
    "none": None,
    "group": {},
    "label": {"level": "label"},
    "fixed, bias": {"trainable": False, "label_bias": -1.0},
    "log": {"log": True},
}


def head_of(kind, group_of=GROUP_OF, pacing=None, dtype=torch.float64, **options):
    torch.manual_seed(0)
    grouping = Grouping(np.array(group_of))
    if pacing is not None:
        options["pacing"] = SelfPacedLogits(grouping.sizes, dtype=dtype, std=0.3, **pacing)
    return KINDS[kind](5, 4, 3, grouping, dtype=dtype, **options)


def features_of(rows=6):
    torch.manual_seed(rows)
    return torch.randn(rows, 5, dtype=torch.float64)
