"""`python -m forwardgrad` is the command `forwardgrad`."""

from forwardgrad.cli import main

if __name__ == "__main__":
    main()
