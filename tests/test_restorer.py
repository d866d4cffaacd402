"""How far a correction goes: what the user asks for, what the calibration says, and what is withheld."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from medq_uni.data.phantoms import phantom
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.measurement import Measurement, Quantity
from medq_uni.physics.degrade import degrade
from medq_uni.pretrained.calibration import Calibration, Step
from medq_uni.pretrained.load import Pretrained, load_pretrained
from medq_uni.restorer import WITHHELD, Restorer, RestoreSettings
from medq_uni.result import Provenance, Restoration
from medq_uni.taxonomy import Modality, Severity, Task


@pytest.fixture(scope="module")
def nano() -> Pretrained:
    return replace(load_pretrained("nano"), ood_detector=None, calibration=None)


@pytest.fixture(scope="module")
def noisy() -> MedicalImage:
    generator = torch.Generator().manual_seed(3)
    image = phantom(Modality.CT, generator, size=96)
    return degrade(image, [(Task.CT_LOW_DOSE, Severity.SEVERE)], generator).image


@pytest.fixture(scope="module")
def whole(nano: Pretrained, noisy: MedicalImage) -> Restoration:
    return Restorer(nano).restore(noisy)


def stepping(nano: Pretrained, share: float, scale: dict[Task, float] | None = None) -> Restorer:
    step = Step(share=share, harmed=0.0, bound=1.0, subjects=1)
    steps = {task: dict.fromkeys(list(Severity)[1:], step) for task in Task}
    calibration = Calibration(
        version=1, source_sha256="", subjects={}, images={}, steps=steps, spread_scale=scale or {}
    )
    return Restorer(replace(nano, calibration=calibration))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_the_correction_is_applied(nano: Pretrained, noisy: MedicalImage, whole: Restoration, share: float):
    asked = Restorer(nano).restore(noisy, settings=RestoreSettings(strength=share))
    stepped = stepping(nano, share).restore(noisy)
    for found in (asked, stepped):
        assert np.allclose(found.residual.voxels, share * whole.residual.voxels, atol=0.02)
        assert found.provenance.strength == share
    assert (asked.provenance.options.strength_asked, stepped.provenance.options.strength_asked) == (share, None)


def test_the_user_overrides_the_calibration(nano: Pretrained, noisy: MedicalImage, whole: Restoration):
    found = stepping(nano, 0.25).restore(noisy, settings=RestoreSettings(strength=1.0))
    assert np.array_equal(found.restored.voxels, whole.restored.voxels)


def test_a_restoration_that_would_harm_is_withheld_and_says_so(nano: Pretrained, noisy: MedicalImage, tmp_path):
    with pytest.warns(UserWarning, match="comes back unchanged"):
        found = stepping(nano, 0.0).restore(noisy)
    assert found.is_unchanged
    assert found.why_unchanged == "restoration withheld"
    assert np.array_equal(found.restored.voxels, noisy.voxels)
    assert found.provenance.withheld == WITHHELD
    assert Provenance.from_dict(found.provenance.to_dict()) == found.provenance
    found.save(tmp_path / "out.nii.gz", skip_good=True)
    assert (tmp_path / "out.nii.gz").is_file(), "it is not good, so its copy is written"


def test_strength_0_gives_the_image_back_without_a_warning(nano: Pretrained, noisy: MedicalImage, recwarn):
    found = Restorer(nano).restore(noisy, settings=RestoreSettings(strength=0.0))
    assert np.array_equal(found.restored.voxels, noisy.voxels)
    assert found.provenance.withheld is None
    assert not [w for w in recwarn if "unchanged" in str(w.message)]


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_a_strength_is_a_share(wrong: float):
    with pytest.raises(MedQError, match="from 0 to 1"):
        RestoreSettings(strength=wrong)


def test_the_uncertainty_is_scaled_by_what_was_said(nano: Pretrained, noisy: MedicalImage, whole: Restoration):
    found = stepping(nano, 1.0, dict.fromkeys(Task, 3.0)).restore(noisy)
    before = nano.uncertainty_scale["ct"]
    assert whole.uncertainty is not None
    assert found.uncertainty is not None
    assert np.allclose(found.uncertainty.voxels, whole.uncertainty.voxels * 3 / before, rtol=1e-3)


def test_a_record_of_an_earlier_version_has_no_probability(whole: Restoration):
    values = whole.provenance.to_dict()
    for name in ("log_odds", "probability", "withheld", "strength_asked"):
        values.pop(name)
    earlier = Provenance.from_dict(values)
    assert (earlier.log_odds, earlier.probability, earlier.withheld) == (None, None, None)


def test_a_larger_stated_noise_removes_more(nano: Pretrained, noisy: MedicalImage):
    """An edited figure steers: the decoder is told it in the place of what was read."""
    restorer = Restorer(nano)
    said = restorer.assess(noisy)
    removed = []
    for sd in (5.0, 20.0, 60.0, 180.0):
        edited = replace(said, measurements=(Measurement(Quantity.NOISE_SD, sd, "HU"),))
        residual = restorer.restore(noisy, description=edited).residual.voxels
        removed.append(float(np.sqrt(np.mean(residual**2))))
    assert removed == sorted(removed)
    assert removed[-1] > 1.1 * removed[0]


def test_a_model_that_cannot_be_told_says_that_figures_have_no_effect(nano: Pretrained, noisy: MedicalImage):
    model = copy.copy(nano.model)
    model._modules = {**nano.model._modules, "quantity_head": None}
    restorer = Restorer(replace(nano, model=model))
    said = replace(restorer.assess(noisy), measurements=(Measurement(Quantity.NOISE_SD, 20.0, "HU"),))
    with pytest.warns(UserWarning, match="have no effect"):
        restorer.restore(noisy, description=said)
