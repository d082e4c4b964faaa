"""A network that answers rasters or vectors: tiles to its input tensor, and its output tensor to answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geotile.core.checks import Pair
from geotile.detectors.layouts import Tensor
from geotile.errors import ArgumentError, EndpointError, ResponseError
from geotile.options.endpoint import ArrayNetworkOptions, NetworkOptions

_SCALE_IT = "Scale the image with rescale= or stretch=, or give divisor=, which is 1 for values as they are"
_MAX_BANDS = 16  # of an input (…, y, x, band)


@dataclass(frozen=True, kw_only=True)
class ArrayNetwork:
    """The input and the output of a network whose answers the caller reads. Pickles.

    Where the network takes floats, pixels become ``(value / divisor - mean) / std``; the divisor is 255 for uint8.
    """

    input: Tensor
    """(n, band, y, x) or (n, y, x, band); without n if the network takes one tile at a time."""
    output: Tensor
    """The output that is read."""
    batch_size: int
    """Maximum number of tiles per call."""
    mean: tuple[float, ...] | None = None
    """Mean of each band in shares of 255."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each band in shares of 255."""
    divisor: float | None = None
    """Number that pixels are divided by; None for 255 if they are uint8, and for nothing if they are floats."""

    @property
    def takes_batches(self) -> bool:
        """Whether the input has an axis for tiles."""
        return len(self.input.shape) == 4

    @property
    def fixed_size(self) -> int | None:
        """Number of tiles that every call must have; None if it may vary."""
        return self.input.shape[0] if self.takes_batches else 1

    @property
    def bands_last(self) -> bool:
        """Whether the bands are the last axis."""
        first, _, last = self.input.shape[-3:]
        return last is not None and last <= _MAX_BANDS and (first is None or first > _MAX_BANDS)

    @property
    def bands(self) -> int | None:
        """Number of bands; None for any."""
        return self.input.shape[-1 if self.bands_last else -3]

    @property
    def sides_yx(self) -> tuple[int | None, int | None]:
        """Height and width in pixels; None for a side of any length."""
        rows, columns = self.input.shape[-3:-1] if self.bands_last else self.input.shape[-2:]
        return rows, columns

    @property
    def size_yx(self) -> tuple[int, int] | None:
        """Height and width in pixels; None if one of them may vary."""
        rows, columns = self.sides_yx
        return None if rows is None or columns is None else (rows, columns)

    def input_for(self, tiles: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the input tensor for tiles (band, y, x); the last one is repeated to fill a batch of a fixed size.

        Raises
        ------
        EndpointError
            If the tiles do not fit the network.
        """
        pixels = [self._pixels_of(tile) for tile in tiles]
        if self.bands_last:
            pixels = [np.moveaxis(each, 0, -1) for each in pixels]
        if not self.takes_batches:
            return np.ascontiguousarray(pixels[0])
        return np.stack([*pixels, *[pixels[-1]] * ((self.fixed_size or len(tiles)) - len(tiles))])

    def answers_from(self, values: NDArray[Any], tiles: int, tile_yx: Pair) -> list[NDArray[Any]]:
        """Return the answer for each tile in an output tensor.

        The first axis is that of the tiles wherever several of them may be sent. Where only one is ever sent, it may
        be missing.

        Raises
        ------
        ResponseError
            If the tensor does not hold an answer for each tile that was sent.
        """
        sent, first = self.fixed_size or tiles, values.shape[0] if values.ndim else None
        if self.takes_batches and first == sent:
            answers = list(values[:tiles])
        elif self.batch_size == 1:
            answers = [values]
        else:
            raise ResponseError(
                f"the output {self.output.name!r} must have the tiles that were sent, {sent}, as its first axis; got "
                f"the shape {values.shape}. Give batch_size=1 if the model answers one tile at a time"
            )
        return [self._planes_first(each, tile_yx) if self.bands_last and each.ndim == 3 else each for each in answers]

    def _planes_first(self, answer: NDArray[Any], tile_yx: Pair) -> NDArray[Any]:
        """Return an answer of three axes as (plane, y, x): those of y and x are the ones that fit the tile."""
        last, first = (_fits(shape, tile_yx) for shape in (answer.shape[:2], answer.shape[1:]))
        if last and first:
            raise ResponseError(
                f"the output {self.output.name!r} of the shape {answer.shape} may be (y, x, class) or (class, y, x) "
                f"for a tile of {tile_yx[0]} x {tile_yx[1]} pixels; give another tile_size"
            )
        return answer if first else np.moveaxis(answer, -1, 0)

    def _pixels_of(self, tile: NDArray[Any]) -> NDArray[Any]:
        """Return a tile as values of the input, (band, y, x)."""
        self._check_shape(tile)
        dtype = self.input.dtype
        divisor = 255 if self.divisor is None and tile.dtype == np.uint8 else self.divisor
        if dtype.kind == "f" and divisor is not None:
            values = tile.astype(np.float32) / divisor
            for name, each in (("mean", self.mean), ("std", self.std)):
                if each is not None and len(each) != len(tile):
                    raise EndpointError(f"{name} has {len(each)} numbers, and the tile {len(tile)} bands; give as many")
            values = values - _column(self.mean, 0)
            return np.asarray(values / _column(self.std, 1), dtype)
        if self.mean is not None or self.std is not None:
            raise EndpointError(
                f"mean and std are shares of 255, for uint8 pixels; the tile has {tile.dtype}. {_SCALE_IT}"
            )
        if dtype.kind == "f" and tile.dtype.kind != "f":
            raise EndpointError(
                f"the model takes {dtype}, and nothing says what the pixels of {tile.dtype} are to be divided by. "
                f"{_SCALE_IT}"
            )
        if dtype.kind != "f" and not np.can_cast(tile.dtype, dtype):
            raise EndpointError(f"the model takes {dtype}; the tile has {tile.dtype}. Use geotile.rescale or cast")
        return np.asarray(tile, dtype)

    def _check_shape(self, tile: NDArray[Any]) -> None:
        if self.bands is not None and len(tile) != self.bands:
            raise EndpointError(
                f"the model takes {self.bands} bands; the tile has {len(tile)}. Choose them with bands="
            )
        for name, side, has in zip(("height", "width"), self.sides_yx, tile.shape[1:], strict=True):
            if side is not None and side != has:
                raise EndpointError(
                    f"the model takes tiles of the {name} {side}; got {has}. Give tile_size={side}, and pad=True for "
                    "images that are smaller"
                )


def array_network(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], options: ArrayNetworkOptions, batch_size: int | None
) -> ArrayNetwork:
    """Return the network with these inputs and outputs, as it declares them.

    Parameters
    ----------
    inputs, outputs : sequence of Tensor
    options : ArrayNetworkOptions
        The name of the output that is read, the mean, the standard deviation and the divisor.
    batch_size : int or None
        Maximum number of tiles per call; by default what the network takes, or 1.

    Raises
    ------
    ArgumentError
        If it is not a network with an input of tiles, or an option does not fit it.
    """
    tiles = _input(inputs)
    network = ArrayNetwork(
        input=tiles, output=_output(outputs, options), batch_size=1,
        mean=None if options.mean is None else tuple(options.mean),
        std=None if options.std is None else tuple(options.std), divisor=options.divisor,
    )  # fmt: skip
    if tiles.dtype.kind != "f" and any(each is not None for each in (options.mean, options.std, options.divisor)):
        raise ArgumentError(f"mean, std and divisor do not apply to a model that takes {tiles.dtype}; leave them out")
    return _with_batch_size(network, batch_size)


def check_output_names(options: NetworkOptions) -> None:
    """Raise ArgumentError if more is named than the output that is read."""
    if set(options.output_names or {}) - {"output"}:
        raise ArgumentError(
            f"output_names must name the one that is read, as 'output'; got {dict(options.output_names or {})}"
        )


def refuse_divisor(options: ArrayNetworkOptions) -> None:
    """Raise ArgumentError if the option is given, which detectors do not read."""
    if options.divisor is not None:
        raise ArgumentError("divisor is for models that answer rasters or vectors; leave it out")


def array_options(options: ArrayNetworkOptions) -> dict[str, Any]:
    """Return those options that answers depend on, as JSON values."""
    found = {name: getattr(options, name) for name in ("mean", "std", "output_names")}
    return found if options.divisor is None else found | {"divisor": options.divisor}


def _input(inputs: Sequence[Tensor]) -> Tensor:
    if len(inputs) != 1 or len(inputs[0].shape) not in (3, 4):
        raise ArgumentError(
            "the model must have one input (n, band, y, x) or (n, y, x, band), or the same without n; got "
            f"{[each.shape for each in inputs]}"
        )
    shape = inputs[0].shape
    if len(shape) == 3 and shape[0] is None and (shape[2] is None or shape[2] > _MAX_BANDS):
        raise ArgumentError(
            f"the model's input has the shape {shape}, whose first axis may be tiles or bands. Export the model with "
            "an input (n, band, y, x)"
        )
    return inputs[0]


def _output(outputs: Sequence[Tensor], options: NetworkOptions) -> Tensor:
    wanted, names = (options.output_names or {}).get("output"), [each.name for each in outputs]
    if not names:
        raise ArgumentError("the model declares no outputs; have its metadata name them")
    if (wanted is None and len(names) > 1) or (wanted is not None and wanted not in names):
        raise ArgumentError(
            f"the model has the outputs {names}; choose one with output_names={{'output': {names[0]!r}}} "
            f"(-O output_names=output={names[0]})"
        )
    return outputs[0 if wanted is None else names.index(wanted)]


def _with_batch_size(network: ArrayNetwork, wanted: int | None) -> ArrayNetwork:
    size = wanted or network.fixed_size or 1
    if network.fixed_size not in (None, size):
        raise ArgumentError(f"batch_size must be {network.fixed_size}, as the model's; got {size}")
    length = network.output.shape[0] if network.output.shape else None
    if size > 1 and length not in (None, size):
        raise ArgumentError(
            f"the output {network.output.name!r} has the shape {network.output.shape}, without an axis for the "
            f"{size} tiles of a batch. Give batch_size=1, or export the model with that axis"
        )
    return replace(network, batch_size=size)


def _column(values: tuple[float, ...] | None, default: float) -> NDArray[np.float32]:
    """Return a value for each band, (band, 1, 1)."""
    return np.array([default] if values is None else values, np.float32)[:, None, None]


def _fits(shape_yx: Sequence[int], tile_yx: Pair) -> bool:
    """Return whether a raster has whole multiples or fractions of the pixels of a tile, the same along both axes."""
    (height, width), (rows, columns) = shape_yx, tile_yx
    same = height * columns == width * rows
    return bool(same and height and (height % rows == 0 or rows % height == 0))
