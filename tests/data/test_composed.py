import dataclasses
from collections import Counter

import numpy as np
import pytest
from fontTools import unicodedata
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from fastheads.data import load_composed
from fastheads.data.composed import look_alikes
from fastheads.data.fonts import find_fonts, read_faces
from fastheads.data.split import MINIMUM

FEW = {"scripts": ["Cyrillic"], "limit_labels": 60, "progress": False}


@pytest.fixture(scope="module")
def everything(cache_dir):
    """All composed characters of the default fonts."""
    return load_composed(cache_dir=cache_dir, progress=False)


@pytest.fixture(scope="module")
def few(cache_dir):
    return load_composed(cache_dir=cache_dir, **FEW)


def labels_of(data):
    """The names of the labels of each kind."""
    names = data.base.label_space.names
    rows = zip(data.kind_of_train, data.train.targets.tolist(), strict=True)
    return {data.kinds[kind]: {names[label] for label in row} for kind, row in rows}


def drawn(part):
    return [picture.tobytes() for picture in part.images[part.rows]]


def test_default_fonts(everything):
    """883 characters of several components each: 849 that look different."""
    covering = Counter(c for face in read_faces(find_fonts())[0] for c in face.codepoints)
    composed = {chr(c) for c, faces in covering.items() if faces >= 4}
    composed = {c for c in composed if len(unicodedata.normalize("NFD", c)) > 1}
    assert len(composed) == 883 and set(everything.kinds) <= composed
    assert 840 < len(everything.kinds) < 860 and not everything.dropped
    assert len(everything.base.label_space) == 400 and not everything.base.dropped
    assert 3000 < len(everything.base.train) < 4500
    assert len(everything.train) / len(everything.test) == pytest.approx(3.5, rel=0.2)
    assert "kinds streamed in" in everything.summary()


def test_kinds_carry_their_components(everything):
    found = labels_of(everything)
    assert found["é"] == {"e", "\u0301"} and found["ǖ"] == {"u", "\u0308", "\u0304"}
    assert found["≠"] == {"=", "\u0338"} and found["Й"] == {"И", "\u0306"}
    names = set(everything.base.label_space.names)
    assert not names & found.keys()
    exact = 0
    for kind, labels in found.items():
        components = set(unicodedata.normalize("NFD", kind))
        assert len(labels) <= len(components) and (components & names) <= labels
        exact += labels == components
    assert exact > 0.7 * len(found)


def test_look_alikes_are_one_label(everything):
    """Latin, Greek and Cyrillic A: Greek Ἀ has the Latin letter's label. È and Cyrillic Ѐ too."""
    found = labels_of(everything)
    names = everything.base.label_space.names
    assert "A" in names and "Α" not in names and "А" not in names
    assert found["Ἀ"] == {"A", "\u0313"}
    assert "Ѐ" not in found and found["È"] == {"E", "\u0300"}


def test_look_alikes_by_hand():
    """Half of the faces that draw both is enough, one of three is not; alike to alike is alike."""
    rows = [(0, 0, 65), (0, 0, 66), (1, 1, 65), (2, 1, 66)]  # one face of two
    rows += [(3, 2, 66), (3, 2, 67)]  # the only face of both
    rows += [(4, 3, 68), (4, 3, 69), (5, 4, 68), (6, 4, 69), (7, 5, 68), (8, 5, 69)]
    rows += [(9, 6, 70), (9, 7, 71)]  # the same picture, but never in one face
    table = np.array(rows, dtype=np.int32)
    expected = {67: 67, 66: 67, 65: 67, 68: 68, 69: 69, 70: 70, 71: 71}
    assert look_alikes(table, [67, 66, 65, 68, 69, 70, 71]) == expected
    assert look_alikes(table, [65, 66])[66] == 65
    assert look_alikes(table[:0], [65]) == {65: 65} and look_alikes(table[:0], []) == {}


def test_every_picture_stands_for_one_thing_in_one_place(everything):
    base = everything.base
    streamed = [everything.train, everything.holdout, everything.test]
    parts = [base.train, base.holdout, base.test, *streamed]
    pictures = [picture for part in parts for picture in drawn(part)]
    assert len(pictures) == len(set(pictures))
    assert all(part.targets.counts.unique().tolist() == [1] for part in parts[:3])
    assert everything.train.targets.counts.min() >= 2
    for part, minimum in zip(parts, MINIMUM, strict=False):
        assert np.bincount(part.targets.indices, minlength=400).min() >= minimum
    for kinds in (everything.kind_of_train, everything.kind_of_test):
        assert np.bincount(kinds, minlength=len(everything.kinds)).min() >= 1
    assert [len(part) == len(everything.kind_of_train) for part in streamed] == [True, False, False]


def test_seed_decides_the_splits(few, cache_dir):
    same = load_composed(cache_dir=cache_dir, **FEW)
    other = load_composed(cache_dir=cache_dir, seed=1, **FEW)
    for get in (lambda d: d.base.test, lambda d: d.train, lambda d: d.holdout, lambda d: d.test):
        assert drawn(get(same)) == drawn(get(few)) != drawn(get(other))
    assert same.kinds == other.kinds == few.kinds


