"""The server's queue discipline in numbers: who is answered where, who is let in, and how many share a call.

`server/scoring/service.py` follows them, and `profilers/capacity` predicts with them what a server will do.
"""

from __future__ import annotations

INLINE_S = 0.001
"""Requests whose call takes less are answered on the event loop, in their order, and never refused."""
MAX_WAITING = 64
"""Requests that may wait for a model, unless `serve --queue` says otherwise; more are refused at once."""
MAX_BATCH = 16
"""Requests that one call of a model answers at most."""
PACE_WEIGHT = 0.05
"""Share of the last call in the moving average of seconds a request."""
MARGIN = 0.8
"""Share of the time until a deadline that may be planned for: the average does not foresee every call."""
