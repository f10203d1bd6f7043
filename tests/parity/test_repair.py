"""Cosmic rays of the parity packs: ours against the reference's and against what was simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from secondlight.catalog.mask_planes import mask_of
from secondlight.repair.cosmic_rays import FindCosmicRaysConfig, find_cosmic_rays
from secondlight.repair.task import RepairConfig, RepairTask
from tests.parity.pack import load_pack

pytestmark = pytest.mark.realdata

PACKS = ("A", "B")


@pytest.fixture(scope="module", params=PACKS)
def repaired(request, data_dir):
    """Pack, image before and after our repair, our mask, the reference's mask, and the simulated rays."""
    pack = load_pack(data_dir, request.param)
    before, image = pack.subtracted_image(), pack.subtracted_image()
    RepairTask(config=RepairConfig()).run(image)
    with np.load(pack.folder / "true_cr.npz", allow_pickle=False) as stored:
        true = np.zeros(image.bbox.shape, dtype=bool)
        true[stored["y"] - image.bbox.y.start, stored["x"] - image.bbox.x.start] = True
    return pack, before, image, mask_of(image.mask, ["CR"]), mask_of(pack.repaired_image().mask, ["CR"]), true


def significance(image) -> np.ndarray:
    """Return the height of each pixel above the median of the 5 x 5 pixels about it, in sigmas."""
    pixels = image.image.array
    return (pixels - ndimage.median_filter(pixels, 5)) / np.sqrt(image.variance.array)


def test_completeness(repaired):
    pack, before, _, ours, reference, true = repaired
    bright = true & (significance(before) > 6)
    print(
        f"\n{pack.folder.name}: {bright.sum()} simulated pixels > 6 sigma; found {(bright & ours).sum()}, "
        f"by the reference {(bright & reference).sum()}"
    )
    # B has one ray beside a saturated star, which neither finds.
    assert (bright & ours).sum() >= 0.98 * bright.sum()
    assert (bright & ours).sum() >= (bright & reference).sum()


def test_false_pixels(repaired):
    pack, _, image, ours, reference, true = repaired
    detected = pack.detection.footprints.to_mask(
        image.bbox.shape, x0=image.bbox.x.start, y0=image.bbox.y.start
    )
    false, theirs = ours & ~true, reference & ~true
    print(
        f"\n{pack.folder.name}: pixels marked that are no rays: {false.sum()} ({(false & detected).sum()} on "
        f"sources), by the reference {theirs.sum()} ({(theirs & detected).sum()} on sources)"
    )
    # The reference grows rays at random on blank sky; ours measured 0 in both packs.
    assert false.sum() <= 2
    assert theirs.sum() > false.sum()
    assert (ours & ~reference).sum() <= 2


def test_first_scan(repaired):
    """Every true ray of the reference is hit by our scan, and our scan hits nothing else."""
    pack, before, _, _, reference, true = repaired
    unusable = mask_of(before.mask, ["BAD", "SAT", "INTRP", "NO_DATA"])
    kernel = pack.psf_stamps["kernel_image"][0]
    hits = find_cosmic_rays(
        before.image.array,
        before.variance.array,
        unusable=unusable,
        interpolated=mask_of(before.mask, ["INTRP"]),
        kernel=kernel,
        psf_sigma=1.8,
        background=float(np.median(before.image.array)),
        config=FindCosmicRaysConfig(),
    ).hits
    print(f"\n{pack.folder.name}: {hits.sum()} hits, {(reference & true).sum()} true pixels of the reference")
    assert not (hits & ~reference).any()
    assert (hits & true & reference).sum() >= 0.98 * (true & reference).sum()
    near = ndimage.binary_dilation(hits, structure=np.ones((3, 3), bool), iterations=6)
    assert not (reference & ~near).any()


def test_number_of_rays(repaired):
    pack, _, _, ours, _, _ = repaired
    expected = pack.meta["task_metadata"]["reprocessVisitImage:repair"]["cosmic_ray_count"]
    _, count = ndimage.label(ours, structure=np.ones((3, 3), bool))
    print(f"\n{pack.folder.name}: {count} rays, {expected} in the reference")
    assert count == pytest.approx(expected, abs=1)


def test_filled_values(repaired):
    """Filled pixels follow the sky, or the source, around them instead of random numbers."""
    pack, _, image, ours, _, _ = repaired
    sky = ours & ~ndimage.binary_dilation(
        pack.detection.footprints.to_mask(image.bbox.shape, x0=image.bbox.x.start, y0=image.bbox.y.start),
        iterations=3,
    )
    pull = (image.image.array - np.median(image.image.array))[sky] / np.sqrt(image.variance.array[sky])
    print(
        f"\n{pack.folder.name}: {sky.sum()} filled pixels on sky, "
        f"mean {pull.mean():.2f}, std {pull.std():.2f}"
    )
    assert abs(pull.mean()) < 0.5
    assert pull.std() < 1.2
