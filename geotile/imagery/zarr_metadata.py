"""What the metadata of a Zarr store may claim: checked before zarr reads them, and before anything is decoded.

Codecs, filters and dtypes come from lists of those that only compute numbers. A codec named in the metadata could
otherwise unpickle (``pickle``), or be any codec that an installed package has registered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from geotile.errors import ImageOpenError
from geotile.imagery.zarr_chunks import Coding

MAX_METADATA_BYTES = 2**24
_MAX_LENGTH, _MAX_CHUNKS = 2**24, 2**22
_MAX_TABLE_BYTES, _MAX_TABLE_CHUNKS = 2**27, 2**14  # of an array of one dimension, which xarray loads when it opens
_MAX_ITEM_BYTES, _MAX_NUMBER_BYTES, _MAX_DIMENSIONS = 2**12, 16, 16
COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
_FILTERS = frozenset({
    "adler32", "astype", "bitround", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32", "jenkins_lookup3",
    "packbits", "quantize", "shuffle",
})  # fmt: skip
_TEXT_GROWTH = 16  # of texts of one character, which become objects
_TEXTS = frozenset({"vlen-utf8", "vlen-bytes"})
_CODECS = frozenset({"bytes", "transpose", "sharding_indexed", "crc32c", "blosc", "gzip", "zstd"}) | _TEXTS
_TEXT_DTYPES = frozenset({"string", "variable_length_bytes", "bytes"})
_NUMBERS = frozenset(
    {"bool", "float16", "float32", "float64", "complex64", "complex128"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_LENGTH_DTYPES = frozenset({"fixed_length_utf32", "null_terminated_bytes"})
_TIME_DTYPES = frozenset({"numpy.datetime64", "numpy.timedelta64"})


class RefusedMetadata(ImageOpenError):
    """Metadata of a Zarr store that are not read."""


def checked_metadata(key: str, data: bytes, limit: int) -> dict[str, Coding]:
    """Check the metadata that a key of a Zarr store holds.

    Parameters
    ----------
    key : str
        Key in the store, such as ``a/.zarray`` or ``a/zarr.json``.
    data : bytes
    limit : int
        Maximum size of a chunk in bytes.

    Returns
    -------
    dict
        How the chunks of each array that is described are coded, by its path.

    Raises
    ------
    ImageOpenError
        If they claim too much, or name what could run code.
    """
    folder, _, name = key.rpartition("/")
    found: dict[str, Coding] = {}
    for path, kind, described in _documents(folder, name, json.loads(data)):
        if kind == ".zarray" or (kind == "zarr.json" and described.get("node_type") == "array"):
            try:
                found[path] = _checked_array(described, limit)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise _refused(path, f"cannot be followed ({type(error).__name__}: {str(error)[:100]})") from None
            except RefusedMetadata as error:
                raise _refused(path, str(error)) from None
    return found


def _documents(folder: str, name: str, document: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield path, kind and content of a document of metadata and of those that it consolidates."""
    if not isinstance(document, Mapping):
        raise _refused(folder, "are not a mapping")
    yield folder, name, document
    inside = document.get("metadata") if name == ".zmetadata" else None
    if name == "zarr.json":
        inside = (document.get("consolidated_metadata") or {}).get("metadata")
    for key, each in (inside or {}).items():
        path, _, kind = key.rpartition("/") if name == ".zmetadata" else (key, "", name)
        if ".." in key.split("/") or key.startswith("/"):
            raise _refused(folder, f"name {key[:100]!r}, outside the store")
        yield from _documents("/".join(filter(None, (folder, path))), kind, each)


def _refused(path: str, why: str) -> RefusedMetadata:
    return RefusedMetadata(f"the metadata of {path[:100] or 'its root'!r} {why}")


