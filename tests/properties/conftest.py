"""Properties look at whole folders: nothing that an earlier test left behind may write into them."""

import threading
import time

import pytest


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A tracker that was closed in the middle goes on for a while, and MLflow writes into the working folder."""
    deadline = time.monotonic() + 60
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "an earlier test left a tracker that nobody closed"
