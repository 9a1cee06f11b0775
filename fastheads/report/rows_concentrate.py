"""The rows of Knowledge Concentration."""

from __future__ import annotations

from fastheads.report.row import Row, System

VERTICAL_METRICS = {
    "mpvap": "mpvap",
    "mpvap_per_label": "mpvap per label",
    "top1": "top-1",
    "top5": "top-5",
}
# Published: mpvap and parameters. Gao, Guo, Li, Nevatia, 'Knowledge Concentration: Learning 100K
# Object Classifiers in a Single CNN', 2017, tables 1 to 5.
_ROWS = (
    Row("generalist", "FC-FC from annotations: the generalist", "generalist",
        "#8a8a87", "#8f8f8c", "s", False, (0.277, 98e6)),
    Row("sc_sc_annotated", "SC-SC from annotations", "SC-SC, annotations",
        "#6d8f84", "#6c9488", "D", True, (0.276, 155e6)),
    Row("fc_fc", "FC-FC, distilled", "FC-FC + D", "#0b63a9", "#4ba4ef", "s", False, (0.315, 98e6)),
    Row("fc_sc", "FC-SC, distilled", "FC-SC + D", "#c24b01", "#f18b4c", "o", False, (0.329, 135e6)),
    Row("sc_sc", "SC-SC, distilled", "SC-SC + D", "#00815e", "#2ec19b", "D", False, (0.319, 155e6)),
    Row("fc_sc_generic_25", "FC-SC, distilled, a quarter generic", "generic quarter",
        "#b48ac6", "#7f6391", "v", False, (0.328, 127e6)),
    Row("fc_sc_generic_50", "FC-SC, distilled, half generic", "generic half",
        "#9b62b3", "#a078b8", "v", False, (0.324, 117e6)),
    Row("fc_sc_generic_75", "FC-SC, distilled, three quarters generic", "generic three quarters",
        "#7f3f9b", "#c295d8", "v", False, (0.314, 108e6)),
    Row("paced", "FC-SC, distilled, self-paced: (4) γ a vertical, from √N", "self-paced (4)",
        "#a3123b", "#f27090", "^", False, (0.379, 135e6)),
    Row("paced_label", "self-paced: (5) γ a label, from √N", "self-paced (5)",
        "#5b4bb6", "#a89df3", "v", False, (0.328, 135e6)),
    Row("paced_fixed", "self-paced: (1) γ a vertical, fixed at √N", "self-paced (1)",
        "#7a5c01", "#c9a93d", "s"),
    Row("paced_10", "self-paced: (2) γ a vertical, from 10", "self-paced (2)",
        "#00767f", "#38b9c4", "D"),
    Row("paced_label_10", "self-paced: (3) γ a label, from 10", "self-paced (3)",
        "#4c4c4a", "#d4d5d0", "P"),
    Row("worded", "as worded, bias inside: (4) γ a vertical, from √N", "worded (4)",
        "#c8657e", "#b85870", "^", True),
    Row("worded_label", "as worded, bias inside: (5) γ a label, from √N", "worded (5)",
        "#9287d3", "#7d73bd", "v", True),
    Row("worded_fixed", "as worded, bias inside: (1) γ a vertical, fixed at √N", "worded (1)",
        "#b39a4d", "#94803a", "s", True),
    Row("worded_10", "as worded, bias inside: (2) γ a vertical, from 10", "worded (2)",
        "#4fa6ad", "#2c878f", "D", True),
    Row("worded_label_10", "as worded, bias inside: (3) γ a label, from 10", "worded (3)",
        "#86868a", "#97979c", "P", True),
    Row("found", "FC-SC, distilled, on found verticals", "found verticals",
        "#5f8a00", "#a3cc4a", "o"),
    Row("found_paced", "FC-SC, distilled, self-paced, on found verticals",
        "found verticals, self-paced", "#3f6b1f", "#8fb86c", "^"),
    Row("specialists", "specialists, one a vertical", "specialists",
        "#1f2a44", "#dfe6f5", "P", False, (0.680, 2260e6)),
)  # fmt: skip
CONCENTRATE = System("concentrate", _ROWS, VERTICAL_METRICS, ("mpvap",), "generalist", False)
