"""Data consistency: does the output contradict what the simulated scanner has measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medq_uni.image import MedicalImage
from medq_uni.physics.degrade import slice_generator
from medq_uni.physics.record import SCANNER_METHOD
from medq_uni.physics.spec import DataConsistency
from medq_uni.physics.tasks import SPECS
from medq_uni.safety.output_cache import PHANTOMS, Measurement, OutputCache, SafetyCase, SafetySettings, degraded_only


def check_consistency(
    outputs: OutputCache, safety_cases: Sequence[SafetyCase], settings: SafetySettings
) -> list[Measurement]:
    """Return the misfit of every degraded phantom whose measurement can be replayed, of output and input.

    MR undersampling also has the shares of the change that was made, and of the error that is left, that lie in the
    lines that were not measured (Bhadra et al. 2021, IEEE TMI 40:3249): what no measurement can confirm or refute.
    """
    rows = []
    for safety_case in degraded_only(safety_cases, PHANTOMS):
        data = consistency_of(safety_case)
        output = None if data is None else outputs.output(safety_case)
        if data is None or output is None:
            continue
        after, before, truth = (
            _slice(one) for one in (output.image, safety_case.pair.degraded, safety_case.pair.reference)
        )
        row = safety_case.row(misfit=data.misfit(after), misfit_of_input=data.misfit(before))
        if data.unseen_share is not None:
            row["unseen_share_of_change"] = data.unseen_share(after - before)
            row["unseen_share_of_error"] = data.unseen_share(after - truth)
        rows.append(row)
    return rows


def consistency_of(safety_case: SafetyCase) -> DataConsistency | None:
    """Return how images agree with what the simulated scanner measured of a case; None where it cannot be replayed."""
    record, reference = safety_case.pair.records[0], safety_case.pair.reference
    replay = SPECS[record.task].consistency
    if replay is None or len(safety_case.pair.records) > 1 or record.method == SCANNER_METHOD:
        return None
    return replay(
        _slice(reference),
        params=record.params,
        spacing_mm=reference.spacing_mm[1:],
        generator=slice_generator(record, 0),
    )


def _slice(image: MedicalImage) -> Tensor:
    return torch.from_numpy(np.array(image.voxels[0]))
