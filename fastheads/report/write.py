"""Writes the report of a finished run, of whichever system."""

from __future__ import annotations

from pathlib import Path

from fastheads.report import adaptive, augment, concentrate, lesion, stream
from fastheads.report.run import read_run

_BUILDERS = {
    "augment": augment.build_page,
    "concentrate": concentrate.build_page,
    "adaptive": adaptive.build_page,
    "lesion": lesion.build_page,
    "stream": stream.build_page,
}


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` from the files of a finished run.

    Sections whose data the run does not hold are left out.

    Args:
        folder: a run folder with ``metrics.json``, ``analysis.json`` and ``analysis.npz``.

    Returns:
        The path of the page; it needs no other file.

    Raises:
        ValueError: if one of the three files is missing, broken or incomplete.
    """
    folder = Path(folder)
    run = read_run(folder)
    try:
        page = _BUILDERS[run.system.name](run)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'analysis.json'} must be complete, got {type(error).__name__}: {error}"
        ) from error
    return page.write(folder / "report.html")
