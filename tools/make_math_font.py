"""Make the font of the formulas: what they need of STIX Two Math, as woff2.

Run it by hand after a change: ``python tools/make_math_font.py STIXTwoMath-Regular.ttf``.
The font is in the wheel of the package ziamath. The same input and the same versions of
fonttools and brotli give the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

TARGET = Path(__file__).parents[1] / "docs" / "_static" / "fonts" / "stix-two-math-subset.woff2"
RANGES = [
    (0x20, 0x7E),  # Latin
    (0xA0, 0xFF),
    (0x2C6, 0x2DD),  # accents
    (0x300, 0x338),
    (0x391, 0x3F6),  # Greek
    (0x2000, 0x2064),  # spaces, dashes, primes, invisible operators
    (0x20D0, 0x20DC),
    (0x2100, 0x214F),  # letterlike
    (0x2190, 0x2199),  # arrows
    (0x21A6, 0x21A6),
    (0x21D0, 0x21D5),
    (0x2200, 0x22FF),  # operators
    (0x2308, 0x230B),  # ceiling, floor
    (0x23B0, 0x23E1),  # braces above and below
    (0x27E6, 0x27EB),  # brackets
    (0x27F5, 0x27FF),  # long arrows
    (0xFE00, 0xFE00),  # picks the script shape of a calligraphic letter
    (0x1D400, 0x1D4CF),  # bold, italic, script letters
    (0x1D538, 0x1D56B),  # blackboard letters
    (0x1D6A8, 0x1D755),  # Greek: bold, italic
    (0x1D7CE, 0x1D7D7),  # bold digits
]


def main(source: str) -> None:
    """Write the subset of a font file."""
    options = Options()
    options.flavor = "woff2"
    options.layout_features = ["dtls", "flac", "ssty"]  # what MathML layout asks for
    options.name_IDs = ["*"]  # copyright and licence stay in the file
    options.hinting = False
    options.drop_tables += ["DSIG"]
    font = TTFont(source, recalcTimestamp=False)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=[code for low, high in RANGES for code in range(low, high + 1)])
    subsetter.subset(font)
    font.flavor = "woff2"
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    font.save(TARGET)


if __name__ == "__main__":
    main(*sys.argv[1:])
