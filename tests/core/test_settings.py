"""The limits that are promised outside of the code are the defaults in it."""

from __future__ import annotations

import dataclasses

import pytest

from tailrace.core.settings import Settings, takeover_time

PROMISED = {
    "drain": 25.0,
    "shutdown_delay": 0.0,
    "keep_alive": 15.0,
    "hold": 0.05,
    "stall": 30.0,
    "body_time": 30.0,
    "session_idle": 1800.0,
    "session_infancy": 60.0,
    "answer_time": 3600.0,
    "eof_drain": 1.5,
    "store_wait": 30.0,
    "lease": 5.0,
    "retry": 2000,
    "max_body": 4_194_304,
    "max_result": 4_194_304,
    "max_calls": 1000,
    "max_session_calls": 100,
    "max_sessions": 10_000,
    "ring": 1_048_576,
    "unwritten": 4_194_304,
    "allow_hosts": (),
    "allow_origins": (),
    "stateless": False,
}


def test_the_defaults_are_what_is_promised() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in PROMISED} == PROMISED


def test_every_duration_and_size_has_a_limit() -> None:
    settings = Settings()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, int | float):
            assert 0 <= value < float("inf"), field.name


def test_a_takeover_takes_two_leases_and_the_time_of_a_hook() -> None:
    assert takeover_time(7.0, 0.5) == 14.5


def test_settings_do_not_change_while_a_server_runs() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().drain = 1.0  # type: ignore[misc]
