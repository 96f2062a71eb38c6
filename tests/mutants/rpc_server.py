"""The faults of an RPC server that tells nobody, keeps everything, or runs twice: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

ENDS = "tests/protocols/connect/test_ends.py"
ONCE = "tests/protocols/connect/test_once.py"

RPC_SERVER_MUTANTS = [
    Mutant(
        "an RPC's handler is not told that its client has gone",
        "protocols/connect/endpoint.py",
        [("        exchange.on_gone = call.left\n", "")],
        [f"{ENDS}::test_a_client_that_goes_cancels_its_call_and_the_handler_is_told[True-grpc-Wait-False-False]"],
        "it never happened",
    ),
    Mutant(
        "a compressed message is unpacked before its size is looked at",
        "wire/compression.py",
        [("codec.expand(data, limit + 1)", "codec.expand(data, 2**31)")],
        ["tests/wire/test_compression.py::test_a_bomb_is_refused_without_being_unpacked[gzip]"],
        r"assert \d+ < ",
    ),
    Mutant(
        "a stream's messages pile up for a reader that takes none",
        "protocols/connect/outlet.py",
        [("        while self._size > self._limit:\n", "        while False:\n")],
        [f"{ENDS}::test_what_a_slow_reader_does_not_take_its_handler_waits_for[connect]"],
        r"assert 999 < 25",
    ),
    Mutant(
        "a generator of messages is left open when its call is cancelled",
        "protocols/connect/call.py",
        [("                    await one.aclose()\n", "                    pass\n")],
        [f"{ENDS}::test_a_stream_whose_handler_is_between_two_messages_is_closed_as_well[connect]"],
        "assert",
    ),
    Mutant(
        "a call with a key ends with its first client",
        "protocols/connect/once.py",
        [("            self.context.cancel(error)\n", "            self.cancel(error)\n")],
        [f"{ONCE}::test_a_client_that_goes_does_not_end_the_run_whose_handler_is_told"],
        "assert",
    ),
]
