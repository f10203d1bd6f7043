"""Every pipeline file loads, and its tasks fit together."""

from __future__ import annotations

import pytest
from lsst.pipe.base import Pipeline

from secondlight.cli.pipeline import find_pipeline

PIPELINES = (
    "secondlight",
    "final-pass",
    "final-pass-by-visit",
    "rubin-names",
    "sdss/secondlight",
    "sdss/final-pass-by-visit",
    "sim/secondlight",
)


@pytest.mark.parametrize("name", PIPELINES)
def test_tasks_fit_together(name: str) -> None:
    graph = Pipeline.from_uri(find_pipeline(name)).to_graph()
    graph.sort()
    assert "reprocessVisitImage" in graph.tasks


def test_whole_chain_needs_only_what_ingest_stores() -> None:
    graph = Pipeline.from_uri(find_pipeline("secondlight")).to_graph()
    inputs = {name for name, _ in graph.iter_overall_inputs()}
    assert inputs == {"postISRCCD", "survey_psf", "photometric_refcat", "skyMap"}


def test_simulation_makes_what_the_chain_reads() -> None:
    graph = Pipeline.from_uri(find_pipeline("simulate")).to_graph()
    assert {name for name, _ in graph.iter_overall_inputs()} == {"sim_scene", "sim_objects"}
    made = {edge.dataset_type_name for edge in graph.tasks["simulateDetector"].outputs.values()}
    chain = Pipeline.from_uri(find_pipeline("sim/secondlight")).to_graph()
    assert {name for name, _ in chain.iter_overall_inputs()} & made == {"postISRCCD"}


def test_rubin_names() -> None:
    graph = Pipeline.from_uri(find_pipeline("rubin-names")).to_graph()
    for name in (
        "preliminary_visit_image",
        "refit_psf_star",
        "visit_summary",
        "visit_image",
        "source_unstandardized",
    ):
        assert name in graph.dataset_types
    assert "pvi" not in graph.dataset_types


def test_subset_of_a_pipeline() -> None:
    graph = Pipeline.from_uri(find_pipeline("secondlight#reprocess")).to_graph()
    assert set(graph.tasks) == {"reprocessVisitImage"}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_ends_in_the_tables_of_visits(name: str) -> None:
    graph = Pipeline.from_uri(find_pipeline(name)).to_graph()
    measured = "source_unstandardized" if name == "rubin-names" else "sources_detector"
    chain = [
        (measured, "standardizeSource", {"source_detector"}),
        ("source_detector", "consolidateSource", {"source_all"}),
        ("source_all", "splitPrimarySource", {"source", "source_nonprimary"}),
    ]
    for dataset_type, task, made in chain:
        assert task in {node.label for node in graph.consumers_of(dataset_type)}
        assert {edge.dataset_type_name for edge in graph.tasks[task].outputs.values()} == made
    assert graph.producer_of(measured) is not None


@pytest.mark.parametrize("name", ["secondlight", "final-pass", "rubin-names", "sdss/secondlight"])
def test_subset_of_the_source_tables(name: str) -> None:
    graph = Pipeline.from_uri(find_pipeline(f"{name}#source_tables")).to_graph()
    assert set(graph.tasks) == {"standardizeSource", "consolidateSource", "splitPrimarySource"}
