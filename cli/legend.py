"""The column beside an annotated picture: what was seen, related and read, in words."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Section = tuple[str, Sequence[tuple[Colour, str]]]

WIDTH_SHARE = 0.42
_GROUND = (28, 30, 34)
_INK = (236, 236, 236)
_FAINT = (150, 154, 160)


def load_font(size: int) -> Font:
    """A font of `size` pixels that knows accents, if one is installed; else Pillow's own."""
    places = ["DejaVuSans.ttf"]
    plotting = find_spec("matplotlib")
    if plotting is not None and plotting.origin is not None:
        # matplotlib carries DejaVu; it comes with the exporter.
        places.append(str(Path(plotting.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"))
    for place in places:
        try:
            return ImageFont.truetype(place, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def beside(picture: Image.Image, sections: Sequence[Section], font: Font) -> Image.Image:
    """`picture` with a column of `sections` at its right; unchanged if there are none.

    A section is a heading and lines, each with the colour of its mark. Lines that are too long are cut; lines that find
    no room are counted on the last line.
    """
    if not sections:
        return picture
    width = round(max(picture.width, picture.height * 0.75) * WIDTH_SHARE)
    joined = Image.new("RGB", (picture.width + width, picture.height), _GROUND)
    joined.paste(picture, (0, 0))
    draw = ImageDraw.Draw(joined)
    height = round(draw.textbbox((0, 0), "Ég", font=font)[3] * 1.35)
    left, y, bottom = picture.width + height // 2, height // 2, picture.height - height
    rows: list[tuple[Colour | None, str]] = []
    for heading, lines in sections:
        rows += [(None, heading.upper()), *lines, (None, "")]
    for place, (colour, text) in enumerate(rows):
        if y + height > bottom and place < len(rows) - 2:
            draw.text((left, y), f"… and {len(rows) - place - 1} more", font=font, fill=_FAINT)
            break
        if colour is None:
            draw.text((left, y), text, font=font, fill=_FAINT)
        else:
            mark = height // 2
            draw.rectangle([left, y + mark // 2, left + mark, y + mark // 2 + mark], fill=colour)
            room = joined.width - left - mark - height
            draw.text((left + mark + height // 3, y), _cut(draw, text, font, room), font=font, fill=_INK)
        y += height
    return joined


def _cut(draw: ImageDraw.ImageDraw, text: str, font: Font, room: float) -> str:
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(text + "…", font=font) > room:
        text = text[:-1]
    return text + "…"
