"""Checks of a Dask cluster before a run is sent to it, and calls of a function on all of its workers."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any
from uuid import uuid4

from geotile.core.dask_info import active_client, is_open
from geotile.core.redact import redact
from geotile.errors import ArgumentError, OutputError
from geotile.imagery.source import Source
from geotile.storage.folder import Folder

_log = logging.getLogger(__name__)
_UNREGISTER_S = 10.0  # a worker that does not answer must not hold up the end of a run


def check_cluster(model: Any, source: Source | None, folders: Iterable[Folder]) -> None:
    """Check that the workers can do a run: their Python, geotile, the model, the image and the folders.

    Workers that join during the run are checked by `checking_late_workers`.

    Parameters
    ----------
    model : Endpoint
    source : Source or None
        File of the image; None for a computed array. A file in a local file system is opened by each worker.
    folders : iterable of Folder
        Folders in which workers write.

    Raises
    ------
    ArgumentError
        If a worker cannot do the run; the message names the worker and what to do.
    """
    client = active_client()
    if client is None:
        return
    if not client.nthreads():
        _log.warning("the Dask cluster at %s has no workers yet; the run waits for them", client.scheduler.address)
    _check_python(client)
    _check_geotile(client)
    _check_model(client, model)
    if source is not None and not source.location.is_remote:
        _check_image(client, source)
    for folder in folders:
        _check_folder(client, folder)


@contextmanager
def checking_late_workers(run: str, model: Any, source: Source | None) -> Iterator[None]:
    """Check workers that join the cluster while the block runs, before they get a task; those that fail leave it."""
    client = active_client()
    if client is None:
        yield
        return
    import cloudpickle  # type: ignore[import-untyped]

    from geotile.running import late_workers

    cloudpickle.register_pickle_by_value(late_workers)
    local = source if source is not None and not source.location.is_remote else None
    plugin = late_workers.LateWorkers(run, model, local, frozenset(client.nthreads()))
    with suppress(OSError):  # a worker left while it received the plugin
        client.register_plugin(plugin)
    try:
        yield
    finally:
        if is_open(client):
            with suppress(OSError, TimeoutError, ValueError):  # the scheduler may have gone, or another one have come
                client.sync(client.scheduler.unregister_worker_plugin, name=plugin.name, callback_timeout=_UNREGISTER_S)


def call_on_workers(function: Callable[[str], None], run: str) -> None:
    """Call a function with the name of a run on all workers, if there is a cluster; ignore workers that have left."""
    client = active_client()
    if client is not None:
        with suppress(OSError):
            client.run(function, run, on_error="ignore")


def _check_python(client: Any) -> None:
    here = platform.python_version_tuple()[:2]
    for name, answer in _answers(client, platform.python_version_tuple):
        if tuple(answer[:2]) != here:
            raise ArgumentError(
                f"{name} runs Python {'.'.join(answer[:2])}, and this process runs Python {'.'.join(here)}. Use the "
                "same environment on the whole cluster: objects cannot be sent safely between different versions"
            )


def _check_geotile(client: Any) -> None:
    version = metadata.version("geotile")
    for name, answer in _answers(client, metadata.version, "geotile"):
        if isinstance(answer, metadata.PackageNotFoundError):
            raise ArgumentError(f"{name} has no geotile. Install geotile {version} there")
        if answer != version:
            raise ArgumentError(f"{name} has geotile {answer}, and this process has {version}. Install {version} there")


def _answers(client: Any, function: Any, *args: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names of scheduler and workers, and what a function of the standard library returns there.

    Raises
    ------
    ArgumentError
        If the call fails in any other way than with a missing package.
    """
    answers: dict[str, Any] = {}
    try:
        answers["scheduler"] = client.run_on_scheduler(function, *args)
    except metadata.PackageNotFoundError as error:
        answers["scheduler"] = error
    answers |= client.run(function, *args, on_error="return")
    for address, answer in answers.items():
        name = "scheduler " + client.scheduler.address if address == "scheduler" else f"worker {address}"
        if isinstance(answer, OSError):
            continue  # the worker has just left
        if isinstance(answer, BaseException) and not isinstance(answer, metadata.PackageNotFoundError):
            raise ArgumentError(f"the Dask {name} could not be checked: {type(answer).__name__}: {redact(str(answer))}")
        yield f"the Dask {name}", answer


def _check_model(client: Any, model: Any) -> None:
    from distributed.protocol.pickle import dumps

    from geotile.running.late_workers import load_failure

    try:
        data = dumps(model)
    except Exception as error:  # a user's object may raise anything
        raise ArgumentError(
            f"{model} cannot be sent to workers ({type(error).__name__}: {redact(str(error))}). Give a function that "
            "builds the model there, with factory=True"
        ) from None
    for address, failure in client.run(load_failure, data, on_error="return").items():
        if isinstance(failure, str):
            raise ArgumentError(
                f"the Dask worker {address} cannot load {model}: {failure}. Install its module there, or upload it "
                "with client.upload_file"
            )


def _check_image(client: Any, source: Source) -> None:
    """Check that workers can open a local file."""
    from geotile.running.late_workers import open_failure

    for address, failure in client.run(open_failure, source, on_error="return").items():
        if isinstance(failure, str):
            raise ArgumentError(
                f"the Dask worker {address} cannot open {source.location.display_name}: {failure}. Put the image where "
                "the whole cluster can read it, such as s3://"
            )


def _check_folder(client: Any, folder: Folder) -> None:
    """Check that workers can read what this process writes to a folder."""
    probe = f".geotile-{uuid4().hex}"
    folder.write(probe, b"geotile")
    try:
        for address, answer in client.run(_reads_probe, folder, probe, on_error="return").items():
            if answer is not True and not isinstance(answer, OSError):
                reason = "" if answer is False else f" ({answer})"
                raise ArgumentError(
                    f"the Dask worker {address} does not see {folder.display_name}{reason}. Give a folder that the "
                    "whole cluster shares, such as s3://, with credentials for the workers"
                )
    finally:
        folder.remove(probe)


def _reads_probe(folder: Folder, name: str) -> bool | str:
    """Return whether a file can be read here, or the error."""
    try:
        return folder.read(name) == b"geotile"
    except OutputError as error:
        return str(error)
