"""`python -m flows`: the same as the console script."""

from flows.cli.start import main

if __name__ == "__main__":
    main()
