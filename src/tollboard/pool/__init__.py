"""Pools: a fixed or elastic set of warm agents that work through a stream of independent tasks."""
