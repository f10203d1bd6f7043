"""The sky of a scene: stars, galaxies, and the reference catalog."""

from __future__ import annotations

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler.formatters.parquet import arrow_to_astropy, astropy_to_arrow
from scipy.spatial import cKDTree

from secondlight.instruments.reference_catalog import read_reference_catalog
from secondlight.photometry.photometry_task import PhotometryConfig
from secondlight.simulate.counts import circle_area
from secondlight.simulate.objects import make_objects, observed_at, shape_matrices
from secondlight.simulate.reference_stars import make_reference_catalog
from secondlight.simulate.scene import Scene, SceneError, load_scene

MOVING = {
    "stars.density": 60.0,
    "stars.proper_motion": 80.0,
    "stars.variable_fraction": 0.4,
    "stars.amplitude": 0.2,
    "galaxies.density": 1.0,
}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene("survey")


@pytest.fixture(scope="module")
def objects(scene) -> Table:
    return make_objects(scene)


@pytest.fixture(scope="module")
def stars(objects) -> Table:
    return objects[objects["is_star"]]


@pytest.fixture(scope="module")
def galaxies(objects) -> Table:
    return objects[~objects["is_star"]]


def test_columns_have_units_and_descriptions(objects):
    units = {"ra": "deg", "mag_g": "mag", "disk_radius": "arcsec", "pm_ra": "mas / yr", "g_i": "mag"}
    assert {name: str(objects[name].unit) for name in units} == units
    assert all(objects[name].info.description for name in objects.colnames)
    assert np.unique(objects["object_id"]).size == len(objects)
    for name in objects.colnames:
        assert np.all(np.isfinite(objects[name])), name


@pytest.mark.parametrize(("kind", "pivot"), [("stars", 22), ("galaxies", 24)])
def test_counts_follow_the_law(scene, objects, kind, pivot):
    counts = getattr(scene, kind)
    magnitudes = np.asarray(objects["mag_r"])[np.asarray(objects["is_star"]) == (kind == "stars")]
    edges = np.arange(counts.bright, counts.faint + 0.25, 0.5)
    law = counts.density * circle_area(scene.field.radius) * 10 ** (counts.slope * (edges - pivot))
    expected, found = np.diff(law), np.histogram(magnitudes, edges)[0]
    assert found.sum() == len(magnitudes)
    # Magnitudes are independent, but the number of grouped galaxies scatters more than a Poisson number.
    excess = 1 + scene.galaxies.clustered_fraction * scene.galaxies.cluster_members
    deviation = np.sqrt(expected * (1 if kind == "stars" else excess))
    assert np.all(np.abs(found - expected) < 4 * deviation + 1)


def test_same_seed_same_sky(scene, objects):
    again = make_objects(scene)
    assert all(np.array_equal(again[name], objects[name]) for name in objects.colnames)
    other = make_objects(scene.model_copy(update={"seed": scene.seed + 1}))
    assert not np.isin(np.asarray(other["ra"]), np.asarray(objects["ra"])).any()


def test_what_is_asked_of_galaxies_leaves_the_stars_alone(stars):
    other = make_objects(load_scene("survey", settings={"galaxies.density": 2.0}))
    other = other[other["is_star"]]
    assert all(np.array_equal(other[name], stars[name]) for name in stars.colnames)


def test_stars_lie_on_a_locus_and_redden(stars):
    g_r, r_i = (np.asarray(stars[f"mag_{a}"] - stars[f"mag_{b}"]) for a, b in ("gr", "ri"))
    np.testing.assert_allclose(g_r + r_i, stars["g_i"], atol=1e-9)
    blue = np.asarray(stars["g_i"]) < 1.2
    fit = np.polyfit(np.asarray(stars["g_i"])[blue], g_r[blue], 3)
    assert np.std(g_r[blue] - np.polyval(fit, np.asarray(stars["g_i"])[blue])) == pytest.approx(
        0.02, rel=0.15
    )
    bright, faint = stars["mag_r"] < 19, stars["mag_r"] > 24
    assert np.mean(stars["g_i"][faint]) > np.mean(stars["g_i"][bright]) + 0.3


def test_galaxies_are_redder_with_bulge_and_brightness(galaxies):
    color, bulge = np.asarray(galaxies["g_i"]), np.asarray(galaxies["bulge_fraction"])
    assert color[bulge > 0.8].mean() > color[bulge < 0.1].mean() + 0.3
    assert color[galaxies["mag_r"] < 22].mean() > color[galaxies["mag_r"] > 26].mean() + 0.1
    assert bulge.mean() == pytest.approx(0.25, abs=0.01)


def test_any_band_has_magnitudes():
    bands = {name: {"zero_point": 28.0, "sky": 21.0} for name in ("r", "g", "R", "I", "z", "u", "y", "N501")}
    objects = make_objects(load_scene("tiny", settings={"bands": bands}))
    assert np.array_equal(objects["mag_N501"], objects["mag_r"])
    between = (np.asarray(objects["mag_R"]) - objects["mag_r"]) * (
        np.asarray(objects["mag_I"]) - objects["mag_R"]
    )
    assert np.median(between) > 0


