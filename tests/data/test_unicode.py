from fontTools import unicodedata

from fastheads.data import compositions
from fastheads.data.unicode import character_space, describe, vertical
from fastheads.labels import LabelSpace


def test_vertical_is_the_script_or_what_the_block_is_about():
    expected = {
        "A": "Latin", "Ω": "Greek", "Ж": "Cyrillic", "ش": "Arabic", "⠁": "Braille",
        "→": "Arrows", "⟵": "Arrows", "∑": "Mathematical Symbols", "⨁": "Mathematical Symbols",
        "𝐀": "Mathematical Alphanumeric Symbols", "7": "Punctuation and Digits",
        "—": "Punctuation and Digits", "«": "Punctuation and Digits", "─": "Box Drawing",
        "🂡": "Playing Cards", "䷀": "Yijing Hexagram Symbols", "\u0301": "Combining Marks",
        "ˆ": "Modifier Letters", "ᐁ": "Canadian Aboriginal",
    }  # fmt: skip
    assert {character: vertical(character) for character in expected} == expected


def test_hierarchy_is_nested_and_finest_first(glyphs):
    levels = glyphs.label_space.levels
    assert list(levels) == ["category", "script"]
    above: dict[str, set[str]] = {}
    for category, script in zip(levels["category"], levels["script"], strict=True):
        above.setdefault(category, set()).add(script)
    assert all(len(scripts) == 1 for scripts in above.values())
    assert character_space(["A"]).levels["category"] == ("Latin Lu",)


def test_compositions_are_labels_made_of_labels(glyphs):
    names = glyphs.label_space.names
    found = compositions(glyphs.label_space)
    assert len(found) > 800
    for composed, components in found:
        text = "".join(names[c] for c in components)
        assert len(components) > 1 and composed not in components
        assert unicodedata.normalize("NFD", names[composed]) == text
    spelled = {names[c]: [names[p] for p in parts] for c, parts in found}
    assert spelled["é"] == ["e", "\u0301"] and spelled["ǖ"] == ["u", "\u0308", "\u0304"]
    assert "a" not in spelled
    assert compositions(LabelSpace(("é", "e"))) == []


def test_describe():
    assert describe("A") == "U+0041 LATIN CAPITAL LETTER A"
    assert describe("\ue000") == "U+E000"
