"""What is said about every task: in descriptions, and in the headers of DICOM files.

A task is its name in :class:`medq_uni.taxonomy.Task`, its words here, and its physics in :mod:`medq_uni.physics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medq_uni.taxonomy import Task

NUMBER = r"(\d+(?:\.\d+)?)"
"""A number in words of people."""


@dataclass(frozen=True, kw_only=True)
class StatedParameter:
    """The physical parameter that a cause may state."""

    parameter: str
    """What it is called in a degradation record."""
    factor: float = 1
    """From the number of the record to the one in words."""
    patterns: tuple[str, ...]
    """Regular expressions of how people state it; the first group is the number."""


@dataclass(frozen=True, kw_only=True)
class TaskWording:
    """The words of one task."""

    phrase: str
    """What the degradation is called in a description; it follows the grade."""
    restored: tuple[str, str]
    """Code value and meaning of a restoration, in the private DICOM scheme."""
    degraded: tuple[str, str]
    """Code value and meaning of a simulated degradation, in the same scheme."""
    causes: tuple[str, ...]
    """Phrasings of the cause; those with ``{number}`` state the parameter of ``stated``."""
    impacts: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    """Phrasings of what it means for reading the image, for mild, moderate and severe."""
    stated: StatedParameter | None = None
    """The parameter that causes may state; None where there is none that a reader could know."""


WORDING: Mapping[Task, TaskWording] = {
    Task.CT_LOW_DOSE: TaskWording(
        phrase="low-dose noise",
        restored=("MEDQ-001", "AI restoration of low-dose CT"),
        degraded=("MEDQ-101", "Simulation of low-dose CT"),
        causes=(
            "too few photons reached the detector",
            "the tube current was reduced",
            "a low radiation dose was used",
            "quantum noise from a reduced dose",
            "photon starvation at low dose",
            "the exposure was set too low",
            "a dose of about {number} % of the full one",
            "the scan used about {number} % of full dose",
        ),
        impacts=(
            (
                "fine low-contrast detail is slightly veiled",
                "soft tissue is a little grainy",
                "small vessels lose contrast",
            ),
            (
                "low-contrast lesions may be missed",
                "soft tissue contrast is reduced",
                "organ texture is masked by grain",
            ),
            (
                "low-contrast lesions are hidden",
                "soft tissue cannot be judged",
                "streaks and grain bury small structures",
            ),
        ),
        stated=StatedParameter(
            parameter="dose_fraction",
            factor=100,
            patterns=(rf"{NUMBER} ?(?:%|percent)",),
        ),
    ),
    Task.MR_UNDERSAMPLING: TaskWording(
        phrase="undersampling aliasing",
        restored=("MEDQ-002", "AI restoration of undersampled MR"),
        degraded=("MEDQ-102", "Simulation of undersampled MR"),
        causes=(
            "k-space was undersampled",
            "phase-encoding lines were skipped",
            "acceleration left gaps in k-space",
            "too few k-space lines were acquired",
            "zero filling of an accelerated scan",
            "random lines of k-space are missing",
            "an acceleration factor of about {number}",
            "only one in {number} lines was acquired",
        ),
        impacts=(
            (
                "edges are slightly blurred",
                "faint incoherent ripples",
                "fine detail is a little soft",
            ),
            (
                "small structures are blurred",
                "aliasing overlaps fine detail",
                "edges are smeared along one axis",
            ),
            (
                "fine anatomy is lost to aliasing",
                "strong blur hides small lesions",
                "structures are smeared beyond use",
            ),
        ),
        stated=StatedParameter(
            parameter="acceleration",
            patterns=(
                rf"factor (?:of )?(?:about )?{NUMBER}",
                rf"one in {NUMBER}",
                rf"{NUMBER} ?(?:x|-?fold)",
            ),
        ),
    ),
    Task.MR_MOTION: TaskWording(
        phrase="motion artifact",
        restored=("MEDQ-003", "AI correction of MR motion artifact"),
        degraded=("MEDQ-103", "Simulation of MR motion artifact"),
        causes=(
            "the patient moved during the scan",
            "pose changes between k-space lines",
            "rigid motion while k-space was filled",
            "the patient did not hold still",
            "inconsistent positions across k-space",
            "movement between phase-encoding steps",
            "about {number} pose changes in the scan",
            "jumps of position during acquisition",
        ),
        impacts=(
            (
                "faint ghosts at bright edges",
                "edges are slightly doubled",
                "weak ringing near the surface",
            ),
            (
                "ghosts overlap the anatomy",
                "edges are doubled and blurred",
                "small lesions may be mistaken for ghosts",
            ),
            (
                "ghosts dominate the image",
                "anatomy is smeared by ghosting",
                "structures are doubled beyond use",
            ),
        ),
        stated=StatedParameter(
            parameter="num_poses",
            patterns=(rf"{NUMBER} (?:pose|position|movement)",),
        ),
    ),
    Task.MR_NOISE: TaskWording(
        phrase="Rician noise",
        restored=("MEDQ-004", "AI denoising of MR"),
        degraded=("MEDQ-104", "Simulation of noisy MR"),
        causes=(
            "thermal noise of the receiver",
            "low signal from the receive coil",
            "too few averages were acquired",
            "a weak signal against coil noise",
            "voxels too small for the scan time",
            "low field strength or short scan time",
            "magnitude noise at low signal",
            "insufficient signal averaging",
        ),
        impacts=(
            (
                "a light grain over the tissue",
                "small contrasts are slightly veiled",
                "fine texture is a little noisy",
            ),
            (
                "tissue borders are harder to see",
                "grain masks small contrasts",
                "subtle lesions may be missed",
            ),
            (
                "noise hides tissue contrast",
                "small structures drown in noise",
                "tissue borders cannot be traced",
            ),
        ),
    ),
    Task.PET_LOW_COUNT: TaskWording(
        phrase="low-count noise",
        restored=("MEDQ-005", "AI restoration of low-count PET"),
        degraded=("MEDQ-105", "Simulation of low-count PET"),
        causes=(
            "too few coincidences were counted",
            "a low injected activity",
            "a short acquisition time",
            "counting statistics are poor",
            "the tracer dose was reduced",
            "Poisson noise of a low-count scan",
            "counts about {number} times below full dose",
            "a dose reduced about {number} times",
        ),
        impacts=(
            (
                "uptake is slightly mottled",
                "small hot spots vary a little",
                "background is a little uneven",
            ),
            (
                "noise blobs may mimic lesions",
                "uptake values are less reliable",
                "small lesions are uncertain",
            ),
            (
                "lesions cannot be told from noise",
                "uptake values are unreliable",
                "strong mottle hides lesions",
            ),
        ),
        stated=StatedParameter(
            parameter="dose_reduction",
            patterns=(
                rf"{NUMBER} ?(?:times|x|-?fold)",
                rf"factor (?:of )?(?:about )?{NUMBER}",
            ),
        ),
    ),
}
"""The words of every task."""
GOOD_CAUSES = (
    "the acquisition was adequate",
    "no technical fault is visible",
    "exposure and sampling were sufficient",
    "the protocol was carried out as planned",
    "nothing in the acquisition needs correction",
    "signal and sampling were adequate",
)
"""Causes of an image in which nothing is wrong."""
GOOD_IMPACTS = (
    "no limit to diagnosis",
    "all structures can be judged",
    "fine detail is preserved",
    "suitable for reading",
    "no loss of diagnostic content",
    "contrast and edges are intact",
)
"""What it means that nothing is wrong."""
