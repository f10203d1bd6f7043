"""What the finalize-characterization tasks of a detector and of a visit share (spec finalize 2)."""

from __future__ import annotations

__all__ = (
    "FinalizeCharacterizationBase",
    "load",
    "make_summary",
    "stack_tables",
)

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import astropy.table
import numpy as np
from lsst.images import VisitImage
from lsst.images.aperture_corrections import ApertureCorrectionMap
from lsst.images.psfs import PointSpreadFunction
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound, PipelineTask, Struct

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components
from ..catalog.visit_summary import DetectorSummary, VisitSummary
from ..measurement.task import SingleFrameMeasurementTask
from ..photometry.apply_ap_corr import ApplyApCorrTask
from ..photometry.measure_ap_corr import MeasureApCorrTask
from ..psf.candidates import MakePsfCandidatesTask
from ..psf.evaluation import average_position, determinant_radius, psf_shapes
from ..psf.isolated_stars import IsolatedStars, concatenate_isolated_stars, match_ids, source_columns
from ..psf.reservation import ReserveIsolatedStarsTask
from ..psf.sky_moments import alt_az_moments, parallactic_angle, pixel_to_sky_jacobian, sky_moments
from ..psf.source_selectors import BaseSourceSelectorTask
from ..sky.matching import match_nearest
from ._finalize_columns import ALT_AZ_AXES, SKY_AXES, FinalizeColumns
from ._finalize_config import FinalizeCharacterizationConfigBase

_MATCH_RADIUS_ARCSEC = 1.0


class _Refit(NamedTuple):
    """What the characterization of one detector gave; `None` is what could not be had."""

    psf: PointSpreadFunction | None
    ap_corr_map: ApertureCorrectionMap | None
    measured_src: SourceCatalog | None


def load(dataset: Any, columns: Sequence[str] | None = None) -> Any:
    """Return a dataset given as itself or as a handle; of a table, only the named columns."""
    if isinstance(dataset, InMemoryDatasetHandle):
        dataset = dataset.get()
    elif not isinstance(dataset, astropy.table.Table | SourceCatalog | VisitImage | VisitSummary):
        dataset = dataset.get(parameters={"columns": list(columns)}) if columns else dataset.get()
    return dataset[list(columns)] if columns else dataset


def stack_tables(tables: Mapping[int, astropy.table.Table]) -> astropy.table.Table:
    """Stack the tables of detectors, in the given order.

    Raises
    ------
    ValueError
        Raised if their columns differ in name or type; the message names detector and column.
    """
    parts = list(tables.values())
    expected = _types(parts[0])
    for detector, table in tables.items():
        found = _types(table)
        if found != expected:
            wrong = sorted(set(found.items()) ^ set(expected.items()), key=str)
            raise ValueError(f"Detector {detector}: the star table differs in columns {wrong}.")
    return astropy.table.vstack(parts, join_type="exact", metadata_conflicts="silent")


def _types(table: astropy.table.Table) -> dict[str, np.dtype]:
    """Return the types of the columns, by name."""
    dtype = table.dtype  # made anew from all columns whenever a table is asked for it
    return {name: dtype[name] for name in table.colnames}


def make_summary(
    visit: int, records: Iterable[DetectorSummary], exposure: VisitImage, comment: str
) -> VisitSummary:
    """Return a visit summary labelled from an image of the visit."""
    return VisitSummary(
        visit,
        records,
        instrument=exposure.obs_info.instrument or "",
        band=exposure.band,
        physical_filter=exposure.physical_filter,
        comment=comment,
    )


