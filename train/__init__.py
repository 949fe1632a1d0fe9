"""Training: raw data to data sets, and the one training loop."""
