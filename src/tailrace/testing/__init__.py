"""What the tests of a service need: a server and its clients in memory, faults on demand, and time that does not pass.

```python
async with connected(svc) as client:
    assert (await client.call_tool("brew", {"tea": "sencha"})).data == "ready"
```

`server` runs the service and kills it, `client` is one connection to it, `recorder` what a client was told, `publisher`
what was published, `stores` a store that fails when it is told to, `virtual_time` a loop whose clock jumps. No test
framework is imported here.
"""

from __future__ import annotations

from tailrace.stores.memory import MemoryStore
from tailrace.testing.client import MemoryClient
from tailrace.testing.fixtures import client_of, connected, running, server_of
from tailrace.testing.publisher import RecordingPublisher
from tailrace.testing.recorder import Recorder
from tailrace.testing.server import RunningService
from tailrace.testing.stores import FaultyStore
from tailrace.testing.virtual_time import VirtualTimeLoop, virtual_time

__all__ = [
    "FaultyStore",
    "MemoryClient",
    "MemoryStore",
    "Recorder",
    "RecordingPublisher",
    "RunningService",
    "VirtualTimeLoop",
    "client_of",
    "connected",
    "running",
    "server_of",
    "virtual_time",
]
