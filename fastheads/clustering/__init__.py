"""From counts of confused labels to groups of look-alikes."""

from fastheads.clustering.confusion import ConfusionCounts
from fastheads.clustering.inspection import group_purity, similarity_image
from fastheads.clustering.similarity import SimilarityOperator
from fastheads.clustering.spectral import ConfusionClustering

__all__ = [
    "ConfusionClustering",
    "ConfusionCounts",
    "SimilarityOperator",
    "group_purity",
    "similarity_image",
]
