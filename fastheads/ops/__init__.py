"""Operators: one file each with its reference, its call and its fake."""

from .topk_confusion import (
    topk_co_detection_,
    topk_co_detection_reference,
    topk_confusion_,
    topk_confusion_reference,
    topk_indices,
    topk_indices_reference,
)

__all__ = [
    "topk_co_detection_",
    "topk_co_detection_reference",
    "topk_confusion_",
    "topk_confusion_reference",
    "topk_indices",
    "topk_indices_reference",
]
