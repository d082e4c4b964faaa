"""Places of one run that must be separate: its images, its outputs and its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.storage.uris import expanded_path

_SAME_STORE = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "adl": "az"}
_OF_GDAL = {"/vsis3/": "s3://", "/vsigs/": "gs://", "/vsiaz/": "az://"}
Parts = tuple[str, ...]


@dataclass(frozen=True)
class NamedPlace:
    """A file or a folder of a run."""

    role: str
    """Name of the argument, for an error: "output", "checkpoint"."""
    uri: str
    """Path, or URI of object storage."""


def check_separate(outputs: Iterable[NamedPlace]) -> None:
    """Check that no output is another one, holds it or lies in it; a checkpoint counts as an output.

    Raises
    ------
    ArgumentError
        If two of them are not separate.

    Examples
    --------
    >>> check_separate([NamedPlace("output", "/data/a.zarr"), NamedPlace("checkpoint", "/data/kept")])
    """
    for first, second in combinations(outputs, 2):
        check_apart([first], [second])


def check_apart(places: Iterable[NamedPlace], outputs: Iterable[NamedPlace]) -> None:
    """Check that no output is one of other places, such as images, holds one or lies in one.

    Local files are compared by their paths as they are written and with symbolic links followed, objects by their URIs.

    Raises
    ------
    ArgumentError
        If there is such an output.
    """
    given, written = _by_parts(places), _by_parts(outputs)
    for own, others in ((given, written), (written, given)):
        for parts, place in own.items():
            found = next((others[parts[:n]] for n in range(1, len(parts) + 1) if parts[:n] in others), None)
            if found is not None:
                first, second = (place, found) if own is given else (found, place)
                raise ArgumentError(
                    f"{first.role} and {second.role} must be separate places, neither of them in the other; got "
                    f"{redact(first.uri)!r} and {redact(second.uri)!r}. Name another place for {second.role}"
                )


def _by_parts(places: Iterable[NamedPlace]) -> dict[Parts, NamedPlace]:
    return {parts: place for place in places for parts in _readings(place.uri)}


def _readings(uri: str) -> Iterator[Parts]:
    """Yield the parts of a place: its scheme, then those of its path; for a local path with and without links."""
    text = uri.rpartition("::")[2] if "://" in uri else uri
    for of_gdal, scheme in _OF_GDAL.items():
        text = scheme + text.removeprefix(of_gdal) if text.startswith(of_gdal) else text
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if separator and scheme not in ("file", "local"):
        yield (_SAME_STORE.get(scheme, scheme), *rest.rstrip("/").split("/"))
        return
    try:
        path = os.path.abspath(rest if separator and scheme == "local" else expanded_path(text))
    except ArgumentError:  # it names no file of this machine, which is refused where it is opened
        return
    folder, name = os.path.split(path)
    for each in {path, os.path.join(os.path.realpath(folder), name), os.path.realpath(path)}:
        yield ("file", *(part for part in each.split(os.sep) if part))
