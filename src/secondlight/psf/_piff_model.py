"""The Piff model behind a configuration, and variants of it."""

from __future__ import annotations

__all__ = ("at_color", "constant_setup", "piff_setup", "stars_needed")

import copy
from typing import Any

import numpy as np
import piff

from ._piff_config import PiffPsfDeterminerConfig
from ._piff_wcs import PiffCoordinates

_POLYNOMIALS = ("BasisPolynomial", "Polynomial")


def piff_setup(
    config: PiffPsfDeterminerConfig, *, order: int, coordinates: PiffCoordinates, chromatic: bool
) -> dict[str, Any]:
    """Return the ``psf`` section of a Piff configuration, with a polynomial of an order in position."""
    if config.piffPsfConfigYaml is not None:
        return config.parsed_yaml()
    orders, keys = [order, order], list(coordinates.keys)
    if chromatic:
        orders.append(config.colorOrder)
        keys.append("colorValue")
    return {
        "type": "Simple",
        "model": {
            "type": "PixelGrid",
            "scale": coordinates.scale * config.samplingSize,
            "size": config.modelSize,
            "interp": config.interpolant,
            "centered": config.piffPixelGridFitCenter,
        },
        "interp": {
            "type": "BasisPolynomial",
            "order": orders,
            "keys": keys,
            "solver": config.piffBasisPolynomialSolver,
        },
        "outliers": {
            "type": "Chisq",
            "nsigma": config.outlierNSigma,
            "max_remove": config.outlierMaxRemove,
        },
        "max_iter": config.piffMaxIter,
    }


def _orders(setup: dict[str, Any]) -> list[int] | None:
    """Return the orders of the polynomial by key, or `None` if the interpolation is not a polynomial."""
    interpolation = setup.get("interp", {})
    if interpolation.get("type") not in _POLYNOMIALS:
        return None
    order = interpolation["order"]
    if isinstance(order, int):
        return [order] * len(interpolation.get("keys", ("u", "v")))
    return list(order)


def stars_needed(setup: dict[str, Any]) -> int:
    """Return the number of stars that a polynomial needs: one per spatial coefficient, plus the colour order.

    Interpolations that are not polynomials need one star.
    """
    orders = _orders(setup)
    if orders is None:
        return 1
    return (orders[0] + 1) * (orders[0] + 2) // 2 + (orders[2] if len(orders) > 2 else 0)


def constant_setup(setup: dict[str, Any]) -> dict[str, Any]:
    """Return the same model with a constant instead of the polynomial, fitted in one iteration."""
    result = copy.deepcopy(setup)
    result["interp"]["order"] = [0] * len(_orders(setup) or ())
    result["max_iter"] = 1
    return result


def at_color(psf: piff.PSF, color: float) -> piff.PSF:
    """Return the PSF that a model depending on position and colour predicts for one colour.

    The polynomial in (x, y, colour) becomes one in (x, y), which any image library can draw.

    Parameters
    ----------
    psf
        Fitted model whose last interpolation key is ``colorValue``.
    color
        Colour in mag.
    """
    full = psf.interp
    powers = np.zeros((len(full.q), *full._mask.shape))
    powers[:, full._mask] = full.q
    spatial = powers @ color ** np.arange(powers.shape[-1])
    reduced = piff.BasisPolynomial(
        list(full._orders[:-1]),
        keys=list(full.property_names[:-1]),
        max_order=int(np.max(full._orders)),
        solver=full.solver,
    )
    reduced.q = spatial[:, reduced._mask]
    result = copy.copy(psf)
    result.interp = reduced
    result.set_num(None)
    return result
