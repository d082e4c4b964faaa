"""Soft-NMS: what the definition says, however the work is split."""

import numpy as np
import pytest
from helpers import crowd
from hypothesis import given
from hypothesis import strategies as st

import geotile
from geotile import SoftNms
from geotile.grid.tile_grid import Interior, TileGrid
from geotile.merging.detections import detections
from geotile.merging.overlaps import overlap

EVERYWHERE = Interior(-np.inf, -np.inf, np.inf, np.inf)
GRID = TileGrid((100, 100), 100, 0)


def by_definition(boxes, scores, labels, sigma):
    """Bodla et al. 2017, figure 2, with the Gaussian of equation 3: visit the highest, decay all others."""
    now, left = [float(s) for s in scores], list(range(len(scores)))
    while left:
        top = max(left, key=lambda i: (now[i], -i))
        left.remove(top)
        for i in left:
            if labels[i] == labels[top]:
                now[i] *= np.exp(-(overlap(boxes[i][None], boxes[top][None])[0] ** 2) / sigma)
    return now


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.05, 0.1, 0.5]), st.floats(0, 0.5))
def test_equals_the_definition(seed, n, sigma, threshold):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 40, (n, 2)).astype(float)
    boxes = np.hstack([corner, corner + rng.integers(0, 15, (n, 2))])
    found = detections(boxes, rng.integers(1, 9, n) / 9, list(rng.choice(["a", "b"], n))).sorted_by_rank()
    settled, still_open = SoftNms(sigma, threshold).settle(found, EVERYWHERE, GRID)
    want = np.array(by_definition(found.boxes, found.scores, found.labels, sigma))
    assert len(still_open) == 0
    np.testing.assert_allclose(settled.scores, want[want > threshold], rtol=1e-12)
    assert settled.boxes.tolist() == found.boxes[want > threshold].tolist()
    raw = [each[0]["rawScore"] for each in settled.classes]
    assert raw == found.scores[want > threshold].tolist()


def test_the_answer_does_not_depend_on_the_regions(write_tiff, noise):
    options = {"tile_size": 64, "overlap": 32, "merge": SoftNms(0.3, 0.05)}
    whole = geotile.detect(write_tiff(noise), crowd, region_size=1024, **options)
    assert len(whole) > 50
    for size in (64, 100, 192):
        assert geotile.detect(write_tiff(noise), crowd, region_size=size, **options).to_csv() == whole.to_csv()


def test_a_chain_waits_whole():
    """The last box of the chain is exposed, so the first, which no exposed box touches, waits too."""
    found = detections([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [40, 0, 50, 10]], [0.9, 0.8, 0.7, 0.6])
    settled, still_open = SoftNms().settle(found, Interior(-np.inf, -np.inf, 18.0, np.inf), GRID)
    assert still_open.boxes[:, 0].tolist() == [0, 5, 10, 40]
    settled, still_open = SoftNms().settle(found, Interior(-np.inf, -np.inf, 45.0, np.inf), GRID)
    assert settled.boxes[:, 0].tolist() == [0, 5, 10]
    assert still_open.scores.tolist() == [0.6]


@pytest.mark.parametrize(
    ("options", "said"), [({"sigma": 0}, "sigma must be .*got 0"), ({"score_threshold": 2}, "score_threshold")]
)
def test_bad_input_is_named(options, said):
    with pytest.raises(geotile.ArgumentError, match=said):
        SoftNms(**options)
