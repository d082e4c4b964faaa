"""No secret of a URL is in a text that people read, and the rest of the text stays."""

import pickle
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st

import geotile
from geotile.core.redact import redact, redact_answer
from geotile.printable import printable

PLACES = [
    "https://me:{}@host/a.tif", "https://{}@host/a.tif", "https://{}:@host/a.tif", "https://me:p/{}@host/a",
    "https://me:p {}@host/a", "https://me:p?{}@host/a", "https://me:p#{}@host/a", "https://me:p@{}@host/a",
    "https://me:1/{}@host/a", "https://me:1/p:{}@host/a", "//me:{}@host/a", "ftp:me:{}@host", "https:/me:{}@host/a", "me:{}@host",
    "https://host/a&sig={}", "s3://key:{}@bucket/a",
    "https://host/a?{}", "https://host/a?k={}", "https://host/a?k[a]={}", "https://host/a?api:key={}",
    "https://host/a?k*={}", "https://host/a?={}", "https://host/a?k=1&{}", "https://host/a?{}=", "https://host/a?{}==",
    "https://host/a?k=ab'{}", "https://host/a?k=(x){}", 'https://host/a?k="{}"', "https://host/a?k=a?{}",
    "https://host/a?k=a;{}", "https://host/a?k=1;token={}", "https://host/a#{}", "https://host/a#token={}",
    "https://host/a;token={}", "https://host/a;{}?k=1", "https://host:80/a?user=me@host&k={}", "https://[::1]:80/a?k={}",
    "a.tif?token={}", "a.tif#token={}", "a.tif;token={}", "/vsicurl/https://me:{}@host/a.tif", "/vsis3/b/a.tif?k={}",
    "/vsicurl?use_head=no&header.Authorization:X={}&url=https%3A%2F%2Fhost", "/vsicurl?header.X=Bearer {}&url=https://h",
    "/vsicurl_streaming?url=https://host/a.tif&header.X:Y={}", "/vsicurl?url=https://host/a?k={}",
]  # fmt: skip
MESSAGES = [
    "{}",
    "cannot open {}: no such file",
    "got '{}'. Use https://host/b",
    '("{}")',
    "{}\nhttps://host/b",
    "b'{}'",
]
SECRETS = st.text("hushHUSH0123456789+-_.~!*()$,", min_size=1, max_size=20).map(lambda text: f"Xq{text}Zj")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("message", MESSAGES)
@settings(max_examples=20)
@given(secret=SECRETS)
@example(secret="Xq7Zj")
def test_a_secret_does_not_survive(place, message, secret):
    shown = redact(message.format(place.format(secret)))
    assert "Xq" not in shown
    assert "Zj" not in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}", "authorization: Basic {}==", "X-Api-Key: {}", "{{'token': '{}'}}", "password={}", "Bearer {}7",
        '{{"access_token":"{}"}}', '{{\\"access_token\\": \\"{}\\"}}', "Invalid API key: {}", "Set-Cookie: a={}; Path=/",
        "aws_secret_access_key = {}", "no such page: https://h/x?k={}", "https://me:{}@h/x",
    ],
)  # fmt: skip
@settings(max_examples=20)
@given(secret=st.text("hushHUSH0123456789+-_.~!*()$", min_size=1, max_size=20).map(lambda text: f"Xq{text}Zj"))
def test_a_secret_that_a_server_wrote_does_not_survive(text, secret):
    shown = redact_answer(text.format(secret))
    assert "Xq" not in shown
    assert "Zj" not in shown


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit", ["token", "a:", "a.", "a-", "//a:b ", "//a:", "//a:1/", "token:", "bearer ", "/vsia?", "?a;", "://", "a:b@"]
)
def test_a_text_that_a_server_chose_takes_no_minutes(unit):
    for text in (unit * (100_000 // len(unit)), unit * (100_000 // len(unit)) + " @"):
        assert isinstance(redact_answer(text), str)  # quadratic time would be minutes


@pytest.mark.parametrize(
    "text", ["the basic model failed", "a bearer token is missing", "token expired", "Unexpected token < in JSON", '{"score": 0.5}']
)  # fmt: skip
def test_other_answers_stay(text):
    assert redact_answer(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "/data/a #3.tif", "C:/a.tif", "s3://bucket/a.tif", "https://host:8080/a.tif", "https://[::1]:80/a.tif", "a@2x.tif",
        "https://host/a@2x.tif", "unknown option 'tilesize'; did you mean 'tile_size'?", "onnx:/models/yolo@2.onnx",
        "overlap=64; got tile_size=64 (Why?)", "http://127.0.0.1:80 did not respond; mail me@host",
        "arn:aws:sns:us-west-2:123:topic", "cannot read https://host/a; try again", "/vsizip/a.zip/b.tif",
        "year=2020/a.tif", "12:30:40 me@host",
    ],
)  # fmt: skip
def test_other_texts_stay(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got 'https://h/x?key=abc'. Use", "got 'https://h/x?key=***'. Use"),
        ("HttpEndpoint('https://me:x@h/x?a=1&b=2')", "HttpEndpoint('https://***@h/x?a=***&b=***')"),
        ("https://h/a?X-Amz-Signature=1%20 failed (403)", "https://h/a?X-Amz-Signature=*** failed (403)"),
    ],
)
def test_names_and_the_rest_of_a_message_stay(text, shown):
    assert redact(text) == shown


UNSEEN = "\x1b[31m\u202e\u200b\u061c\u2066\ufeff\xad\u2060\U000e0041\x9b\u2028\ud800"


@pytest.mark.filterwarnings("ignore:1 of 1 tiles failed")
def test_characters_that_people_do_not_see_are_escaped_in_what_quotes_others(caplog):
    def model(tile):
        raise ValueError(UNSEEN)

    caplog.set_level("INFO", "geotile")
    image = xr.DataArray(np.ones((1, 8, 8), np.uint8), dims=("band", "y", "x"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        report = geotile.report(geotile.detect(image, model, tile_size=8, overlap=0))
    with pytest.raises(geotile.EndpointError) as raised:
        geotile.predict(image, model, tile_size=8, overlap=0)
    said = [
        str(report),
        report.failures[0].reason,
        *(str(each.message) for each in told),
        caplog.text,
        str(raised.value),
    ]
    for text in said:
        assert r"\x1b[31m\u202e\u200b\u061c\u2066\ufeff\xad\u2060\U000e0041\x9b\u2028\ud800" in text
        assert text.replace("\n", "").isprintable()
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again)) == (type(raised.value), str(raised.value))
    assert printable("می\u200cخواهم") == "می\u200cخواهم"
