"""A function on several ranks, started as torchrun starts them."""

import uuid
from collections.abc import Callable
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function`, of a module's top level, returns on rank 0."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        return elastic_launch(config, function)(*arguments)[0]
    except SignalException as error:  # SIGINT and SIGTERM become one
        raise KeyboardInterrupt from error
