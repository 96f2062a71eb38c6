"""Races that the explorer found with more deviations than the bound of the other tests allows, as the one run each."""

from __future__ import annotations

import detangle

from tests.schedules.exploring import in_order
from tests.schedules.served import House, StreamablePeer


def test_the_first_event_of_a_sessions_stream_is_resumed_when_it_is_lost_on_the_way() -> None:
    """The server had written it, so it counted as taken, and without an id nobody could ask for it again."""

    async def scenario() -> None:
        in_order()
        house = House(durable=False)
        await house.start()
        peer = StreamablePeer(house)
        await peer.open()
        session, reader = peer.session, peer.listener
        assert session is not None
        assert reader.request is not None
        reader.request.disconnect()
        peer.listen(reader)
        lost, reader.request = reader.request, None  # reads no more, and the server does not know
        assert await lost.head() == 200
        session.notify("one")
        assert await lost.contains(b'"one"')
        peer.listen(reader)
        session.notify("two")
        assert await reader.request.until(lambda: len(reader.messages) == 2)
        assert [message["method"] for message in reader.messages] == ["one", "two"]
        await house.stop()
        await house.check()

    detangle.run(scenario)
