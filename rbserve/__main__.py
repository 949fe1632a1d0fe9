from rbserve.cli import main

main()