def test_half_the_light_is_inside_the_half_light_radius(scene, galaxies):
    rng = galsim.BaseDeviate(5)
    index, truncation = scene.galaxies.bulge_index, scene.galaxies.truncation
    shape = np.asarray(galaxies["bulge_fraction"])
    for row in [galaxies[i] for i in np.argsort(shape)[np.linspace(0, len(shape) - 1, 7).astype(int)]]:
        b, d, share = row["bulge_radius"], row["disk_radius"], row["bulge_fraction"]
        galaxy = share * galsim.Sersic(index, half_light_radius=b, trunc=truncation * b)
        galaxy += (1 - share) * galsim.Sersic(1, half_light_radius=d, trunc=truncation * d)
        photons = galaxy.makePhot(n_photons=200_000, rng=rng)
        inside = photons.flux[np.hypot(photons.x, photons.y) < row["half_light_radius"]].sum()
        assert inside / photons.flux.sum() == pytest.approx(0.5, abs=0.005)


def test_sizes_are_log_normal_about_the_relation(scene, galaxies):
    settings = scene.galaxies
    log = np.log10(galaxies["half_light_radius"]) + settings.size_slope * (galaxies["mag_r"] - 22)
    assert np.mean(log) == pytest.approx(np.log10(settings.size), abs=0.003)
    assert np.std(log) == pytest.approx(settings.size_scatter, rel=0.02)
    assert np.mean(galaxies["bulge_radius"] / galaxies["disk_radius"]) == pytest.approx(0.6, abs=0.005)


def test_mean_shape_is_the_shear(scene, galaxies):
    for name, shear in zip(("e1", "e2"), scene.galaxies.shear, strict=True):
        error = np.std(galaxies[name]) / np.sqrt(len(galaxies))
        assert error < 0.002
        assert np.mean(galaxies[name]) == pytest.approx(shear, abs=4 * error)


def test_shape_matrices_are_galsims_shears(objects):
    rows = objects[-20:]
    bulge, disk = shape_matrices(rows)
    for row, inner, outer in zip(rows, bulge, disk, strict=True):
        shear = galsim.Shear(g1=row["e1"], g2=row["e2"]).getMatrix()
        np.testing.assert_allclose(inner, row["bulge_radius"] * shear, atol=1e-12)
        np.testing.assert_allclose(outer, row["disk_radius"] * shear, atol=1e-12)
    assert not np.any(shape_matrices(objects[:5]))


def _close_pairs(scene: Scene, table: Table) -> float:
    """Return the pairs within 10 arcsec over what is expected of even positions, away from the edge."""
    east = (np.asarray(table["ra"]) - scene.field.ra) * np.cos(np.radians(scene.field.dec)) * 3600
    position = np.stack([east, (np.asarray(table["dec"]) - scene.field.dec) * 3600], axis=1)
    inner = np.hypot(*position.T) < scene.field.radius * 3600 - 10
    near = cKDTree(position).query_ball_point(position[inner], 10.0, return_length=True) - 1
    density = len(table) / (np.pi * (scene.field.radius * 3600) ** 2)
    return float(near.mean() / (density * np.pi * 100))


def test_galaxies_cluster(scene, stars, galaxies):
    assert _close_pairs(scene, stars) == pytest.approx(1.0, abs=0.06)
    settings = scene.galaxies
    density = len(galaxies) / (np.pi * (scene.field.radius * 3600) ** 2)
    # A group member has `members` neighbours in its group; two Gaussians are apart by sqrt(2) their width.
    within = 1 - np.exp(-(10.0**2) / (4 * settings.cluster_radius**2))
    excess = settings.clustered_fraction * settings.cluster_members * within / (density * np.pi * 100)
    assert excess > 0.1
    assert _close_pairs(scene, galaxies) == pytest.approx(1 + excess, rel=0.05)
    even = make_objects(load_scene("survey", settings={"galaxies.clustered_fraction": 0.0}))
    assert _close_pairs(scene, even[~even["is_star"]]) == pytest.approx(1.0, abs=0.03)


def test_nothing_moves_or_varies_by_default(scene, objects):
    for visit in (scene.visits[0], scene.visits[-1]):
        observed = observed_at(objects, scene, visit)
        assert np.array_equal(observed.ra, objects["ra"])
        assert np.array_equal(observed.dec, objects["dec"])
        assert np.array_equal(observed.mag, objects[f"mag_{visit.band}"])


@pytest.fixture(scope="module")
def moving_scene() -> Scene:
    scene = load_scene("tiny", settings=MOVING)
    first, second = scene.visits
    late = second.model_copy(update={"mjd": first.mjd + 2 * 365.25})
    return scene.model_copy(update={"visits": (first, late)})


