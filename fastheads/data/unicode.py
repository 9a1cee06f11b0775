"""What Unicode says about characters: scripts, categories, decompositions, names."""

from __future__ import annotations

from collections.abc import Sequence

from fontTools import unicodedata

from fastheads.labels import LabelSpace

# Characters of no single script (Common, Inherited) go by their block; words of a block's name
# that put several blocks together, first match first.
VERTICALS = {
    "Arrow": "Arrows",
    "Mathematical Alphanumeric": "Mathematical Alphanumeric Symbols",
    "Mathematical": "Mathematical Symbols",
    "Combining": "Combining Marks",
    "Latin": "Punctuation and Digits",
    "Punctuation": "Punctuation and Digits",
    "Modifier": "Modifier Letters",
}


def vertical(character: str) -> str:
    """The script of a character, or for one that many scripts share, what its block is about."""
    script = unicodedata.script(character)
    if script not in {"Zyyy", "Zinh", "Zzzz"}:
        return unicodedata.script_name(script).replace("_", " ")
    block = unicodedata.block(character)
    return next((name for word, name in VERTICALS.items() if word in block), block)


def character_space(characters: Sequence[str]) -> LabelSpace:
    """Labels that are characters, below general category within script, below script."""
    scripts = tuple(vertical(c) for c in characters)
    categories = tuple(
        f"{script} {unicodedata.category(c)}" for script, c in zip(scripts, characters, strict=True)
    )
    return LabelSpace(tuple(characters), {"category": categories, "script": scripts})


def describe(character: str) -> str:
    """Code point and name, such as ``U+0041 LATIN CAPITAL LETTER A``."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def components(codepoint: int) -> tuple[int, ...]:
    """Code points of the full canonical decomposition; of é, those of e and the acute accent."""
    return tuple(map(ord, unicodedata.normalize("NFD", chr(codepoint))))


def compositions(label_space: LabelSpace) -> list[tuple[int, tuple[int, ...]]]:
    """Labels whose full canonical decomposition is made of labels: (composed, components)."""
    index = {name: i for i, name in enumerate(label_space.names)}
    found = []
    for name, label in index.items():
        parts = unicodedata.normalize("NFD", name)
        if len(parts) > 1 and all(part in index for part in parts):
            found.append((label, tuple(index[part] for part in parts)))
    return found
