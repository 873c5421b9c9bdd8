"""The one kind of error that is the user's to mend; every other one is a bug, and shows its traceback."""


class UserError(ValueError):
    """A value, file or environment that cannot be used; the message says what was found and the way out."""
