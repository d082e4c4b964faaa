"""The asset of a STAC item as an image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from geotile.core.checks import check_path
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageOpenError
from geotile.imagery.open_files import is_retryable_text
from geotile.storage.download import read_whole
from geotile.storage.uris import expanded_path

_MAX_BYTES, _TOTAL_S = 2**24, 60.0


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
            "a STAC item needs pystac, which is not installed. Install it with pip install pystac"
        ) from None
    try:
        if isinstance(item, Mapping):
            item = pystac.Item.from_dict(dict(item))
        elif not hasattr(item, "assets"):
            item = _read(expanded_path(check_path(item, argument)))
    except ArgumentError:
        raise
    except Exception as error:  # pystac has no common base class for the errors of a broken item
        failed = ImageOpenError(f"cannot read the STAC item {redact(str(item))[:200]}: {redact(str(error))}")
        failed.retryable = isinstance(error, TimeoutError) or is_retryable_text(str(error))
        raise failed from None
    if asset is None or asset not in item.assets:
        keys = ", ".join(f"{key} ({each.media_type or 'no type'})" for key, each in item.assets.items())
        raise ArgumentError(
            f"asset must be the key of an asset of the STAC item {item.id!r}, which has {keys or 'no assets'}; got "
            f"{asset!r}"
        )
    href = item.assets[asset].get_absolute_href() or item.assets[asset].href
    return str(href)


def _read(uri: str) -> Any:
    """Return the item at a path or URI; pystac would wait for ever for a named pipe or a slow server."""
    import pystac

    document = json.loads(read_whole(uri, _MAX_BYTES, _TOTAL_S))
    return pystac.Item.from_dict(document, href=uri if "://" in uri else os.path.abspath(uri), preserve_dict=False)
