"""Checkpoints on the Hugging Face hub: which files are wanted, getting them, and knowing that they are whole."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from medq_uni.files import file_digest
from medq_uni.pretrained.keys import WeightsMismatch
from medq_uni.pretrained.released import CODEC_FILE, LLM_FILE, NETWORK_FILES

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SUMS = "SHA256SUMS"
"""File with the sha256 of every other, as sha256sum writes and checks it."""
_SETTINGS = re.compile(r"[^/]+\.json|merges\.txt|SHA256SUMS")
_SHARD = re.compile(r"(ema|model)-\d+-of-\d+\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def fetch(repository: str, *, revision: str | None = None, offline: bool | None = None) -> Path:
    """Return the folder of a checkpoint on the hub, downloaded where it is not there yet.

    An interrupted download goes on where it stopped. Only configurations, the tokenizer and safetensors files are
    fetched; where a network is stored in two types, the smaller one.

    Args:
        repository: ``owner/name``.
        revision: Branch, tag or commit; None takes the newest.
        offline: Use what was downloaded before and open no socket; None follows the variable ``HF_HUB_OFFLINE``.

    Raises:
        WeightsMismatch: If there is no such checkpoint, or it cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    offline = constants.HF_HUB_OFFLINE if offline is None else offline
    name = repository + (f" at {revision}" if revision else "")
    try:
        if offline:
            found = huggingface_hub.try_to_load_from_cache(repository, LLM_FILE, revision=revision)
            if not isinstance(found, str):
                raise errors.LocalEntryNotFoundError(f"{LLM_FILE} is not in the cache")
            return Path(found).parent
        files = huggingface_hub.HfApi().list_repo_files(repository, revision=revision)
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted(files)))
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise WeightsMismatch(
            f"{name} was not downloaded to this machine, or not wholly. Run once with a connection: "
            f"medq weights fetch {repository}"
        ) from error
    except errors.GatedRepoError as error:
        raise WeightsMismatch(f"{name} needs your consent. Accept its terms on the hub, then: hf auth login") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise WeightsMismatch(f"The hub has no {name}. Check its name; private ones need: hf auth login") from error
    except WeightsMismatch:
        raise
    except Exception as error:  # those of the connection belong to the hub client's own HTTP library
        raise WeightsMismatch(
            f"{name} could not be fetched ({type(error).__name__}). Try again; a download goes on where it stopped."
        ) from error


def wanted(files: list[str]) -> list[str]:
    """Return which files of a repository are fetched.

    Raises:
        WeightsMismatch: If it is no checkpoint of the released layout.
    """
    network = next(([name] for name in NETWORK_FILES if name in files), None)
    network = network or [name for name in files if _SHARD.fullmatch(name)]
    if not network:
        raise WeightsMismatch(f"This repository has none of {', '.join(NETWORK_FILES)}; it is no BAGEL checkpoint.")
    return [name for name in files if name in network or name == CODEC_FILE or _SETTINGS.fullmatch(name)]


def expected_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 that files of a folder must have, by name, as far as anyone says.

    ``SHA256SUMS`` says it, and so does the hub, whose cache names large files by their hash.
    """
    expected = {}
    for path in folder.iterdir():
        if path.is_symlink() and _DIGEST.fullmatch(path.resolve().name):
            expected[path.name] = path.resolve().name
    if (folder / SUMS).is_file():
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            expected[name] = digest
    return expected


def verified_digests(folder: Path, files: list[Path]) -> dict[str, str]:
    """Return the sha256 of files of a folder, after comparing them with what is expected.

    Raises:
        WeightsMismatch: If a file was altered, or one that ``SHA256SUMS`` lists is missing.
    """
    expected = expected_digests(folder)
    missing = sorted(name for name in expected if not (folder / name).is_file())
    if missing:
        raise WeightsMismatch(f"{folder.name}/{missing[0]} is missing. Download it again.")
    found = {path.name: file_digest(path) for path in files}
    for name, digest in found.items():
        if digest != expected.get(name, digest):
            raise WeightsMismatch(
                f"{folder.name}/{name} has sha256 {digest[:12]}..., expected is {expected[name][:12]}...: the file was "
                "altered or damaged. Download it again."
            )
    return found


def digest_of(digests: dict[str, str]) -> str:
    """Return the hash of the hashes of files."""
    return hashlib.sha256(
        "".join(f"{file}:{digest}\n" for file, digest in sorted(digests.items())).encode()
    ).hexdigest()
