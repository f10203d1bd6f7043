"""Measuring all sources of an image (spec reprocess 16, finalize 7)."""

from __future__ import annotations

__all__ = ("SingleFrameMeasurementConfig", "SingleFrameMeasurementTask")

from collections.abc import Iterable
from typing import Any, ClassVar

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
import numpy as np
from lsst.images import VisitImage
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import visit_of
from secondlight.psf.evaluation import InvalidPsfError

from . import plugins as _plugins  # noqa: F401  (registers the plugins)
from .noise_replacement import NoiseReplacement, NoiseReplacerConfig, unreplaced_pixels
from .pixels import hide
from .plugin import FatalMeasurementError, MeasurementPlugin, plugin_registry
from .slots import SourceSlotConfig
from .sources import MeasurementSources

_INVALID_PSF = "base_InvalidPsf_flag"

_DEFAULT_PLUGINS = (
    "base_PixelFlags",
    "base_SdssCentroid",
    "base_SdssShape",
    "base_GaussianFlux",
    "base_PsfFlux",
    "base_CircularApertureFlux",
    "base_SkyCoord",
    "base_Variance",
    "base_Blendedness",
    "base_LocalBackground",
    "base_CompensatedTophatFlux",
    "base_ClassificationSizeExtendedness",
)


class SingleFrameMeasurementConfig(pex_config.Config):
    """Which plugins run, with what configuration, and on which pixels."""

    plugins = plugin_registry.makeField(
        doc="Plugins to run, and their configurations.",
        multi=True,
        default=list(_DEFAULT_PLUGINS),
    )
    undeblended = plugin_registry.makeField(
        doc="Plugins to run once more on the image without noise replacement.", multi=True, default=[]
    )
    undeblendedPrefix = pex_config.Field[str](
        doc="Put before the names of the columns of the undeblended plugins.", default="undeblended_"
    )
    slots = pex_config.ConfigField[SourceSlotConfig](doc="Columns that the slot aliases point to.")
    doReplaceWithNoise = pex_config.Field[bool](
        doc="Whether each source is measured with all others replaced by noise.", default=True
    )
    noiseReplacer = pex_config.ConfigField[NoiseReplacerConfig](doc="Noise that replaces the other sources.")

    def validate(self) -> None:
        """Check that every slot is filled by an enabled plugin."""
        super().validate()
        try:
            self.slots.check(self.plugins.names)
        except ValueError as error:
            raise pex_config.FieldValidationError(type(self).slots, self, str(error)) from None


