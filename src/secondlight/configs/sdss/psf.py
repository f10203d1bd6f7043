"""The PSF and the aperture corrections of SDSS frames.

A frame has some fifty good stars, and its pixels are twice as large as those the defaults are made for:
a grid of 17 pixels (6.7 arcsec) is as wide on the sky as 33 pixels of 0.2 arcsec, and what it leaves out is
noise.
Aperture corrections need the fainter stars too, and a plane is as much as they can tell.
"""

candidates, determiner = (
    (config.psf_measure_psf.makePsfCandidates, config.psf_measure_psf.psfDeterminer)  # noqa: F821
    if hasattr(config, "psf_measure_psf")  # noqa: F821
    else (config.make_psf_candidates, config.psf_determiner)  # noqa: F821
)
candidates.kernelSize = 19
determiner["piff"].modelSize = 17
determiner["piff"].stampSize = 17
if hasattr(config, "psf_determiner"):  # noqa: F821
    # Frames differ in what their few dozen stars can tell about the final PSF.
    determiner["piff"].orderSelection = "auto"

for name in ("measure_aperture_correction", "measure_ap_corr"):
    if hasattr(config, name):  # noqa: F821
        correction = getattr(config, name)  # noqa: F821
        correction.sourceSelector["science"].signalToNoise.minimum = 50.0
        correction.fitConfig.orderX = 1
        correction.fitConfig.orderY = 1
