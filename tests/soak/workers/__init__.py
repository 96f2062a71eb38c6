"""`python -m tests.soak.workers`: many workers over one real Valkey, while everything that can go wrong does.

Requests land on whichever worker the system picks. In each round one thing happens (`faults`), in the middle of calls
of sessions that live through all of it (`rounds`), of calls whose streams are cut again and again (`cut_streams`), of
keys and tasks that are asked for at random workers (`again`), of a storm of sessions (`storm`), and of real clients
(`clients`). Afterwards every session works, nothing is left, and the files say what became of each call (`counting`).
"""
