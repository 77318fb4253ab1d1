"""The exceptions that the command line turns into one line and an exit code."""


class InputError(ValueError):
    """Unusable input or wrong usage.

    The message is one line that names the file or the field and says what to do about it. The
    command line prints it without a traceback and exits with code 2.
    """


class CountsError(RuntimeError):
    """Rows in are not scored plus rejected: something was lost or counted twice. Exit code 1."""
