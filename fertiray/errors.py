"""The exceptions that the command line turns into one line and an exit code."""


class InputError(ValueError):
    """Unusable input or wrong usage.

    The message is one line that names the file or the field and says what to do about it. The
    command line prints it without a traceback and exits with code 2.
    """


class StorageError(InputError):
    """The storage cannot be reached, refuses or is full: whatever is asked of it next fails too.

    So it ends a command, which goes on where it stopped once the storage is back; where other
    unreadable input becomes a reject, this must not.
    """


class CountsError(RuntimeError):
    """Rows in are not scored plus rejected: something was lost or counted twice. Exit code 1."""
