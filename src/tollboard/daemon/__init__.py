"""The daemon: one process that owns a state directory and its fleet, and the client that reaches it."""
