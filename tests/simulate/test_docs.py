"""The user's page of the simulation says what the scene file really takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pydantic
import yaml

from secondlight.simulate.scene import Scene, load_scene

PAGE = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text()


def fields_of(model: type[pydantic.BaseModel], prefix: str = "") -> dict[str, Any]:
    """Return the default of every field of a model by its dotted name; ``...`` if it must be given."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        parts = [p for p in (field.annotation, *get_args(field.annotation)) if isinstance(p, type)]
        parts = [p for p in parts if issubclass(p, pydantic.BaseModel)]
        between = {"bands": ".<name>", "visits": "[]"}.get(name, "")
        if parts:
            found |= fields_of(parts[0], f"{prefix}{name}{between}.")
        else:
            default = ... if field.is_required() else field.default
            found[prefix + name] = list(default) if isinstance(default, tuple) else default
    return found


def documented() -> dict[str, Any]:
    """Return the same from the table of the page."""
    found: dict[str, Any] = {}
    table = PAGE.partition("| field | default | meaning |")[2]
    for names, defaults in re.findall(r"^\| (`.*?`) \| (.*?) \| .* \|$", table, flags=re.MULTILINE):
        fields = re.findall("`(.*?)`", names)
        if defaults == "required":
            found |= dict.fromkeys(fields, ...)
            continue
        values = [defaults] if defaults.startswith("[") else defaults.split(", ")
        for field, value in zip(fields, values, strict=True):
            try:
                found[field] = json.loads(value)
            except json.JSONDecodeError:
                found[field] = value
    return found


def test_every_field_and_its_default():
    expected = fields_of(Scene)
    assert len(expected) > 50
    assert documented() == expected


def test_the_scene_shown_is_one(tmp_path):
    (block,) = re.findall("```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "shown.yaml").write_text(block)
    assert load_scene(tmp_path / "shown.yaml").name == yaml.safe_load(block)["name"]


def test_columns_of_the_truth_and_datasets_are_named():
    for name in ("sim_truth", "sim_psf", "sim_background", "sim_artifacts", "sim_scene", "sim_objects"):
        assert f"| `{name}` |" in PAGE
