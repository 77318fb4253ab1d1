"""The one exception that means "the user can mend this": the command line turns it into exit 2."""


class InputError(ValueError):
    """Unusable input or wrong usage.

    The message is one line that names the file or the field and says what to do about it. The
    command line prints it without a traceback and exits with code 2.
    """
