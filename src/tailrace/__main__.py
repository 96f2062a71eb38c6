"""`python -m tailrace`: the command line, where the console script is not on the path; and the servers that a parent of
`--workers` or `--reload` starts, whose mistakes are told as those of the command that people gave."""

import os

from tailrace.cli import main
from tailrace.cli.reload import PARENT

if __name__ == "__main__":
    main(prog_name="tailrace" if PARENT in os.environ else None)
