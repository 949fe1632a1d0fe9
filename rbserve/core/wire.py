"""The paths and headers that the server and its clients agree on."""

from __future__ import annotations

SCORE, RECOMMEND, RELOAD = "/v1/score", "/v1/recommend", "/v1/admin/reload"
DEADLINE, MIN_DEADLINE_MS = "X-Deadline-Ms", 1
