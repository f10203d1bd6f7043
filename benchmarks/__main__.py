"""Run the benchmarks, one after the other."""

from __future__ import annotations

from . import held_out_psf, steps

if __name__ == "__main__":
    steps.main()
    held_out_psf.main()
