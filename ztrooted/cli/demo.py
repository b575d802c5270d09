def demo() -> None:
    """The story."""
