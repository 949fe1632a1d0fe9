"""rbserve: train, export, profile and serve every recommender of the RecBench paper."""

__version__ = "0.1.0"
