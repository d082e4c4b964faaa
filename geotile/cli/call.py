"""The call of a command, stored beside its checkpoint without secrets, for ``geotile resume``."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin

import typer

from geotile.cli.options import ENDPOINT_TYPES
from geotile.core.checks import check_path
from geotile.core.from_text import named_value
from geotile.core.option import described
from geotile.core.redact import redact
from geotile.errors import ArgumentError, ImageError
from geotile.options import EndpointKeywords
from geotile.options.storage import storage_values

_DESTINATION = {
    "detect": "output",
    "predict": "destination",
    "embed": "output",
}  # by command, the parameter of --output
_PATHS = ("polygons", "dem", "checkpoint")
_SECRET = ("headers", "option", "storage_options", "output_options")  # of values that may be secret, names are stored
_PLAIN = {each.name for each in fields(EndpointKeywords) if each.repr} - {"params"}  # endpoint options without secrets
_NOT_STORED = ("scheduler", "retry_failed", "overwrite")


@contextmanager
def stored_call(command: str, context: typer.Context, checkpoint: str | None) -> Iterator[None]:
    """Store the parameters of a call while it runs and after it; a call that is refused leaves those of the one before.

    Nothing is stored without a checkpoint, or when ``geotile resume`` repeats the call.

    Parameters
    ----------
    command : str
        Name of the command.
    context : typer.Context
        Its parameters, and the command that the user has called.
    checkpoint : str, optional

    Raises
    ------
    ArgumentError
        If the folder holds other files than those of a checkpoint, or a path contains a secret, which is not stored.
    OutputError
        If another run holds the checkpoint.
    """
    from geotile.checkpoints.checkpoint import CALL, stored_job
    from geotile.running.run import leased
    from geotile.storage.folder import Folder

    if checkpoint is None or context.info_name != command:
        yield
        return
    if not checkpoint:
        raise ArgumentError("checkpoint must be a folder; got ''")
    params = context.params
    paths = (_DESTINATION[command], *_PATHS)
    for name in paths:
        if isinstance(params.get(name), str) and redact(params[name]) != params[name]:
            flag = "--output" if name == _DESTINATION[command] else f"--{name}"
            raise ArgumentError(
                f"{flag} contains a secret, which a checkpoint does not store; give it with storage_options or "
                "output_options instead"
            )
    options = params.get("output_options")
    folder = Folder.at(checkpoint, storage_values(options) if options else None)
    stored_job(folder)  # refuses a folder that holds something else
    stored = {
        name: _stored(name, value, ("image", *paths)) for name, value in params.items() if name not in _NOT_STORED
    }
    stored["command"] = command
    with leased(folder):
        before = folder.read(CALL)
        folder.write(CALL, json.dumps(stored, indent=1).encode())
    try:
        yield
    except (ArgumentError, ImageError):  # refused before anything was run
        if before is None:
            folder.remove(CALL)
        else:
            folder.write(CALL, before)
        raise


def kept_call(checkpoint: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the command that a checkpoint belongs to, and its parameters with those that were given again.

    Raises
    ------
    ArgumentError
        If there is none, or a value that was not stored is not given again.
    """
    from geotile.checkpoints.checkpoint import CALL, JOB
    from geotile.storage.folder import Folder

    options = given.get("output_options")
    folder = Folder.at(check_path(checkpoint, "checkpoint"), storage_values(options) if options else None)
    data = folder.read(CALL)
    if data is None:
        started = folder.read(JOB) is not None
        if started:
            raise ArgumentError(
                f"the run of {folder.display_name} was started in Python, and geotile resume repeats only calls of the "
                "command line; make the same Python call again"
            )
        raise ArgumentError(f"{folder.display_name} is not a checkpoint. Check the path")
    command, call = _read_call(data, f"{folder.display_name}/{CALL}")
    for name in _SECRET:
        again = list(given.get(name) or [])
        known = {_name(text) for text in again}
        stored = [each for each in call[name] or [] if _name(each) not in known]
        missing = [each for each in stored if "=" not in each and each not in known]
        if missing:
            flag = "--" + name.replace("_", "-")
            raise ArgumentError(
                f"the run of {folder.display_name} was given {flag} {', '.join(missing)}, whose values are not "
                "stored; give them again"
            )
        call[name] = [each for each in stored if "=" in each] + again or None
    for name in ("image", "endpoint"):
        if given.get(name) is not None:
            call[name] = given[name]
        if call[name] is None:
            raise ArgumentError(
                f"the {name} of {folder.display_name} contained a secret, which is not stored; give it again with "
                f"--{name}"
            )
    return command, call | {name: given[name] for name in _NOT_STORED} | {"checkpoint": checkpoint}


