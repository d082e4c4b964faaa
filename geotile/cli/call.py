"""How ``geotile detect`` was called, kept beside its checkpoint without secrets, for ``geotile resume``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from geotile.checkpoints.checkpoint import CALL, JOB
from geotile.core.redact import redact
from geotile.errors import ArgumentError
from geotile.storage.folder import Folder

_PLACES = ("image", "output", "dem", "checkpoint")
_SECRETS = ("header", "option", "storage")  # of what is given by these only the names are kept


def keep_call(folder: Folder, params: Mapping[str, Any]) -> None:
    """Write down a call."""
    said = {name: _kept(name, value) for name, value in params.items() if name != "scheduler"}
    folder.write(CALL, json.dumps(said, indent=1).encode())


def kept_call(folder: Folder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the call that a checkpoint is of, with what is given anew.

    Raises
    ------
    ArgumentError
        If there is none, or something that was not kept is not given again.
    """
    data = folder.read(CALL)
    if data is None:
        begun = folder.read(JOB) is not None
        why = "its run was begun in Python: make the same call again" if begun else "there is no checkpoint"
        raise ArgumentError(f"{folder.display_name} holds no call of the command line; {why}")
    call: dict[str, Any] = json.loads(data)
    for name in _SECRETS:
        again = list(given.get(name) or [])
        missing = [each for each in call[name] or [] if not any(_name(text) == each for text in again)]
        if missing:
            raise ArgumentError(
                f"the run of {folder.display_name} was given --{name} {', '.join(missing)}, whose values are not kept; "
                "give them again"
            )
        call[name] = again or None
    for name in ("image", "endpoint"):
        if given.get(name) is not None:
            call[name] = given[name]
        if call[name] is None:
            raise ArgumentError(
                f"the {name} of {folder.display_name} had a secret in it, which is not kept; give --{name}"
            )
    return call | {name: given[name] for name in ("scheduler", "retry_failed", "overwrite")}


def _kept(name: str, value: Any) -> Any:
    if name in _SECRETS:
        return None if value is None else [_name(text) for text in value]
    if isinstance(value, str) and name in ("image", "endpoint") and redact(value) != value:
        return None
    if isinstance(value, str) and name in _PLACES and "://" not in value:
        return os.path.abspath(value) + ("/" if value.endswith("/") else "")
    return value


def _name(text: str) -> str:
    return text.replace(":", "=", 1).partition("=")[0].strip()