def _checked_array(array: Mapping[str, Any], limit: int) -> Coding:
    """Check the metadata of an array; return how its chunks are coded."""
    shape = _lengths(array["shape"])
    if array["zarr_format"] == 2:
        chunks, item, coding = _lengths(array["chunks"]), _itemsize_v2(array), _coding_v2(array)
    else:
        grid = array["chunk_grid"]
        if grid["name"] != "regular":
            raise RefusedMetadata(f"have a chunk grid {str(grid['name'])[:40]!r}; only regular ones are read")
        chunks, item = _lengths(grid["configuration"]["chunk_shape"]), _itemsize_v3(array["data_type"])
        chunks, coding = _coding_v3(array["codecs"], chunks, limit)
    if len(chunks) != len(shape) or 0 in chunks:
        raise RefusedMetadata(f"have a shape {shape} and chunks {chunks}, which do not belong together")
    if prod(chunks) * item > limit:
        raise RefusedMetadata(
            f"claim chunks of {prod(chunks) * item / 2**20:,.0f} MiB, and the maximum is {limit / 2**20:,.0f} MiB "
            f"(max_block_bytes={limit}). Raise max_block_bytes if you trust the store"
        )
    count = prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))
    if count > _MAX_CHUNKS:
        raise RefusedMetadata(f"claim {count:,} chunks, and the maximum is {_MAX_CHUNKS:,}")
    if len(shape) < 2 and (prod(shape) * item > _MAX_TABLE_BYTES or count > _MAX_TABLE_CHUNKS):
        raise RefusedMetadata(
            f"claim a coordinate of {prod(shape) * item:,} bytes in {count:,} chunks, and the maximum is "
            f"{_MAX_TABLE_BYTES:,} in {_MAX_TABLE_CHUNKS:,}"
        )
    return coding


def _lengths(values: Any) -> tuple[int, ...]:
    """Return the lengths of a shape."""
    lengths = tuple(values)
    if len(lengths) > _MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= _MAX_LENGTH for n in lengths):
        raise RefusedMetadata(f"have a length that is not a number from 0 to {_MAX_LENGTH:,}, or over 16 dimensions")
    return lengths


def _itemsize_v2(array: Mapping[str, Any]) -> int:
    """Return the size of a value in bytes, from the dtype of Zarr 2."""
    text, filters = array["dtype"], [each["id"] for each in array.get("filters") or ()]
    if text == "|O" and len(filters) == 1 and filters[0] in _TEXTS:
        return 8
    dtype = np.dtype(text) if isinstance(text, str) and len(text) < 32 else np.dtype(object)
    if dtype.kind not in "biufcSUmM" or dtype.itemsize > _MAX_ITEM_BYTES or _TEXTS & set(filters):
        raise RefusedMetadata(f"have the dtype {str(text)[:40]!r}; numbers, times and texts are read")
    return dtype.itemsize


def _itemsize_v3(kind: Any) -> int:
    """Return the size of a value in bytes, from the data type of Zarr 3."""
    name, configuration = (kind, {}) if isinstance(kind, str) else (kind["name"], kind.get("configuration") or {})
    if name in _NUMBERS:
        return np.dtype(name).itemsize
    if name in _TIME_DTYPES or name in _TEXT_DTYPES:
        return 8
    length = configuration.get("length_bytes")
    if name in _LENGTH_DTYPES and type(length) is int and 0 <= length <= _MAX_ITEM_BYTES:
        return length
    raise RefusedMetadata(f"have the data type {str(name)[:40]!r}; numbers, times and texts are read")


def _coding_v2(array: Mapping[str, Any]) -> Coding:
    """Check the filters and the compressor of Zarr 2."""
    growth = 1
    for each in array.get("filters") or ():
        if each["id"] in COMPRESSORS:  # a filter is decoded without a limit, and each could grow a thousandfold
            raise RefusedMetadata(f"name the compressor {each['id']!r} as a filter; write it as the compressor")
        _check_codec(each["id"], _FILTERS | _TEXTS, each)
        growth *= _growth(each["id"], each)
    compressor = array["compressor"]
    if compressor is None:
        return Coding(growth=growth)
    name = str(compressor["id"])
    _check_codec(name, COMPRESSORS | _FILTERS, compressor)
    return Coding(compressor=name, growth=growth * _growth(name, compressor))


