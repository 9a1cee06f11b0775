"""Draws the characters of one face; run as a script, one process a face.

A process of its own, importing Pillow alone, starts in 0.1 s, and a font that brings FreeType down
takes nothing else with it. Reads one JSON object from standard input: ``path``, ``index``,
``size``, ``codepoints``. Writes ``[1 + codepoints, size, size]`` uint8 to standard output: first
what the face shows for a character that it lacks (.notdef), then each character.
"""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

EM = 0.75  # em size and height of the baseline, as parts of the picture's size


def draw(font: ImageFont.FreeTypeFont, character: str, size: int) -> Image.Image:
    """Draws white ink on black, centred left to right, on a common baseline where it fits."""
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    longest = max(right - left, bottom - top)
    if longest > 8 * size:  # a calligraphic ligature: measure it small, draw it smaller
        return draw(font.font_variant(size=font.size * size / longest), character, size)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    at = (1 - int(left), 1 - int(top))
    ImageDraw.Draw(canvas).text(at, character, fill=255, font=font, anchor="ls")
    picture = Image.new("L", (size, size))
    ink = canvas.getbbox()
    if ink is None:
        return picture
    width, height = ink[2] - ink[0], ink[3] - ink[1]
    if max(width, height) > size:
        smaller = font.size * size / (max(width, height) + 1)
        return draw(font.font_variant(size=smaller), character, size)
    row = round(EM * size) + ink[1] - at[1]
    row = min(max(row, 0), size - height)
    picture.paste(canvas.crop(ink), ((size - width) // 2, row))
    return picture


def main() -> None:
    request = json.load(sys.stdin)
    size, codepoints = request["size"], request["codepoints"]
    font = ImageFont.truetype(
        request["path"],
        round(EM * size),
        index=request["index"],
        layout_engine=ImageFont.Layout.BASIC,  # one character, one glyph: no shaping
    )
    # U+10FFFF is a noncharacter: no font may give it a glyph of its own.
    for codepoint in [0x10FFFF, *codepoints]:
        sys.stdout.buffer.write(draw(font, chr(codepoint), size).tobytes())


if __name__ == "__main__":
    main()
