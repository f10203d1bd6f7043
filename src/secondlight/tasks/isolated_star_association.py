"""Association of the sources of all visits over a tract into isolated stars (spec finalize 12)."""

from __future__ import annotations

__all__ = (
    "IsolatedStarAssociationConfig",
    "IsolatedStarAssociationConnections",
    "IsolatedStarAssociationTask",
)

from collections.abc import Mapping
from typing import Any, ClassVar

import astropy.units as u
import numpy as np
from astropy.table import Column, Table, vstack
from lsst.daf.butler import DeferredDatasetHandle
from lsst.pex.config import Field, ListField, RangeField
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from ..catalog.provenance import record_provenance
from ..psf.source_selectors import ScienceSourceSelectorConfig, sourceSelectorRegistry
from ..sky.association import StarAssociation, associate_isolated_stars
from ..sky.sky_map import RingsSkyMap
from ..sky.tract import Tract


class IsolatedStarAssociationConnections(
    PipelineTaskConnections, dimensions=("instrument", "tract", "skymap"), defaultTemplates={}
):
    """Inputs and outputs of `IsolatedStarAssociationTask`."""

    source_table_visit = cT.Input(
        doc="Source table of each visit that overlaps the tract.",
        name="preSourceTable_visit",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit"),
        multiple=True,
        deferLoad=True,
    )
    skymap = cT.Input(
        doc="Sky map that defines the tract.",
        name="skyMap",
        storageClass="RingsSkyMap",
        dimensions=("skymap",),
    )
    isolated_star_sources = cT.Output(
        doc="Sources of the isolated stars, star by star.",
        name="isolated_star_presources",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "tract", "skymap"),
    )
    isolated_star_cat = cT.Output(
        doc="Isolated stars, with the slices of their sources.",
        name="isolated_star_presource_associations",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "tract", "skymap"),
    )


class _FluxColumnField(Field[str]):
    """Name of a flux column; what the source selector derives from it follows when it changes."""

    def __set__(self, instance: Any, value: str | None, at: Any = None, label: str = "assignment") -> None:
        before = instance._storage.get(self.name)
        super().__set__(instance, value, at=at, label=label)
        if before is not None and value is not None:
            instance._follow_flux(before, value)


