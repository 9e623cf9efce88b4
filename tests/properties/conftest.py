"""What every property needs."""

import logging

import pytest


@pytest.fixture(autouse=True)
def without_warnings():
    """ESPnet's of every model that is made would hide the example that failed."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
