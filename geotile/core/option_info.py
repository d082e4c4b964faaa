"""The description of one option."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """Description of one option."""

    doc: str
    """What the option does, in full sentences."""
    type_text: str
    """The type as numpydoc writes it."""
    flag_doc: str = ""
    """What the option does in the words of the command line, where `doc` speaks of objects of Python."""
    choices: tuple[Any, ...] = ()
    """Allowed values; empty where any value of the type is allowed."""
    from_text: Callable[[Any], Any] | None = None
    """Function that reads a value from text; None where the annotation says how."""
    repeatable: bool = False
    """Whether the command line takes the flag several times, so that `from_text` gets a list of str."""
    metavar: str | None = None
    """Placeholder of the value in the command line's help."""
    on_command_line: bool = True
    """Whether the command line has a flag for it."""
    in_requests: bool = True
    """Whether a job request may set it."""
    number: int = field(default_factory=itertools.count().__next__)
    """Position among all declarations, which signatures and help texts follow."""
