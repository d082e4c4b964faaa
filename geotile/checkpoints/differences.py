"""What distinguishes a job from that of a checkpoint, in the names of the options that users give.

The fields of an identity depend on each other: another file has another version, and other tiles select other ones.
Only the first cause of each chain is named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

Part = Mapping[str, Any]
_MAX_CHARACTERS = 80
_IMAGE = {
    "array": "the array has changed", "steps": "the conversion of the pixels (stretch, rescale, cast, sar) has changed",
    "origin": "the part of the image has changed", "dtype": "the dtype of the pixels has changed",
    "inside": "subdataset, or the file inside the archive, has changed",
}  # fmt: skip
_OF_FUNCTION = ("raster", "length")  # of the tiles of models that answer rasters and vectors
_RASTER = {
    "output": "output", "blend": "blend", "classes": "classes", "activation": "activation", "thresholds": "threshold",
    "score_dtype": "score_dtype",
}  # fmt: skip
_DIGESTS = {"params": "endpoint parameter", "headers": "header", "query": "query parameter"}


def differences(stored: Part, current: Part) -> list[str]:
    """Return what differs between two identities, as `geotile.checkpoints.identity.identity_of` returns them.

    Examples
    --------
    >>> grid = {"shape": [512, 512], "overlap": [32, 32], "chunks": [[512], [512]]}
    >>> differences({"grid": {**grid, "tile": [224, 224]}}, {"grid": {**grid, "tile": [192, 192]}})
    ['tile_size was 224 and is now 192']
    """
    parts = {name: (stored.get(name) or {}, current.get(name) or {}) for name in ("image", "grid", "model", "tiles")}
    found = [*_image(*parts["image"]), *_tiling(*parts["grid"]), *_model(*parts["model"])]
    found += _tiles(*parts["tiles"], same_tiles=not found)
    if not found:
        found = list(_regions(*parts["grid"]))
    if not found:
        found = [f"{name} has changed" for name in sorted({*stored, *current}) if stored.get(name) != current.get(name)]
    return found


def _image(old: Part, new: Part) -> Iterator[str]:
    if old.get("uri") != new.get("uri"):
        yield f"the image was {_uri(old)} and is now {_uri(new)}"
        return
    if old.get("version") != new.get("version"):
        yield "the image file has changed"
        return
    if old.get("bands") != new.get("bands"):
        yield _was("bands", old.get("bands"), new.get("bands"))
    if old.get("whole") != new.get("whole") or old.get("resampled") != new.get("resampled"):
        yield "resolution or subdataset has changed"
        return
    named = [text for name, text in _IMAGE.items() if old.get(name) != new.get(name)]
    yield from named
    if not named and old.get("bands") == new.get("bands") and old.get("shape") != new.get("shape"):
        yield _was("the shape of the image", old.get("shape"), new.get("shape"))


def _uri(image: Part) -> str:
    return str(image.get("uri", "an array"))


def _tiling(old: Part, new: Part) -> Iterator[str]:
    for name, option in (("tile", "tile_size"), ("overlap", "overlap")):
        if old.get(name) != new.get(name):
            yield _was(option, _side(old.get(name)), _side(new.get(name)))


def _side(pair: Any) -> Any:
    """Return a number for a square, and a (y, x) pair for others."""
    if not isinstance(pair, list) or len(pair) != 2:
        return pair
    return pair[0] if pair[0] == pair[1] else tuple(pair)


def _regions(old: Part, new: Part) -> Iterator[str]:
    """Yield the difference of the regions, which follow from the image and the tiles where those differ."""
    if old.get("chunks") != new.get("chunks"):
        before, after = (_side([max(axis, default=0) for axis in part.get("chunks") or []]) for part in (old, new))
        yield _was("region_size, in whole blocks of the file,", before, after)


def _model(old: Part, new: Part) -> Iterator[str]:
    if old.get("model") != new.get("model"):
        yield _was("the model", old.get("model"), new.get("model"))
        return
    if old.get("version") != new.get("version"):
        if str(new.get("model")).startswith("onnx:"):
            yield "the model file has changed"
        else:
            yield _was("the version of the model", old.get("version"), new.get("version"))
    if old.get("options") != new.get("options"):
        yield from _decoder(old.get("options"), new.get("options"))
    for name, text in _DIGESTS.items():
        before, after = old.get(name) or {}, new.get(name) or {}
        changed = sorted(each for each in {*before, *after} if before.get(each) != after.get(each))
        yield from (f"the {text} {each} has changed" for each in changed)
    for name in sorted({*old, *new} - {"model", "version", "options", *_DIGESTS}):
        if old.get(name) != new.get(name):
            yield _was(f"{name} of the model", old.get(name), new.get(name))


def _answers(old: Part, new: Part) -> Iterator[str]:
    """Yield the differences of what becomes of the answers of models of rasters and vectors."""
    for name in ("tokens", "prefix_tokens", "dtype"):
        if old.get(name) != new.get(name):
            yield _was(name, old.get(name), new.get(name))
    before, after = old.get("raster") or {}, new.get("raster") or {}
    for name in _RASTER:
        if before.get(name) != after.get(name):
            yield _was(_RASTER[name], before.get(name), after.get(name))


def _decoder(old: Any, new: Any) -> Iterator[str]:
    """Yield the differences of the options of a decoder, which are stored as the text of a list of pairs."""
    try:
        before, after = (dict(ast.literal_eval(text)) for text in (old, new))
    except (ValueError, TypeError, SyntaxError):
        yield "the options of the decoder have changed"
        return
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield " and is now ".join((
                f"{name} was {_short(before[name]) if name in before else 'the default'}",
                _short(after[name]) if name in after else "the default",
            ))  # fmt: skip


def _tiles(old: Part, new: Part, *, same_tiles: bool) -> Iterator[str]:
    """Yield the differences of how tiles are made; some are consequences where the image, grid or model differs."""
    if [name in old for name in _OF_FUNCTION] != [name in new for name in _OF_FUNCTION]:
        yield "it is that of another function (detect_to, predict_to or embed_to)"
        return
    yield from _answers(old, new)
    if old.get("pad") != new.get("pad"):
        yield _was("pad", old.get("pad"), new.get("pad"))
    if old.get("score_threshold") != new.get("score_threshold"):
        yield _was("score_threshold", old.get("score_threshold"), new.get("score_threshold"))
    if old.get("min_valid_share") != new.get("min_valid_share"):
        yield _was("skip_nodata", *(_skip_nodata(part.get("min_valid_share")) for part in (old, new)))
    roi = [part.get("selected") is not None for part in (old, new)]
    if roi[0] != roi[1]:
        yield f"roi {'is left out' if roi[0] else 'is given'} now, and was {'' if roi[0] else 'not '}before"
    if not same_tiles:
        return
    if all(roi) and old.get("selected") != new.get("selected"):
        yield "roi has changed"
    if old.get("format") != new.get("format"):
        yield _was("tile_format (and tile_compression)", old.get("format"), new.get("format"))
    if old.get("nodata") != new.get("nodata"):
        yield f"the nodata value was {old.get('nodata')} and is now {new.get('nodata')}"
    if old.get("place") != new.get("place"):
        yield "the georeference has changed"


def _skip_nodata(share: float | None) -> bool | float:
    """Return the option that a minimum share of valid pixels stands for."""
    return False if share is None else True if share == 0 else share


def _was(name: str, old: Any, new: Any) -> str:
    return f"{name} was {_short(old)} and is now {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
