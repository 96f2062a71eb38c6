"""The faults of clients whose close hangs, leaks or lies: rows of `mutants.MUTANTS`."""

from __future__ import annotations

from tests.mutants.planting import Mutant

STREAM = "core/stream.py"
RAW = "clients/connect/rawstream.py"
VIRTUAL = "tests/core/test_stream.py"
CLOSE = "tests/clients/connect/test_close.py"

RPC_MUTANTS = [
    Mutant(
        "a stream's close drains for as long as bytes come",
        STREAM,
        [
            (
                "            while left >= 0 and self.state is State.CLOSING:\n",
                "            while self.state is State.CLOSING:\n",
            )
        ],
        [f"{VIRTUAL}::test_closing_a_huge_stream_reads_a_mebibyte_by_default"],
        "assert",
    ),
    Mutant(
        "a stream's close waits for a silent peer without a limit",
        STREAM,
        [
            (
                "        timer = _call_at(asyncio.get_running_loop().time() + timeout, self.close_nowait)\n",
                "        timer = _call_at(asyncio.get_running_loop().time() + 1e6, self.close_nowait)\n",
            )
        ],
        [f"{VIRTUAL}::test_closing_a_silent_stream_takes_thirty_seconds_by_default"],
        "1000000",
    ),
    Mutant(
        "a stream is closed and its connection keeps it",
        STREAM,
        [("        self._pipe.drop()\n", "")],
        [
            f"{CLOSE}::test_break_ends_the_call_while_the_stream_is_still_referenced[connect-h2]",
            f"{CLOSE}::test_break_ends_the_call_while_the_stream_is_still_referenced[connect-h1]",
        ],
        "it never came that the server was told",
    ),
    Mutant(
        "a cancelled task gets an RPC's error",
        RAW,
        [
            (
                "                    answer.finish(self._pipe.trailers)\n        except Exception as error:\n",
                "                    answer.finish(self._pipe.trailers)\n"
                "        except asyncio.CancelledError:\n"
                '            raise rpc_error(Code.CANCELED, "the call was cancelled") from None\n'
                "        except Exception as error:\n",
            )
        ],
        [f"{CLOSE}::test_a_cancelled_task_ends_the_call_at_once_and_stays_cancelled[silent-connect-h2]"],
        "assert .*cancelled",
    ),
    Mutant(
        "a unary call waits for its trailers without a limit",
        RAW,
        [("call_later(limit, self._late, limit)", "call_later(1e6, self._late, limit)")],
        [f"{CLOSE}::test_a_missing_end_after_the_only_message_is_waited_for_as_long_as_a_close[grpc-h2-unary]"],
        "the call's deadline passed",
    ),
]
