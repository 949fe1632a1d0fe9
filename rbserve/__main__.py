import sys; from rbserve.cli import main; main()
