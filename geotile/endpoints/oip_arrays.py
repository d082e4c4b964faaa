"""A model that answers rasters or vectors behind a server that implements the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from numpy.typing import NDArray

from geotile.core.option import option_names
from geotile.core.timing import timed
from geotile.detectors.array_network import ArrayNetwork, array_network, array_options, check_output_names
from geotile.endpoints.oip_server import OipServer
from geotile.errors import ArgumentError, ResponseError
from geotile.options import DecoderOptions, OipOptions
from geotile.options.endpoint import NetworkOptions


class OipArrayEndpoint(OipServer):
    """A model whose output tensor is a raster or holds vectors.

    Inputs, outputs and the size of a batch that is fixed are read from the server's metadata.

    Parameters
    ----------
    spec : str
        As for `OipEndpoint`.
    options : OipOptions

    Raises
    ------
    ArgumentError
        If the spec cannot be used, or an option is for detectors.
    """

    def __init__(self, spec: str, options: OipOptions) -> None:
        for name in option_names(DecoderOptions) - option_names(NetworkOptions):
            if name in options.changed():
                raise ArgumentError(f"{name} is for models that answer detections; leave it out")
        check_output_names(options)
        super().__init__(spec, options)
        self._network: ArrayNetwork | None = None

    def identity(self) -> dict[str, Any]:
        """Return the model's URL, the versions that the server reports, and the options that answers depend on."""
        return super().identity() | {"options": array_options(self._options)}

    def for_run(self, tile_threads: int = 1) -> OipArrayEndpoint:
        """Return an endpoint that has read the server's metadata."""
        if self._network is not None:
            return self
        configured = copy(self)
        inputs, outputs = self._tensors((self._options.output_names or {}).get("output"))
        try:
            network = array_network(inputs, outputs, self._options, self._options.batch_size)
        except ArgumentError as error:
            raise ArgumentError(f"{self}: {error}") from None
        configured._network, configured.batch_size = network, network.batch_size
        configured.input_yx, configured.sample_shape = (
            network.size_yx, (network.bands or 3, *(network.size_yx or (512, 512))),
        )  # fmt: skip
        return configured

    def invoke(self, tiles: Sequence[NDArray[Any]], content_type: str) -> Sequence[Any]:
        """Send tiles as one input tensor."""
        if self._network is None:
            self.__dict__.update(self.for_run().__dict__)
        network = self._network
        assert network is not None
        with timed("encode"):
            pixels = network.input_for(tiles)
        outputs = self._infer({network.input.name: pixels}, [network.output.name])
        if network.output.name not in outputs:
            raise ResponseError(f"the response must have the output {network.output.name!r}; got {sorted(outputs)}")
        return network.answers_from(outputs[network.output.name], len(tiles), tiles[0].shape[1:])
