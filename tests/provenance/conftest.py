"""Certificates are made once: two private authorities that know nothing of each other."""

import pytest
from authorities import Authority, authority


@pytest.fixture(scope="session")
def ours(tmp_path_factory) -> Authority:
    return authority(tmp_path_factory.mktemp("ours") / "provenance", "Ours")


@pytest.fixture(scope="session")
def theirs(tmp_path_factory) -> Authority:
    """An upstream's."""
    return authority(tmp_path_factory.mktemp("theirs") / "provenance", "Upstream")
