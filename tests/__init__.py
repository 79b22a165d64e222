"""The tests, folder by folder as in the package."""

import pytest

# their asserts, too, say what they compared
pytest.register_assert_rewrite("tests.helpers")
