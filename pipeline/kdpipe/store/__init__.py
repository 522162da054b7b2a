"""One (data set, teacher) on disk."""
