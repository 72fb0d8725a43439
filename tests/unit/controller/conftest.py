"""The operator's pure parts, and its clients against servers on loopback."""

import pytest

pytest.register_assert_rewrite("peftjob_testkit.decisions")