def test_stars_move(moving_scene):
    objects = make_objects(moving_scene)
    first, second = (observed_at(objects, moving_scene, visit) for visit in moving_scene.visits)
    assert np.array_equal(first.ra, objects["ra"])
    cos_dec = np.cos(np.radians(np.asarray(objects["dec"])))
    east = (second.ra - first.ra) * cos_dec * 3.6e6 / 2
    north = (second.dec - first.dec) * 3.6e6 / 2
    np.testing.assert_allclose(east, objects["pm_ra"], atol=0.01)
    np.testing.assert_allclose(north, objects["pm_dec"], atol=0.01)
    stars = np.asarray(objects["is_star"])
    assert np.std(east[stars]) == pytest.approx(80.0, rel=0.05)
    assert np.std(north[stars]) == pytest.approx(80.0, rel=0.05)
    assert not np.any(east[~stars])


def test_stars_vary(moving_scene):
    objects = make_objects(moving_scene)
    first, second = (observed_at(objects, moving_scene, visit) for visit in moving_scene.visits)
    change = first.mag - np.asarray(objects["mag_r"])
    variable = np.asarray(objects["amplitude"]) > 0
    stars = np.asarray(objects["is_star"])
    assert np.array_equal(change != 0, variable)
    assert not np.any(variable & ~stars)
    assert variable[stars].mean() == pytest.approx(0.4, abs=0.03)
    assert np.std(change[variable]) == pytest.approx(0.2, rel=0.05)
    again = second.mag - np.asarray(objects["mag_r"])
    assert abs(np.corrcoef(change[variable], again[variable])[0, 1]) < 0.1


def test_what_is_observed_does_not_depend_on_the_other_rows(moving_scene):
    objects = make_objects(moving_scene)
    rows = np.arange(len(objects))[::-7]
    visit = moving_scene.visits[1]
    part, whole = observed_at(objects[rows], moving_scene, visit), observed_at(objects, moving_scene, visit)
    for name in ("ra", "dec", "mag"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[rows])


def test_reference_catalog_has_stars_in_its_range_with_errors(scene, objects):
    catalog = make_reference_catalog(scene, objects)
    assert catalog.colnames[:2] == ["ra", "dec"]
    true = objects[objects["is_star"] & (objects["mag_r"] >= 16) & (objects["mag_r"] <= 21.5)]
    assert len(catalog) == len(true) > 1000
    north = (np.asarray(catalog["dec"]) - true["dec"]) * 3.6e6
    east = (np.asarray(catalog["ra"]) - true["ra"]) * np.cos(np.radians(np.asarray(true["dec"]))) * 3.6e6
    for offset in (east, north):
        assert np.std(offset) == pytest.approx(2.0, rel=0.07)
    for band in scene.bands:
        error = np.asarray(catalog[f"mag_{band}"]) - true[f"mag_{band}"]
        assert np.std(error) == pytest.approx(0.005, rel=0.07)
        assert np.all(catalog[f"mag_err_{band}"] == 0.005 * u.mag)


def test_reference_catalog_is_in_the_stored_form(scene, objects, tmp_path):
    catalog = make_reference_catalog(scene, objects)
    catalog.write(tmp_path / "reference.fits")
    stored = read_reference_catalog(tmp_path / "reference.fits")
    assert set(stored.colnames) == set(catalog.colnames)
    for name in stored.colnames:
        assert stored[name].unit == catalog[name].unit
        np.testing.assert_allclose(stored[name], catalog[name])


def test_reference_catalog_has_what_the_photometry_looks_for(scene, objects):
    catalog, config = make_reference_catalog(scene, objects), PhotometryConfig()
    for band in scene.bands:
        assert config.mag_column.format(band=band) in catalog.colnames
        assert np.all(catalog[config.mag_err_column.format(band=band)] < config.max_mag_err * u.mag)
    assert catalog["is_star"].dtype == bool


def test_objects_survive_storage():
    objects = make_objects(load_scene("tiny", settings=MOVING))
    stored = arrow_to_astropy(astropy_to_arrow(objects))
    assert stored.meta["epoch"] == objects.meta["epoch"]
    for name in objects.colnames:
        assert stored[name].unit == objects[name].unit
        assert stored[name].info.description == objects[name].info.description
        assert np.array_equal(stored[name], objects[name])


def test_skies_without_stars_are_refused():
    with pytest.raises(SceneError, match=r"Scene tiny has no star.*stars.density"):
        make_objects(load_scene("tiny", settings={"stars.density": 1e-9}))
    scene = load_scene("tiny", settings={"reference.bright": 3.0, "reference.faint": 3.1})
    with pytest.raises(SceneError, match=r"no reference star.*3.0 and 3.1"):
        make_reference_catalog(scene, make_objects(scene))


def test_a_sky_without_galaxies():
    objects = make_objects(load_scene("tiny", settings={"galaxies.density": 0}))
    assert np.all(objects["is_star"])


def test_profiles_that_cannot_be_made_are_refused():
    with pytest.raises(
        SceneError, match=r"galaxies\.bulge_index = 4\.0 cannot end at galaxies\.truncation = 50\.0"
    ):
        make_objects(load_scene("tiny", settings={"galaxies.truncation": 50.0}))


def test_shear_must_be_below_one():
    with pytest.raises(SceneError, match=r"galaxies\.shear"):
        make_objects(load_scene("tiny", settings={"galaxies.shear": [0.9, 0.6]}))
