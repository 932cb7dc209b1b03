"""For all tests of the service."""

import pytest

pytest.register_assert_rewrite("bellis.testing.engines", "service_rig")
