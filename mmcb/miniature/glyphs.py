"""The atlas of object pictures: Noto emoji glyphs, cut from the font once and shipped as a PNG.

Rebuild it (needs Debian's fonts-noto-color-emoji): `python -m mmcb.miniature.glyphs FONT.ttf`.
The glyphs are under the SIL Open Font License 1.1, see `assets/NOTO-EMOJI-LICENSE.txt`.
"""

import sys
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mmcb.miniature.vocabulary import THINGS

ASSETS = Path(__file__).parent / "assets"
ATLAS = ASSETS / "glyphs.png"
CELL = 96
COLUMNS = 7
# The only size at which the font's bitmaps render.
FONT_SIZE = 109


def build_atlas(font_path: Path, out: Path = ATLAS) -> None:
    """Draws every thing's glyph, cropped to its ink and centred in a square cell, into one PNG."""
    font = ImageFont.truetype(str(font_path), FONT_SIZE)
    rows = -(-len(THINGS) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL), (0, 0, 0, 0))
    for index, thing in enumerate(THINGS):
        canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((8, 8), thing.glyph, font=font, embedded_color=True)
        ink = canvas.crop(canvas.getbbox())
        ink.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        left = (index % COLUMNS) * CELL + (CELL - ink.width) // 2
        top = (index // COLUMNS) * CELL + (CELL - ink.height) // 2
        atlas.paste(ink, (left, top))
    out.parent.mkdir(parents=True, exist_ok=True)
    atlas.quantize(256, method=Image.Quantize.FASTOCTREE).save(out, optimize=True)


@cache
def glyph(name: str) -> Image.Image:
    """The RGBA picture of a thing, CELL x CELL pixels.

    Raises:
        KeyError: the name is not a thing of this world.
    """
    index = {thing.name: i for i, thing in enumerate(THINGS)}[name]
    left, top = (index % COLUMNS) * CELL, (index // COLUMNS) * CELL
    return _atlas().crop((left, top, left + CELL, top + CELL))


@cache
def _atlas() -> Image.Image:
    with Image.open(ATLAS) as image:
        return image.convert("RGBA")


if __name__ == "__main__":
    build_atlas(Path(sys.argv[1]))
