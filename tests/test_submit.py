"""Requests are checked where they are submitted; values that users build are checked where they are built."""

import contextlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import cli

import geotile
from geotile.merging.names import resolve_merge
from geotile.service.cancellation import Cancellations
from geotile.service.records import JobRecord, Records
from geotile.service.request import JobRequest
from geotile.service.submit import state_folder
from geotile.testing import bright_objects, write_example

REQUEST = {
    "jobId": "a", "imageUrls": ["none.tif"], "outputs": [{"type": "File", "path": "found"}],
    "imageProcessor": {"name": "http://127.0.0.1:9/x", "type": "HTTP_ENDPOINT"},
}  # fmt: skip
DEEP = "[" * 200_000


@pytest.mark.parametrize("wrong", [None, 5, [], b"{}", "", object()])
def test_a_request_and_a_queue_are_of_their_types(wrong, tmp_path):
    with pytest.raises(geotile.ArgumentError, match=r"^request must be "):
        geotile.submit(wrong, tmp_path)
    calls = (
        lambda: geotile.submit(REQUEST, wrong), lambda: geotile.jobs(wrong), lambda: geotile.serve(wrong, once=True),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(geotile.ArgumentError, match=r"^queue must be "):
            call()


@pytest.mark.parametrize("call", [geotile.jobs, lambda *args: geotile.serve(args[0], state=args[1], once=True)])
def test_a_state_folder_is_a_path(call, tmp_path):
    for wrong in (5, "", b"x"):
        with pytest.raises(geotile.ArgumentError, match=r"^state must be "):
            call(tmp_path, wrong)


@pytest.mark.parametrize("depth", [100, 500, 1000, 5000, 200_000])
def test_deep_json_is_refused_or_taken(depth, tmp_path):
    body = json.dumps(REQUEST)[:-1] + ', "imageProcessorParameters": {"A": ' + "[" * depth + "]" * depth + "}}"
    (tmp_path / "job.json").write_text(body)
    (tmp_path / "queue").mkdir()
    with contextlib.suppress(geotile.ArgumentError):
        assert geotile.submit(tmp_path / "job.json", tmp_path / "queue").digest
    (tmp_path / "queue" / "deep.json").write_text("[" * depth)
    assert all(job.status == "QUEUED" for job in geotile.jobs(tmp_path / "queue"))


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1e400"])
def test_numbers_are_finite(number, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(REQUEST)[:-1] + f', "featureProperties": [{{"a": {number}}}]}}')
    with pytest.raises(geotile.ArgumentError, match=rf"must be valid JSON: a number must be finite; got {number}"):
        geotile.submit(tmp_path / "job.json", tmp_path / "queue")


def test_parameters_of_any_json_are_sent_as_text():
    given = {"CustomAttributes": {"a": [True, None]}, "TargetModel": "x", "n": 5, "on": True}
    request = JobRequest.parse(json.dumps(REQUEST | {"imageProcessorParameters": given}))
    assert request.endpoint_options()["params"] == {
        "CustomAttributes": '{"a": [true, null]}', "TargetModel": "x", "n": "5", "on": "true"
    }  # fmt: skip


def test_json_without_an_end_is_refused(tmp_path):
    (tmp_path / "job.json").write_text(DEEP)
    with pytest.raises(geotile.ArgumentError, match="must not be nested this deeply"):
        geotile.submit(tmp_path / "job.json", tmp_path / "queue")
    assert (
        "must not be nested this deeply"
        in cli("submit", tmp_path / "job.json", "--queue", tmp_path / "queue", status=2).stderr
    )


def circular():
    value = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    "value", [Path("x"), np.int64(3), {1}, {("a", 1): 2}, circular(), float("nan"), b"x", object()]
)
def test_values_that_are_not_json_are_refused(value, tmp_path):
    with pytest.raises(geotile.ArgumentError, match=r"^request must hold values of JSON only"):
        geotile.submit(REQUEST | {"colour": value}, tmp_path / "queue")
    assert not (tmp_path / "queue").exists()


