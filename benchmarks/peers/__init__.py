"""Peers by name. A new one is a line here and a file that subclasses `base.Peer`."""

from __future__ import annotations

import importlib

from benchmarks.peers.base import Peer

PEERS = {
    # the floor, and how low asyncio goes
    "aio-proto": ("floor", "ProtoPeer"),
    "aio-busy": ("floor", "BusyPeer"),
    "aio-lazy": ("floor", "LazyPeer"),
    "aio-proto-durable": ("floor_durable", "DurablePeer"),
    "raw-writer": ("floor_durable", "RawWriterPeer"),
    # what people use
    "autogen-core": ("autogen", "AutogenPeer"),
    "pykka": ("pykka_threads", "PykkaPeer"),
    # ours
    "ours": ("ours", "OursPeer"),
    "ours-durable": ("ours_durable", "DurablePeer"),
    "ours-one-row": ("ours_durable", "OneRowPeer"),
    "ours-writer": ("ours_durable", "WriterPeer"),
}
FLOOR = "aio-proto"


def load(name: str) -> Peer:
    """Return a new peer; imports only what it needs."""
    module, cls = PEERS[name]
    peer: Peer = getattr(importlib.import_module(f"benchmarks.peers.{module}"), cls)()
    return peer


def workloads_of(name: str) -> frozenset[str]:
    """Return the names of the workloads a peer runs; empty when its package is not installed."""
    try:
        return load(name).runs
    except ModuleNotFoundError:
        return frozenset()