def _read_call(data: bytes, place: str) -> tuple[str, dict[str, Any]]:
    """Return the command of a stored call, and its parameters."""
    try:
        call = json.loads(data)
        lists = [call[name] or [] for name in _SECRET]
        strings = all(isinstance(texts, list) and all(isinstance(each, str) for each in texts) for texts in lists)
        command = call.pop("command", "detect")  # earlier versions of geotile stored no other calls
        if not strings or not {"image", "endpoint", _DESTINATION[command]} <= set(call):
            raise TypeError("its values are of another type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArgumentError(
            f"{place} is not a call that geotile has stored ({type(error).__name__}: {error}). Check the path"
        ) from None
    return command, dict(call)


def check_call(call: Mapping[str, Any], command: Callable[..., None]) -> None:
    """Check the parameters of a stored call, which other programs or versions may have written.

    Raises
    ------
    ArgumentError
        If the command has no such parameter, or its values are of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    known = dict(inspect.signature(command).parameters)
    known.pop("context", None)
    for name, value in call.items():
        if name not in known:
            raise ArgumentError(
                f"the stored call has {name!r}, which this version of geotile does not know. Run it anew"
            )
        kind = known[name].annotation
        try:
            TypeAdapter(get_args(kind)[0] if get_origin(kind) is Annotated else kind).validate_python(
                value, strict=True
            )
        except ValidationError:
            raise ArgumentError(
                f"the stored call has {name}={value!r}, which is of another type. Run it anew"
            ) from None


def _stored(name: str, value: Any, paths: Sequence[str]) -> Any:
    if name in _SECRET:
        return None if value is None else [_stored_option(text) if name == "option" else _name(text) for text in value]
    if name == "roi" and isinstance(value, str) and os.path.isfile(value):
        return os.path.abspath(value)
    if name == "endpoint" and isinstance(value, str) and value.startswith("onnx:") and "://" not in value:
        return "onnx:" + os.path.abspath(os.path.expanduser(value.removeprefix("onnx:")))
    if isinstance(value, str) and name in ("image", "endpoint") and redact(value) != value:
        return None
    if isinstance(value, str) and name in paths and "://" not in value:
        return os.path.abspath(value) + ("/" if value.endswith("/") else "")
    return value


def _stored_option(text: str) -> str:
    """Return an endpoint option as it is stored: without its value, if that may be secret."""
    name, _, value = text.partition("=")
    if name not in _PLAIN or redact(value) != value:
        return _name(text)
    value = named_value(text, ENDPOINT_TYPES)[1]
    if "path" not in described(EndpointKeywords)[name].type_text:
        return text
    if name == "cert" and isinstance(value, list):
        return f"{name}={json.dumps([_absolute(each) for each in value])}"
    return f"{name}={_absolute(value)}" if isinstance(value, str) else text


def _absolute(value: Any) -> Any:
    """Return the absolute path of a file or a folder that exists, and any other value as it is."""
    return os.path.abspath(value) if isinstance(value, str) and value and os.path.exists(value) else value


def _name(text: str) -> str:
    name, separator, _ = text.replace(":", "=", 1).partition("=")
    return name.strip() if separator else ""  # without a name, the whole text may be a secret
