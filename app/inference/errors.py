"""The error of an engine that cannot take a question; the web layer translates it to HTTP."""

from cbam.errors import CBAMLensError


class Busy(CBAMLensError):
    """The engine cannot take the question now, but may soon."""

    def __init__(self, reason: str, detail: str, retry_after_s: int) -> None:
        super().__init__(f"{detail} Try again in {retry_after_s} s.")
        self.reason = reason  # one word, for the metrics
        self.retry_after_s = retry_after_s


class Loading(Busy):
    """The engine has not loaded its models yet."""
