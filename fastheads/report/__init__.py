"""Reports of finished runs: one HTML page, and the results in the terminal."""

from fastheads.report.terminal import print_results
from fastheads.report.write import write_report

__all__ = ["print_results", "write_report"]
