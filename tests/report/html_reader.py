"""Reads a page back with the standard parser: texts, tables with exact numbers, open tags."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"img", "meta", "br", "link"}


class Reader(HTMLParser):
    """Attributes: ``tags`` (name and attributes), ``text``, ``tables`` (rows of cells)."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.values: list[list[list[float | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.values.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            self.values[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.values[-1][-1].append(None)
        elif tag == "data":
            self.values[-1][-1][-1] = float(dict(attrs)["value"] or "nan")
        elif tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data
        if "h2" in self._open:
            self.headings[-1] += data

    def table(self, title: str) -> tuple[list[list[str]], list[list[float | None]]]:
        """Texts and exact numbers of the table that has a column called ``title``."""
        for texts, values in zip(self.tables, self.values, strict=True):
            if any(title in cell for cell in texts[0]):
                return texts, values
        raise AssertionError(f"no table has a column {title!r}")
