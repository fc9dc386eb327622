"""Stand-ins for services the tests must not reach."""
