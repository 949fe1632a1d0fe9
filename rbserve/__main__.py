from rbserve.cli.app import main

main()
