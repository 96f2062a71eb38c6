"""Fuzzing of what strangers' bytes reach: the listener's parser, the wire, event ids, arguments, the endpoint.

`python -m tests.fuzz TARGET --seconds N` runs one target (`make fuzz` all of them, in turn); `test_fuzz` gives each a
moment in every test run. `targets` says what must hold, `engine` makes the inputs.
"""
