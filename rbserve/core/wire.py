"""What the server and those who ask it agree on: paths and headers."""

from __future__ import annotations

from rbserve.core.types import Task

SCORE, RECOMMEND, RELOAD = "/v1/score", "/v1/recommend", "/v1/admin/reload"
PATHS: dict[Task, str] = {"ctr": SCORE, "seqrec": RECOMMEND}
DEADLINE, MIN_DEADLINE_MS = "X-Deadline-Ms", 1
