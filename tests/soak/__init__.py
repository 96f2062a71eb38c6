"""The long proofs, with counts: streams cut and resumed, servers killed with `kill -9`, storms of sessions that end.

`make soak` runs them whole, the tests a tenth of them. Nothing here asks a server what it has done: its tools and
hooks write to one file a process life, the clients to theirs, and `recount` counts what is in the files.
"""
