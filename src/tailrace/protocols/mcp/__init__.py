"""MCP, all five versions: events of the wire become calls of a service, and their ends become frames."""
