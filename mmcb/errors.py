"""The one error that is shown to a user without a traceback."""


class MmcbError(Exception):
    """Something the user can put right: bad input, a missing file, a model that is not here.

    The command line prints it as one sentence and exits with 2. Anything else that is raised is a
    bug of ours and keeps its traceback.

    Args:
        message: What is wrong, and where (file and line, flag, model name).
        hint: What to do about it, preferably a command that works right here.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
