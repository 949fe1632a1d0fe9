"""A store on a server of S3 (moto's), through a proxy that breaks what a network and a full disk break."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import Cut, Damage, Proxy, Refusal, faulty_proxy, no_fault

from rbserve.core.errors import RbserveError
from rbserve.store.store import Store, open_store

LARGE = 300_000
IN_PARTS = 20 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    with faulty_proxy(server) as proxy:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path) -> Store:
    import s3fs

    bucket = f"b{abs(hash(str(tmp_path)))}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    proxy.requests.clear()
    return open_store(f"s3://{bucket}/rbserve")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "gdcn"
    (folder / "onnx").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "onnx" / "fp32.onnx").write_bytes(os.urandom(1000))
    (folder / "model.safetensors").write_bytes(os.urandom(LARGE))
    return folder


NAME = "artifacts/microlens/gdcn"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failure(error: RbserveError) -> str:
    assert "\n" not in error.message
    assert error.hint
    return error.message


def test_a_folder_comes_back_as_it_was_and_a_second_push_uploads_nothing(
    store: Store, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").write_bytes(os.urandom(IN_PARTS))
    assert store.push(NAME, folder).moved_files == 3
    assert proxy.count("PUT", "partNumber") == 3
    proxy.requests.clear()
    assert store.push(NAME, folder).moved_files == 0
    assert proxy.count("PUT", "") + proxy.count("POST", "") == 0
    assert store.names() == [NAME]
    assert store.names("artifacts/microlens") == [NAME]
    assert store.names("runs") == []
    store.pull(NAME, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)
    assert store.pull(NAME, tmp_path / "pulled").moved_files == 0


def test_a_changed_file_alone_is_moved(store: Store, proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    store.push(NAME, folder)
    store.pull(NAME, tmp_path / "pulled")
    (folder / "manifest.json").write_text('{"variants": 1}')
    assert store.push(NAME, folder).moved_files == 1
    assert store.pull(NAME, tmp_path / "pulled").moved_files == 1
    assert contents(tmp_path / "pulled") == contents(folder)


def test_connections_that_are_cut_now_and_then_lose_nothing(
    store: Store, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    cuts = iter([Cut(100), None, Cut(), Cut(5000)])
    proxy.rule = lambda method, path: next(cuts, None) if "objects" in path and method == "GET" else None
    store.push(NAME, folder)
    store.pull(NAME, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)
    assert next(cuts, "used") == "used"


def test_a_pull_whose_connection_stays_cut_leaves_nothing_and_continues(
    store: Store, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    store.push(NAME, folder)
    large = store.manifest(NAME)
    assert large
    digest = next(file.sha256 for file in large.files if file.bytes == LARGE)
    proxy.rule = lambda method, path: Cut(100) if digest in path and method == "GET" else None
    with pytest.raises(RbserveError) as caught:
        store.pull(NAME, tmp_path / "pulled")
    assert "failed" in failure(caught.value)
    assert not (tmp_path / "pulled").exists()
    proxy.rule = no_fault
    assert store.pull(NAME, tmp_path / "pulled").moved_files < 3
    assert contents(tmp_path / "pulled") == contents(folder)
    assert not list(tmp_path.glob(".pulled*"))


def test_a_body_that_was_changed_on_its_way_is_refused(
    store: Store, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    store.push(NAME, folder)
    proxy.rule = lambda method, path: Damage() if "objects" in path and method == "GET" else None
    with pytest.raises(RbserveError) as caught:
        store.pull(NAME, tmp_path / "pulled")
    assert "checksum" in failure(caught.value)  # of S3, before the sha256 would be compared
    assert not (tmp_path / "pulled").exists()
    proxy.rule = no_fault
    store.pull(NAME, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)


def test_half_an_object_in_the_bucket_is_refused_and_replaced_by_the_next_push(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    store.push(NAME, folder)
    _overwrite(store, folder, b"half")
    with pytest.raises(RbserveError) as caught:
        store.pull(NAME, tmp_path / "pulled")
    assert "has 4 bytes instead of 1000" in failure(caught.value)
    assert store.push(NAME, folder).moved_files == 1
    store.pull(NAME, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)


def test_a_wrong_object_of_the_right_size_is_refused_and_replaced_by_push_again(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    store.push(NAME, folder)
    _overwrite(store, folder, bytes(1000))
    with pytest.raises(RbserveError) as caught:
        store.pull(NAME, tmp_path / "pulled")
    assert "--again" in str(caught.value.hint)
    store.push(NAME, folder, again=True)
    store.pull(NAME, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)


def _overwrite(store: Store, folder: Path, content: bytes) -> None:
    manifest = store.manifest(NAME)
    assert manifest
    small = next(file for file in manifest.files if file.path == "onnx/fp32.onnx")
    store.backend.write(f"objects/sha256/{small.sha256[:2]}/{small.sha256}", iter([content]))


def test_an_object_that_is_missing_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    store.push(NAME, folder)
    manifest = store.manifest(NAME)
    assert manifest
    small = next(file for file in manifest.files if file.path == "onnx/fp32.onnx")
    store.backend.remove(f"objects/sha256/{small.sha256[:2]}/{small.sha256}")
    with pytest.raises(RbserveError, match=f"lacks the object {small.sha256}"):
        store.pull(NAME, tmp_path / "pulled")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refusal(507, "XMinioStorageFull"), "is full"),
        (Refusal(403, "QuotaExceeded"), "is full"),
        (Refusal(403, "AccessDenied"), "refuses access"),
        (Refusal(403, "SignatureDoesNotMatch"), "refuses access"),
    ],
)
def test_a_store_that_takes_no_more_is_told_and_no_name_appears(
    refusal: Refusal, words: str, store: Store, proxy: Proxy, folder: Path
) -> None:
    proxy.rule = lambda method, _: refusal if method == "PUT" and proxy.count("PUT", "") > 1 else None
    with pytest.raises(RbserveError) as caught:
        store.push(NAME, folder)
    assert words in failure(caught.value)
    proxy.rule = no_fault
    assert store.names() == []
    assert store.push(NAME, folder).moved_files < 3


def test_without_credentials_one_line_says_so(
    proxy: Proxy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RbserveError) as caught:
        open_store("s3://somewhere/rbserve").push(NAME, folder)
    assert failure(caught.value).startswith("no credentials for the store s3://somewhere")


def test_a_bucket_that_is_not_there_is_named(proxy: Proxy, folder: Path, tmp_path: Path) -> None:
    store = open_store("s3://nobody-made-it/rbserve")
    for work in (lambda: store.push(NAME, folder), lambda: store.pull(NAME, tmp_path / "x"), store.names):
        with pytest.raises(RbserveError) as caught:
            work()
        assert "no such place as the store s3://nobody-made-it" in failure(caught.value)


def test_a_server_that_is_not_there_is_told(
    folder: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RbserveError) as caught:
        open_store("s3://bucket/rbserve").push(NAME, folder)
    assert "failed" in failure(caught.value)


def test_a_killed_push_leaves_the_name_as_it_was_and_a_second_one_continues(
    store: Store, proxy: Proxy, folder: Path, tmp_path: Path
) -> None:
    store.push(NAME, folder)
    before = contents(folder)
    for number in range(12):
        (folder / f"part-{number:02}").write_bytes(os.urandom(100_000))
    code = (
        "import sys; from pathlib import Path; from rbserve.store.store import open_store\n"
        "import os, signal\n"
        "def progress(done, total, line):\n"
        "    if done > 600_000 and 'pushed' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_store(sys.argv[1]).push(sys.argv[2], Path(sys.argv[3]), progress)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, store.url, NAME, str(folder)], check=False)
    assert killed.returncode == -9
    store.pull(NAME, tmp_path / "old")
    assert contents(tmp_path / "old") == before
    moved = store.push(NAME, folder).moved_files
    assert 0 < moved < 12
    store.pull(NAME, tmp_path / "new")
    assert contents(tmp_path / "new") == contents(folder)
