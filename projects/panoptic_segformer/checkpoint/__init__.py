"""Weights from elsewhere: addresses, names, and what fits."""
