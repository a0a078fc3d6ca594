from contextlib import contextmanager

import pytest

from weakseg_lib.errors import InputError


@pytest.fixture
def refused():
    """A context in which an InputError must be raised: one line that names the file and ends with the fix."""

    @contextmanager
    def check(where, *words):
        with pytest.raises(InputError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(f"{where}: "), message
        assert caught.value.fix and message.endswith(f"; {caught.value.fix}")
        for word in words:
            assert word in message, f"{word!r} is not in {message!r}"

    return check
