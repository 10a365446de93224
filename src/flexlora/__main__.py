"""`python -m flexlora`: the command line."""

from flexlora.cli.main import main

if __name__ == "__main__":
    main()
