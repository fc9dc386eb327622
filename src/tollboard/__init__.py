"""Tollboard: a switchboard for long-lived AI agents."""
