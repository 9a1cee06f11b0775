from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastheads.report.page import (
    Page,
    escape,
    label,
    label_name,
    number,
    paragraph,
    picture,
    table,
    tag,
)

from .html_reader import Reader

HOSTILE = [
    "<script>alert(1)</script>",
    "&amp;",
    '"',
    "'",
    "</style>",
    "אב",
    "بت",
    "\u0301",
    "a\u202eb",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_and_attributes_are_escaped(text: str) -> None:
    read = Reader(tag("p", text, title=text))
    assert read.text == text
    assert read.tags == [("p", {"title": text})]


@given(st.text(st.characters(codec="utf-8")))
def test_escape_reads_back_but_for_what_html_forbids(text: str) -> None:
    allowed = re.sub(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", text
    )
    read = Reader(f'<p title="{escape(text)}">{escape(text)}</p>')
    assert read.text == allowed
    assert read.tags == [("p", {"title": allowed})]


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    page = Page("a\ud800b")
    assert "a\ufffdb" in page.write(tmp_path / "page.html").read_text(encoding="utf-8")


def test_markup_is_kept_and_nested_content_joined() -> None:
    assert tag("p", ["a", [tag("b", "<")], None, 3]) == "<p>a<b>&lt;</b>3</p>"
    assert tag("details", open_=True, hidden=False, class_=None) == "<details open></details>"


def test_table_holds_header_rows_and_exact_numbers() -> None:
    read = Reader(table(["row", "top-1"], [["base", number(1 / 3, "33.33")]], "caption"))
    assert read.tables == [[["row", "top-1"], ["base", "33.33"]]]
    assert read.values == [[[None, None], [None, 1 / 3]]]
    with pytest.raises(ValueError, match="zip"):
        table(["row", "top-1"], [["base"]], "caption")


def test_picture_is_the_ink_as_opacity() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    _, attributes = Reader(picture(pixels, "a <b>", scale=3)).tags[0]
    assert (attributes["width"], attributes["height"], attributes["alt"]) == ("12", "9", "a <b>")
    encoded = (attributes["src"] or "").removeprefix("data:image/png;base64,")
    stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert (stored[..., 0] == 0).all() and (stored[..., 1] == pixels).all()


def test_picture_in_colour_is_shown_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    _, attributes = Reader(picture(pixels, "")).tags[0]
    encoded = (attributes["src"] or "").removeprefix("data:image/png;base64,")
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))) == pixels).all()
    assert attributes["class"] == "pixels"


@pytest.mark.parametrize("pixels", [np.zeros((3, 4)), np.zeros((3, 4, 2), np.uint8)])
def test_picture_rejects(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels must be uint8"):
        picture(pixels, "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("A", "A"), ("\u0301", "\u25cc\u0301"), ("\u00a0", "U+00A0"), ("\u200d", "U+200D"),
     ("two words", "two words"), ("", "")],
)  # fmt: skip
def test_label_name(name: str, shown: str) -> None:
    assert label_name(name) == shown


def test_label_is_isolated_and_titled() -> None:
    read = Reader(label("א"))
    assert read.tags == [("bdi", {"class": "label", "title": "U+05D0 HEBREW LETTER ALEF"})]


def test_page_lists_its_sections_and_leaves_out_empty_ones() -> None:
    page = Page("A & B", paragraph("lead"))
    page.add("One <1>", paragraph("x"))
    page.add("None", None, [])
    page.add("Two", paragraph("y"))
    read = Reader(page.render().removeprefix("<!doctype html>"))
    assert read.headings == ["One <1>", "Two"]
    links = [attributes["href"] for name, attributes in read.tags if name == "a"]
    ids = [attributes["id"] for name, attributes in read.tags if name == "section"]
    assert links == [f"#{name}" for name in ids] == ["#s1", "#s2"]


def test_write_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    assert Page("new").write(path) == path
    assert "<h1>new</h1>" in path.read_text() and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Page("new").write(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
