"""What a user gets wrong ends in one sentence that names it, not in a traceback."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from secondlight.cli.main import cli


def error_of(*arguments: str | Path) -> str:
    """Run a command that fails, and return what it says after ``Error:``."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code != 0
    return result.output.partition("Error: ")[2].strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repo"
    assert CliRunner().invoke(cli, ["init", str(root)]).exit_code == 0
    return root


@pytest.mark.parametrize("command", ["ingest", "ingest-refcat", "register-skymap"])
def test_no_repository(tmp_path, command):
    more = {"ingest": [tmp_path, "--instrument", "sdss"], "ingest-refcat": [tmp_path]}.get(command, [])
    nowhere = tmp_path / "nowhere"
    assert error_of(command, nowhere, *more) == (
        f"{nowhere} is no data repository; 'secondlight init {nowhere}' makes one."
    )


def test_a_file_where_a_folder_should_be(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert "file" in error_of("init", file)
    assert "file" in error_of("init", file / "below")
    assert "no data repository" in error_of("register-skymap", file)
    assert "file" in error_of("demo", file, "--data", tmp_path)


def test_demo_without_frames(tmp_path):
    assert "no images of SDSS were found" in error_of("demo", tmp_path / "repo", "--data", tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [1", "not YAML"),
        ("- a list", "KEY: VALUE"),
        ("name: MyCam\ngian: 2", "gian: Extra inputs are not permitted"),
        ("gain: 2", "name: Field required"),
    ],
)
def test_camera_descriptions(repository, tmp_path, text, expected):
    camera = tmp_path / "camera.yaml"
    camera.write_text(text)
    message = error_of("ingest", repository, tmp_path, "--instrument", "generic", "--camera", camera)
    assert "camera.yaml" in message
    assert expected in message
    assert "\n" not in message


def test_generic_without_a_camera(repository, tmp_path):
    assert "--camera" in error_of("ingest", repository, tmp_path, "--instrument", "generic")


def test_reference_catalog_of_no_format(repository, tmp_path):
    file = tmp_path / "stars"
    file.write_text("hello\n")
    message = error_of("ingest-refcat", repository, file)
    assert "stars: cannot be read as a table" in message
    assert "\n" not in message


def test_sky_map_field(repository):
    assert "nosuch" in error_of("register-skymap", repository, "--all-tracts", "-c", "nosuch=1")


def test_log_level(tmp_path):
    assert "loud" in error_of("--log-level", "loud", "init", tmp_path / "repo").lower()


def test_run_without_pipeline(repository):
    message = error_of("run", repository, "-p", "nosuch", "-i", "a", "-o", "b")
    assert message.startswith("There is no pipeline 'nosuch'; there are final-pass, ")
    assert "sdss/secondlight" in message


def test_where_pipelines_are():
    from secondlight.cli.pipeline import PIPELINES, find_pipeline

    assert find_pipeline("sdss/secondlight#first_pass") == f"{PIPELINES}sdss/secondlight.yaml#first_pass"
    assert find_pipeline("mine.yaml#a") == "mine.yaml#a"
    with pytest.raises(click.ClickException, match="nosuch"):
        find_pipeline("nosuch")
