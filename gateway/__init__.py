"""The running service: HTTP, storage, clocks that tick, and the signing keys."""
