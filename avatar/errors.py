"""The one exception whose text is written for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the caller's: one clear sentence that says what is wrong and what to do.

    The command line prints the sentence on stderr and exits with code 2; no traceback. Anything else that
    escapes is a bug of ours and is shown as one.
    """


def one_line(error: BaseException) -> str:
    """The error's text on one line, for embedding into a sentence of ours."""
    return " ".join(str(error).split()) or type(error).__name__