class FinalizeCharacterizationBase(PipelineTask):
    """Refit PSF and aperture corrections of a detector to isolated stars."""

    ConfigClass = FinalizeCharacterizationConfigBase
    _DefaultName = "finalize_characterization_base"
    config: FinalizeCharacterizationConfigBase
    source_selector: BaseSourceSelectorTask
    reserve_selection: ReserveIsolatedStarsTask
    make_psf_candidates: MakePsfCandidatesTask
    psf_determiner: Any
    measurement: SingleFrameMeasurementTask
    measure_ap_corr: MeasureApCorrTask
    apply_ap_corr: ApplyApCorrTask

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("source_selector", "reserve_selection", "make_psf_candidates", "psf_determiner"):
            self.makeSubtask(name)
        self._columns: FinalizeColumns | None = None
        self._source_schema: Schema | None = None

    def _check_storable(self) -> None:
        """Refuse, before any work, a PSF that no file can hold.

        Raises
        ------
        ValueError
            Raised if the PSF is to be modelled in coordinates other than pixels.
        """
        if self.config.psf_determiner.name == "piff":
            coordinates = self.config.psf_determiner["piff"].useCoordinates
            if coordinates != "pixel":
                raise ValueError(
                    f"PSFs modelled in {coordinates} coordinates cannot be stored; set "
                    "psf_determiner['piff'].useCoordinates to 'pixel', or call run() in memory."
                )

    def _by_tract(self, handles: Iterable[Any]) -> dict[int, Any]:
        return {handle.dataId["tract"]: handle for handle in sorted(handles, key=lambda h: h.dataId["tract"])}

    # Isolated stars ---------------------------------------------------------------------------------------

    def concat_isolated_star_cats(
        self,
        band: str,
        isolated_star_cat_dict: Mapping[int, Any],
        isolated_star_source_dict: Mapping[int, Any],
        visit: int | None = None,
        detector: int | None = None,
    ) -> IsolatedStars:
        """Stack the isolated stars of a band over tracts; see `concatenate_isolated_stars`."""
        columns = source_columns(self.config.id_column, visit=visit, detector=detector)
        return concatenate_isolated_stars(
            band,
            {tract: load(handle) for tract, handle in isolated_star_cat_dict.items()},
            {tract: load(handle, columns) for tract, handle in isolated_star_source_dict.items()},
            reserve=self.reserve_selection,
            visit=visit,
            detector=detector,
        )

    def _isolated_sources(
        self, visit: int, band: str, cats: Mapping[int, Any], sources: Mapping[int, Any], detector: int | None
    ) -> astropy.table.Table:
        table = self.concat_isolated_star_cats(band, cats, sources, visit=visit, detector=detector).sources
        if table is None:
            raise NoWorkFound(f"No isolated stars in band {band} in {_where(visit, detector)}.")
        return table

    # Colours and standard magnitudes ----------------------------------------------------------------------

    def _color_bands(self, band: str) -> tuple[str, str] | None:
        """Return the two bands of the colour the PSF of a band depends on.

        Raises
        ------
        ValueError
            Raised if the configuration names no such colour.
        """
        if not self.config.uses_color():
            return None
        colors = self.config.psf_determiner["piff"].color
        parts = colors[band].split("-") if band in colors else []
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"psf_determiner['piff'].color must name a colour such as 'g-i' for band {band!r}; "
                f"found {dict(colors)}."
            )
        return parts[0], parts[1]

    def _load_fgcm(self, band: str, handles: Mapping[int, Any] | None) -> astropy.table.Table | None:
        """Return the FGCM stars of all tracts with the wanted magnitudes, NaN where there are none."""
        if not self.config.needs_fgcm():
            return None
        if not handles:
            raise ValueError(
                "Colours or FGCM photometry are configured, but no FGCM standard stars were given."
            )
        bands = {*(self._color_bands(band) or ())}
        if self.config.do_add_fgcm_photometry:
            bands |= set(self.config.fgcmPhotometryBands)
        parts = []
        for tract in sorted(handles):
            table = load(handles[tract])
            part = astropy.table.Table({name: np.asarray(table[name], dtype=float) for name in ("ra", "dec")})
            for name in sorted(f"mag_{b}" for b in bands):
                known = name in table.colnames
                part[name] = np.asarray(table[name], dtype=np.float32) if known else np.float32(np.nan)
            parts.append(part)
        return astropy.table.vstack(parts, metadata_conflicts="silent")

    def _add_fgcm(self, band: str, measured: SourceCatalog, fgcm: astropy.table.Table) -> None:
        """Fill in colours and standard magnitudes of the stars that have a standard star nearby."""
        index = match_nearest(
            np.degrees(measured["coord_ra"]), np.degrees(measured["coord_dec"]),
            np.asarray(fgcm["ra"]), np.asarray(fgcm["dec"]), _MATCH_RADIUS_ARCSEC,
        )  # fmt: skip
        found = index >= 0
        if (bands := self._color_bands(band)) is not None:
            color = np.asarray(fgcm[f"mag_{bands[0]}"]) - np.asarray(fgcm[f"mag_{bands[1]}"])
            measured["psf_color_value"][found] = color[index[found]]
            measured["psf_color_type"][found] = "-".join(bands)
        if self.config.do_add_fgcm_photometry:
            for name in self.config.fgcmPhotometryBands:
                measured[f"fgcm_mag_{name}"][found] = np.asarray(fgcm[f"mag_{name}"])[index[found]]

    # One detector -----------------------------------------------------------------------------------------

    def _prepare(self, source_schema: Schema) -> FinalizeColumns:
        """Make the subtasks that add columns, unless those for this input schema exist already."""
        if self._columns is None or self._source_schema != source_schema:
            limit = getattr(self.config.source_selector.active, "signalToNoise", None)
            self._columns = FinalizeColumns(
                source_schema,
                selection_flux=(limit.fluxField, limit.errField) if limit is not None else None,
                sky_moments=self.config.do_add_sky_moments,
                fgcm_bands=self.config.fgcmPhotometryBands if self.config.do_add_fgcm_photometry else (),
            )
            for name in ("measurement", "measure_ap_corr", "apply_ap_corr"):
                self.makeSubtask(name, schema=self._columns.schema)
            self._source_schema = source_schema.copy()
        return self._columns

    def compute_psf_and_ap_corr_map(
        self,
        visit: int,
        detector: int,
        exposure: VisitImage,
        src: SourceCatalog,
        isolated_source_table: astropy.table.Table,
        fgcm_standard_star_cat: astropy.table.Table | None = None,
    ) -> _Refit:
        """Refit the PSF of a detector, measure its stars with it, and derive aperture corrections.

        Parameters
        ----------
        visit, detector
            What the image is of.
        exposure
            Background-subtracted image in counts; not changed.
        src
            Every source of the first pass, with footprints.
        isolated_source_table
            Sources of isolated stars in this visit, with ``reserved``.
        fgcm_standard_star_cat
            FGCM standard stars, if colours or magnitudes are wanted.

        Returns
        -------
        tuple
            PSF, aperture corrections and star catalog; each `None` if it could not be had, and then so are
            the PSF and corrections that depend on it.
        """
        where = _where(visit, detector)
        selected = np.flatnonzero(self.source_selector.select_sources(src))
        if not len(selected):
            self.log.warning("%s: no good sources remain after source selection.", where)
            return _Refit(None, None, None)
        match = match_ids(src["id"][selected], np.asarray(isolated_source_table[self.config.id_column]))
        if not (match >= 0).any():
            self.log.warning(
                "%s: none of %d selected sources is an isolated star; did its astrometry fail?",
                where, len(selected),
            )  # fmt: skip
            return _Refit(None, None, None)
        stars = src[selected[match >= 0]]
        measured = self._prepare(src.schema).make_catalog(stars)
        measured["visit"] = visit
        measured["detector"] = detector
        measured["calib_psf_candidate"] = True
        measured["calib_psf_reserved"] = isolated_source_table["reserved"][match[match >= 0]]
        if fgcm_standard_star_cat is not None:
            self._add_fgcm(exposure.band, measured, fgcm_standard_star_cat)

        fit = self._fit_psf(exposure, measured, where)
        if fit is None:
            self.measurement.flag_unmeasured(measured)
            return _Refit(None, None, measured)
        psf: PointSpreadFunction = fit.psf
        # Each star is measured with the PSF of its own colour, where there is such a PSF.
        exposure = replace_components(exposure, psf=fit.chromatic_psf or psf)
        if not self._measure(exposure, measured, src, where):
            return _Refit(psf, None, measured)
        if self.config.do_add_sky_moments:
            self._add_sky_moments(exposure, measured, where)
        return _Refit(psf, self._correct_apertures(exposure, measured, where), measured)

    def _fit_psf(self, exposure: VisitImage, measured: SourceCatalog, where: str) -> Struct | None:
        """Fit the PSF to the stars that are not reserved and flag those used.

        Return what the determiner found, or `None` if that fails.
        """
        try:
            candidates = self.make_psf_candidates.run(measured, exposure).candidates
            reserved = measured["calib_psf_reserved"][candidates.rows]
            held_out, candidates = candidates[reserved], candidates[~reserved]
            notes: dict[str, Any] = {"detector": exposure.detector.id}
            result: Struct = self.psf_determiner.determine_psf(exposure, candidates, notes, held_out=held_out)
            x, y = average_position(result.psf)
            sigma = float(determinant_radius(psf_shapes(result.psf, x=x, y=y))[0])
        except MemoryError:
            raise
        except Exception as error:
            self.log.error("%s: the PSF fit failed: %s", where, error, exc_info=True)
            return None
        if not np.isfinite(sigma):
            self.log.warning("%s: the fitted PSF has no measurable size; dropping it.", where)
            return None
        for name, value in notes.items():
            # Of several detectors, each adds its own to a list.
            self.metadata.add(name, value)
        measured["calib_psf_used"][candidates.rows[result.used]] = True
        self.log.info("%s: PSF of size %.3f pixels fitted to %d stars.", where, sigma, result.used.sum())
        return result

    def _measure(self, exposure: VisitImage, measured: SourceCatalog, src: SourceCatalog, where: str) -> bool:
        """Measure the stars with every source of the image replaced by noise; tell whether it worked."""
        try:
            self.measurement.run(measured, exposure, neighbours=src)
        except MemoryError:
            raise
        except Exception as error:
            self.log.warning("%s: measurement failed: %s", where, error, exc_info=True)
            self.measurement.flag_unmeasured(measured)
            return False
        return True

    def _correct_apertures(
        self, exposure: VisitImage, measured: SourceCatalog, where: str
    ) -> ApertureCorrectionMap | None:
        """Return new aperture corrections, and the image's own for other fluxes, applied to the stars."""
        try:
            new = self.measure_ap_corr.run(exposure.bbox, measured).ap_corr_map
            merged: ApertureCorrectionMap = {**exposure.aperture_corrections, **new}
            self.apply_ap_corr.run(measured, merged)
        except MemoryError:
            raise
        except Exception as error:
            self.log.warning("%s: aperture corrections failed: %s", where, error, exc_info=True)
            return None
        return merged

    def _add_sky_moments(self, exposure: VisitImage, measured: SourceCatalog, where: str) -> None:
        """Fill in the moments on the sky; alt/az moments stay NaN if place or time are unknown."""
        try:
            angle = parallactic_angle(exposure)
        except ValueError as error:
            self.log.warning("%s: no altitude-azimuth moments: %s.", where, error)
            angle = np.nan
        jacobian = pixel_to_sky_jacobian(
            exposure.sky_projection, x=measured["slot_Centroid_x"], y=measured["slot_Centroid_y"]
        )
        for slot, owner in (("slot_Shape", "shape"), ("slot_PsfShape", "psfShape")):
            moments = np.stack([measured[f"{slot}_{axis}"] for axis in ("xx", "yy", "xy")], axis=-1)
            on_sky = sky_moments(jacobian, moments)
            for axes, values in ((SKY_AXES, on_sky), (ALT_AZ_AXES, alt_az_moments(on_sky, angle))):
                for axis, column in zip(axes, values.T, strict=True):
                    measured[f"{owner}_{axis}"] = column


def _where(visit: int, detector: int | None) -> str:
    return f"visit {visit}" if detector is None else f"visit {visit}, detector {detector}"