class IsolatedStarAssociationConfig(
    PipelineTaskConfig, pipelineConnections=IsolatedStarAssociationConnections
):
    """Configuration of `IsolatedStarAssociationTask`."""

    inst_flux_field = _FluxColumnField(
        doc=(
            "Flux column; its error is ``<name>Err``. The source selector's signal-to-noise columns and flux "
            "flag change with it, where they were derived from it."
        ),
        dtype=str,
        default="normCompTophatFlux_instFlux",
    )
    match_radius = RangeField(
        doc="Largest distance between detections of a star (arcsec).", dtype=float, default=1.0, min=0.0
    )
    isolation_radius = RangeField(
        doc="Stars closer to each other than this (arcsec) are dropped; at least twice match_radius is wise.",
        dtype=float,
        default=2.0,
        min=0.0,
    )
    nside_split = Field[int](
        doc="Without effect: all of a tract is matched at once. Kept so that existing configurations load.",
        default=32,
        check=lambda nside: nside > 0 and nside & (nside - 1) == 0,
    )
    band_order = ListField[str](
        doc="Bands in which stars are looked for, the most preferred first.",
        dtype=str,
        default=["i", "z", "r", "g", "y", "u"],
        minLength=1,
    )
    id_column = Field[str](doc="Column of the source ids.", default="sourceId")
    ra_column = Field[str](doc="Column of the right ascension, degrees.", default="ra")
    dec_column = Field[str](doc="Column of the declination, degrees.", default="dec")
    physical_filter_column = Field[str](doc="Column of the physical filter.", default="physical_filter")
    band_column = Field[str](doc="Column of the band.", default="band")
    extra_columns = ListField[str](
        doc="Further columns copied to the sources of isolated stars.",
        dtype=str,
        default=[
            "x",
            "y",
            "xErr",
            "yErr",
            "apFlux_12_0_instFlux",
            "apFlux_12_0_instFluxErr",
            "apFlux_12_0_flag",
            "apFlux_17_0_instFlux",
            "apFlux_17_0_instFluxErr",
            "apFlux_17_0_flag",
            "localBackground_instFlux",
            "localBackground_flag",
            "ixx",
            "iyy",
            "ixy",
        ],
    )
    source_selector = sourceSelectorRegistry.makeField(
        doc="Which sources may be detections of isolated stars.", default="science"
    )

    def setDefaults(self) -> None:
        """Select unresolved, unblended, unflagged sources of good signal-to-noise ratio."""
        super().setDefaults()
        science = self.source_selector["science"]
        science.doFlags = True
        science.doUnresolved = True
        science.doSignalToNoise = True
        science.doIsolated = True
        science.doRequireFiniteRaDec = True
        science.doRequirePrimary = True
        science.flags.bad = [
            "pixelFlags_edge",
            "pixelFlags_interpolatedCenter",
            "pixelFlags_saturatedCenter",
            "pixelFlags_crCenter",
            "pixelFlags_bad",
            "pixelFlags_interpolated",
            "pixelFlags_saturated",
            "centroid_flag",
            _flag_column(self.inst_flux_field),
        ]
        science.signalToNoise.minimum = 8.0
        science.signalToNoise.maximum = 1000.0
        science.signalToNoise.fluxField = self.inst_flux_field
        science.signalToNoise.errField = f"{self.inst_flux_field}Err"
        science.unresolved.name = "sizeExtendedness"
        science.unresolved.maximum = 0.1
        science.isolated.parentName = "parentSourceId"
        science.isolated.nChildName = "deblend_nChild"
        science.requireFiniteRaDec.raColName = self.ra_column
        science.requireFiniteRaDec.decColName = self.dec_column
        science.requirePrimary.primaryColName = "detect_isPrimary"

    def validate(self) -> None:
        """Check that no band is listed twice.

        Raises
        ------
        ValueError
            Raised if one is.
        """
        super().validate()
        if len(set(self.band_order)) != len(self.band_order):
            raise ValueError(f"band_order lists a band more than once: {list(self.band_order)}.")

    def _follow_flux(self, before: str, after: str) -> None:
        """Make the selector use another flux wherever it uses the one named before."""
        science = self.source_selector["science"]
        if science.signalToNoise.fluxField == before:
            science.signalToNoise.fluxField = after
        if science.signalToNoise.errField == f"{before}Err":
            science.signalToNoise.errField = f"{after}Err"
        old, new = _flag_column(before), _flag_column(after)
        science.flags.bad = [new if name == old else name for name in science.flags.bad]


