"""Which proxy an S3 server is reached through; the rules of NO_PROXY are tested with those of API servers."""

from __future__ import annotations

import pytest

from kigi.adapters.proxies import proxy_for, proxy_headers
from kigi.errors import SpecInvalid

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "variables", "has_proxy"),
    [
        ("https://s3.example", {}, False),
        ("https://s3.example", {"HTTPS_PROXY": PROXY}, True),
        ("https://s3.example", {"https_proxy": PROXY}, True),
        ("https://s3.example", {"HTTP_PROXY": PROXY}, False),
        ("http://s3.example", {"HTTP_PROXY": PROXY}, True),
        ("https://s3.example", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a, s3.example"}, False),
        ("https://10.96.0.1", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, False),
        ("https://s3.example:70000", {"HTTPS_PROXY": PROXY}, False),
    ],
)
def test_the_proxy_of_the_environment(url: str, variables: dict[str, str], has_proxy: bool) -> None:
    found = proxy_for(url, variables)
    assert (found is not None and found.geturl() == PROXY) is has_proxy


@pytest.mark.parametrize("text", ["socks5://me:secret@proxy:1080", "https://me:secret@proxy", "http://"])
def test_what_is_no_http_proxy_is_named(text: str) -> None:
    with pytest.raises(SpecInvalid, match="HTTPS_PROXY") as caught:
        proxy_for("https://s3.example", {"HTTPS_PROXY": text})
    assert "secret" not in str(caught.value)


def test_a_user_of_the_proxy_is_sent_to_it() -> None:
    for text, headers in (
        ("http://me:p%40ss@proxy:3128", {"Proxy-Authorization": "Basic bWU6cEBzcw=="}),
        (PROXY, {}),
    ):
        proxy = proxy_for("https://s3.example", {"HTTPS_PROXY": text})
        assert proxy is not None
        assert proxy_headers(proxy) == headers
