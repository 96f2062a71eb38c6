"""How long a connection of HTTP/1.1 that nothing is asked on is kept for the next request, for all clients alike.

Servers close idle connections, and a request that is on its way at that moment is lost without anybody knowing whether
it was begun: it must not be sent twice, so its caller gets the error. Who lets go first never meets that. Of the
servers that are mostly met, uvicorn and Node let go after 5 s. (Our own HTTP/2 keeps its connections longer: there a
server says which request was its last, and the others are sent elsewhere.)
"""

from __future__ import annotations

__all__ = ["IDLE"]

IDLE = 4.0  # seconds after which it is not used again; pyqwest closes it within as many more
