"""`python -m rbserve`: the command line."""

from rbserve.cli.app import main

main()
