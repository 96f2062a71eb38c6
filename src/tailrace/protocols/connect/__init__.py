"""Connect, gRPC and gRPC-Web: requests become calls of a service's methods, and their ends become answers."""
