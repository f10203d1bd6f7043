"""Galaxy profiles as mixtures of Gaussians (Hogg & Lang 2013, PASP 125, 719)."""

from __future__ import annotations

__all__ = ("PROFILES", "Profile", "profile_mixture")

from typing import NamedTuple

import numpy as np


class Profile(NamedTuple):
    """A round profile of unit flux.

    Attributes
    ----------
    mixtures
        Amplitudes and variances (in units of the half-light radius squared) by number of Gaussians.
    max_radius
        Radius where the profile is cut off, half-light radii.
    moments_radius
        Size by second moments of the profile as it was fitted, half-light radii.
    """

    mixtures: dict[int, tuple[np.ndarray, np.ndarray]]
    max_radius: int
    moments_radius: float


def _mixture(amplitudes: list[float], variances: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(amplitudes), np.array(variances)


PROFILES = {
    "lux": Profile(
        {
            3: _mixture(
                [0.03345911992000499, 0.318171946424796, 0.6483689336551989],
                [0.03757067270870865, 0.2772226369256338, 1.2483197636843673],
            ),
            6: _mixture(
                [
                    0.000199485456876638,
                    0.0026161244489197252,
                    0.01897269090157543,
                    0.10018654117509906,
                    0.3685343992987785,
                    0.5094907587187506,
                ],
                [
                    0.0012007879450750007,
                    0.00884525395287227,
                    0.03914632506077574,
                    0.13997686821235952,
                    0.46096246054949025,
                    1.5015954880773934,
                ],
            ),
        },
        4,
        0.95473,
    ),
    "luv": Profile(
        {
            8: _mixture(
                [
                    0.002018377817395426,
                    0.011367886258145004,
                    0.03247160650598376,
                    0.07192874261669166,
                    0.13427209625725284,
                    0.2113624412268326,
                    0.2709998771375122,
                    0.26557897218018645,
                ],
                [
                    0.00022375926294028074,
                    0.0010022010934505137,
                    0.004187309778633194,
                    0.01694324010074813,
                    0.06848490941884793,
                    0.28720625345899653,
                    1.3331981768264765,
                    8.402130126564536,
                ],
            ),
        },
        8,
        1.57016,
    ),
}
"""Exponential (lux) and de Vaucouleurs (luv) profiles, softened and cut off as the SDSS fits them."""


def profile_mixture(name: str, *, components: int, max_radius: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return amplitudes (sum 1) and variances (half-light radius squared) of a profile, (components) each.

    Parameters
    ----------
    name
        Name of the profile.
    components
        Number of Gaussians.
    max_radius
        Radius where the profile is cut off, half-light radii; 0 for the profile's own.

    Raises
    ------
    ValueError
        Raised if there is no such mixture.
    """
    known = {
        f"{key} with {n} components to {p.max_radius}": mixture
        for key, p in PROFILES.items()
        for n, mixture in p.mixtures.items()
    }
    radius = max_radius or (PROFILES[name].max_radius if name in PROFILES else 0)
    wanted = f"{name} with {components} components to {radius}"
    if wanted not in known:
        raise ValueError(f"There is no mixture for the profile {wanted}; there are: {', '.join(known)}.")
    amplitudes, variances = known[wanted]
    return amplitudes / amplitudes.sum(), variances