def _coding_v3(codecs: Any, chunks: tuple[int, ...], limit: int) -> tuple[tuple[int, ...], Coding]:
    """Check the codecs of Zarr 3; return the shape of what is decoded at once, and how."""
    if any(_codec(each)[0] == "sharding_indexed" for each in codecs):
        return _shards(codecs, chunks, limit)
    compressor, growth = "", 1
    for name, configuration in map(_codec, codecs):
        plain = name.removeprefix("numcodecs.")
        _check_codec(plain, _CODECS if plain == name else _FILTERS | COMPRESSORS, configuration)
        if compressor and name != "crc32c":  # what was compressed twice, or changed then, cannot be measured before
            raise RefusedMetadata(
                f"name the codec {name!r} after the compressor {compressor!r}; it must be the last one"
            )
        growth *= _growth(plain, configuration)
        compressor = plain if plain in COMPRESSORS else compressor
    return chunks, Coding(compressor=compressor, growth=growth)


def _shards(codecs: Any, chunks: tuple[int, ...], limit: int) -> tuple[tuple[int, ...], Coding]:
    """Check a codec of shards, which must be the only one; return the shape and the coding of the chunks in them."""
    configuration = _codec(codecs[0])[1]
    inner = _lengths(configuration["chunk_shape"])
    if len(codecs) > 1 or any(_codec(each)[0] == "sharding_indexed" for each in configuration["codecs"]):
        raise RefusedMetadata("have shards in shards or with further codecs, which are read as a whole")
    count = 0 if 0 in inner else prod(-(-n // m) for n, m in zip(chunks, inner, strict=True))
    if not 0 < count <= _MAX_CHUNKS or 16 * count > limit:
        raise RefusedMetadata(f"claim shards of {chunks} in chunks of {inner}: their index is too large")
    index = [_codec(each) for each in configuration["index_codecs"]]
    names = [name for name, _ in index]
    if names not in (["bytes"], ["bytes", "crc32c"]) or index[0][1].get("endian", "little") != "little":
        raise RefusedMetadata(
            f"have an index of shards in {str(names)[:80]}; little-endian bytes, perhaps with crc32c, are read"
        )
    _, coding = _coding_v3(configuration["codecs"], inner, limit)
    first = configuration.get("index_location", "end") == "start"
    return inner, replace(coding, chunks=count, index_bytes=16 * count + 4 * len(names[1:]), index_first=first)


def _codec(codec: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the configuration of a codec of Zarr 3."""
    return (codec, {}) if isinstance(codec, str) else (str(codec["name"]), codec.get("configuration") or {})


def _growth(name: str, configuration: Mapping[str, Any]) -> int:
    """Return how many times larger a codec that is no compressor can make what it decodes."""
    if name == "packbits":
        return 8
    if name in _TEXTS:
        return _TEXT_GROWTH
    decoded = configuration.get("decode_dtype") or configuration.get("dtype")
    encoded = configuration.get("encode_dtype") or configuration.get("astype")
    if not (isinstance(decoded, str) and isinstance(encoded, str)):
        return 1
    return -(-np.dtype(decoded).itemsize // np.dtype(encoded).itemsize)


def _check_codec(name: Any, allowed: frozenset[str], configuration: Mapping[str, Any]) -> None:
    """Refuse a codec that is not on a list, and one that makes other values than numbers."""
    if name not in allowed:
        raise RefusedMetadata(
            f"name the codec {str(name)[:40]!r}, and only those that cannot run code are used: "
            f"{', '.join(sorted(allowed))}. If you trust the store, open it with xarray and pass the array"
        )
    for option in ("dtype", "astype", "encode_dtype", "decode_dtype"):
        if (text := configuration.get(option)) is not None:
            dtype = np.dtype(text) if isinstance(text, str) and len(text) < 32 else np.dtype(object)
            if dtype.kind not in "biufcmM" or dtype.itemsize > _MAX_NUMBER_BYTES:
                raise RefusedMetadata(f"have a codec {name!r} that makes {str(text)[:40]!r}; numbers are read")
