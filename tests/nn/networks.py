"""Heads with random weights for the tests, and what they compute, written out densely."""

import numpy as np
import torch
import torch.nn.functional as F

from fastheads.labels import Grouping
from fastheads.nn import GroupHeads


def random_heads(feature_shape, group_of, widths, conv_channels=0, seed=0):
    """Float64 heads whose every number is random, the statistics of the features too."""
    torch.manual_seed(seed)
    heads = GroupHeads(feature_shape, Grouping(np.array(group_of)), widths, conv_channels).double()
    for output in heads.outputs:
        torch.nn.init.normal_(output.weight)
    torch.nn.init.normal_(heads.standardize.mean)
    torch.nn.init.uniform_(heads.standardize.std, 0.5, 2)
    return heads


def silent(heads):
    """The same heads with output weights of zero."""
    for output in heads.outputs:
        torch.nn.init.zeros_(output.weight)
    return heads


def masked_dense(heads, features):
    """All heads' units side by side, and one dense matrix to all labels with zeros between groups.

    The same function with none of the module's splitting, permuting or concatenating.
    """
    num_labels = heads.grouping.num_labels
    mean, std = (
        value.reshape(-1, *[1] * (features.dim() - 2))
        for value in (heads.standardize.mean, heads.standardize.std)
    )
    features = (features - mean) / std
    if heads.conv_channels:
        first = F.conv2d(features, heads.first.weight, heads.first.bias, padding=1)
    else:
        first = features.flatten(1) @ heads.first.weight.T + heads.first.bias
    first, start = first.clamp(min=0), 0
    units, weights = [], []
    for group, share in enumerate(heads.shares):
        x = first[:, start : start + share].flatten(1)
        start += share
        for layer in heads.stacks[group]:
            if isinstance(layer, torch.nn.Linear):
                x = (x @ layer.weight.T + layer.bias).clamp(min=0)
        units.append(x)
        dense = x.new_zeros(num_labels, x.shape[1])
        labels = np.flatnonzero(heads.grouping.group_of == group)
        dense[torch.from_numpy(labels)] = heads.outputs[group].weight
        weights.append(dense)
    return torch.cat(units, 1) @ torch.cat(weights, 1).T
