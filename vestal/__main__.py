"""`python -m vestal`."""

from vestal.cli import main

main()
