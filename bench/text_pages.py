"""Pictures with known text, drawn on the spot: pages, signs, receipts, tilted and upside-down lines.

Used by `bench.ocr` beside real photos, most of which hold little text. Everything is drawn with the font inside
Pillow, from fixed numbers, so every machine gets the same pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PROSE = (
    "The ferry leaves the old harbour at half past seven",
    "and calls at three islands before noon. Passengers",
    "who travel with bicycles should board first; dogs",
    "are welcome on the upper deck. Tickets cost 14.50",
    "for adults and 7.25 for children under twelve.",
    "",
    "In winter the crossing takes twenty minutes longer,",
    "because the captain keeps away from the shallows.",
    "Coffee, soup and bread are sold below from 8:15.",
    "Please keep the gangway clear until the bell rings.",
    "",
    "Lost property: office 3, first floor, weekdays only.",
    "Telephone 555-0142 or write to the harbour master.",
)
_RECEIPT = (
    ("2 COFFEE", "5.80"),
    ("1 CROISSANT", "2.40"),
    ("3 ORANGE JUICE", "10.50"),
    ("1 SANDWICH TUNA", "6.95"),
    ("SUBTOTAL", "25.65"),
    ("TAX 8%", "2.05"),
    ("TOTAL", "27.70"),
    ("CASH", "30.00"),
    ("CHANGE", "2.30"),
)


def text_pages() -> dict[str, bytes]:
    """PNG files by name."""
    pages: dict[str, Callable[[], Image.Image]] = {
        "page": _page,
        "signs": _signs,
        "receipt": _receipt,
        "tilted": _tilted,
        "upside_down": lambda: sign("EXIT 42 NORTH", size=56).rotate(180),
        "poster": _poster,
    }
    return {name: to_png(draw()) for name, draw in pages.items()}


def to_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def sign(text: str, *, size: int, paper: str = "white", ink: str = "black", margin: int = 60) -> Image.Image:
    """One line of `text`, `size` pixels high, on a plain board."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    board = Image.new("RGB", (right - left + 2 * margin, bottom - top + 2 * margin), paper)
    ImageDraw.Draw(board).text((margin - left, margin - top), text, fill=ink, font=font)
    return board


def _page() -> Image.Image:
    page = Image.new("RGB", (1000, 760), "#fbfaf5")
    draw = ImageDraw.Draw(page)
    draw.text((80, 50), "Harbour Notice No. 27", fill="#202020", font=ImageFont.load_default(48))
    for row, line in enumerate(_PROSE):
        draw.text((80, 150 + 44 * row), line, fill="#202020", font=ImageFont.load_default(30))
    return page


def _signs() -> Image.Image:
    street = Image.new("RGB", (960, 640), "#8fa3b0")
    boards = (
        (sign("STOP", size=72, paper="#b01020", ink="white", margin=30), (60, 60)),
        (sign("Main Street", size=44, paper="#0b6b35", ink="white", margin=20), (420, 80)),
        (sign("NO PARKING", size=40, paper="white", ink="#b01020", margin=24), (380, 260)),
        (sign("Bakery & Cafe", size=52, paper="#f3e3b5", ink="#4a2c10", margin=24), (90, 420)),
        (sign("25 km/h", size=38, paper="#f7d100", ink="black", margin=20), (640, 470)),
    )
    for board, place in boards:
        street.paste(board, place)
    return street


def _receipt() -> Image.Image:
    slip = Image.new("RGB", (420, 640), "white")
    draw = ImageDraw.Draw(slip)
    font = ImageFont.load_default(24)
    draw.text((90, 40), "CORNER KITCHEN", fill="black", font=font)
    for row, (item, price) in enumerate(_RECEIPT):
        draw.text((40, 120 + 46 * row), item, fill="#222222", font=font)
        draw.text((310, 120 + 46 * row), price, fill="#222222", font=font)
    draw.text((60, 570), "THANK YOU, COME AGAIN", fill="black", font=ImageFont.load_default(22))
    return slip


def _tilted() -> Image.Image:
    wall = Image.new("RGB", (800, 600), "#dddddd")
    for text, angle, place in (
        ("SUMMER SALE", 12, (40, 40)),
        ("Open every day", -9, (280, 220)),
        ("Fresh bread", 18, (60, 340)),
    ):
        board = sign(text, size=48, paper="#dddddd", ink="#101050", margin=10)
        wall.paste(board.rotate(angle, expand=True, fillcolor="#dddddd"), place)
    return wall


def _poster() -> Image.Image:
    rng = np.random.default_rng(7)
    rows = np.linspace(120, 220, 900)[:, None, None]
    noise = rng.normal(0, 6, size=(900, 700, 3))
    poster = Image.fromarray(np.clip(rows + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(poster)
    for text, size, top in (
        ("JAZZ NIGHT", 96, 80),
        ("with the Blue Lantern Trio", 42, 230),
        ("Saturday 14 March, doors 19:30", 36, 330),
        ("Old Mill Theatre", 64, 450),
        ("Tickets at the bar or at the door", 30, 620),
        ("Free entry for students", 26, 690),
        ("Printed on recycled paper", 16, 840),
    ):
        draw.text((50, top), text, fill="#1a0f2e", font=ImageFont.load_default(size))
    return poster
