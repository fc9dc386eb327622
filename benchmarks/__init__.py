"""Our own speed, measured beside others: see README.md."""
