"""The one error type that a user sees."""

import os


class LumigraphError(Exception):
    """Something the user can mend: says what is wrong, where, and what to do.

    The command line prints it as one line, ``lumigraph: ...``, and exits with code 2.

    Attributes:
        what: what is wrong, a sentence without the final stop.
        where: the file, frame or field it was found in, if any.
        todo: what to do about it, a sentence or a question, if there is something.
    """

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, todo: str | None = None):
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.todo = todo
        message = what.rstrip(". ")
        if self.where is not None:
            message += f" (in {self.where})"
        message += "."
        if todo:
            todo = todo.rstrip(". ")
            message += f" {todo}" if todo.endswith("?") else f" {todo}."
        super().__init__(message)

    def __reduce__(self):
        return _rebuild, (self.what, self.where, self.todo)


def _rebuild(what: str, where: str | None, todo: str | None) -> LumigraphError:
    """Needed because pickling (a worker process handing its error back) cannot pass keyword arguments."""
    return LumigraphError(what, where=where, todo=todo)
