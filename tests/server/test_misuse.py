"""`svc.run` and `svc.asgi` refuse what cannot work before anything is opened, and say what to do instead."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace import Service
from tailrace.errors import DefinitionError
from tailrace.server import make_settings

HTTP: dict[str, Any] = {"transport": "http", "port": 0}
MISUSES: dict[str, tuple[dict[str, Any], str]] = {
    "a port as a string": ({**HTTP, "port": "8000"}, "port= is a number from 0 to 65535, got '8000'"),
    "a port that is none": ({**HTTP, "port": -2}, "port= is a number from 0 to 65535, got -2"),
    "an option misspelt": ({**HTTP, "keepalive": 3}, "did you mean keep_alive"),
    "a time as a string": ({**HTTP, "drain": "3"}, "drain= is a number of seconds, 0 or more, got '3'"),
    "a time below zero": ({**HTTP, "drain": -1}, "drain= is a number of seconds, 0 or more, got -1"),
    "a count that is broken": ({**HTTP, "max_sessions": 1.5}, "max_sessions= is a whole number, 0 or more, got 1.5"),
    "a mark that is a string": ({**HTTP, "stateless": "yes"}, "stateless= is True or False, got 'yes'"),
    "an origin without its scheme": ({**HTTP, "allow_origin": "app.example"}, "'app.example' is no origin"),
    "an origin with a path": ({**HTTP, "allow_origin": ["https://app.example/x"]}, "is no origin"),
    "a host with its port": ({**HTTP, "allow_host": "shop.example:8000"}, "without a port"),
    "a host as a URL": ({**HTTP, "allow_host": "https://shop.example"}, "without a port"),
    "several workers": ({**HTTP, "workers": 2}, "tailrace run FILE.py --workers"),
    "starting again by itself": ({**HTTP, "reload": True}, "tailrace run FILE.py --reload"),
    "a certificate that is not there": (
        {**HTTP, "tls_cert": "/no/such/file", "tls_key": "/no/such/file"},
        "cannot read /no/such/file: No such file or directory",
    ),
    "HTTP's flags over stdio": ({"host": "127.0.0.1"}, "host= is about HTTP, and stdio is the default"),
    "a transport of others": ({"transport": "sse"}, "there are stdio and http"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_what_cannot_work_is_refused_before_anything_is_opened(case: str) -> None:
    flags, words = MISUSES[case]
    with pytest.raises(DefinitionError) as caught:
        Service("shop").run(**flags)
    assert words in str(caught.value)


async def test_run_inside_of_async_code_says_what_to_use_there() -> None:
    with pytest.raises(DefinitionError, match=r"give svc\.asgi\(\)"):
        Service("shop").run(transport="http", port=0)


def test_one_worker_that_is_not_reloaded_is_what_there_is() -> None:
    assert make_settings({"workers": 1, "reload": False}) == make_settings({})


def test_what_is_meant_well_fits() -> None:
    hosts = ("a.example", "::1", "[::1]", "*")
    assert make_settings({"allow_host": hosts}).allow_hosts == hosts
    origins = ("https://a.example", "http://localhost:5173", "vscode-webview://x", "*", "null")
    assert make_settings({"allow_origin": origins}).allow_origins == origins
    settings = make_settings({"drain": 3, "keep_alive": 0.5, "rpc_time": 2, "allow_host": "a.example"})
    assert (settings.drain, settings.keep_alive, settings.rpc_time) == (3, 0.5, 2)
    assert settings.allow_hosts == ("a.example",)
