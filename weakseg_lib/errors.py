"""The one exception that a user's mistake raises."""


class InputError(Exception):
    """Something a user gave is wrong: what, where, and what to do about it.

    `str(error)` is one line, `WHERE: PROBLEM; FIX`, and is all that the command line prints before it
    ends with exit status 2.

    where: the file, folder or option at fault. problem: what is wrong with it. fix: what the user can do.
    """

    def __init__(self, where, problem, fix):
        self.where, self.problem, self.fix = (" ".join(str(part).split()) for part in (where, problem, fix))
        super().__init__(f"{self.where}: {self.problem}; {self.fix}")

    def __reduce__(self):
        # Exceptions are pickled by their message alone, which would lose two of the three arguments
        # on the way back from a worker process.
        return type(self), (self.where, self.problem, self.fix)

    def _render_traceback_(self):
        # What IPython asks for in place of a traceback: in a notebook, too, a user's mistake is one line.
        return [f"InputError: {self}"]
