"""A small builder of self-contained HTML pages: everything that is not markup is escaped.

page = Page("Results", "in one sentence")
page.add("Numbers", table(["row", "top-1"], [["base", "39.0"]], "Accuracy in percent."))
page.write(Path("report.html"))
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastheads.report.styles import CSS

_VOID = {"img", "meta", "br", "link"}
# Controls and lone surrogates are not allowed in HTML, and UTF-8 cannot hold the latter.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Text that is markup already, and is not escaped again."""


Content = str | float | None | Sequence["Content"]


def escape(text: str) -> str:
    """``text`` for use between tags or in an attribute's double quotes."""
    return html.escape(_FORBIDDEN.sub("\ufffd", text), quote=True)


def render(content: Content) -> Html:
    """Markup of a string (escaped), of a number, of markup (as it is) or of a list of these."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, (list, tuple)):
        return Html("".join(render(child) for child in content))
    return Html(escape(str(content)))


def tag(element: str, /, *children: Content, **attributes: str | float | bool | None) -> Html:
    """One element. ``class_`` is ``class``, ``aria_label`` is ``aria-label``; None is left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in _VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{render(children)}</{element}>")


def paragraph(*children: Content, class_: str | None = None) -> Html:
    return tag("p", *children, class_=class_)


def notice(title: str, *children: Content, kind: str = "plain") -> Html:
    """A boxed remark; ``kind`` is ``plain``, ``good`` or ``warning``."""
    return tag("aside", tag("strong", title), " ", *children, class_=f"notice {kind}")


def number(value: float, text: str) -> Html:
    """``text`` that carries the exact number it was rounded from."""
    return tag("data", text, value=repr(value))


def table(
    header: Sequence[Content],
    rows: Sequence[Sequence[Content]],
    caption: Content,
    align: str | None = None,
    class_: str = "tabular",
) -> Html:
    """A table whose first column names the rows; it scrolls sideways where it does not fit.

    Args:
        header: the heading of each column.
        rows: the cells of each row, as many as ``header``.
        caption: what the table shows, in plain words.
        align: one letter a column, ``l`` or ``r``; by default the first ``l``, the others ``r``.
        class_: CSS class; ``narrow`` keeps a small table from filling the page.
    """
    align = align or "l" + "r" * (len(header) - 1)
    head = [tag("th", cell, scope="col", class_=a) for cell, a in zip(header, align, strict=True)]
    body = []
    for cells in rows:
        first, *rest = zip(cells, align, strict=True)
        written = [tag("th", first[0], scope="row", class_=first[1])]
        written += [tag("td", cell, class_=a) for cell, a in rest]
        body.append(tag("tr", written))
    content = tag("table", tag("thead", tag("tr", head)), tag("tbody", body))
    scroller = tag("div", content, class_="scroll", tabindex=0, role="region", aria_label="table")
    return tag("figure", scroller, tag("figcaption", caption), class_=class_)


def figure(content: Content, caption: Content, class_: str | None = None) -> Html:
    """``content`` (a chart, pictures) with the caption that explains it."""
    return tag("figure", content, tag("figcaption", caption), class_=class_)


def side_by_side(*blocks: Content) -> Html:
    """Blocks beside each other on a wide screen and below each other on a narrow one."""
    by_three = len(blocks) % 3 == 0
    return tag("div", *blocks, class_="columns thirds" if by_three else "columns")


def details(summary: str, *blocks: Content, open_: bool = False) -> Html:
    """Blocks that fold away under one line."""
    return tag("details", tag("summary", summary), *blocks, open=open_)


def png(image: Image.Image, **options: Any) -> str:
    """The address of an image that is inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(pixels: np.ndarray, alt: str, scale: int = 2) -> Html:
    """A small image as PNG inside the page, enlarged without smoothing.

    Args:
        pixels: ``[H, W]`` uint8, ink = 255, shown as dark ink on a light page and as light ink
            on a dark one; or ``[H, W, 3]`` uint8, RGB, shown as it is.
        alt: what is to be seen.
        scale: screen pixels a pixel.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"pixels must be uint8 [H, W] or [H, W, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    ink = pixels.ndim == 2
    if ink:
        image = Image.fromarray(np.stack([np.zeros_like(pixels), pixels], axis=-1), "LA")
    else:
        image = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    return tag("img", src=png(image), alt=alt, width=scale * width, height=scale * height,
               class_="pixels ink" if ink else "pixels")  # fmt: skip


def label_name(name: str) -> str:
    """A label's name as it can be read: marks on a dotted circle, blanks as code points."""
    if len(name) == 1 and (not name.isprintable() or name.isspace()):
        return f"U+{ord(name):04X}"
    return "\u25cc" + name if name and unicodedata.category(name[0]).startswith("M") else name


def label(name: str) -> Html:
    """A label's name, isolated from the writing direction around it; its long name as title."""
    title = name
    if len(name) == 1:
        title = f"U+{ord(name):04X} {unicodedata.name(name, '')}".strip()
    return tag("bdi", label_name(name), class_="label", title=title)


class Page:
    """A page of sections that refers to nothing outside itself.

    Args:
        title: the heading.
        lead: the blocks below it, above the table of contents.
    """

    def __init__(self, title: str, *lead: Content) -> None:
        self.title = title
        self.lead = lead
        self.sections: list[tuple[str, Html]] = []

    def add(self, title: str, *blocks: Content) -> None:
        """Appends a section; one without blocks is left out."""
        if body := render(blocks):
            self.sections.append((title, body))

    def render(self) -> str:
        links = [
            tag("li", tag("a", title, href=f"#s{i}"))
            for i, (title, _) in enumerate(self.sections, 1)
        ]
        sections = [
            tag("section", tag("h2", title), body, id=f"s{i}")
            for i, (title, body) in enumerate(self.sections, 1)
        ]
        head = [
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("title", self.title),
            tag("style", Html(CSS)),
        ]
        contents = tag("nav", tag("ol", links), aria_label="contents")
        body = [
            tag("header", tag("h1", self.title), *self.lead),
            contents if links else None,
            tag("main", sections),
        ]
        return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"

    def write(self, path: Path) -> Path:
        """Writes the page under a temporary name, then renames it, so it is never half there."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(self.render(), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path
