"""One file per source: raw files to a data set."""
