"""A parking lot of overlapping oriented boxes merges in the memory of what is open."""

import runpy
from pathlib import Path

import pytest

CROWD = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "crowd.py"), run_name="crowd")


@pytest.mark.slow
def test_open_detections_follow_the_side_of_a_lot_not_its_area():
    """Rows of cars are chains that cross all regions; four times the boxes have about twice as many open ones."""
    merge = CROWD["MERGES"]["Nms"]
    small, large = (CROWD["merge_lot"](merge, CROWD["lot_grid"](boxes, 128, 32, 288)) for boxes in (2_000, 8_000))
    assert large.given > 3 * small.given
    assert 0 < large.most_carried < 2.8 * small.most_carried
    assert large.most_open < large.given / 2
    assert 0 < large.settled < large.given / 2