class IsolatedStarAssociationTask(PipelineTask):
    """Associate the sources of many visits into stars that have no neighbours.

    Stars are found in the most preferred band first, then those not seen in it in the next band, and so on.
    """

    ConfigClass: ClassVar[type[IsolatedStarAssociationConfig]] = IsolatedStarAssociationConfig
    _DefaultName: ClassVar[str] = "isolatedStarAssociation"
    config: IsolatedStarAssociationConfig

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.makeSubtask("source_selector")
        self.source_selector: Any

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the sky map, associate the sources of the visits and write both tables."""
        inputs = butlerQC.get(inputRefs)
        handles = {int(handle.dataId["visit"]): handle for handle in inputs["source_table_visit"]}
        tract = int(outputRefs.isolated_star_cat.dataId["tract"])
        result = self.run(skymap=inputs["skymap"], tract=tract, source_tables=handles)
        record_provenance(self, [result.star_source_cat, result.star_cat], inputs=inputRefs)
        butlerQC.put(
            Struct(isolated_star_sources=result.star_source_cat, isolated_star_cat=result.star_cat),
            outputRefs,
        )

    def run(
        self,
        *,
        skymap: RingsSkyMap,
        tract: int,
        source_tables: Mapping[int, Table | DeferredDatasetHandle],
    ) -> Struct:
        """Associate the sources of visits into the isolated stars of a tract.

        Parameters
        ----------
        skymap
            The sky map.
        tract
            Number of the tract.
        source_tables
            Source table of each visit, or a handle that reads it, by visit.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``star_source_cat``: sources of the stars, sorted by star, band (in configured order) and visit;
            ``star_cat``: the stars. Both have all their columns even if they have no rows.

        Raises
        ------
        ValueError
            Raised if there are no tables, or one lacks a column or has coordinates that are not degrees.
        """
        if not source_tables:
            raise ValueError(f"Tract {tract}: no source tables were given, expected at least one visit's.")
        info = skymap[tract]
        sources = self._select_all(info, source_tables)
        band_order = list(self.config.band_order)
        associated = associate_isolated_stars(
            np.asarray(sources[self.config.ra_column], dtype=np.float64),
            np.asarray(sources[self.config.dec_column], dtype=np.float64),
            band=self._band_index(sources, tract),
            visit=np.asarray(sources["visit"]),
            n_bands=len(band_order),
            match_radius=self.config.match_radius,
            isolation_radius=self.config.isolation_radius,
            keep=lambda ra, dec: skymap.find_tract_ids(ra, dec) == tract,
        )
        star_sources = sources[associated.source_rows]
        star_sources["obj_index"][:] = associated.star_index
        self.log.info(
            "Tract %d: %d isolated stars with %d of %d selected sources of %d visits.",
            tract,
            len(associated.ra),
            len(star_sources),
            len(sources),
            len(source_tables),
        )
        stars = _star_table(associated, band_order, tract=tract, n_tracts=len(skymap))
        return Struct(star_source_cat=star_sources, star_cat=stars)

    def _select_all(self, tract: Tract, source_tables: Mapping[int, Table | DeferredDatasetHandle]) -> Table:
        """Return the usable sources of all visits on the tract, visits in ascending order."""
        selected = []
        for visit in sorted(source_tables):
            source = source_tables[visit]
            table = source if isinstance(source, Table) else self._read(source)
            selected.append(self._select(visit, table, tract))
            self.log.debug("Visit %d: %d of %d sources selected.", visit, len(selected[-1]), len(table))
        return vstack(selected, join_type="exact", metadata_conflicts="silent")

    def _select(self, visit: int, table: Table, tract: Tract) -> Table:
        """Return the usable sources of a visit on the tract, with the columns that are kept."""
        columns = self._kept_columns()
        needed = [*columns, *self._selection_columns()]
        if missing := [name for name in dict.fromkeys(needed) if name not in table.colnames]:
            raise ValueError(f"Visit {visit}: the source table has no column {', '.join(missing)}.")
        for name in (self.config.ra_column, self.config.dec_column):
            if table[name].unit not in (None, u.deg):
                raise ValueError(f"Visit {visit}: {name} is in {table[name].unit}, expected degrees.")
        # A tract cut first would be cheaper, but a selector may need the whole visit.
        good = np.asarray(self.source_selector.select_sources(table))
        good &= tract.outer_contains(
            _values(table[self.config.ra_column]), _values(table[self.config.dec_column])
        )
        rows = np.flatnonzero(good)
        selected = Table(
            {
                name: Column(
                    _values(table[name])[rows],
                    dtype=table[name].dtype,
                    unit=table[name].unit,
                    description=table[name].info.description,
                )
                for name in columns
            }
        )
        selected["source_row"] = Column(rows.astype(np.int32), description="Row in the visit's source table.")
        selected["obj_index"] = Column(
            np.zeros(len(rows), dtype=np.int32), description="Row in the table of isolated stars."
        )
        return selected

    def _read(self, handle: DeferredDatasetHandle) -> Table:
        """Read the columns that are needed, or all where the selector's needs are not known."""
        if self.config.source_selector.name != "science":
            return handle.get()
        flag = _flag_column(self.config.source_selector["science"].signalToNoise.fluxField)
        wanted = {*self._kept_columns(), *self._selection_columns(), flag}
        present = [name for name in handle.get(component="columns") if name in wanted]
        return handle.get(parameters={"columns": present})

    def _kept_columns(self) -> list[str]:
        """Columns of the output source table that come from the input."""
        config = self.config
        columns = [
            config.id_column,
            "visit",
            "detector",
            config.ra_column,
            config.dec_column,
            config.physical_filter_column,
            config.band_column,
            config.inst_flux_field,
            f"{config.inst_flux_field}Err",
            *config.extra_columns,
        ]
        return list(dict.fromkeys(columns))

    def _selection_columns(self) -> list[str]:
        """Columns that the science selector needs; none are known of another one."""
        if self.config.source_selector.name != "science":
            return []
        return _science_columns(self.config.source_selector["science"])

    def _band_index(self, sources: Table, tract: int) -> np.ndarray:
        """Return the place of each source's band in the order of bands, -1 if it has none."""
        bands, inverse = np.unique(
            np.asarray(sources[self.config.band_column]).astype(str), return_inverse=True
        )
        place = {band: i for i, band in enumerate(self.config.band_order)}
        if unknown := [str(band) for band in bands if band not in place]:
            self.log.warning(
                "Tract %d: no stars are looked for in band %s, not in band_order.", tract, ", ".join(unknown)
            )
        return np.array([place.get(str(band), -1) for band in bands], dtype=np.int64)[inverse]


