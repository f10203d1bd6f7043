"""Final characterization of a visit, by detector and together, and in a pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound

from secondlight.catalog.visit_summary import DetectorSummary, VisitSummary
from secondlight.tasks.consolidate_finalize_characterization import (
    ConsolidateFinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorTask,
)
from secondlight.tasks.finalize_characterization_visit import (
    FinalizeCharacterizationTask,
)

from .finalize_scenes import (
    BAND,
    VISIT,
    N,
    assert_tables_equal,
    configure,
    detector_task,
    make_inputs,
    make_isolated,
    run_detector,
    run_visit,
    visit_task,
)


@pytest.fixture(scope="module")
def result() -> Any:
    return run_detector(make_inputs())


def test_visit_equals_consolidated_detectors() -> None:
    inputs = {d: make_inputs(d) for d in (7, 4)}
    whole = run_visit(inputs)
    assert whole.psf_ap_corr_cat.detectors == [4, 7]
    assert list(whole.output_table["detector"]) == [4] * N + [7] * N
    stars, sources = make_isolated((7, 4))
    parts = {
        d: run_detector(inputs[d], d, isolated_star_cat_dict=stars, isolated_star_source_dict=sources)
        for d in (7, 4)
    }
    together = ConsolidateFinalizeCharacterizationDetectorTask().run(
        psf_ap_corr_detector_dict={d: InMemoryDatasetHandle(r.psf_ap_corr_cat) for d, r in parts.items()},
        src_detector_table_dict={d: r.output_table for d, r in parts.items()},
    )
    assert_tables_equal(together.output_table, whole.output_table)
    assert together.psf_ap_corr_cat.detectors == [4, 7]
    for ours, theirs in zip(together.psf_ap_corr_cat, whole.psf_ap_corr_cat, strict=True):
        np.testing.assert_array_equal(ours.psf.piff_psf.interp.q, theirs.psf.piff_psf.interp.q)
        assert ours.aperture_corrections == theirs.aperture_corrections
        assert set(ours.calibration_sources) == {"psf", "aperture_corrections"}
        assert set(ours.calibration_sources.values()) == {"finalized_psf_ap_corr_detector_catalog"}


def test_visit_uses_detectors_with_both_inputs(caplog: pytest.LogCaptureFixture) -> None:
    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    result = run_visit(inputs, calexp_dict={4: inputs[4].exposure, 9: inputs[7].exposure})
    assert result.psf_ap_corr_cat.detectors == [4]
    assert "those that have both" in caplog.text


def test_one_bad_detector_does_not_stop_the_visit(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable:
        def get(self) -> VisitImage:
            raise OSError("truncated file")

    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    result = run_visit(inputs, calexp_dict={4: Unreadable(), 7: inputs[7].exposure})
    assert result.psf_ap_corr_cat.detectors == [7]
    assert "detector 4 failed" in caplog.text
    with pytest.raises(OSError, match="truncated"):
        run_visit(inputs, calexp_dict={4: Unreadable(), 7: Unreadable()})


def test_consolidation_checks_its_inputs(result: Any) -> None:
    task = ConsolidateFinalizeCharacterizationDetectorTask()
    summary, table = result.psf_ap_corr_cat, result.output_table
    with pytest.raises(NoWorkFound):
        task.run(psf_ap_corr_detector_dict={}, src_detector_table_dict={})
    with pytest.raises(ValueError, match=r"\[4\].*\[4, 5\]"):
        task.run(psf_ap_corr_detector_dict={4: summary}, src_detector_table_dict={4: table, 5: table})
    with pytest.raises(ValueError, match="summary of detector 5"):
        task.run(psf_ap_corr_detector_dict={5: summary}, src_detector_table_dict={5: table})
    other = VisitSummary(VISIT + 1, [DetectorSummary(5)])
    with pytest.raises(ValueError, match="expected visit 4321, found visit 4322"):
        task.run(
            psf_ap_corr_detector_dict={4: summary, 5: other}, src_detector_table_dict={4: table, 5: table}
        )
    narrow = table.copy()
    narrow.remove_column("psf_max_value")
    other = VisitSummary(VISIT, [DetectorSummary(5)])
    with pytest.raises(ValueError, match=r"Detector 5.*psf_max_value"):
        task.run(
            psf_ap_corr_detector_dict={4: summary, 5: other}, src_detector_table_dict={4: table, 5: narrow}
        )


def test_differing_source_schemas() -> None:
    """A detector whose sources have other unpublished columns is no obstacle."""
    inputs = {4: make_inputs(4), 7: make_inputs(7)}
    inputs[7].src.schema.add("another", float, "not published either")
    assert len(run_visit(inputs).output_table) == 2 * N


class FakeContext:
    """Stands in for the context that hands datasets to a quantum."""

    def __init__(self, inputs: dict[str, Any], **data_id: Any) -> None:
        self.inputs = inputs
        self.quantum = SimpleNamespace(dataId=data_id)
        self.outputs: dict[str, Any] = {}

    def get(self, refs: Any) -> dict[str, Any]:
        """Return the inputs, whatever is asked for."""
        return self.inputs

    def put(self, dataset: Any, ref: str) -> None:
        """Keep an output."""
        self.outputs[ref] = dataset


def handles(datasets: dict[int, Any], key: str) -> list[Any]:
    return [InMemoryDatasetHandle(value, dataId={key: k}) for k, value in reversed(datasets.items())]


def test_quanta(result: Any) -> None:
    inputs = make_inputs()
    stars, sources = make_isolated()
    common = {
        "isolated_star_cats": handles(stars, "tract"),
        "isolated_star_sources": handles(sources, "tract"),
    }
    context = FakeContext(
        {**common, "src": inputs.src, "calexp": inputs.exposure}, visit=VISIT, band=BAND, detector=4
    )
    refs = SimpleNamespace(
        finalized_psf_ap_corr_detector_cat="summary", finalized_src_detector_table="table",
        finalized_psf_ap_corr_cat="summary", finalized_src_table="table",
    )  # fmt: skip
    detector_task().runQuantum(context, None, refs)
    assert_tables_equal(context.outputs["table"], result.output_table)
    visit_context = FakeContext(
        {
            **common,
            "srcs": handles({4: inputs.src}, "detector"),
            "calexps": handles({4: inputs.exposure}, "detector"),
        },
        visit=VISIT,
        band=BAND,
    )
    visit_task().runQuantum(visit_context, None, refs)
    assert_tables_equal(visit_context.outputs["table"], result.output_table)
    together = FakeContext(
        {
            "finalized_psf_ap_corr_detector_cats": handles({4: context.outputs["summary"]}, "detector"),
            "finalized_src_detector_tables": handles({4: context.outputs["table"]}, "detector"),
        }
    )
    ConsolidateFinalizeCharacterizationDetectorTask().runQuantum(together, None, refs)
    assert_tables_equal(together.outputs["table"], result.output_table)
    assert together.outputs["summary"].detectors == [4]


@pytest.mark.parametrize("task_class", [FinalizeCharacterizationDetectorTask, FinalizeCharacterizationTask])
def test_psf_that_cannot_be_stored_is_refused_first(task_class: Any) -> None:
    config = configure(task_class.ConfigClass())
    config.psf_determiner["piff"].useCoordinates = "field"
    with pytest.raises(ValueError, match="field coordinates cannot be stored"):
        task_class(config=config).runQuantum(None, None, None)


def test_notes_of_the_fits_tell_the_detectors_apart() -> None:
    task = visit_task()
    run_visit({d: make_inputs(d) for d in (7, 4)}, task=task)
    assert task.metadata.getArray("detector") == [4, 7]
    for name in ("spatialFitChi2", "spatialOrder", "numGoodStars"):
        assert len(task.metadata.getArray(name)) == 2
