"""Flat NMS against its definition."""

import numpy as np
import pytest
from helpers import flat_nms
from hypothesis import given
from hypothesis import strategies as st

from geotile import ArgumentError, nms
from geotile.merging.candidates import candidates
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


@given(
    st.integers(0, 2**32 - 1), st.integers(0, 80), st.integers(1, 3), st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([0, 1, 6]), st.integers(1, 40),
)  # fmt: skip
def test_candidates_are_all_pairs_that_touch(seed, n, groups, reach, octaves, at_once):
    """Boxes of every scale; however few pairs a portion and a slice have."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-30, 30, (n, 2)).astype(float)
    boxes = np.hstack([low, low + rng.integers(0, 6, (n, 2)) * 4.0 ** rng.integers(-octaves, octaves + 1, (n, 1))])
    group = rng.integers(5, 5 + groups, n)
    found, done, left_out = [], 0, rng.random(n) < 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geotile.merging.candidates._AT_ONCE", at_once)
        patch.setattr("geotile.merging.candidates._ONE_SLICE", at_once)
        for portion in candidates(boxes, group, left_out.copy(), reach):
            assert done <= portion.done
            assert (portion.higher >= done).all()
            found += list(zip(portion.higher.tolist(), portion.lower.tolist(), strict=True))
            done = portion.done
    assert done == n
    assert len(set(found)) == len(found)
    one, other = np.triu_indices(n, 1)
    apart = np.maximum(boxes[one, :2], boxes[other, :2]) - np.minimum(boxes[one, 2:], boxes[other, 2:])
    touching = (apart <= reach).all(axis=1) & (group[one] == group[other]) & ~left_out[one] & ~left_out[other]
    assert set(found) >= set(zip(one[touching].tolist(), other[touching].tolist(), strict=True))
    assert all(i < j and group[i] == group[j] and not left_out[[i, j]].any() for i, j in found)


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
