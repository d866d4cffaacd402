"""Training on several processes that are forked from one that has loaded everything, so that they start at once."""

import multiprocessing
import os
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from medq_uni.config_json import to_json
from medq_uni.errors import MedQError
from medq_uni.train.export import publish
from medq_uni.train.recipe import TrainConfig, recipe_from_json
from medq_uni.train.trainer import TrainOptions, train
from tests.train.tiny import make_quick

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "peft"])


def start(count: int, config: TrainConfig, folder: Path, pairs: Path, *, resume: bool = False) -> list[BaseProcess]:
    """Start processes that train together, and publish what comes of it to ``model`` in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(count):
        environment = place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        arguments = (environment, to_json(config), folder, pairs, resume)
        started.append(CONTEXT.Process(target=_work, args=arguments, daemon=True))
        started[-1].start()
    return started


def in_processes(count: int, config: TrainConfig, folder: Path, pairs: Path) -> None:
    """Train on several processes to the end; a failure is shown with what they say."""
    started = start(count, config, folder, pairs)
    for process in started:
        process.join()
    said = "".join(path.read_text() for path in sorted(folder.glob("failed-*.txt")))
    assert [process.exitcode for process in started] == [0] * count, said


def _work(environment: dict[str, str], recipe: str, folder: Path, pairs: Path, resume: bool) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    make_quick(pytest.MonkeyPatch())
    config = recipe_from_json(recipe)
    try:
        trained = train(config, folder, TrainOptions(resume=resume, device="cpu", pairs_folder=pairs))
    except MedQError as error:
        (folder / f"failed-{environment['RANK']}.txt").write_text(str(error))
        raise
    if trained.is_first and trained.is_finished:
        publish(trained, config, pairs, folder / "model")
