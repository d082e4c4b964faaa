"""Class names that users give: a list, a mapping, or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geotile.core.regular_file import read_regular
from geotile.detectors.metadata import as_names
from geotile.errors import ArgumentError
from geotile.storage.uris import expanded_path

_MAX_BYTES = 2**24
Labels = Sequence[str] | Mapping[int, str] | str | os.PathLike[str]


def class_names(labels: Labels | None, option: str = "labels") -> dict[int, str] | None:
    """Return class names by number.

    Parameters
    ----------
    labels : sequence of str, mapping of int to str, str or path, optional
        Names in order, names by number, or a file: text with one name per line, or JSON with a list or a mapping.
    option : str, default "labels"
        Name of the option that they were given as.

    Returns
    -------
    dict of int to str, or None without names.

    Raises
    ------
    ArgumentError
        If the names or the file cannot be read.

    Examples
    --------
    >>> class_names(["ship", "plane"]), class_names({1: "ship"})
    ({0: 'ship', 1: 'plane'}, {1: 'ship'})
    """
    if labels is None:
        return None
    if isinstance(labels, str | os.PathLike):
        given = _from_file(Path(expanded_path(os.fspath(labels))), option)
    else:
        given = _plain(labels)
    try:
        names = as_names(given)
    except ValueError as error:
        raise ArgumentError(f"{option} must be class names; got {labels!r}: {error}") from None
    if not names:
        raise ArgumentError(f"{option} must name at least one class; got {labels!r}. Leave it out for class numbers")
    return names


def check_background(names: Mapping[int, str]) -> None:
    """Check that the first of the class names of a torchvision model, given in order, is that of the background.

    Raises
    ------
    ArgumentError
        If it is the name of a class.
    """
    first = names.get(0, "")
    if "background" not in first.lower() and first.strip("_ ").lower() not in ("", "n/a", "none", "bg"):
        raise ArgumentError(
            f"labels must begin with the background, which is class 0 of torchvision; got {first!r} as the first. Give "
            "['__background__', ...], or a mapping such as {1: 'car'}"
        )


def _plain(labels: Any) -> Any:
    """Return names of numpy and pandas as a list."""
    return labels.tolist() if hasattr(labels, "tolist") else labels


def _from_file(path: Path, option: str) -> Any:
    """Return the names in a file."""
    if path.suffix.lower() in (".yaml", ".yml"):
        raise ArgumentError(
            f"{option} must be a file with one name per line, or JSON; got {path}. Pass the names of the YAML file as "
            "a list or a mapping"
        )
    try:
        text = read_regular(path, _MAX_BYTES).decode("utf-8-sig")
        return json.loads(text) if path.suffix.lower() == ".json" else text.rstrip().splitlines()
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    raise ArgumentError(
        f"{option} must be class names or a readable file with one name per line; got {path} ({reason})"
    ) from None
