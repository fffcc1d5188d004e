"""`loratools`, as a script and as `python -m loratools`."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and exit with its code."""
    # The command line sets its own handler when its modules are imported, which takes a fifth of
    # a second; until then Ctrl-C would print a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from loratools import cli

    cli.main()


if __name__ == "__main__":
    main()
