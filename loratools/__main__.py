"""`python -m loratools` is `loratools`."""

from loratools.cli import main

if __name__ == "__main__":
    main()
