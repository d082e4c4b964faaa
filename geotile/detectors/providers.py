"""Execution providers of onnxruntime: what runs a network, on which hardware."""

from __future__ import annotations

from collections.abc import Sequence

from geotile.errors import ArgumentError

_SUFFIX = "ExecutionProvider"
_SHORT = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}  # fmt: skip
_BEST_FIRST = ("CUDAExecutionProvider", "OpenVINOExecutionProvider")


def chosen_providers(providers: Sequence[str] | str | None, available: Sequence[str]) -> list[str]:
    """Return the execution providers to use, by the names of onnxruntime.

    Parameters
    ----------
    providers : sequence of str, str or None
        "CUDA", "TensorRT", "OpenVINO", "CPU" or full names of onnxruntime, the preferred one first. None chooses CUDA,
        else OpenVINO, and the CPU for what they cannot do. TensorRT must be asked for: it compiles a model for minutes.
    available : sequence of str
        Providers of the installed onnxruntime, ``onnxruntime.get_available_providers()``.

    Raises
    ------
    ArgumentError
        If a provider is unknown, or onnxruntime was built without it.

    Examples
    --------
    >>> chosen_providers(None, ["AzureExecutionProvider", "CPUExecutionProvider"])
    ['CPUExecutionProvider']
    >>> chosen_providers("cpu", ["CPUExecutionProvider"])
    ['CPUExecutionProvider']
    """
    if providers is None:
        best = next((each for each in _BEST_FIRST if each in available), None)
        return ([] if best is None else [best]) + ["CPUExecutionProvider"]
    wanted = [providers] if isinstance(providers, str) else list(providers)
    names = [each if each.endswith(_SUFFIX) else _SHORT.get(each.lower(), each) for each in wanted]
    missing = [given for given, name in zip(wanted, names, strict=True) if name not in available]
    if missing or not names:
        offered = ", ".join(each.removesuffix(_SUFFIX) for each in available)
        raise ArgumentError(
            f"providers must be among those of the installed onnxruntime, {offered}; got {missing or wanted}. Install "
            "onnxruntime-gpu for CUDA and TensorRT, or onnxruntime-openvino"
        )
    return names


def check_started(wanted: Sequence[str], started: Sequence[str]) -> None:
    """Check that the providers that the user asked for are running; onnxruntime itself goes on with the CPU.

    Raises
    ------
    ArgumentError
        If one is not.
    """
    if missing := [name.removesuffix(_SUFFIX) for name in wanted if name not in started]:
        raise ArgumentError(
            f"providers must be able to start; onnxruntime has {', '.join(missing)}, but could not start it. Check its "
            "driver and libraries, or leave providers out"
        )
