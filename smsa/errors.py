"""The one kind of error that is the user's to mend; every other one is a bug, and shows its traceback."""


class UserError(ValueError):
    """A value, file or environment that cannot be used; the message says what was found and the way out.

    Attributes:
        candidates: names to choose from, where that is the way out.
    """

    def __init__(self, message: str, candidates: list[str] | None = None):
        super().__init__(message)
        self.candidates = candidates or []
