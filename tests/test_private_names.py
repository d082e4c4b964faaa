"""Names of other libraries that are not documented and that geotile relies on: a test per library fails if one goes."""

import pickle

import dask.array as da
import numpy as np
import pytest
import rasterio
from affine import Affine


def test_rasterio_takes_a_list_of_drivers(write_tiff, noise):
    path = write_tiff(noise)
    with rasterio.DatasetReader(path, driver=["PNG", "GTiff"]) as file:
        assert file.driver == "GTiff"
    with pytest.raises(rasterio.errors.RasterioIOError, match="not recognized"):
        rasterio.DatasetReader(path, driver=["PNG", "JPEG"])


def test_rioxarray_makes_coordinates_of_an_affine_transform():
    from rioxarray.rioxarray import affine_to_coords

    coordinates = affine_to_coords(Affine(0.5, 0, 100, 0, -2, 50), 3, 2)
    np.testing.assert_array_equal(coordinates["x"], [100.25, 100.75, 101.25])
    np.testing.assert_array_equal(coordinates["y"], [49, 47])


def test_dask_annotates_collections_and_overlaps_on_one_side():
    from dask.array.overlap import overlap

    values = np.arange(12).reshape(3, 4)
    data = da.from_array(values, chunks=(3, 2)).map_blocks(np.negative)
    annotations = data.dask.layers[data.name].collection_annotations
    annotations["geotile"] = "noted"
    again = pickle.loads(pickle.dumps(data))
    assert again.dask.layers[again.name].collection_annotations["geotile"] == "noted"
    one_sided = overlap(data, {0: 0, 1: (0, 1)}, boundary="none", allow_rechunk=False)
    assert one_sided.chunks == ((3,), (3, 2))
    np.testing.assert_array_equal(one_sided.blocks[0, 0], -values[:, :3])
