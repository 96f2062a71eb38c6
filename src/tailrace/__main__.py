"""`python -m tailrace`: the command line, where the console script is not on the path."""

from tailrace.cli import main

if __name__ == "__main__":
    main()
