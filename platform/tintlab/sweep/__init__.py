"""Sweeps: the search-space language, the ledger, the Ray Tune driver."""
