"""Raises the process's limit of open files, which limits its connections."""

from __future__ import annotations

import logging
import resource

# Beside connections: libraries, the runner's socket, the event loop, logs, traces.
OTHER_FILES = 256

_logger = logging.getLogger(__name__)


def allow_connections(count: int) -> None:
    """Raise the soft limit of open files to what `count` connections need.

    Many systems begin at 1,024, which would be reached long before the
    configured limit of connections. Where even the hard limit is lower, the
    log says so.
    """
    wanted = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, wanted):
        return
    limit = wanted if _enough(hard, wanted) else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS has another limit below the one it tells
        limit = soft
    if not _enough(limit, wanted):
        _logger.warning(
            "%d open files are allowed, too few for %d connections "
            "(grpc.connections_max and http.connections_max): see ulimit -n",
            limit,
            count,
        )


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
