"""The report names everybody who should be in it, its circumstances, and who is missing why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.report import BEGIN, END, SECTIONS, Section, between_markers, charts, markdown, part, write

DOCS = Path(__file__).parents[2] / "docs"


def server(title: str, **more: Any) -> dict[str, Any]:
    return {"title": title, "store": "memory", "settings": "as it comes", "missing": None, "cannot": {}, **more}


@pytest.fixture
def results() -> dict[str, Any]:
    servers = ["tailrace", "mcp-go", "mcp", "fastmcp"]
    return {
        "date": "2026-11-21",
        "command": "python -m bench.run",
        "quick": False,
        "rounds": 2,
        "machine": {"cpu": "some CPU", "cores": 2, "system": "Linux", "python": "3.11", "load": 0.1},
        "servers": {
            "tailrace": server("Tailrace"),
            "mcp-go": server("mcp-go"),
            "mcp": server("Official SDK", missing="pip install failed: no network"),
            "fastmcp": server("FastMCP", cannot={"burst": "it cannot count"}),
        },
        "trials": {
            "echo": {"title": "Echo", "kind": "calls", "servers": servers},
            "burst": {"title": "Bursts", "kind": "burst", "servers": servers},
        },
        "samples": [
            {"trial": "echo", "server": "tailrace", "round": 1, "cpu_us": 20.0, "rps": 100.0},
            {"trial": "echo", "server": "tailrace", "round": 2, "cpu_us": 22.0, "rps": 100.0},
            {"trial": "echo", "server": "mcp-go", "round": 1, "cpu_us": 42.0, "rps": 90.0, "failed": 1, "wrong": 2},
            {"trial": "echo", "server": "fastmcp", "round": 1, "error": "it | fell\nover"},
            {"trial": "burst", "server": "tailrace", "round": 1, "per_second": 1000.0, "lost": 0},
            {"trial": "burst", "server": "mcp-go", "round": 1, "per_second": 100.0, "lost": 96},
        ],
    }


def row(text: str, section: str, title: str) -> str:
    lines = text.split(f"### {section}\n")[1].split("\n### ")[0].splitlines()
    return next(line for line in lines if line.startswith(f"| {title} |"))


def test_the_ratio_is_that_of_the_medians(results: dict[str, Any]) -> None:
    assert "| echo | CPU µs a call (less is better) | Tailrace | 0.50 | - | - |" in markdown(results)
    assert "| burst | notifications/s that arrived (more is better) | Tailrace | 10.00 | - | - |" in markdown(results)


def test_calls_a_second_are_compared_as_well_and_the_unequal_cores_are_told(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert "| echo | calls/s (more is better) | Tailrace | 1.11 | - | - |" in text
    assert "a Go server uses every core, Tailrace one" in text


def test_a_trial_of_fewer_rounds_says_so(results: dict[str, Any]) -> None:
    assert "1 round." not in markdown(results)
    results["trials"]["burst"]["rounds"] = 1
    assert "### Bursts\n\n1 round.\n" in markdown(results)


def test_a_peer_that_is_missing_is_named_with_the_reason(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert "**Missing: pip install failed: no network**" in text
    assert "missing: pip install failed: no network" in row(text, "Echo", "Official SDK")


def test_a_peer_that_failed_or_cannot_is_named_with_the_reason(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert "failed: it \\| fell over" in row(text, "Echo", "FastMCP")
    assert "cannot: it cannot count" in row(text, "Bursts", "FastMCP")


def test_what_was_lost_or_wrong_is_shown(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert row(text, "Bursts", "mcp-go").split("|")[4].strip() == "96.0"
    assert row(text, "Echo", "mcp-go").split("|")[-2].strip() == "3.00"
    assert "96.0 lost" in charts(results)["burst"]


def test_the_circumstances_are_told(results: dict[str, Any]) -> None:
    text = markdown(results)
    assert "`python -m bench.run`: 2 interleaved rounds" in text
    assert "some CPU, 2 cores" in text
    assert "busy" not in text
    assert "quick" not in text


def test_a_busy_machine_and_a_quick_run_are_confessed(results: dict[str, Any]) -> None:
    results["machine"]["load"] = 1.9
    results["quick"] = True
    text = markdown(results)
    assert "**The machine was busy** (load average 1.9 before the start)" in text
    assert "**A quick run**" in text


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert between_markers(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert between_markers(between_markers(page, "other"), "new") == between_markers(page, "new")


@pytest.mark.parametrize("page", ["none", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="markers"):
        between_markers(page, "new")


@pytest.mark.parametrize("section", SECTIONS.values(), ids=list(SECTIONS))
def test_the_page_of_the_documentation_has_its_markers(section: Section) -> None:
    assert "new" in between_markers((DOCS / "performance.md").read_text(), "new", section.begin, section.end)


def test_all_is_written_and_what_is_stored_can_be_drawn_again(results: dict[str, Any], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "performance.md").write_text(f"# Performance\n\n{BEGIN}\n{END}\n")
    write(results, tmp_path / "out", docs=docs)
    assert json.loads((tmp_path / "out/results.json").read_text()) == results
    assert sorted(path.name for path in (docs / "performance").iterdir()) == ["burst.svg", "echo.svg"]
    page = (docs / "performance.md").read_text()
    assert "![Echo](performance/echo.svg)" in page
    assert markdown(results, "performance").strip() in page


# --- several workers, and stores --------------------------------------------------------------------


@pytest.fixture
def with_workers(results: dict[str, Any]) -> dict[str, Any]:
    names = {
        "tailrace-memory-1": "Memory, 1 worker",
        "tailrace-valkey": "Valkey, 1 worker",
        "tailrace-valkey-other": "Valkey, other",
    }
    results["servers"] |= {name: server(title) for name, title in names.items()}
    results["trials"]["stores"] = {
        "title": "Stores", "kind": "calls", "servers": [*names], "section": "workers",
    }  # fmt: skip
    one = {"trial": "stores", "round": 1, "rps": 100.0}
    results["samples"] += [
        {**one, "server": "tailrace-memory-1", "cpu_us": 30.0},
        {**one, "server": "tailrace-valkey", "cpu_us": 33.0, "beside_us": 1.5},
        {**one, "server": "tailrace-valkey-other", "cpu_us": 99.0, "beside_us": 20.5, "away_percent": 100.0},
    ]
    return results


def test_a_section_has_its_own_trials_and_servers_only(with_workers: dict[str, Any]) -> None:
    peers, workers = part(with_workers, "peers"), part(with_workers, "workers")
    assert list(peers["trials"]) == ["echo", "burst"]
    assert list(workers["trials"]) == ["stores"]
    assert list(workers["servers"]) == ["tailrace-memory-1", "tailrace-valkey", "tailrace-valkey-other"]
    assert "Valkey" not in markdown(peers)


def test_the_cost_of_the_process_beside_is_told_apart_and_so_is_the_share_that_is_relayed(
    with_workers: dict[str, Any],
) -> None:
    text = markdown(part(with_workers, "workers"), section=SECTIONS["workers"])
    assert "| server | calls/s | CPU µs a call | Valkey's CPU µs a call | relayed % |" in text
    assert row(text, "Stores", "Valkey, other").startswith("| Valkey, other | 100 | 99.0 | 20.5 | 100 |")
    assert row(text, "Stores", "Memory, 1 worker").startswith("| Memory, 1 worker | 100 | 30.0 | - | - |")
    assert "| stores | CPU µs a call (less is better) | Valkey, other | 3.30 | 3.00 |" in text


def test_a_section_of_which_nothing_was_measured_stays_as_it_is(with_workers: dict[str, Any], tmp_path: Path) -> None:
    workers = SECTIONS["workers"]
    page = f"{BEGIN}\nof an earlier run\n{END}\n{workers.begin}\n{workers.end}\n"
    (tmp_path / "performance.md").write_text(page)
    write(part(with_workers, "workers"), tmp_path / "out", docs=tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith(f"{BEGIN}\nof an earlier run\n{END}\n")
    assert "### Stores" in text
    assert (tmp_path / "out/report.md").read_text().startswith(f"# {workers.title}\n")
