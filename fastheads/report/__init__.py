"""Reports of finished runs: one HTML page, and the results in the terminal."""

from fastheads.report.augment import write_report
from fastheads.report.terminal import print_results

__all__ = ["print_results", "write_report"]
