"""Stars of a Gaussian PSF, and the HSM plugins run on them."""

from __future__ import annotations

import numpy as np
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.measurement.task import SingleFrameMeasurementTask
from tests.measurement.scene import fixed_slots, make_catalog, make_config, round_footprints
from tests.scenes import make_visit_image

SOURCE, ROUND, PSF, DEBIASED = (
    f"ext_shapeHSM_Hsm{name}"
    for name in ("SourceMoments", "SourceMomentsRound", "PsfMoments", "PsfMomentsDebiased")
)


def measured(exposure, names, *, x, y, footprints=None, settings=None, replace=False, flux=1e4, ids=None):
    """Measure HSM plugins at given positions."""
    config = make_config(*names)
    config.doReplaceWithNoise = replace
    for name, values in (settings or {}).items():
        config.plugins[name].update(**values)
    schema = fixed_slots()
    schema.add("psf_instFlux", np.float64, "flux", unit="ct")
    schema.set_alias("slot_PsfFlux", "psf")
    task = SingleFrameMeasurementTask(schema, config=config)
    if footprints is None:
        footprints = round_footprints(*(np.nan_to_num(np.asarray(v, float), nan=60.0) for v in (x, y)), 12)
    catalog = make_catalog(schema, footprints, in_x=x, in_y=y, psf_instFlux=flux)
    if ids is not None:
        catalog["id"] = ids
    task.run(catalog, exposure)
    return catalog


def field(*, noise: float = 2.0, sigma: float = 2.0, x0: int = 0, **kwargs):
    """Return an image of 180 x 160 pixels."""
    bbox = Box.factory[0:160, x0 : x0 + 180]
    psf = GaussianPointSpreadFunction(sigma, bbox, 25)
    return make_visit_image(width=180, height=160, x0=x0, psf=psf, noise=noise, **kwargs)
