"""Deblending of the reference's own detections, child by child.

The reference re-fits point sources on the wrong side of their peaks and leaves a column of templates
unsmoothed.  What these two do is counted here; everything else agrees.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import KDTree

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.task import SourceDeblendTask

from .pack import ParityPack, load_pack

pytestmark = pytest.mark.realdata


@dataclasses.dataclass(frozen=True)
class Deblended:
    """Our catalog and the reference's, whose rows correspond: the same parents, then the same children."""

    ours: SourceCatalog
    reference: SourceCatalog
    children: np.ndarray

    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the summed pixels of each child, ours and the reference's, counts."""
        return tuple(
            np.array([c.footprints.heavy_pixels(row).sum() for row in self.children])
            for c in (self.ours, self.reference)
        )  # type: ignore[return-value]

    def as_psf(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which children are point sources."""
        ours, reference = (c["deblend_deblendedAsPsf"][self.children] for c in (self.ours, self.reference))
        return ours, reference

    def any_psf_in_blend(self) -> np.ndarray:
        """Return which children have a point source in their blend, by either."""
        parent = self.reference["parent"][self.children]
        return np.isin(parent, parent[np.any(self.as_psf(), axis=0)])


def deblend(pack: ParityPack) -> Deblended:
    """Deblend the reference's detections on the reference's pixels."""
    reference = pack.footprints
    parents = np.flatnonzero(reference.parents == 0)
    detected = pack.detection.footprints
    sky = reference.footprints.take(parents[len(detected) :])
    schema = minimal_source_schema()
    task = SourceDeblendTask(schema=schema)
    sources = SourceCatalog(schema, len(parents), footprints=Footprints.concatenate([detected, sky]))
    sources["id"] = reference.ids[parents]
    ours = task.run(pack.repaired_image(), sources)
    return Deblended(ours, pack.sources, np.flatnonzero(reference.parents != 0))


@pytest.fixture(scope="module", params=["A", "B"])
def case(request: pytest.FixtureRequest, data_dir: Path) -> tuple[ParityPack, Deblended]:
    """Return a pack and its deblended sources."""
    pack = load_pack(data_dir, request.param)
    return pack, deblend(pack)


def test_same_rows(case: tuple[ParityPack, Deblended]) -> None:
    """Ids, parents, peaks and all that is counted are the reference's, row by row."""
    _, d = case
    np.testing.assert_array_equal(d.ours["id"], d.reference["id"])
    np.testing.assert_array_equal(d.ours["parent"], d.reference["parent"])
    for column in ("nChild", "parentNPeaks", "skipped", "failed", "masked", "parentTooBig", "hasStrayFlux"):
        name = f"deblend_{column}"
        np.testing.assert_array_equal(d.ours[name], d.reference[name], err_msg=name)
    for axis in ("x", "y"):
        name = f"deblend_peak_center_{axis}"
        np.testing.assert_array_equal(d.ours[name][d.children], d.reference[name][d.children])
    # The reference: always true on blends, and 0 peaks on singles and parents.
    assert d.reference["deblend_tooManyPeaks"].sum() == (d.reference["deblend_nChild"] > 0).sum()
    assert not d.ours["deblend_tooManyPeaks"].any()
    assert (d.ours["deblend_nPeaks"] >= 1).all()


def test_point_sources(case: tuple[ParityPack, Deblended]) -> None:
    """All of the reference's point sources are ours; ours are more, and they are stars."""
    pack, d = case
    ours, reference = d.as_psf()
    print(f"point sources: {reference.sum()} of the reference, {ours.sum()} of ours")
    assert (ours >= reference).all()
    assert ours.sum() > 1.6 * reference.sum()
    truth = pack.truth
    tree = KDTree(np.column_stack([truth["x"], truth["y"]]))
    rows = d.children
    peaks = np.column_stack([d.ours[f"deblend_peak_center_{axis}"][rows] for axis in ("x", "y")])
    fits = np.column_stack([d.ours[f"deblend_psfCenter_{axis}"][rows] for axis in ("x", "y")])
    at_peak, nearest = tree.query(peaks)
    near = at_peak < 1.2
    fitted = near & ours
    at_fit, _ = tree.query(fits[fitted])
    print(f"distance to the truth: peak {np.median(at_peak[fitted]):.3f}, fit {np.median(at_fit):.3f} px")
    assert np.median(at_fit) < 0.35 * np.median(at_peak[fitted])
    is_star = np.asarray(truth["is_star"], dtype=bool)[nearest]
    print(f"{(fitted & is_star).sum()} of {(near & is_star).sum()} stars, "
          f"{(fitted & ~is_star).sum()} of {(near & ~is_star).sum()} galaxies are point sources")  # fmt: skip
    totals = d.totals()
    errors = [np.abs(total / np.asarray(truth["flux"])[nearest] - 1)[near & is_star] for total in totals]
    medians = [np.median(e) for e in errors]
    print(f"median flux error of the stars: ours {medians[0]:.4f}, reference {medians[1]:.4f}")
    assert medians[0] < 0.8 * medians[1]


def test_children_of_extended_sources(case: tuple[ParityPack, Deblended]) -> None:
    """Where nobody sees a point source, children have the reference's flux and nearly its pixels."""
    _, d = case
    rows = ~d.any_psf_in_blend()
    ours, reference = d.totals()
    ratio = ours[rows] / reference[rows]
    areas = [c.footprints.areas()[d.children][rows] for c in (d.ours, d.reference)]
    same = np.mean(areas[0] == areas[1])
    print(f"{rows.sum()} children without a point source in the blend: {same:.2f} have the same area, "
          f"largest flux difference {np.abs(ratio - 1).max():.4f}")  # fmt: skip
    assert rows.sum() > 20
    assert np.abs(ratio - 1).max() < 0.01
    assert np.abs(areas[0] / areas[1] - 1).max() < 0.05


def test_pairs_of_separated_peaks(case: tuple[ParityPack, Deblended]) -> None:
    """Children of two peaks at least two PSF widths apart agree within 1 %, but for new point sources."""
    _, d = case
    ours, reference = d.totals()
    our_psf, _ = d.as_psf()
    parent = d.reference["parent"][d.children]
    x, y = (d.reference[f"deblend_peak_center_{axis}"][d.children].astype(float) for axis in ("x", "y"))
    fwhm = 2.35 * 1.8
    counts = {"pairs": 0, "agree": 0, "explained": 0, "other": 0}
    for p in np.unique(parent):
        pair = np.flatnonzero(parent == p)
        if len(pair) != 2 or np.hypot(np.diff(x[pair]), np.diff(y[pair]))[0] < 2 * fwhm:
            continue
        counts["pairs"] += 1
        if np.all(np.abs(ours[pair] / reference[pair] - 1) < 0.01):
            counts["agree"] += 1
        elif our_psf[pair].any():
            counts["explained"] += 1
        else:
            counts["other"] += 1
    print(counts)
    assert counts["pairs"] > 10
    assert counts["other"] == 0
    assert counts["agree"] > 0.4 * counts["pairs"]
