"""What should a signal do on its way through a network? Mathematics that predicts it."""

from initguide.theory import mean_field

__all__ = ["derivations", "mean_field"]


def __getattr__(name: str) -> object:
    """Import ``derivations``, and with it SymPy, when it is first asked for."""
    if name == "derivations":
        import importlib

        return importlib.import_module("initguide.theory.derivations")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
