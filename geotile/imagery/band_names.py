"""Names of bands: what the bands of a file show, as far as it says it."""

from __future__ import annotations

import re
from collections.abc import Sequence

RGB = ("red", "green", "blue")
_GENERIC = re.compile(r"(band)?[ _-]?\d*")
OTHER_BANDS = frozenset({
    "nir", "nir1", "nir2", "nir08", "nir09", "near infrared", "near-infrared", "swir", "swir1", "swir2", "swir16",
    "swir22", "red edge", "red-edge", "red_edge", "rededge", "coastal", "coastal blue", "coastal_blue", "yellow",
    "thermal", "lwir", "pan", "panchromatic", "cyan", "magenta", "alpha",
})  # fmt: skip
"""Names of bands that are neither red, green nor blue."""


def names_of_bands(descriptions: Sequence[str | None], colours: Sequence[str]) -> tuple[str, ...]:
    """Return a name in lower case for each band, an empty text where none is known.

    Descriptions that name bands go before the colour interpretation, which GDAL sets to red, green and blue for any
    file of three 8-bit bands.

    Parameters
    ----------
    descriptions : sequence of str or None
        Description of each band.
    colours : sequence of str
        Colour interpretation of each band.

    Examples
    --------
    >>> names_of_bands(["Blue", "Green", "Red"], ["red", "green", "blue"])
    ('blue', 'green', 'red')
    >>> names_of_bands(["B4", None, ""], ["blue", "green", "undefined"])
    ('blue', 'green', '')
    """
    described = tuple((each or "").strip().lower() for each in descriptions)
    if any(each in RGB or each in OTHER_BANDS for each in described):
        return described
    named = tuple(colour if colour in RGB else "" for colour in colours)
    if named[:3] == RGB and any(each and not _GENERIC.fullmatch(each) for each in described):
        return described  # names of a sensor, such as B02, of which the default colours know nothing
    return named
