"""What every loop test begins with."""

import pytest

from tests.fakes import FakeKube
from tests.loop.test_controller import NODE, example


@pytest.fixture
def kube() -> FakeKube:
    """A cluster with one node and one LLMDeployment that nobody has looked at."""
    made = FakeKube()
    made.put(NODE)
    made.put(example())
    return made
