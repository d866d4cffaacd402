"""The physics of every task, one :class:`TaskSpec` each; they stand at the end of the module of their modality."""

from __future__ import annotations

from collections.abc import Mapping

from medq_uni.physics import ct, mri, pet
from medq_uni.physics.spec import TaskSpec
from medq_uni.taxonomy import Task

SPECS: Mapping[Task, TaskSpec] = {spec.task: spec for spec in (*ct.SPECS, *mri.SPECS, *pet.SPECS)}
