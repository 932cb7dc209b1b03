"""For all tests of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bellis.service.client import Client
    from service_rig import Rig

pytest.register_assert_rewrite("service_rig")


@pytest.fixture
def service() -> Iterator[Rig]:
    from service_rig import rig

    with rig() as made:
        yield made


@pytest.fixture
def client(service: Rig) -> Iterator[Client]:
    from bellis.service.client import Client

    with Client(service.context) as made:
        yield made
