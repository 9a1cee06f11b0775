"""The rows of self-informed augmentation."""

from __future__ import annotations

from fastheads.report.row import Row, System

METRICS = {
    "map50_per_label": "mAP@50 per label",
    "map50_per_image": "mAP@50 per image",
    "top1": "top-1",
    "top5": "top-5",
}
# Published: mAP@50, multiply-adds and their ratio to the base network. Warde-Farley, Rabinovich,
# Anguelov, 'Self-informed neural network structure learning', 2015, section 5.2.
_ROWS = (
    Row("base", "base network", "base", "#8a8a86", "#8f8f8b", "s", False, (0.3680, 1.52e9, 1.0)),
    Row("retrained", "base, classifier retrained equally long", "classifier retrained",
        "#4b4b49", "#d5d5d0", "D"),
    Row("confusions", "base + {heads}heads, confusions", "confusions",
        "#0b62a8", "#4aa3ee", "o", False, (0.3941, 1.56e9, 1.026)),
    Row("randomized_confusions", "base + {heads}heads, randomized confusions",
        "randomized confusions", "#4a9fd6", "#3780bf", "o", True, (0.3297, 1.56e9, 1.026)),
    Row("co_detections", "base + {heads}heads, co-detections", "co-detections",
        "#c24a00", "#f08a4b", "^", False, (0.3807, 1.60e9, 1.053)),
    Row("randomized_co_detections", "base + {heads}heads, randomized co-detections",
        "randomized co-detections", "#d88f26", "#b5731f", "^", True, (0.3213, 1.60e9, 1.053)),
    Row("fine_tuned", "everything fine-tuned at the end", "fine-tuned",
        "#00805f", "#2fc09a", "v"),
    Row("second_round", "second round on the augmented network", "second round",
        "#9b3f86", "#d87fc4", "P"),
)  # fmt: skip
AUGMENT = System("augment", _ROWS, METRICS, tuple(METRICS), "base", True)
