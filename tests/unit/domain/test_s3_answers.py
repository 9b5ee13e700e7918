"""What servers and proxies answer, whatever its form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.s3_answers import misconfiguration, other_region, read_answer

VERSITYGW = (
    b"<Error><Code>AuthorizationQueryParametersError</Code><Message>Error parsing "
    b"the X-Amz-Credential parameter; the region &#34;eu-west-1&#34; is wrong; expecting &#34;us-east-1&#34;</Message>"
    b"</Error>"
)


@pytest.mark.parametrize(
    ("status", "headers", "body", "region"),
    [
        pytest.param(400, {}, VERSITYGW, "us-east-1", id="versitygw"),
        pytest.param(400, {}, b"<Error><Region>eu-central-1</Region></Error>", "eu-central-1", id="element"),
        pytest.param(400, {}, b"the region 'us-east-1' is wrong; expecting 'eu-west-3'", "eu-west-3", id="message"),
        pytest.param(301, {"X-Amz-Bucket-Region": "ap-south-1"}, b"", "ap-south-1", id="header"),
        pytest.param(301, {"x-amz-bucket-region": "a/b\r\n"}, b"", None, id="no-region"),
        pytest.param(301, {}, b"<Region>" + b"x" * 64 + b"</Region>", None, id="too-long"),
        pytest.param(301, {}, b"", None, id="none"),
    ],
)
def test_the_region_of_an_answer(status: int, headers: dict[str, str], body: bytes, region: str | None) -> None:
    assert read_answer(status, headers, body).region == region


def test_another_region_is_tried_only_if_the_answer_is_about_regions() -> None:
    about = read_answer(400, {"x-amz-bucket-region": "b"}, b"<Code>AuthorizationHeaderMalformed</Code>")
    assert other_region(about, "a") == "b"
    assert other_region(about, "b") is None
    denied = read_answer(403, {"x-amz-bucket-region": "b"}, b"<Code>AccessDenied</Code>")
    assert other_region(denied, "a") is None


def test_the_right_server_is_named() -> None:
    body = b"<Code>PermanentRedirect</Code><Endpoint>kigi.s3.eu-central-1.amazonaws.com</Endpoint>"
    answer = read_answer(301, {"x-amz-bucket-region": "eu-central-1"}, body)
    text = str(misconfiguration(answer, "http://s3: bucket kigi", "us-east-1"))
    assert "set spec.s3.endpoint, or KIGI_S3_ENDPOINT, to the URL of kigi.s3.eu-central-1.amazonaws.com" in text
    assert text.endswith("to eu-central-1")


@given(st.integers(300, 599), st.dictionaries(st.text(max_size=30), st.text(max_size=30)), st.binary(max_size=300))
def test_no_answer_is_an_error_of_the_reader(status: int, headers: dict[str, str], body: bytes) -> None:
    answer = read_answer(status, headers, body)
    assert answer.name
    error = misconfiguration(answer, "where", "us-east-1", 5)
    assert error is None or str(error).startswith("where")
