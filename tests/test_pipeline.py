import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file

from medq_uni.config import SamplerConfig
from medq_uni.data.phantoms import phantom
from medq_uni.description import Degradation, QualityDescription
from medq_uni.errors import MedQError
from medq_uni.image import MedicalImage
from medq_uni.io.provenance import sidecar_path
from medq_uni.io.read_write import read_image
from medq_uni.physics.degrade import apply_records, draw_record
from medq_uni.pipeline import restore_file
from medq_uni.preprocess import CannotAssess
from medq_uni.restorer import Restorer, RestoreSettings
from medq_uni.taxonomy import Anatomy, Modality, Severity, Task, Verdict

FORCE = RestoreSettings(force=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*is unlike all:UserWarning")  # phantoms are smaller than nano's


def noisy(size: int = 96, seed: int = 1, modality: Modality = Modality.MR) -> MedicalImage:
    generator = torch.Generator().manual_seed(seed)
    task = {Modality.MR: Task.MR_NOISE, Modality.CT: Task.CT_LOW_DOSE, Modality.PET: Task.PET_LOW_COUNT}[modality]
    image = phantom(modality, generator, size=size)
    return apply_records(image, draw_record(task, Severity.SEVERE, generator))


def said(severity: Severity | str, modality: Modality = Modality.MR) -> QualityDescription:
    task = Task.MR_NOISE if modality is Modality.MR else Task.CT_LOW_DOSE
    found = (Degradation(task, Severity.MILD),)
    description = QualityDescription(modality, Anatomy.BRAIN, found, "thermal noise", "grain", Verdict.USABLE)
    return description.with_severity(severity)


@pytest.mark.parametrize("modality", list(Modality))
def test_the_main_job_gives_description_restoration_uncertainty_and_residual(restorer: Restorer, modality: Modality):
    image = noisy(modality=modality)
    result = restorer.restore(image, settings=FORCE)
    assert result.description.modality is modality
    assert result.restored.shape == image.shape
    assert np.isfinite(result.restored.voxels).all()
    assert not np.array_equal(result.restored.voxels, image.voxels)
    assert np.array_equal(result.residual.voxels, result.restored.voxels - image.voxels)
    assert result.uncertainty is not None
    assert (result.uncertainty.voxels >= 0).all()
    assert result.uncertainty.voxels.max() > 0


def test_an_image_said_to_be_good_comes_back_bit_identical_unless_forced(restorer: Restorer):
    image = noisy()
    good = said(Severity.NONE)
    result = restorer.restore(image, description=good)
    assert result.is_unchanged
    assert result.restored is image
    assert result.uncertainty is None
    assert not restorer.restore(image, description=good, settings=FORCE).is_unchanged


@pytest.mark.parametrize("task", list(Task))
def test_raising_the_stated_severity_raises_the_removed_energy(restorer: Restorer, task: Task):
    generator = torch.Generator().manual_seed(3)
    truth = phantom(task.modality, generator, size=128)
    image = apply_records(truth, draw_record(task, Severity.MODERATE, generator))
    words = QualityDescription(
        task.modality, Anatomy.BRAIN, (Degradation(task, Severity.MILD),), "as edited", "as edited", Verdict.USABLE
    )
    results = [restorer.restore(image, description=words.with_severity(severity)) for severity in Severity]
    energy = [float(np.square(result.residual.voxels).sum()) for result in results]
    assert energy[0] == 0
    assert energy == sorted(set(energy))
    assert energy[3] > 1.1 * energy[2] > 1.2 * energy[1]
    strengths = [result.provenance.strength for result in results]
    assert strengths == sorted(set(strengths))


def test_a_description_that_says_what_was_found_restores_in_full(restorer: Restorer):
    image = noisy()
    result = restorer.restore(image, description=restorer.assess(image))
    assert result.provenance.strength == 1
    assert result.provenance.assessment == result.description.to_text()


def test_a_description_may_be_given_as_its_text(restorer: Restorer):
    image, told = noisy(64), said(Severity.MILD)
    by_text = restorer.restore(image, description=told.to_text())
    assert by_text.description == told
    assert np.array_equal(by_text.restored.voxels, restorer.restore(image, description=told).restored.voxels)
    with pytest.raises(MedQError, match="no Image, Degradation"):
        restorer.restore(image, description="lots of noise")
    with pytest.raises(MedQError, match="QualityDescription or its text; got int"):
        restorer.restore(image, description=5)


def test_the_same_seed_gives_the_same_bits_whatever_the_batch(restorer: Restorer):
    volume = MedicalImage(np.concatenate([noisy(64, seed).voxels for seed in range(2)]), modality=Modality.MR)
    sampler = SamplerConfig(start="noise", num_steps=2, num_samples=2)
    one, four, other = (
        restorer.restore(
            volume,
            description=said(Severity.MILD),
            settings=RestoreSettings(sampler=sampler, seed=seed, batch_size=size, force=True),
        )
        for seed, size in ((1, 1), (1, 4), (2, 4))
    )
    assert np.allclose(one.restored.voxels, four.restored.voxels, atol=1e-3 * volume.voxels.max())
    assert not np.allclose(one.restored.voxels, other.restored.voxels, atol=1e-3 * volume.voxels.max())


def test_large_slices_are_tiled_and_keep_their_matrix(restorer: Restorer):
    image = noisy(300)
    seen = []
    result = restorer.restore(
        image, description=said(Severity.MODERATE), progress=lambda done, total: seen.append((done, total))
    )
    assert result.restored.shape == (1, 300, 300)
    assert seen[-1][0] == seen[-1][1] == 4


def test_an_unknown_modality_is_guessed_aloud(restorer: Restorer):
    image = replace(noisy(64), modality=None)
    with pytest.warns(UserWarning, match="guessed 'mr'"):
        restorer.assess(image, guess=True)
    with pytest.raises(CannotAssess, match=r"nothing says whether this is CT, MR or PET.*--modality.*--guess"):
        restorer.assess(image)
    with pytest.raises(CannotAssess, match="--guess"):
        restorer.restore(image)


def test_an_image_that_looks_like_another_modality_is_reported(restorer: Restorer):
    image = noisy(128, modality=Modality.PET)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*looks like")
        restorer.assess(image)
    with pytest.warns(UserWarning, match="read as MR and looks like PET"):
        restorer.assess(replace(image, modality=Modality.MR))


def test_a_description_of_another_modality_is_followed_with_a_warning(restorer: Restorer):
    with pytest.warns(UserWarning, match="speaks of ct"):
        restorer.restore(noisy(64), description=said(Severity.MILD, Modality.CT))


def test_a_constant_image_cannot_be_assessed(restorer: Restorer):
    with pytest.raises(CannotAssess, match="constant"):
        restorer.assess(MedicalImage(np.full((1, 32, 32), 7.0), modality=Modality.MR))


def test_a_real_dicom_becomes_a_derived_series_and_stays_untouched(restorer: Restorer, tmp_path: Path):
    source = Path(get_testdata_file("CT_small.dcm", download=False))
    before = source.read_bytes()
    target = tmp_path / "restored.dcm"
    result = restore_file(restorer, source, target, settings=FORCE)
    assert source.read_bytes() == before
    original, written = pydicom.dcmread(source), pydicom.dcmread(target)
    assert written.SOPInstanceUID != original.SOPInstanceUID
    assert written.StudyInstanceUID == original.StudyInstanceUID
    assert list(written.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert "Research use only" in written.DerivationDescription
    assert np.abs(read_image(target).voxels - result.restored.voxels).max() <= 0.5
    assert sidecar_path(target).is_file()
    assert (tmp_path / "restored.residual.nii.gz").is_file()
    assert (tmp_path / "restored.uncertainty.nii.gz").is_file()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="exists"):
        result.save(target)
    with pytest.raises(ValueError, match="exists"):
        result.save(tmp_path / "restored.nii.gz")
    with pytest.raises(ValueError, match="--overwrite"):
        restore_file(restorer, tmp_path / "not-even-read.dcm", target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
