"""Properties look at whole folders: nothing that an earlier test left behind may write into them."""

import threading

import pytest


@pytest.fixture(scope="module", autouse=True)
def alone():
    """A tracker that was closed in the middle goes on for a while, and MLflow writes into the working folder."""
    for thread in threading.enumerate():
        if thread.name == "mlflow":
            thread.join(60)
