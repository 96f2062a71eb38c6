"""What one layer costs: `python -m bench.micro`. The whole of it, beside others, is `make bench`."""
