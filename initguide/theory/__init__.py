"""What should a signal do on its way through a network? Mathematics that predicts it."""

from importlib import import_module

from initguide.theory import mean_field

__all__ = ["derivations", "mean_field"]


def __getattr__(name: str) -> object:
    """Import ``derivations``, and with it SymPy, when it is first asked for."""
    if name == "derivations":
        return import_module("initguide.theory.derivations")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names only."""
    return __all__
