"""Real processes take seconds to start: once for the terms of all tests."""

import pytest
import torch
from support.forked import on_ranks


@pytest.fixture(scope="session", params=[2, 3])
def of_ranks(request, tmp_path_factory):
    """What support/ranks/terms.py finds on so many ranks, in rank order."""
    folder = tmp_path_factory.mktemp(f"terms{request.param}")
    on_ranks(request.param, "terms", folder)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(request.param)]
