"""Fields of a request that are unknown, misspelt or wrong: messages that name the field and what it may be."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from geotile.core.option import option_names
from geotile.core.redact import redact
from geotile.options import EndpointKeywords, JobOptions, ServiceOptions
from geotile.options.raster import PolygonOptions
from geotile.service.tasks import TASKS, TaskName

FIELDS_BY_OPTION = {
    "tile_size": "imageProcessorTileSize", "overlap": "imageProcessorTileOverlap",
    "tile_format": "imageProcessorTileFormat", "tile_compression": "imageProcessorTileCompression",
    "roi": "regionOfInterest", "params": "imageProcessorParameters",
}  # fmt: skip
IN_GEOTILE = frozenset[str]().union(*(task.in_geotile for task in TASKS.values()))
_OF_SERVICE = option_names(ServiceOptions) & option_names(JobOptions)
_OF_ENDPOINTS = option_names(EndpointKeywords) - option_names(JobOptions)
_NO_POLYGONS = (
    "a job writes no polygons; leave their options out, and make polygons of its result with geotile.polygonize"
)
_CUTOFF = 0.85  # similarity of a misspelt name, 0 to 1; "jobArn", a field of OversightML's, is none of "jobName"


def option_hints(task: TaskName) -> dict[str, str]:
    """Return messages for options of geotile that the field ``geotile`` of a task does not take, by name."""
    others = {
        name: f'option {name!r} does not apply to "task": "{task}"; leave it out, or give {_tasks_of(name)}'
        for name in IN_GEOTILE - TASKS[task].in_geotile
    }
    fields = {name: f"option {name!r} is the field {field} of a request; give that" for name, field in
              FIELDS_BY_OPTION.items()}  # fmt: skip
    flags = {name: f"--{name.replace('_', '-')}" for name in _OF_SERVICE}
    flags |= {name: f"-O {name}=VALUE" for name in _OF_ENDPOINTS}
    return (
        {
            name: f"option {name!r} does not apply to the field geotile, but to the whole service; "
            f"give `geotile serve` {flag}"
            for name, flag in flags.items()
        }
        | fields
        | dict.fromkeys(option_names(PolygonOptions), _NO_POLYGONS)
        | {"checkpoint": "option 'checkpoint' does not apply to jobs; the service keeps their checkpoints"}
        | others
    )


def _tasks_of(option: str) -> str:
    return " or ".join(f'"task": "{name}"' for name, task in TASKS.items() if option in task.in_geotile)


def misplaced(given: Iterable[str], known: Collection[str]) -> list[str]:
    r"""Return a message for each unknown field that is misspelt, or is an option of geotile with another place.

    Fields that OversightML may have and geotile does not are none of these.

    Parameters
    ----------
    given : iterable of str
        Names of the fields that were given.
    known : collection of str
        Names of the fields in camel case.

    Examples
    --------
    >>> misplaced(["imageProcesorTileSize", "jobArn"], ["jobName", "imageProcessorTileSize"])
    ["unknown field 'imageProcesorTileSize'; did you mean 'imageProcessorTileSize'?"]
    >>> misplaced(["skipNodata"], ["jobName"])
    ['unknown field \'skipNodata\'; give "geotile": {"skip_nodata": ...}']
    """
    return [f"unknown field {name!r}; {remedy}" for name in given if (remedy := _remedy(name, known))]


def _remedy(name: str, known: Collection[str]) -> str | None:
    option = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
    by_letters = {_letters(each): each for each in known}
    near = get_close_matches(_letters(name), by_letters, n=1, cutoff=_CUTOFF)
    if option in IN_GEOTILE and not near:  # "output" is an option, and rather a misspelt "outputs"
        return f'give "geotile": {{"{option}": ...}}'
    if option in FIELDS_BY_OPTION:
        return f"give the field {FIELDS_BY_OPTION[option]} of the request"
    if option in _OF_ENDPOINTS:
        return f"it is an option of all endpoints of a service; give `geotile serve` -O {option}=VALUE"
    if near:
        return f"did you mean {by_letters[near[0]]!r}?"
    options = {_letters(each): each for each in IN_GEOTILE}
    if near := get_close_matches(_letters(name), options, n=1, cutoff=_CUTOFF):
        return f'did you mean "geotile": {{"{options[near[0]]}": ...}}?'
    return None


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def error_text(error: Mapping[str, Any]) -> str:
    """Return a validation error of pydantic as "path must be ...; got ...", or "path: message" of a check of geotile's.

    Parameters
    ----------
    error : mapping
        One of the ``errors()`` of a `pydantic.ValidationError`.
    """
    path, kind = "".join(_steps(error["loc"])) or "the request", error["type"]
    if kind == "missing":
        return f"{path} must be given"
    value = error.get("input")
    got = "" if isinstance(value, dict | list) else f"; got {redact(json.dumps(value, default=str))[:80]}"
    if kind in ("value_error", "assertion_error"):
        return f"{path}: {error['msg'].removeprefix('Value error, ')}{got}"
    if kind == "union_tag_not_found":
        return f"{path}.type must be given: {error['ctx'].get('expected_tags', 'S3, Kinesis or File')}"
    if kind == "union_tag_invalid":
        path, got = f"{path}.type", f"; got {json.dumps(error['ctx']['tag'])}"
    return f"{path} must be {_allowed(kind, error)}{got}"


def _allowed(kind: str, error: Mapping[str, Any]) -> str:
    """Return what a field may be, after "must be"."""
    limits = error.get("ctx", {})
    texts = {
        "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}", "greater_than": "above {gt}",
        "literal_error": "{expected}", "union_tag_invalid": "one of {expected_tags}",
        "string_too_short": "text of at least {min_length} characters",
        "string_too_long": "text of at most {max_length} characters", "too_short": "a list with at least one entry",
        "int_from_float": "a whole number", "model_type": "a JSON object", "model_attributes_type": "a JSON object",
    }  # fmt: skip
    if kind in texts:
        return texts[kind].format(**limits)
    types = {"int": "a whole number", "float": "a number", "string": "text", "list": "a list", "dict": "a JSON object"}
    what = types.get(kind.partition("_")[0])
    return what if what is not None else f"valid ({error['msg']})"


def _steps(location: Iterable[int | str]) -> Iterator[str]:
    """Yield the parts of a path; the type of an output, which pydantic adds, is none."""
    previous: int | str = ""
    for number, step in enumerate(location):
        if isinstance(step, int):
            yield f"[{step}]"
        elif not isinstance(previous, int):
            yield f".{step}" if number else step
        elif step not in ("S3", "File", "Kinesis"):
            yield f".{step}"
        previous = step
