"""The telemetry events of pools, beside those of their workers' agents. None carries content.

| event | measurements | metadata |
|---|---|---|
| pool task queued | waiting | pool, role, worker (or None), ref |
| pool task started | waiting, attempt | pool, role, worker, ref |
| pool task finished | duration_s, attempt | pool, role, worker (or None), ref, status |
| pool worker started | workers | pool, role, worker |
| pool worker lost | workers | pool, role, worker, reason |
"""

from __future__ import annotations

TASK_QUEUED = ("pool", "task", "queued")
TASK_STARTED = ("pool", "task", "started")
TASK_FINISHED = ("pool", "task", "finished")
WORKER_STARTED = ("pool", "worker", "started")
WORKER_LOST = ("pool", "worker", "lost")

ALL_EVENTS = (TASK_QUEUED, TASK_STARTED, TASK_FINISHED, WORKER_STARTED, WORKER_LOST)
