"""Cosmic rays on real frames without any left: no star is taken for one, and injected ones are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from secondlight.repair.cosmic_rays import CosmicRays, FindCosmicRaysConfig, find_cosmic_rays

pytestmark = pytest.mark.realdata

ROW, COLUMN = 744, 1024
INTERP, SATUR = 1, 2


def read_kernel(extension: fits.BinTableHDU) -> np.ndarray:
    """Return the PSF in the middle of the frame from its eigen-images (see the data folder's README)."""
    kernel = np.zeros(51 * 51)
    for row in extension.data:
        n, m = row["nrow_b"], row["ncol_b"]
        powers = np.outer((0.001 * ROW) ** np.arange(n), (0.001 * COLUMN) ** np.arange(m))
        kernel += (np.reshape(row["c"], (5, 5))[:n, :m] * powers).sum() * row["RROWS"]
    return (kernel / kernel.sum()).reshape(51, 51)


class Frame:
    """Pixels, variance, mask and PSF of one corrected SDSS frame, sky subtracted."""

    def __init__(self, folder: Path, run: int, field: int, band: str) -> None:
        index = "ugriz".index(band)
        name = f"{run:06d}-{band}4-{field:04d}"
        with fits.open(folder / f"{run}/40/corr/4/fpC-{name}.fit.gz") as frame:
            pixels = frame[0].data.astype(np.float32) - 1000
        with fits.open(folder / f"{run}/40/objcs/4/psField-{run:06d}-4-{field:04d}.fit") as psf:
            self.kernel = read_kernel(psf[index + 1])
            facts = psf[6].data[0]
            self.sigma = facts["psf_width"][index] / 0.396 / 2.3548
            sky = np.median(pixels)
            variance = np.maximum(pixels, sky) / facts["gain"][index] + facts["dark_variance"][index]
        self.pixels = np.asarray(pixels - sky, dtype=np.float32)
        self.variance = np.asarray(variance, dtype=np.float32)
        self.interpolated = np.zeros(pixels.shape, dtype=bool)
        self.saturated = np.zeros(pixels.shape, dtype=bool)
        with fits.open(folder / f"{run}/40/objcs/4/fpM-{name}.fit") as planes:
            for number, plane in ((INTERP, self.interpolated), (SATUR, self.saturated)):
                for span in planes[number].data if planes[number].data is not None else ():
                    plane[span["rmin"] : span["rmax"] + 1, span["cmin"] : span["cmax"] + 1] = True

    def search(self) -> CosmicRays:
        """Find the cosmic rays of the frame as it is now."""
        return find_cosmic_rays(
            self.pixels,
            self.variance,
            unusable=self.interpolated | self.saturated,
            interpolated=self.interpolated,
            kernel=self.kernel,
            psf_sigma=self.sigma,
            background=0.0,
            config=FindCosmicRaysConfig(),
        )


@pytest.mark.parametrize(("run", "field", "band"), [(4192, 300, "g"), (4192, 300, "i"), (6377, 399, "r")])
def test_stars_stay_and_injected_rays_go(data_dir: Path, run: int, field: int, band: str):
    frame = Frame(data_dir / "sdss_stripe82", run, field, band)
    found = frame.search()
    print(f"\n{run} {band}: PSF sigma {frame.sigma:.2f} pixels, {found.count} rays in the frame")
    assert found.count == 0  # stars of sigma 1.2 to 1.4 pixels, saturated ones among them

    rng = np.random.default_rng(1)
    rays = np.zeros(frame.pixels.shape, dtype=bool)
    for y, x in rng.integers(20, 1400, (300, 2)):
        steps = np.arange(rng.integers(1, 8))
        rays[y + np.round(rng.uniform(-1, 1) * steps).astype(int), x + steps] = True
    frame.pixels[rays] += rng.uniform(200, 3000, rays.sum()).astype(np.float32)
    expected = rays & ~frame.interpolated & ~frame.saturated
    found = frame.search()
    complete = (found.mask & expected).sum() / expected.sum()
    false = (found.mask & ~rays).sum()
    print(f"{run} {band}: {100 * complete:.1f} % of {expected.sum()} injected pixels, {false} others")
    assert complete > 0.97
    assert false < 0.03 * expected.sum()