def test_limits(everything, few, cache_dir):
    """The components of most kinds stay, with the kinds made of them; kinds are taken evenly."""
    levels = few.base.label_space.levels["script"]
    assert len(levels) == 60 and set(levels) == {"Cyrillic", "Combining Marks"}
    every = load_composed(cache_dir=cache_dir, **FEW | {"limit_labels": None})
    assert few.kinds == every.kinds and len(few.kinds) > 40  # 60 labels are enough for all
    uses = Counter(label for labels in labels_of(few).values() for label in labels)
    fewer = load_composed(cache_dir=cache_dir, **FEW | {"limit_labels": 20})
    kept = set(fewer.base.label_space.names)
    assert len(kept) == 20 and min(uses[c] for c in kept) >= max(
        uses[c] for c in uses if c not in kept
    )
    expected = {kind for kind, labels in labels_of(few).items() if labels <= kept}
    assert set(fewer.kinds) == expected and 0 < len(expected) < len(few.kinds)
    five = load_composed(cache_dir=cache_dir, limit_kinds=5, **FEW)
    count = len(few.kinds)
    assert five.kinds == tuple(few.kinds[i * count // 5] for i in range(5))
    assert five.base.label_space == few.base.label_space


def hangul_face(path, weight):
    """A face of five jamo as bars and rings, and of the eight syllables made of them."""
    bars = {
        "\u1100": [(100, 500, 450, 500 + weight), (450 - weight, 350, 450, 500)],
        "\u1102": [(100, 350, 100 + weight, 700), (100, 350, 450, 350 + weight)],
        "\u1161": [(550, 300, 550 + weight, 750), (550, 500, 700, 500 + weight)],
        "\u1169": [(50, 250, 850, 250 + weight), (400, 250, 400 + weight, 340)],
        "\u11a8": [(150, 100, 700, 100 + weight), (700 - weight, -100, 700, 100)],
    }
    for lead in "\u1100\u1102":
        for vowel in "\u1161\u1169":
            for tail in ("", "\u11a8"):
                parts = lead + vowel + tail
                bars[unicodedata.normalize("NFC", parts)] = [b for c in parts for b in bars[c]]
    glyphs = {}
    for name, rectangles in {".notdef": [], **bars}.items():
        pen = TTGlyphPen(None)
        for left, bottom, right, top in rectangles:
            pen.moveTo((left, bottom))
            for point in [(left, top), (right, top), (right, bottom)]:
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([*glyphs])
    builder.setupCharacterMap({ord(c): c for c in bars})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Jamo", "styleName": str(weight)})
    builder.setupOS2()
    builder.setupPost(keepGlyphNames=False)
    builder.save(path)


def test_hangul_of_further_fonts(tmp_path, cache_dir):
    """Syllables of two and three jamo, in five weights."""
    for weight in range(40, 140, 20):
        hangul_face(tmp_path / f"{weight}.ttf", weight)
    data = load_composed(tmp_path, scripts=["Hangul"], cache_dir=cache_dir, progress=False)
    assert data.base.label_space.names == ("\u1100", "\u1102", "\u1161", "\u1169", "\u11a8")
    found = labels_of(data)
    assert len(found) == 8 and found["각"] == {"\u1100", "\u1161", "\u11a8"}
    assert found["노"] == {"\u1102", "\u1169"}
    assert [len(data.train), len(data.holdout), len(data.test)] == [24, 8, 8]


def test_label_without_enough_drawings_takes_its_kinds_along(tmp_path, cache_dir):
    for weight in (40, 60, 80):
        hangul_face(tmp_path / f"{weight}.ttf", weight)
    with pytest.raises(ValueError, match="at least one label with 4 distinct drawings, got none"):
        load_composed(
            tmp_path, scripts=["Hangul"], min_faces=3, cache_dir=cache_dir, progress=False
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 7}, "size must be at least 8 pixels, got 7"),
        ({"min_faces": 0}, "min_faces must be at least 1, got 0"),
        ({"limit_labels": 1}, "limit_labels must be at least 2, got 1"),
        ({"limit_kinds": 0}, "limit_kinds must be at least 1, got 0"),
        ({"scripts": ["Klingon"]}, "scripts must be among .*Greek.*; got 'Klingon'"),
        ({"min_faces": 17, "scripts": None}, "at least one label with 4 distinct drawings"),
    ],
)
def test_rejects(options, message, cache_dir):
    with pytest.raises(ValueError, match=message):
        load_composed(cache_dir=cache_dir, **FEW | options)


def test_dropped_kinds_are_named(few):
    data = dataclasses.replace(few, dropped={"é": 1}, skipped={"a.jpg": "too small"})
    assert "1 kinds dropped for want of pictures, or of a label: é (1)" in data.summary()
    assert "1 streamed files skipped: a.jpg" in data.summary()
