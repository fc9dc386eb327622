"""The pools of a daemon: named, durable, reachable over every surface. What a pool does is in `tollboard.pool`."""