def _flag_column(flux_column: str) -> str:
    """Return the flag of a flux column."""
    return flux_column.replace("instFlux", "flag")


def _science_columns(science: ScienceSourceSelectorConfig) -> list[str]:
    """Return the columns that a science selector cannot do without."""
    columns: list[str] = []
    if science.doFluxLimit:
        columns += [science.fluxLimit.fluxField]
    if science.doFlags:
        columns += [*science.flags.good, *science.flags.bad]
    if science.doUnresolved:
        columns += [science.unresolved.name]
    if science.doSignalToNoise:
        columns += [science.signalToNoise.fluxField, science.signalToNoise.errField]
    if science.doIsolated:
        columns += [science.isolated.parentName, science.isolated.nChildName]
    if science.doRequireFiniteRaDec:
        columns += [science.requireFiniteRaDec.raColName, science.requireFiniteRaDec.decColName]
    if science.doRequirePrimary:
        columns += [science.requirePrimary.primaryColName]
    if science.doSkySources:
        columns += [*science.skyFlag.good, *science.skyFlag.bad]
    if science.doCentroidErrorLimit:
        columns += [f"{science.centroidErrorLimit.centroidField}_{axis}Err" for axis in ("x", "y")]
    return columns


def _values(column: Any) -> np.ndarray:
    """Return a table column as a plain array; masked values become NaN, or zero where there is no NaN."""
    if isinstance(column, np.ma.MaskedArray):
        column = column.filled(np.nan if column.dtype.kind == "f" else column.dtype.type())
    return np.asarray(column)


def _star_table(associated: StarAssociation, band_order: list[str], *, tract: int, n_tracts: int) -> Table:
    """Return the table of isolated stars."""
    n_stars = len(associated.ra)
    # Room for the tract number in the low decimal digits makes the ids unique over all tracts.
    ids = np.arange(1, n_stars + 1, dtype=np.int64) * 10 ** len(str(n_tracts)) + tract
    counts = associated.counts
    before = np.cumsum(counts).reshape(counts.shape) - counts
    bands = np.array(band_order)
    stars = Table(
        [
            Column(ids, "isolated_star_id", description="Id of the star, unique over all tracts."),
            Column(associated.ra, "ra", unit=u.deg, description="Mean right ascension (ICRS)."),
            Column(associated.dec, "dec", unit=u.deg, description="Mean declination (ICRS)."),
            Column(bands[associated.primary_band], "primary_band", description="Band the star was found in."),
            Column(
                before[:, 0].astype(np.int32), "source_cat_index", description="First row of the sources."
            ),
            Column(counts.sum(axis=1).astype(np.int32), "nsource", description="Number of sources."),
        ]
    )
    for i, band in enumerate(band_order):
        stars[f"source_cat_index_{band}"] = Column(
            before[:, i].astype(np.int32), description=f"First source in {band}."
        )
        stars[f"nsource_{band}"] = Column(
            counts[:, i].astype(np.int32), description=f"Number of sources in {band}."
        )
    return stars
