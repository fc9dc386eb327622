"""The telemetry events of pools, beside those of their workers' agents. None carries content.

| event | measurements | metadata |
|---|---|---|
| pool task queued | waiting | pool, role, worker (or None), ref |
| pool task started | waiting, attempt | pool, role, worker, ref |
| pool task finished | duration_s, attempt | pool, role, worker (or None), ref, status |
| pool worker started | workers | pool, role, worker |
| pool worker lost | workers | pool, role, worker, reason |
| pool worker replaced | workers | pool, role, worker, reason |
| pool worker recycled | workers | pool, role, worker, reason |
| pool task retried | waiting, attempt, pause_s | pool, role, worker, ref, reason |
"""

from __future__ import annotations

TASK_QUEUED = ("pool", "task", "queued")
TASK_STARTED = ("pool", "task", "started")
TASK_FINISHED = ("pool", "task", "finished")
WORKER_STARTED = ("pool", "worker", "started")
WORKER_LOST = ("pool", "worker", "lost")
WORKER_REPLACED = ("pool", "worker", "replaced")
WORKER_RECYCLED = ("pool", "worker", "recycled")
TASK_RETRIED = ("pool", "task", "retried")

ALL_EVENTS = (
    TASK_QUEUED, TASK_STARTED, TASK_FINISHED, TASK_RETRIED, WORKER_STARTED, WORKER_LOST, WORKER_REPLACED,
    WORKER_RECYCLED,
)  # fmt: skip
