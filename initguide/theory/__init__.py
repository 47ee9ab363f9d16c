"""What should a signal do on its way through a network? Mathematics that predicts it."""

__all__: list[str] = []