def test_a_queue_folder_is_created(tmp_path):
    geotile.submit(REQUEST, tmp_path / "new" / "queue")
    assert [job.job_id for job in geotile.jobs(tmp_path / "new" / "queue")] == ["a"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"imageProcessorTileFormat": "PNG", "imageProcessorTileCompression": "JPEG"}, "imageProcessorTileCompression must be 'NONE' for \"imageProcessorTileFormat\": \"PNG\""),
        ({"imageProcessorTileFormat": "NITF", "imageProcessorTileCompression": "LZW"}, "imageProcessorTileCompression must be"),
        ({"imageProcessorParameters": {"CustomAttributes": "a\nhush"}}, "imageProcessorParameters must hold values"),
        ({"imageProcessor": {"name": "m"}, "imageProcessorParameters": {"CustomAttributes": "a\nhush"}}, "imageProcessorParameters must hold"),
        ({"imageProcessorParameters": {"Custom hush": "a"}}, "imageProcessorParameters must hold names"),
        ({"imageProcessor": {"name": "m/x"}}, "endpoint must have the form sagemaker://"),
        ({"imageProcessor": {"name": "http://:9", "type": "HTTP_ENDPOINT"}}, "must be an HTTP"),
        *[({"regionOfInterest": wrong}, "regionOfInterest must be text") for wrong in (False, 0, [], {})],
        ({"postProcessing": False}, "postProcessing must be a list"), ({"featureProperties": 0}, "featureProperties must be a list"),
        ({"geotile": {"scaled": 1}}, "scaled must be true or false; got 1"), ({"geotile": {"rescale": True}}, "got true"),
        ({"geotile": {"sar": False}}, "sar must be one of null, 'amplitude', 'quarter_power'; got false"),
        ({"geotile": {"bands": "3,2,1"}}, r"bands must be a list .* \[3, 2, 1\]"), ({"geotile": {"bands": ["1;2"]}}, "bands must be a list"),
        ({"imageProcessor": {"name": "onnx:m.onnx", "type": "GEOTILE_ENDPOINT"}, "imageProcessorParameters": {"A": "b"}},
         "do not apply to an endpoint of this type"),
        ({"regionOfInterest": "POLYGON EMPTY"}, "must not be empty"), ({"regionOfInterest": "POINT (nan 1)"}, "finite"),
        ({"regionOfInterest": "POINT (x"}, "must be WKT"), ({"regionOfInterest": '{"type": "Point"}'}, "must be WKT"),
        ({"geotile": {"merge": "seams"}}, "merge must be one of 'seam', .*got 'seams'"),
        ({"geotile": {"merge": "union", "class_agnostic": True}}, 'class_agnostic would have no effect with .*"merge": "union"'),
        ({"geotile": {"merge": "nms:metric=giou"}}, "metric must be 'iou' or 'ios'; got 'giou'"),
        ({"geotile": {"merge": "seam"}, "postProcessing": [{"step": "FEATURE_DISTILLATION"}]}, "both say how to merge"),
        ({"geotile": {"iou_threshold": 0.4}}, "iou_threshold goes with geotile.merge; without one, give"),
        ({"geotile": {"merge": "nms", "iou_threshold": {"ship": 0.4}}}, r'iou_threshold must have a number for all other labels under "\*"'),
        ({"geotile": {"merge": "nms", "iou_threshold": "0.4"}}, "iou_threshold must be"),
        ({"geotile": {"merge": "union", "iou_threshold": 0.4}}, "iou_threshold would have no effect"),
        ({"geotile": {"overlap_metric": "ios"},
          "postProcessing": [{"step": "FEATURE_DISTILLATION", "algorithm": {"algorithmType": "SOFT_NMS"}}]},
         "overlap_metric would have no effect with SOFT_NMS"),
        ({"geotile": {"outside_roi": "keep"}}, '{"outside_roi": "keep"} would have no effect without roi; give "regionOfInterest"'),
    ],
)  # fmt: skip
def test_what_the_run_must_refuse_is_refused_at_submission(fields, text, tmp_path):
    with pytest.raises(geotile.ArgumentError, match=text) as caught:
        geotile.submit(REQUEST | fields, tmp_path / "queue")
    assert "hush" not in str(caught.value)


def test_a_request_names_a_merge():
    def merge(**fields):
        return geotile.JobRequest.parse(json.dumps(REQUEST | fields)).merge

    assert merge() == geotile.Nms(0.75, geometry="box")  # OversightML's
    assert merge(geotile={"merge": "seam"}) == geotile.SeamNms()
    assert merge(geotile={"merge": "greedy-nmm:threshold=0.3", "overlap_metric": "ios"}) == geotile.GreedyNmm(0.3)
    assert merge(geotile={"merge": "seam", "class_agnostic": True}) == geotile.SeamNms(class_agnostic=True)
    parsed = geotile.JobRequest.parse(json.dumps(REQUEST | {"geotile": {"merge": "point-nms:distance=4,unit=m"}}))
    assert parsed.options().merge == geotile.PointNms(4, "m")


def test_a_request_with_a_region_may_keep_what_is_outside():
    fields = {"regionOfInterest": "POINT (1 2)", "geotile": {"outside_roi": "keep", "class_agnostic": True}}
    request = geotile.JobRequest.parse(json.dumps(REQUEST | fields))
    assert request.options().outside_roi == "keep"
    assert request.merge.class_agnostic


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: geotile.RetryPolicy(retry=3), "unknown option 'retry'; did you mean 'retries'?"),
        (lambda: geotile.RetryPolicy(tile_size=3), "'tile_size' does not apply to RetryPolicy"),
        (lambda: geotile.serve("q", max_job=3), "unknown option 'max_job'; did you mean 'max_jobs'?"),
        (lambda: geotile.serve("q", polll=3), "unknown option 'polll'; serve takes"),
        (lambda: geotile.serve("q", stat="x"), "did you mean 'state'?"),
        (lambda: geotile.Nms(overlap_metric="ios"), "is 'metric' in Nms; give metric="),
        (lambda: geotile.Nms(iou_treshold=0.3), "did you mean 'iou_threshold'?"),
        (lambda: geotile.SoftNms(sigmas=0.3), "did you mean 'sigma'?"), (lambda: geotile.KeepAll(a=1), "unknown option 'a'"),
        (lambda: geotile.SigV4("us-west-2", rol_arn="x"), "did you mean 'role_arn'?"),
    ],
)  # fmt: skip
def test_unknown_options_of_values_are_refused(call, text):
    with pytest.raises(geotile.ArgumentError) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["metric", "overlap_metric"])
