"""Cosmic rays of the parity packs: ours against the reference's and against what was simulated."""

from __future__ import annotations

import heapq

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


PAIRS = (((-1, 0), (1, 0)), ((0, -1), (0, 1)), ((-1, -1), (1, 1)), ((-1, 1), (1, -1)))


def scan_of_the_reference(image, kernel) -> list[tuple[int, int]]:
    """Return the hits of the four conditions of spec 11.3 as they stand there, less groups below min_DN."""
    pixels = image.image.array.astype(np.float64)
    sigma = np.sqrt(image.variance.array.astype(np.float64))
    level = float(np.median(pixels))
    forbidden = mask_of(image.mask, ["BAD", "SAT", "INTRP", "NO_DATA"])
    forbidden |= ndimage.binary_dilation(mask_of(image.mask, ["INTRP"]), structure=np.ones((3, 3), bool))
    ring = kernel[kernel.shape[0] // 2 + np.arange(-1, 2)[:, None], kernel.shape[1] // 2 + np.arange(-1, 2)]
    ring = 0.35 * ring / ring[1, 1]
    diagonal = (ring[0, 0] + ring[0, 2] + ring[2, 0] + ring[2, 2]) / 4
    limits = ((ring[0, 1] + ring[2, 1]) / 2, (ring[1, 0] + ring[1, 2]) / 2, diagonal, diagonal)

    inner = np.zeros(pixels.shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    shifted = [
        np.roll(pixels, (-dy, -dx), (0, 1)) + np.roll(pixels, (dy, dx), (0, 1)) for _, (dy, dx) in PAIRS
    ]
    waiting = list(np.flatnonzero(inner & (pixels >= np.min(shifted, axis=0) / 2 + 6 * sigma)))
    hits, original = [], pixels.copy()
    while waiting:
        y, x = divmod(int(heapq.heappop(waiting)), pixels.shape[1])
        if not inner[y, x] or forbidden[y, x] or pixels[y, x] < 0:
            continue
        v, s = pixels[y, x], sigma[y, x]
        for limit, ((ay, ax), (by, bx)) in zip(limits, PAIRS, strict=True):
            ends = ((y + ay, x + ax), (y + by, x + bx))
            mean = sum(pixels[end] for end in ends) / 2
            error = np.sqrt(sum(sigma[end] ** 2 for end in ends)) / 2
            stands_out = any(
                v >= (pixels[y + p, x + q] + pixels[y - p, x - q]) / 2 + 6 * s for _, (p, q) in PAIRS
            )
            if stands_out and limit * (v - level - 2 * s) > mean - level + 2 * error:
                pixels[y, x] = mean
                hits.append((y, x))
                inner[y, x] = False
                for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
                    heapq.heappush(waiting, (y + dy) * pixels.shape[1] + x + dx)
                break
    found = np.zeros(pixels.shape, dtype=bool)
    found[tuple(np.array(hits).T)] = True
    labels, n = ndimage.label(found, structure=np.ones((3, 3), bool))
    sums = ndimage.sum_labels(original - level, labels, np.arange(n + 1))
    return [(y, x) for y, x in hits if sums[labels[y, x]] >= 150]


def test_first_scan_of_the_reference(repaired):
    """Every pixel that the reference's own conditions mark is marked."""
    pack, before, _, ours, reference, _ = repaired
    hits = scan_of_the_reference(before, pack.psf_stamps["kernel_image"][0])
    print(f"\n{pack.folder.name}: {len(hits)} pixels by the conditions of the reference")
    assert len(hits) > 90
    assert all(reference[hit] for hit in hits)
    assert all(ours[hit] for hit in hits)


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
