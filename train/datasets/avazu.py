"""Avazu's click-through rate challenge: `train.csv`, a click log of 21 categories and the hour.

A header names the columns: id, click, hour (YYMMDDHH) and the categories. The id is of the row and is left out. The
hour becomes the time of a row and two fields, hour of the day and weekday.
"""

from __future__ import annotations

from rbserve.train.datasets.click_log import ClickLog
from rbserve.train.datasets.delimited import COMMAS
from rbserve.train.datasets.source import DataSource

CATEGORIES = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category",
    "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{number}" for number in range(14, 22)),
)  # fmt: skip

SOURCE = DataSource(
    about="Avazu: clicks on mobile ads, 21 categories, hour and weekday, no users and no histories",
    log=ClickLog(file="train.csv", dialect=COMMAS, label="click", categories=CATEGORIES, clock="hour"),
    needs="train.csv of the click-through rate challenge, plain or gzip",
)
