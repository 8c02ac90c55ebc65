"""Text for Matplotlib: any name, as far as an installed font has its characters."""

from __future__ import annotations

from functools import cache

import matplotlib
from matplotlib.font_manager import findfont, fontManager, get_font

from harness.screen.formatting import printable

# DejaVu Sans comes with Matplotlib, and has no Chinese, Japanese or Korean.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Noto Emoji",
    "Symbola",
    "Unifont",
)
_LONGEST = 40  # characters of a name
_NO_GLYPH = "□"

matplotlib.use("Agg")  # no window: the same on a cluster as on a desk
matplotlib.rcParams["font.family"] = [name for name in _FONTS if name in set(fontManager.get_font_names())]


def text_of(name: str, *, otherwise: str | None = None) -> str:
    """Return a name for Matplotlib to draw: in one line, shortened, and escaped so that it is no formula.

    Args:
        name: The name of a class, a metric or a parameter.
        otherwise: Text to return if no installed font has all of its characters; ``None`` draws squares instead.
    """
    text = printable(name, _LONGEST)
    missing = {character for character in text if ord(character) not in _drawable()}
    if missing and otherwise is not None:
        return otherwise
    for character in missing:
        text = text.replace(character, _NO_GLYPH)
    return text.replace("$", r"\$")  # two dollars would begin and end a formula


@cache
def _drawable() -> frozenset[int]:
    """Return the code points of the fonts in use."""
    families = matplotlib.rcParams["font.family"]
    return frozenset(point for family in families for point in get_font(findfont(family)).get_charmap())
