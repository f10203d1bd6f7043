"""The description of a simulated survey: one sky, one camera, and the visits that look at it.

A scene is a small YAML file; everything about the simulation follows from it, to the last random number.
"""

from __future__ import annotations

__all__ = ("Scene", "SceneError", "load_scene")

import importlib.resources
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml

from .scene_parts import (
    Band,
    Camera,
    CosmicRays,
    Count,
    Electronics,
    Errors,
    Galaxies,
    Part,
    PsfPattern,
    ReferenceStars,
    SkyField,
    SkyPattern,
    Stars,
    Visit,
)

SCENES = "secondlight.configs.scenes"
"""Package that holds the scenes that come with secondlight."""

_WELL_OVER_SKY = 2.0
"""How many times the sky a pixel must hold."""


class SceneError(ValueError):
    """A scene that cannot be simulated, with what is wrong with it."""


class Scene(Part):
    """A survey to simulate.

    Parameters
    ----------
    name
        Name of the scene.
    seed
        Seed of every random number.
    reference_band
        Band in which the counts are described.
    snaps
        Exposures per visit, 1 or 2.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^[\w-]+$")]
    seed: Count = 1
    field: SkyField
    camera: Camera
    bands: Mapping[str, Band]
    reference_band: str = "r"
    visits: Annotated[tuple[Visit, ...], pydantic.Field(min_length=1)]
    snaps: Literal[1, 2] = 1
    stars: Stars = Stars()
    galaxies: Galaxies = Galaxies()
    psf: PsfPattern = PsfPattern()
    sky: SkyPattern = SkyPattern()
    electronics: Electronics = Electronics()
    cosmic_rays: CosmicRays = CosmicRays()
    errors: Errors = Errors()
    reference: ReferenceStars = ReferenceStars()

    def visit(self, visit: int) -> Visit:
        """Return a visit by its id.

        Raises
        ------
        SceneError
            Raised if the scene has no such visit.
        """
        for candidate in self.visits:
            if candidate.id == visit:
                return candidate
        raise SceneError(f"Scene {self.name} has no visit {visit}.")

    def check_detector(self, detector: int) -> None:
        """Raise if the camera has no such detector.

        Raises
        ------
        SceneError
            Raised if the camera has no such detector.
        """
        if detector not in self.camera.detectors:
            raise SceneError(
                f"Scene {self.name} has no detector {detector}; its camera has {len(self.camera.detectors)}, "
                "counted from 0."
            )

    def zero_point(self, visit: Visit) -> float:
        """Return the true AB magnitude of one count of a visit's image (all snaps together)."""
        band = self.bands[visit.band]
        transparency = band.extinction * visit.airmass + visit.clouds
        return band.zero_point - transparency + 2.5 * math.log10(visit.exposure_time / self.electronics.gain)

    def sky_electrons(self, visit: Visit) -> float:
        """Return the mean sky of a visit at the boresight, electrons per pixel (all snaps together)."""
        band = self.bands[visit.band]
        brightness = band.sky - visit.sky_excess - 2.5 * math.log10(visit.airmass)
        rate = 10 ** (-0.4 * (brightness - band.zero_point)) * self.camera.pixel_scale**2
        return float(rate * visit.exposure_time)

    def sky_noise(self, visit: Visit) -> float:
        """Return the standard deviation of an empty pixel, electrons (all snaps together)."""
        return math.sqrt(self.sky_electrons(visit) + self.snaps * self.electronics.read_noise**2)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._unknown_bands(), *self._repeated_visits(), *self._objects()]
        # The sky of a visit is known if its band is.
        problems = problems or [*self._saturation()]
        if problems:
            raise ValueError(" ".join(problems))
        return self

    def _unknown_bands(self) -> Iterable[str]:
        known = ", ".join(self.bands)
        for name in {self.reference_band, *(visit.band for visit in self.visits)} - set(self.bands):
            yield f"Band {name!r} is not described; there are {known}."

    def _repeated_visits(self) -> Iterable[str]:
        ids = sorted(visit.id for visit in self.visits)
        for first, second in itertools.pairwise(ids):
            if second - first < self.snaps:
                yield f"Visits {first} and {second}: ids must differ by at least the number of snaps."

    def _objects(self) -> Iterable[str]:
        if self.stars.density == 0:
            yield "stars.density is 0: without stars there is no PSF to be measured."
        for name, counts in (("stars", self.stars), ("galaxies", self.galaxies)):
            if counts.bright >= counts.faint:
                yield f"{name}.bright = {counts.bright} must be below {name}.faint = {counts.faint}."

    def _saturation(self) -> Iterable[str]:
        limit = self.electronics.full_well
        for visit in self.visits:
            sky = self.sky_electrons(visit) / self.snaps
            if limit < _WELL_OVER_SKY * sky:
                yield (
                    f"Visit {visit.id}: the sky is {sky:.0f} electrons per pixel, but pixels saturate at "
                    f"{limit:.0f} (electronics.full_well)."
                )


def load_scene(scene: str | Path, *, settings: Mapping[str, Any] | None = None) -> Scene:
    """Read a scene and check that it can be simulated.

    Parameters
    ----------
    scene
        A YAML file, or the name of a scene that comes with the package (`tiny`, `demo`, `ccd`, ...).
    settings
        Values that replace those of the file, by dotted name: ``{"stars.density": 3}``.

    Raises
    ------
    SceneError
        Raised if there is no such scene or something in it is wrong; says what.
    """
    source, text = _read(scene)
    try:
        described = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SceneError(f"{source} is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(described, dict):
        raise SceneError(f"{source} must be a mapping of the fields of a scene.")
    for name, value in (settings or {}).items():
        _replace(described, name, value)
    try:
        return Scene.model_validate(described)
    except pydantic.ValidationError as error:
        raise SceneError(f"{source}: {_problems(error)}") from error


def _read(scene: str | Path) -> tuple[str, bytes]:
    """Return what to call a scene's file, and its content."""
    if str(scene).endswith((".yaml", ".yml")):
        path = Path(scene)
        if not path.is_file():
            raise SceneError(f"There is no scene file {path}.")
        return path.name, path.read_bytes()
    folder = importlib.resources.files(SCENES)
    known = sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".yaml"))
    if str(scene) not in known:
        raise SceneError(
            f"There is no scene {str(scene)!r}; there are {', '.join(known)}, or a YAML file's path."
        )
    return f"scene {scene}", folder.joinpath(f"{scene}.yaml").read_bytes()


def _replace(described: dict[str, Any], name: str, value: Any) -> None:
    """Set a field of a description by its dotted name."""
    *parents, field = name.split(".")
    for parent in parents:
        described = described.setdefault(parent, {})
        if not isinstance(described, dict):
            raise SceneError(f"{name} cannot be set: {parent} is a value, not a group of fields.")
    described[field] = value


def _problems(error: pydantic.ValidationError) -> str:
    """Return the problems that pydantic found in one line."""
    found = []
    errors = error.errors()
    places = {problem["loc"] for problem in errors}
    inside = {place[:n] for place in places for n in range(1, len(place))}
    for problem in errors:
        if problem["loc"] in inside:
            # A list is also said to be too short where its items are wrong.
            continue
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = f" (it is {problem['input']!r})" if where and not isinstance(problem["input"], dict) else ""
        found.append(f"{where}: {message}{given}" if where else message)
    return "; ".join(found)