class SingleFrameMeasurementTask(pipe_base.Task):
    """Run measurement plugins on the sources of one image.

    Parameters
    ----------
    schema
        Schema of the catalogs to come; it gets the columns and slot aliases.
    **kwargs
        Passed on to `lsst.pipe.base.Task` (``config``, ``name``, ``parentTask``, ``log``).

    Raises
    ------
    ValueError
        Raised if a plugin needs the centroid or shape slot and neither the configuration nor the schema
        defines it, or if there are no columns behind a configured one of these.
    """

    ConfigClass: ClassVar[type[SingleFrameMeasurementConfig]] = SingleFrameMeasurementConfig
    _DefaultName: ClassVar[str] = "measurement"
    config: SingleFrameMeasurementConfig

    def __init__(self, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.config.slots.set_aliases(schema)
        self.plugins = self._make_plugins(self.config.plugins, first=self.config.slots.centroid)
        self.undeblended_plugins = self._make_plugins(
            self.config.undeblended, prefix=self.config.undeblendedPrefix
        )
        if _INVALID_PSF not in schema:
            schema.add_flag(_INVALID_PSF, "the PSF cannot be evaluated at the position of the source")
        self._check_slot_columns()

    @property
    def _all_plugins(self) -> list[MeasurementPlugin]:
        return [*self.plugins, *self.undeblended_plugins]

    def _make_plugins(
        self, field: Any, *, first: str | None = None, prefix: str = ""
    ) -> list[MeasurementPlugin]:
        """Construct the enabled plugins of a registry field in execution order, ``first`` before all."""
        names = [name for name in field.names if field[name].doMeasure]
        types = {name: plugin_registry[name] for name in names}
        result = []
        for name in sorted(names, key=lambda n: (n != first, types[n].order, n)):
            self._check_slots(name, types[name])
            result.append(types[name](field[name], prefix + name, self.schema))
        return result

    def _check_slots(self, name: str, plugin: type[MeasurementPlugin]) -> None:
        for needed, slot in ((plugin.uses_centroid, "slot_Centroid"), (plugin.uses_shape, "slot_Shape")):
            if needed and slot not in self.schema.aliases:
                raise ValueError(f"{name} needs {slot}, which neither the slots nor the schema define.")

    def _check_slot_columns(self) -> None:
        """Refuse a centroid or shape slot without columns; other slots may be of use to nobody."""
        for slot, target in self.config.slots.without_columns(self.schema).items():
            if slot in ("centroid", "shape"):
                raise ValueError(f"slots.{slot} is {target!r}, but there are no columns of that name.")
            self.log.warning("slots.%s is %r, but there are no columns of that name.", slot, target)

    def run(
        self,
        sources: SourceCatalog,
        exposure: VisitImage,
        *,
        neighbours: SourceCatalog | None = None,
        seed: int | None = None,
        noise: tuple[np.ndarray, np.ndarray] | None = None,
        photo_calib: PhotoCalib | None = None,
        begin_order: float | None = None,
        end_order: float | None = None,
    ) -> None:
        """Measure sources in place.

        Parameters
        ----------
        sources
            Sources with footprints, under this task's schema.
        exposure
            Background-subtracted image; it is not changed.
        neighbours
            Every source of the image, all to be replaced by noise; by default the sources themselves.
        seed
            Seed of the replacement noise; by default it is made from visit and detector of the image.
        noise
            Given replacement noise ``(offsets, values)``, row-aligned with the neighbours, instead of random.
        photo_calib
            Photometric calibration, for plugins that report it; its uncertainty is not in the image.
        begin_order, end_order
            Run only plugins of at least ``begin_order`` and less than ``end_order``; the columns of the
            others stay as they are.

        Raises
        ------
        ValueError
            Raised if the image lacks a PSF that a plugin needs, or a source is not among the neighbours.
        """
        chosen, undeblended = (
            [p for p in plugins if _is_between(p.order, begin_order, end_order)]
            for plugins in (self.plugins, self.undeblended_plugins)
        )
        if not len(sources):
            return
        _check_psf(exposure, [*chosen, *undeblended])
        if self.config.doReplaceWithNoise:
            replacement = NoiseReplacement.from_sources(
                exposure,
                sources if neighbours is None else neighbours,
                config=self.config.noiseReplacer,
                seed=_noise_seed(exposure) if seed is None else seed,
                noise=noise,
            )
            pixels = replacement.pixels(exposure, sources["id"])
        else:
            pixels = unreplaced_pixels(exposure, len(sources))
        self.run_plugins(chosen, MeasurementSources(sources, exposure, pixels, photo_calib=photo_calib))
        if undeblended:
            as_they_are = unreplaced_pixels(exposure, len(sources))
            self.run_plugins(
                undeblended, MeasurementSources(sources, exposure, as_they_are, photo_calib=photo_calib)
            )

    def run_plugins(self, plugins: Iterable[MeasurementPlugin], sources: MeasurementSources) -> None:
        """Run plugins on prepared sources; one that raises fails all sources and the others go on."""
        for plugin in plugins:
            try:
                plugin.measure(sources)
            except (MemoryError, FatalMeasurementError):
                raise
            except InvalidPsfError as error:
                self.log.warning("%s cannot be measured: %s", plugin.name, error)
                plugin.fail(sources.catalog)
                sources.note_invalid_psf(np.ones(len(sources), dtype=bool))
                _hide_all(sources)
            except Exception as error:
                self.log.warning(
                    "%s failed for all %d sources: %s", plugin.name, len(sources), error, exc_info=True
                )
                plugin.fail(sources.catalog)
                _hide_all(sources)

    def flag_unmeasured(self, sources: SourceCatalog) -> None:
        """Set the general flag of every plugin for all sources, because nothing could be measured."""
        for plugin in self._all_plugins:
            plugin.fail(sources)


def _is_between(order: float, begin: float | None, end: float | None) -> bool:
    return (begin is None or order >= begin) and (end is None or order < end)


def _check_psf(exposure: VisitImage, plugins: Iterable[MeasurementPlugin]) -> None:
    """Refuse an image without the PSF that plugins need."""
    needy = [plugin.name for plugin in plugins if plugin.uses_psf]
    if needy and not isinstance(exposure._psf, PointSpreadFunction):
        info = exposure.obs_info
        raise ValueError(
            f"The image of visit {info.visit_id}, detector {info.detector_num} has no PSF, "
            f"which {', '.join(needy)} need."
        )


def _noise_seed(exposure: VisitImage) -> int:
    """Return a seed that belongs to visit and detector of an image."""
    entropy = (visit_of(exposure), exposure.obs_info.detector_num or 0)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def _hide_all(sources: MeasurementSources) -> None:
    """Put the replacements back where a plugin that raised left the pixels of a source in the image."""
    for row in range(len(sources)):
        hide(sources.pixels, row)
