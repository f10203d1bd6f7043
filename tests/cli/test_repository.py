"""The commands that make and fill a repository, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.table import Table
from click.testing import CliRunner, Result
from lsst.daf.butler.cli.butler import cli as butler_cli

from secondlight.cli import get_cli_subcommands
from secondlight.cli.main import cli
from tests.instruments.files import write_image


def run(*arguments: str | Path, command=cli) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repo"
    result = run("init", root)
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def description(tmp_path) -> Path:
    path = tmp_path / "camera.yaml"
    path.write_text("name: MyCam\nvisit: EXPNUM\ndetector: CCD\nnoise:\n  file: _sci->_wht\n")
    return path


def test_generic_images_end_in_the_repository(repository, description, tmp_path):
    image = write_image(tmp_path)
    arguments = ("ingest", repository, image, "--instrument", "generic", "--camera", description)
    result = run(*arguments, "--set", "bands={Sloan r: r}")
    assert result.exit_code == 0, result.output
    assert "Ingesting visit 7 detector 1 (v7_d1_sci.fits)" in result.output
    assert "1 images ingested into MyCam/images, 0 were there already" in result.output

    listed = run("query-datasets", repository, "postISRCCD", "--collections", "*", command=butler_cli)
    assert listed.exit_code == 0, listed.output
    assert "MyCam/images" in listed.output
    records = run("query-dimension-records", repository, "visit", command=butler_cli)
    assert records.exit_code == 0, records.output
    assert "MyCam-7" in records.output

    again = run(*arguments)
    assert "0 images ingested into MyCam/images, 1 were there already" in again.output
    failing = run(*arguments, "--fail-on-existing")
    assert failing.exit_code == 1
    assert "Error" in failing.output
    assert "left as it is" in failing.output


def test_errors_are_messages(repository, description, tmp_path):
    missing = run("ingest", repository, tmp_path / "none.fits", "--instrument", "sdss")
    assert missing.exit_code == 1
    assert "none.fits: there is no such file" in missing.output
    unknown = run("ingest", repository, tmp_path, "--instrument", "webcam")
    assert unknown.exit_code == 1
    assert "Unknown instrument 'webcam'" in unknown.output
    typo = run(
        "ingest", repository, tmp_path, "--instrument", "generic", "--camera", description, "--set", "gian=2"
    )
    assert typo.exit_code == 1
    assert "gian" in typo.output
    nowhere = run("ingest", tmp_path / "nowhere", tmp_path, "--instrument", "sdss")
    assert nowhere.exit_code == 1
    assert "nowhere" in nowhere.output
    twice = run("init", repository)
    assert twice.exit_code == 1
    assert "is a data repository already" in twice.output


def test_reference_catalog(repository, tmp_path):
    table = tmp_path / "stars.ecsv"
    Table({"ra": [1.0], "dec": [2.0], "mag_r": [20.0]}).write(table)
    assert "stored in refcats" in run("ingest-refcat", repository, table).output
    assert "has a reference catalog already" in run("ingest-refcat", repository, table).output


def test_sky_map(repository):
    result = run("register-skymap", repository, "--name", "small", "-c", "numRings=3")
    assert result.exit_code == 1
    assert "has no visits yet" in result.output
    result = run("register-skymap", repository, "--name", "small", "-c", "numRings=3", "--all-tracts")
    assert result.exit_code == 0, result.output
    assert "tracts of sky map small are registered" in result.output
    wrong = run("register-skymap", repository, "--name", "bad", "-c", "numRings=-3")
    assert wrong.exit_code == 1


def test_butler_offers_the_commands(tmp_path):
    names = {command.name for command in get_cli_subcommands()}
    assert names == {
        "secondlight-init",
        "secondlight-ingest",
        "secondlight-ingest-refcat",
        "secondlight-register-skymap",
    }
    result = run("secondlight-init", tmp_path / "repo", command=butler_cli)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "repo" / "butler.yaml").exists()


@pytest.mark.realdata
def test_sdss_frames(repository, data_dir):
    folder = data_dir / "sdss_stripe82" / "4192"
    result = run("ingest", repository, folder, "--instrument", "sdss", "--collection", "mine")
    assert result.exit_code == 0, result.output
    assert "3 images ingested into mine" in result.output
    records = run("query-dimension-records", repository, "visit_detector_region", command=butler_cli)
    assert records.output.count("SDSS") == 3
