"""Simulation of one detector of one visit of a scene."""

from __future__ import annotations

__all__ = ("SimulateDetectorConfig", "SimulateDetectorConnections", "SimulateDetectorTask")

from typing import Any, ClassVar

from astropy.table import Table
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
from ..simulate.detector import simulate_detector
from ..simulate.scene import Scene

_DETECTOR = ("instrument", "visit", "detector")
_EXPOSURE = ("instrument", "exposure", "detector")


class SimulateDetectorConnections(PipelineTaskConnections, dimensions=_DETECTOR):
    """Inputs and outputs of `SimulateDetectorTask`."""

    scene = cT.Input(
        doc="The survey to simulate.",
        name="sim_scene",
        storageClass="SimScene",
        dimensions=("instrument",),
    )
    objects = cT.Input(
        doc="All objects of the scene.",
        name="sim_objects",
        storageClass="ArrowAstropy",
        dimensions=("instrument",),
    )
    exposures = cT.Output(
        doc="Post-ISR image of each snap.",
        name="postISRCCD",
        storageClass="VisitImage",
        dimensions=_EXPOSURE,
        multiple=True,
    )
    artifacts = cT.Output(
        doc="Pixels of every artefact of each snap, by its kind.",
        name="sim_artifacts",
        storageClass="MaskV2",
        dimensions=_EXPOSURE,
        multiple=True,
    )
    truth = cT.Output(
        doc="The objects whose light is on the detector.",
        name="sim_truth",
        storageClass="ArrowAstropy",
        dimensions=_DETECTOR,
    )
    psf = cT.Output(
        doc="The PSF that the image was made with.",
        name="sim_psf",
        storageClass="SimulatedPsf",
        dimensions=_DETECTOR,
    )
    background = cT.Output(
        doc="The expected sky, all snaps together.",
        name="sim_background",
        storageClass="BackgroundMap",
        dimensions=_DETECTOR,
    )
    background_to_photometric_ratio = cT.Output(
        doc="Background flat divided by the photometric flat; only for a scene that has such a pattern.",
        name="background_to_photometric_ratio",
        storageClass="ImageV2",
        dimensions=_DETECTOR,
    )


class SimulateDetectorConfig(PipelineTaskConfig, pipelineConnections=SimulateDetectorConnections):
    """Configuration of `SimulateDetectorTask`: none, the scene says it all."""


class SimulateDetectorTask(PipelineTask):
    """Simulate one detector of one visit, with the truth about it.

    Also runs without a repository: ``SimulateDetectorTask().run(scene=scene, objects=make_objects(scene),
    visit=1001, detector=0)``.

    Parameters
    ----------
    **kwargs
        Passed to `lsst.pipe.base.PipelineTask`.
    """

    ConfigClass: ClassVar[type[PipelineTaskConfig]] = SimulateDetectorConfig
    _DefaultName: ClassVar[str] = "simulateDetector"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the scene, simulate, and write images and truth, each snap as the exposure it is."""
        inputs = butlerQC.get(inputRefs)
        data_id = outputRefs.truth.dataId
        visit = int(data_id["visit"])
        result = self.run(**inputs, visit=visit, detector=int(data_id["detector"]))
        record_provenance(self, [result.truth, result.exposures], inputs=inputRefs)
        for name in ("truth", "psf", "background"):
            butlerQC.put(getattr(result, name), getattr(outputRefs, name))
        if result.background_to_photometric_ratio is not None:
            butlerQC.put(result.background_to_photometric_ratio, outputRefs.background_to_photometric_ratio)
        # The images come last: where they are, all is.
        for name in ("artifacts", "exposures"):
            for ref in getattr(outputRefs, name):
                butlerQC.put(getattr(result, name)[int(ref.dataId["exposure"]) - visit], ref)

    def run(self, *, scene: Scene, objects: Table, visit: int, detector: int) -> Struct:
        """Simulate one detector.

        Parameters
        ----------
        scene
            The survey.
        objects
            All objects of the scene, from `secondlight.simulate.objects.make_objects`.
        visit, detector
            What to simulate.

        Returns
        -------
        lsst.pipe.base.Struct
            ``exposures`` and ``artifacts`` (one per snap), ``truth``, ``psf``, ``background``,
            ``background_to_photometric_ratio`` (`None` if the scene has no illumination pattern).

        Raises
        ------
        SceneError
            Raised if the scene has no such visit or detector.
        """
        simulated = simulate_detector(scene, objects, visit=visit, detector=detector)
        outputs: dict[str, Any] = {
            "exposures": simulated.images,
            "artifacts": simulated.artifacts,
            "truth": simulated.truth,
            "psf": simulated.psf,
            "background": simulated.background,
            "background_to_photometric_ratio": simulated.ratio,
        }
        return Struct(**outputs)
