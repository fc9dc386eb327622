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
    # frameworks for agents, whose tool calls can wait for a person
    "pydantic-ai": ("pydantic_ai_bare", "PydanticAiPeer"),
    "openai-agents": ("openai_agents", "OpenAiAgentsPeer"),
    "langgraph": ("langgraph_agents", "LangGraphPeer"),
    "deepagents": ("langgraph_agents", "DeepAgentsPeer"),
    # ours
    "ours": ("ours", "OursPeer"),
    "ours-durable": ("ours_durable", "DurablePeer"),
    "ours-one-row": ("ours_durable", "OneRowPeer"),
    "ours-writer": ("ours_durable", "WriterPeer"),
    "ours-subagents": ("ours_subagents", "SubAgentPeer"),
    "ours-subagents-kept": ("ours_subagents", "KeptPeer"),
}
FLOOR = "aio-proto"
BARE = "pydantic-ai"
"""What sub-agents are measured beside: they stand on it."""


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
