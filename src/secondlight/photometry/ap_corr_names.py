"""Names of the fluxes that aperture corrections apply to; measurement plugins register theirs here."""

from __future__ import annotations

__all__ = ("add_ap_corr_name", "ap_corr_names")

_names: set[str] = set()


def add_ap_corr_name(name: str) -> None:
    """Register a flux, given by its column prefix such as ``base_PsfFlux``; twice is the same as once.

    Raises
    ------
    ValueError
        Raised if the name is empty or is a column name (ends in ``_instFlux``) instead of a prefix.
    """
    if not name or name.endswith(("_instFlux", "_instFluxErr")):
        raise ValueError(f"Expected the column prefix of a flux, such as 'base_PsfFlux'; found {name!r}.")
    _names.add(name)


def ap_corr_names() -> set[str]:
    """Return the registered names, as a copy."""
    return set(_names)
