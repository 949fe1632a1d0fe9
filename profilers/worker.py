"""The worker's address, `python -m rbserve.profilers.worker`: the same in every version, because `rbserve check
--base-python` starts the worker of another one."""

from rbserve.profilers.measure.worker import main

if __name__ == "__main__":
    main()
