"""Flat NMS against its definition."""

import numpy as np
import pytest
from helpers import flat_nms
from hypothesis import given
from hypothesis import strategies as st

from geotile import ArgumentError, nms
from geotile.merging.overlaps import overlap


@st.composite
def scenes(draw):
    n = draw(st.integers(0, 40))
    numbers = st.integers(0, 30)
    corner = np.array(draw(st.lists(st.tuples(numbers, numbers), min_size=n, max_size=n)), float).reshape(n, 2)
    size = np.array(draw(st.lists(st.tuples(*[st.integers(0, 12)] * 2), min_size=n, max_size=n)), float).reshape(n, 2)
    scores = np.array(draw(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=n, max_size=n)))
    labels = draw(st.lists(st.sampled_from("ab"), min_size=n, max_size=n))
    return np.hstack([corner, corner + size]), scores, labels


@pytest.mark.slow
@given(scenes(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from(["iou", "ios"]), st.booleans())
def test_equals_the_definition(scene, threshold, metric, agnostic):
    boxes, scores, labels = scene
    kept = nms(boxes, scores, labels, iou_threshold=threshold, metric=metric, class_agnostic=agnostic)
    assert kept.tolist() == flat_nms(boxes, scores, labels, threshold, metric, agnostic)


def test_a_crowd_is_suppressed_without_looking_at_all_pairs():
    rng = np.random.default_rng(0)
    boxes = rng.normal([0, 0, 100, 100], 1, (30_000, 4))  # 450 million pairs
    assert len(nms(boxes, rng.random(30_000))) == 1


def test_the_chain_that_a_plain_tree_gets_wrong():
    boxes = [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]
    assert nms(boxes, [0.9, 0.8, 0.7], iou_threshold=0.3).tolist() == [0, 2]


def test_equal_boxes_without_area_are_one():
    assert nms([[5, 5, 5, 5], [5, 5, 5, 5], [5, 6, 5, 6]], [0.5, 0.6, 0.1]).tolist() == [1, 2]


def test_overlap_measures():
    whole, half = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 5, 10]])
    assert overlap(whole, half, "iou")[0] == 0.5
    assert overlap(whole, half, "ios")[0] == 1.0


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "said"),
    [
        ([[0, 0, 1]], [1], {}, r"boxes must have shape .*got \(1, 3\)"),
        ([[0, 0, 1, 1]], [1, 2], {}, r"scores must have shape .*got \(2,\)"),
        ([[0, 0, np.nan, 1]], [1], {}, "finite"),
        ([[5, 0, 1, 1]], [1], {}, "got box 0 "),
        ([[0, 0, 1, 1]], [1], {"iou_threshold": 1.5}, "iou_threshold must be a number from 0 to 1; got 1.5"),
        ([[0, 0, 1, 1]], [1], {"metric": "giou"}, "giou"),
        ([[0, 0, 1, 1]], [1], {"labels": ["a", "b"]}, "labels must have shape"),
    ],
)
def test_bad_input_is_named(boxes, scores, options, said):
    with pytest.raises(ArgumentError, match=said):
        nms(boxes, scores, **options)