def test_parameters_of_a_named_merge_have_the_names_of_detect_too(name):
    assert resolve_merge(f"nms:{name}=ios,iou_threshold=0.3", {}) == geotile.Nms(0.3, "ios")
    assert resolve_merge("nmm:iou_threshold=0.3", {}) == geotile.Nmm(0.3)


def test_the_merge_of_a_request_takes_the_options_of_detect():
    request = {
        "jobName": "a", "jobId": "a", "imageUrls": ["a.tif"], "outputs": [{"type": "File", "path": "out"}],
        "imageProcessor": {"name": "http://127.0.0.1:9/m", "type": "HTTP_ENDPOINT"},
        "geotile": {"merge": "greedy-nmm", "iou_threshold": {"ship": 0.3, "*": 0.5}, "overlap_metric": "iou"},
    }  # fmt: skip
    assert JobRequest.parse(json.dumps(request)).merge == geotile.GreedyNmm({"ship": 0.3, "*": 0.5}, "iou")


@pytest.mark.parametrize("wrong", ["0.1", None, "x", b"x", object(), [0.1], {}, float("nan"), np.array([1.0, 2.0])])
def test_values_of_merges_are_checked(wrong):
    fields = {
        geotile.Nms: ("iou_threshold", "metric", "class_agnostic", "geometry"),
        geotile.SoftNms: ("sigma", "score_threshold", "class_agnostic", "geometry"),
        geotile.SeamNms: ("iou_threshold", "seam_px", "class_agnostic", "geometry"),
        geotile.GreedyNmm: ("threshold", "metric", "class_agnostic", "geometry"),
        geotile.Nmm: ("threshold", "metric", "class_agnostic", "geometry"),
        geotile.Union: ("gap_px", "seam_px"),
        geotile.PointNms: ("distance",),
    }
    for kind, names in fields.items():
        for name in names:
            with pytest.raises(geotile.ArgumentError, match=f"^{name} must (be|have)"):
                kind(**{name: wrong})
    for name in ("iou_threshold", "metric", "class_agnostic"):
        with pytest.raises(geotile.ArgumentError, match=f"^{name} must (be|have)"):
            geotile.nms([[0, 0, 1, 1]], [1.0], **{name: wrong})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"merge": None, "iou_threshold": 0.9}, "iou_threshold would have no effect with merge=None"),
        ({"merge": None, "overlap_metric": "ios", "class_agnostic": True}, "overlap_metric, class_agnostic would have no"),
        ({"merge": geotile.KeepAll(), "iou_threshold": 0.9}, "iou_threshold would have no effect"),
        ({"outside_roi": "keep"}, "outside_roi='keep' would have no effect without roi"),
        ({"output_options": {"anon": True}}, "output_options would have no effect"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(given, text):
    with pytest.raises(geotile.ArgumentError, match=text):
        geotile.detect(write_example(), bright_objects, **given)


def record_of(queue, job_id, status, finished):
    records = Records(state_folder(queue, None))
    records.save(JobRecord(job_id=job_id, status=status, queued=max(0.0, finished - 9), finished=finished))
    return records


def test_a_job_that_is_submitted_again_waits_and_can_be_cancelled(tmp_path):
    record_of(tmp_path, "a", "FAILED", time.time() - 5)
    geotile.submit(REQUEST, tmp_path)
    assert [each.status for each in geotile.jobs(tmp_path)] == ["QUEUED"]
    geotile.cancel("a", tmp_path)
    assert [each.status for each in geotile.jobs(tmp_path)] == ["CANCELLED"]


def test_a_mark_that_comes_too_late_does_not_stay(tmp_path, monkeypatch):
    record_of(tmp_path, "a", "IN_PROGRESS", 0.0)
    ask = Cancellations.ask

    def ends_before(self, job_id):
        record_of(tmp_path, job_id, "FAILED", time.time())
        time.sleep(0.01)
        ask(self, job_id)

    monkeypatch.setattr(Cancellations, "ask", ends_before)
    with pytest.raises(geotile.ServiceError, match="has ended as FAILED"):
        geotile.cancel("a", tmp_path)
    assert Cancellations(state_folder(tmp_path, None)).asked() == []


def test_a_damaged_record_hides_no_other(tmp_path):
    records = record_of(tmp_path, "a", "SUCCESS", 10.0)
    (tmp_path / "state" / "records" / "b.json").write_text("")
    assert [each.job_id for each in geotile.jobs(tmp_path)] == ["a"]
    with pytest.raises(geotile.OutputError, match="is not a valid job record"):
        records.load("b")
