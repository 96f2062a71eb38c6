"""What several workers say is made one answer: added up, in order, each row with where it comes from."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.console.merging import Part, Silent, merge_sessions, merge_states, plan_page
from tailrace.console.recorder import ALONE
from tailrace.console.views import MAX_ENDED, MAX_ROWS


def row(name: str, touched: float) -> dict[str, Any]:
    return {"id": name, "touched": touched}


def state(*rows: dict[str, Any], running: int = 0, lag: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "service": {"name": "tea", "version": "1", "began": 100.0 - len(rows)},
        "limits": {"sessions": 10, "calls": 4},
        "totals": {
            "sessions": {"open": len(rows)},
            "calls": {"running": running, "ended": 7},
            "streams": {"open": 1},
            "detached": {"running": 0},
            "log_bytes": {"held": 5},
            "store": {"name": "valkey:here", "up": True, "lag": 0.5},
            "outbox": {"waiting": 2},
            "cluster": {"member": "one", "members": 2, "partitions": 1},
        },
        "lag": {"ms": lag, "error": "", "failure": ""},
        "sessions": {"open": len(rows), "found": len(rows), "offset": 0, "limit": 50, "rows": list(rows)},
        "calls": {"count": running, "rows": [{"number": n, "accepted": float(n)} for n in range(running)]},
        "detached": {"count": 0, "rows": []},
        "ended": [],
        **more,
    }


def part(worker: int, value: Any, **more: Any) -> Part:
    return Part(worker, 100 + worker, more.get("leaving", False), value)


def test_sessions_of_all_are_in_one_order_and_say_where_they_live() -> None:
    merged = merge_states(
        [part(0, state(row("a", 9.0), row("b", 5.0))), part(1, state(row("c", 7.0)))], offset=0, limit=2
    )
    assert [(one["id"], one["worker"]) for one in merged["sessions"]["rows"]] == [("a", 0), ("c", 1)]
    assert (merged["sessions"]["open"], merged["sessions"]["found"]) == (3, 3)


def test_numbers_and_limits_are_added_up_and_what_is_no_sum_is_not() -> None:
    down = state(running=3, lag=8.0)
    down["totals"]["store"]["up"] = False
    merged = merge_states([part(0, state(running=1, lag=None)), part(1, down)], offset=0, limit=50)
    totals = merged["totals"]
    assert totals["calls"] == {"running": 4, "ended": 14}
    assert totals["store"] == {"name": "valkey:here", "up": False, "lag": 0.5}
    assert totals["cluster"] == {"member": "one", "members": 2, "partitions": 2}
    assert merged["limits"] == {"sessions": 20, "calls": 8}
    assert merged["lag"]["ms"] == 8.0
    assert [one["worker"] for one in merged["calls"]["rows"]] == [0, 1, 1, 1]
    assert [one["shares"]["calls"] for one in merged["workers"]] == [0.25, 0.75]


def test_a_failing_store_is_named_with_the_workers_that_see_it_fail() -> None:
    failing = state()
    failing["lag"] = {"ms": None, "error": "", "failure": "gone"}
    merged = merge_states([part(0, failing), part(1, failing), part(2, state())], offset=0, limit=50)
    assert merged["lag"] == {"ms": 1.0, "error": "", "failure": "gone (worker 0, 1)"}


def test_who_does_not_answer_and_who_ends_is_listed() -> None:
    silent = [Silent(1, 101, leaving=False, starting=False), Silent(1, 102, leaving=False, starting=True)]
    merged = merge_states([part(0, state(), leaving=True)], silent, offset=0, limit=50)
    assert [(one["worker"], one["state"]) for one in merged["workers"]] == [
        (0, "leaving"),
        (1, "silent"),
        (1, "starting"),
    ]


def test_lists_keep_their_limits() -> None:
    ended = [{"id": f"e{number}", "closed": float(number)} for number in range(MAX_ENDED)]
    many = state(running=MAX_ROWS, ended=ended)
    merged = merge_states([part(0, many), part(1, many)], offset=0, limit=50)
    assert (merged["calls"]["count"], len(merged["calls"]["rows"])) == (2 * MAX_ROWS, MAX_ROWS)
    assert len(merged["ended"]) == MAX_ENDED
    assert merged["ended"][0]["closed"] == MAX_ENDED - 1


def seen(name: str, how: str, *lines: float, **more: Any) -> dict[str, Any]:
    none: dict[str, Any] = {"count": 0, "rows": []}
    timeline = [{"at": at, "what": "run"} for at in lines]
    about = {"id": name, "state": how, "running": none, "detached": none}
    return {**about, "timeline": timeline, "dropped": 3, "kept": 100, **more}


def test_a_session_is_where_it_lives_else_where_it_ended_last() -> None:
    first, last = seen("a", "closed", closed=1.0), seen("a", "closed", closed=2.0)
    assert merge_sessions("a", [part(0, None), part(1, None)]) is None
    found = merge_sessions("a", [part(0, first), part(1, last), part(2, None)])
    assert found is not None
    assert found["worker"] == 1
    living = merge_sessions("a", [part(0, first), part(1, last), part(2, seen("a", "open", 4.0))])
    assert living is not None
    assert (living["worker"], living["timeline"][0]["place"]) == (2, 3)


def test_what_has_no_session_is_put_together_by_time() -> None:
    found = merge_sessions(ALONE, [part(0, seen(ALONE, "open", 1.0, 4.0)), part(1, seen(ALONE, "open", 2.0))])
    assert found is not None
    assert [(line["at"], line["worker"], line["place"]) for line in found["timeline"]] == [
        (1.0, 0, 3),
        (2.0, 1, 3),
        (4.0, 0, 4),
    ]
    assert found["dropped"] == 6


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4), st.integers(0, 20), st.integers(1, 9))
def test_the_parts_of_a_page_are_the_page(numbers: list[list[int]], offset: int, limit: int) -> None:
    touched = [sorted(map(float, worker), reverse=True) for worker in numbers]
    plan = plan_page(touched, offset, limit)
    page = [at for times, (before, on) in zip(touched, plan, strict=True) for at in times[before : before + on]]
    every = sorted((at for times in touched for at in times), reverse=True)
    assert sorted(page, reverse=True) == every[offset : offset + limit]
