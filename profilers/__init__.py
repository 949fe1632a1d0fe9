"""The instrument: latency, accuracy, comparison and reports."""
