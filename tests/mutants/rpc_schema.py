"""Faults that would make old clients read nonsense, or let others pay for RPC: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

LOCK = "tests/schema/test_proto_lock.py"

RPC_SCHEMA_MUTANTS = [
    Mutant(
        "a field is renumbered when others are declared before it",
        "schema/proto_lock.py",
        [("        now.number = then.number\n", "")],
        [f"{LOCK}::test_numbers_are_kept_whatever_the_order_and_new_fields_get_new_ones"],
        "assert",
    ),
    Mutant(
        "the number of a field that was removed is given to a new one",
        "schema/proto_lock.py",
        [("                now.reserved_range.add(start=field.number, end=field.number + 1)\n", "")],
        [f"{LOCK}::test_what_is_removed_is_reserved_for_ever"],
        "reserved 2;",
    ),
    Mutant(
        "a service is served although its types break with its file",
        "service/building.py",
        [("        methods.lock.check(planned.comparison)\n", "        pass\n")],
        [f"{LOCK}::test_a_service_that_breaks_with_its_file_does_not_start"],
        "DID NOT RAISE",
    ),
    Mutant(
        "any path that is asked for loads protobuf",
        "service/methods.py",
        [('path.rpartition("/")[0] not in self.services', "False")],
        ["tests/service/test_methods.py::test_an_mcp_only_service_does_not_load_protobuf"],
        "CalledProcessError",
    ),
    Mutant(
        "a client that watches the server's health holds its drain up",
        "protocols/connect/health.py",
        [("            if self._ending:\n", "            if False:\n")],
        ["tests/protocols/connect/test_health.py::test_a_drain_tells_its_watchers_and_ends_their_streams"],
        "Timeout",
    ),
]
