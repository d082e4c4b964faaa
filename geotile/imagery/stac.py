"""The asset of a STAC item as an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geotile.core.checks import check_path
from geotile.core.redact import redact
from geotile.core.regular_file import special_kind
from geotile.errors import ArgumentError, ImageOpenError


def is_stac(uri: Any, asset: str | None) -> bool:
    """Return whether something is a STAC item: an object, its JSON, or, with `asset`, its URI."""
    return asset is not None or hasattr(uri, "assets") or (isinstance(uri, Mapping) and "stac_version" in uri)


def stac_asset(item: Any, asset: str | None, argument: str = "uri") -> str:
    """Return the absolute URI of an asset of a STAC item; `argument` is the name of the argument in errors.

    Raises
    ------
    ArgumentError
        If pystac is not installed, or the item has no asset with this key.
    ImageOpenError
        If the item cannot be read.
    """
    try:
        import pystac
    except ImportError:
        raise ArgumentError(
            "a STAC item needs pystac, which is not installed. Install it with pip install 'geotile[stac]'"
        ) from None
    try:
        if isinstance(item, Mapping):
            item = pystac.Item.from_dict(dict(item))
        elif not hasattr(item, "assets"):
            if kind := special_kind(check_path(item, argument)):
                raise OSError(f"it is {kind}, not a regular file")
            item = pystac.Item.from_file(check_path(item, argument))
    except ArgumentError:
        raise
    except Exception as error:  # pystac has no common base class for the errors of a broken item
        raise ImageOpenError(f"cannot read the STAC item {redact(str(item))[:200]}: {redact(str(error))}") from None
    if asset is None or asset not in item.assets:
        keys = ", ".join(f"{key} ({each.media_type or 'no type'})" for key, each in item.assets.items())
        raise ArgumentError(
            f"asset must be the key of an asset of the STAC item {item.id!r}, which has {keys or 'no assets'}; got "
            f"{asset!r}"
        )
    href = item.assets[asset].get_absolute_href() or item.assets[asset].href
    return str(href)
