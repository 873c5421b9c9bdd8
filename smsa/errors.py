"""The error for what the user can correct; any other error is a bug, and shows its traceback."""


class UserError(ValueError):
    """A value, file or environment that cannot be used; the message says what was found and the way out.

    Attributes:
        candidates: names to choose from, if the way out is to choose one.
    """

    def __init__(self, message: str, candidates: list[str] | None = None):
        super().__init__(message)
        self.candidates = candidates or []
