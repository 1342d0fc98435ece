"""Tar shards: made of a training set, and made into one where others wrote them."""
