"""The physics of every task, one :class:`TaskSpec` each; they stand at the end of the module of their modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medq_uni.physics import ct, ct_scanner, mri, pet, pet_scanner
from medq_uni.physics.spec import Scanner, TaskSpec
from medq_uni.taxonomy import Task

SCANNERS: Mapping[Task, Scanner] = {
    Task.CT_LOW_DOSE: ct_scanner.SCANNER,
    Task.PET_LOW_COUNT: pet_scanner.SCANNER,
}
"""Built upon the defaults, in modules of their own."""


def _whole(spec: TaskSpec) -> TaskSpec:
    scanner = SCANNERS.get(spec.task, spec.scanner)
    return spec if scanner is None else replace(spec, scanner=replace(scanner, has_after=True))


SPECS: Mapping[Task, TaskSpec] = {spec.task: _whole(spec) for spec in (*ct.SPECS, *mri.SPECS, *pet.SPECS)}
