"""The final pass in a repository: what can be read again, and what is there when something failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from lsst.daf.butler import Butler, DatasetType
from lsst.images import VisitImage
from lsst.pipe.base import QuantumSuccessCaveats, Struct
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from secondlight.background.fields import combine_backgrounds, make_background, render_background
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_image import replace_components
from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.instruments.records import detector_region, register_observation
from secondlight.instruments.repository import make_repository
from secondlight.repair.cosmic_rays import TooManyCosmicRays
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask
from tests.instruments.files import camera

from .reprocess_scenes import DETECTOR, background_field, make_config, make_inputs, make_scene

VISIT = 7
DATA_ID = {"instrument": "MyCam", "visit": VISIT, "detector": DETECTOR}
INPUTS, WITHOUT = "MyCam/inputs", "MyCam/without"
METADATA = "reprocessVisitImage_metadata"
FAILURE = "secondlight.repair.cosmic_rays.TooManyCosmicRays"
OUTPUTS = ("pvi", "pvi_background", "pvi_replaced_pixels", "sources_detector", "sources_detector_footprints")
CALIB = PhotoCalib(12.3, 0.1)


def make_image() -> VisitImage:
    """Return the scene as an exposure of a camera that a repository knows."""
    image = make_scene(visit=VISIT, blend=True)
    with image.obs_info.edit_copy() as info:
        info.instrument = "MyCam"
        info.observation_id = f"MyCam_{VISIT}"
        info.observation_counter = VISIT
        info.observing_day = 20251001
        info.observation_type = "science"
    return replace_components(image, obs_info=info)


def make_quantum_config() -> ReprocessVisitImageConfig:
    return make_config(do_use_sky_corr=True)


def make_datasets(image: VisitImage) -> dict[str, Any]:
    """Return the inputs of the final pass by connection; the background comes in two parts."""
    inputs = make_inputs(image, photo_calib=CALIB)
    field = background_field(image.bbox)
    record = DetectorSummary(
        DETECTOR,
        bbox=image.bbox,
        psf=inputs["psf"],
        sky_projection=inputs["wcs"],
        aperture_corrections={},
        photo_calib=CALIB,
        calibration_sources={"psf": "finalized_psf_ap_corr_catalog"},
    )
    return {
        "exposures": image,
        "preliminary_mask": image.mask,
        "visit_summary": VisitSummary(VISIT, [record]),
        "background_1": make_background(field * 0.75),
        "background_2": make_background(field * 0.25),
        "calib_sources": inputs["calib_sources"],
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a repository with the inputs of one detector."""
    root = tmp_path_factory.mktemp("reprocess") / "repo"
    butler, instrument, image = make_repository(root), camera(), make_image()
    instrument.register(butler.registry)
    register_observation(butler, instrument, [image.obs_info], band=image.band, region=detector_region(image))
    datasets = make_datasets(image)
    config = make_quantum_config()
    connections = config.connections.ConnectionsClass(config=config)
    for run in (INPUTS, WITHOUT):
        butler.collections.register(run)
    for name, dataset in datasets.items():
        connection = getattr(connections, name)
        dataset_type = DatasetType(
            connection.name, connection.dimensions, connection.storageClass, universe=butler.dimensions
        )
        butler.registry.registerDatasetType(dataset_type)
        butler.put(dataset, dataset_type, DATA_ID | {"exposure": VISIT}, run=INPUTS)
    another = VisitSummary(VISIT, [DetectorSummary(DETECTOR + 1)])
    butler.put(another, "finalVisitSummary", DATA_ID, run=WITHOUT)
    butler.close()
    return root


@dataclasses.dataclass
class Outputs:
    """The outputs of one test."""

    root: Path
    run: str
    butler: Butler

    def execute(self, config: ReprocessVisitImageConfig, *inputs: str, **options: bool) -> None:
        """Run the task on the one detector there is, with some inputs from other collections."""
        butler = SimplePipelineExecutor.prep_butler(
            str(self.root), inputs=[*inputs, INPUTS], output=f"{self.run}/all", output_run=self.run
        )
        try:
            executor = SimplePipelineExecutor.from_task_class(
                ReprocessVisitImageTask, config=config, butler=butler, **options
            )
            assert len(executor.quantum_graph) == 1
            executor.run(register_dataset_types=True)
        finally:
            butler.close()
            self.butler.registry.refresh()

    def get(self, name: str) -> Any:
        """Read an output."""
        return self.butler.get(name, DATA_ID, collections=self.run)

    def stored(self, names: Sequence[str] = OUTPUTS) -> set[str]:
        """Return the names of the outputs that are registered, all of which must be there."""
        found = set()
        for name in names:
            for ref in self.butler.registry.queryDatasets(name, collections=self.run):
                assert self.butler.stored(ref)
                found.add(name)
        return found

    def caveats(self) -> QuantumSuccessCaveats:
        """Return what the executor noted about the quantum."""
        return QuantumSuccessCaveats(self.get(METADATA)["quantum"]["caveats"])


@pytest.fixture
def outputs(repository: Path, request: pytest.FixtureRequest) -> Iterator[Outputs]:
    """Return where the outputs of a test go."""
    butler = Butler.from_config(str(repository))
    yield Outputs(repository, request.node.name, butler)
    butler.close()


def in_memory(config: ReprocessVisitImageConfig, butler: Butler) -> Struct:
    """Return what the task makes of the same inputs without a repository."""
    image = make_image()
    datasets = make_datasets(image)
    record = datasets["visit_summary"].find(DETECTOR)
    return ReprocessVisitImageTask(config=config).run(
        exposures=image,
        psf=record.psf,
        wcs=record.sky_projection,
        ap_corr=record.aperture_corrections,
        photo_calib=record.photo_calib,
        background=combine_backgrounds(datasets["background_1"], datasets["background_2"]),
        calib_sources=datasets["calib_sources"],
        preliminary_mask=image.mask,
        id_generator=config.id_generator.apply(butler.registry.expandDataId(DATA_ID)),
    )


