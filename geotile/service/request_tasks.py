"""Checks of the fields of a request that depend on its task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from geotile.service.request_parts import KinesisOutput, Output
from geotile.service.tasks import TASKS, TaskName

_OF_DETECTIONS = {"post_processing": "postProcessing", "feature_properties": "featureProperties"}


def with_formats(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request whose outputs have the default format of its task where they name none."""
    task, outputs = fields.get("task", "detect"), fields.get("outputs")
    if not isinstance(task, str) or task not in TASKS or not isinstance(outputs, list):
        return dict(fields)  # it is refused
    formats: dict[str, Any] = {"format": TASKS[task].formats[0]}
    with_format = [
        formats | each if isinstance(each, dict) and each.get("type") in ("S3", "File") else each for each in outputs
    ]
    return {**fields, "outputs": with_format}


def check_fields_of_task(task: TaskName, given: Collection[str]) -> None:
    """Check the fields of a request whose task is not to detect.

    Raises
    ------
    ValueError
        If a field is given that says something of detections.
    """
    for name, field in _OF_DETECTIONS.items():
        if name in given:
            raise ValueError(
                f'{field} would have no effect with "task": "{task}", which has no detections; leave it out'
            )


def check_outputs_of_task(task: TaskName, outputs: Sequence[Output]) -> None:
    """Check that the outputs of a request can hold what its task makes.

    Raises
    ------
    ValueError
        If one of them cannot.
    """
    formats = " or ".join(f'"{each}"' for each in TASKS[task].formats)
    for number, output in enumerate(outputs):
        if isinstance(output, KinesisOutput):
            if task != "detect":
                raise ValueError(
                    f'outputs[{number}] is a Kinesis stream, which takes detections only; for "task": "{task}" give '
                    '{"type": "S3", "bucket": ...} or {"type": "File", "path": ...}'
                )
        elif output.format not in TASKS[task].formats:
            raise ValueError(f'outputs[{number}].format must be {formats} for "task": "{task}"; got "{output.format}"')
