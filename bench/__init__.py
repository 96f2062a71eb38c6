"""The benchmark: `make bench` measures Tailrace beside its peers. Nothing here is part of the package.

`servers` says who is measured, `trials` at what, `measure` does one trial of one server, `summary` makes medians
and ratios of them, `report` and `svg` show those; `run` puts it together. `load/` is the load generator, `peers/`
has each peer's small server, `micro/` measures single layers.
"""