def test_success(outputs: Outputs) -> None:
    """All outputs come back as they were, to the last bit."""
    config = make_quantum_config()
    outputs.execute(config)
    assert outputs.stored() == set(OUTPUTS)
    assert outputs.caveats() == QuantumSuccessCaveats.NO_CAVEATS
    expected = in_memory(config, outputs.butler)

    exposure = outputs.get("pvi")
    for plane in ("image", "variance"):
        np.testing.assert_array_equal(getattr(exposure, plane).array, getattr(expected.exposure, plane).array)
    assert exposure.unit == u.nJy
    for name in ("mask", "psf", "photometric_scaling", "aperture_corrections", "obs_info", "band"):
        assert getattr(exposure, name) == getattr(expected.exposure, name), name
    sky = (
        p.pixel_to_sky(x=50.0, y=60.0) for p in (exposure.sky_projection, expected.exposure.sky_projection)
    )
    assert next(sky).separation(next(sky)).arcsec < 1e-9
    ours, theirs = (e.summary_stats.model_dump() for e in (exposure, expected.exposure))
    np.testing.assert_equal(ours, theirs)
    assert ours["nPsfStar"] == 1
    assert exposure.metadata["provenance_calibration_psf"] == "finalized_psf_ap_corr_catalog"

    table = outputs.get("sources_detector")
    assert table.colnames == expected.sources.colnames
    for name in table.colnames:
        np.testing.assert_array_equal(table[name], expected.sources[name], err_msg=name)
        for attribute in ("unit", "description", "dtype"):
            assert getattr(table[name], attribute) == getattr(expected.sources[name], attribute), name
    assert (table["parent"] != 0).sum() == 2

    catalog = outputs.get("sources_detector_footprints")
    assert catalog.schema == expected.sources_footprints.schema
    assert catalog.footprints == expected.sources_footprints.footprints
    assert catalog.metadata["heavy_footprint_unit"] == "adu"
    assert outputs.get("sources_schema").schema == catalog.schema

    background = outputs.get("pvi_background")
    np.testing.assert_array_equal(
        render_background(background, exposure.bbox), render_background(expected.background, exposure.bbox)
    )
    replaced = outputs.get("pvi_replaced_pixels")
    assert replaced.colnames == expected.replaced_pixels.colnames
    np.testing.assert_array_equal(replaced["counts"], expected.replaced_pixels["counts"])


def test_no_work_writes_nothing(outputs: Outputs) -> None:
    """A visit summary without the detector: a success without outputs, and the reason in its flags."""
    outputs.execute(make_quantum_config(), WITHOUT)
    assert outputs.stored() == set()
    flags = QuantumSuccessCaveats
    assert outputs.caveats() == (
        flags.NO_WORK | flags.UPSTREAM_FAILURE_NO_WORK | flags.ALL_OUTPUTS_MISSING | flags.ANY_OUTPUTS_MISSING
    )


def failing_config() -> ReprocessVisitImageConfig:
    """Return a configuration that the scene has too many cosmic rays for."""
    config = make_quantum_config()
    config.repair.cosmicray.nCrPixelMax = 1
    return config


def assert_partial(outputs: Outputs) -> None:
    """Check that image and background are stored, whole and marked, and no sources."""
    assert outputs.stored() == {"pvi", "pvi_background", "pvi_replaced_pixels"}
    exposure = outputs.get("pvi")
    assert exposure.unit == u.nJy
    assert exposure.metadata["failure_type"] == FAILURE
    assert f"visit {VISIT}, detector {DETECTOR}" in exposure.metadata["failure_message"]
    assert exposure.metadata["provenance_calibration_psf"] == "finalized_psf_ap_corr_catalog"
    assert exposure.summary_stats.zeroPoint == pytest.approx(CALIB.zero_point)
    assert exposure.summary_stats.skyBg == pytest.approx(100, abs=1)
    pixels = exposure.image.array / CALIB.mean
    pixels += render_background(outputs.get("pvi_background"), exposure.bbox)
    image = make_image()
    make_datasets(image)
    np.testing.assert_allclose(pixels, image.image.array, rtol=1e-6, atol=1e-4)


def test_failure_stops_the_run(outputs: Outputs) -> None:
    """By default the error of the algorithm ends the run; what was written stays, and no success is noted."""
    with pytest.raises(TooManyCosmicRays):
        outputs.execute(failing_config())
    assert_partial(outputs)
    assert outputs.stored([METADATA]) == set()


def test_failure_is_a_success_with_caveats_if_so_told(outputs: Outputs) -> None:
    """With ``--no-raise-on-partial-outputs`` the run goes on, and the metadata of the task tell why."""
    outputs.execute(failing_config(), raise_on_partial_outputs=False)
    assert_partial(outputs)
    flags = QuantumSuccessCaveats
    assert outputs.caveats() == flags.PARTIAL_OUTPUTS_ERROR | flags.ANY_OUTPUTS_MISSING
    assert outputs.get(METADATA)["reprocessVisitImage"]["failure"]["type"] == FAILURE


def test_other_errors_write_nothing(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr("secondlight.tasks.reprocess_visit_image.calibrate_image", fail)
    with pytest.raises(ZeroDivisionError):
        outputs.execute(make_quantum_config(), raise_on_partial_outputs=False)
    assert outputs.stored([*OUTPUTS, METADATA]) == set()
