"""A real S3 server on loopback: SeaweedFS, the store that Kubeflow's own manifests deploy."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEED = Path(sys.executable).parent / "weed"


def _free_ports(count: int) -> list[int]:
    """Ports that are free and whose gRPC twins (port + 10000) are free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 10000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


class S3:
    """One server with its own data folder; it can be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.secret = f"key{secrets.token_hex(6)}", secrets.token_hex(16)
        self.master, self.volume, self.filer, self.port = _free_ports(4)
        self.storage: subprocess.Popen[bytes] | None = None
        self.gateway: subprocess.Popen[bytes] | None = None
        identity = {"name": "test", "credentials": [{"accessKey": self.key, "secretKey": self.secret}], "actions": ["Admin"]}
        folder.mkdir(parents=True)
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What botocore reads."""
        keys = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return {**keys, "AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

    def start(self) -> None:
        """Start; on other ports where somebody else took one meanwhile."""
        for last in (False, False, True):
            try:
                self._start()
                return
            except RuntimeError:
                self.stop()
                if last:
                    raise
                self.master, self.volume, self.filer, self.port = _free_ports(4)

    def _start(self) -> None:
        """Storage, and the S3 gateway before it: what an outage takes away and brings back is the gateway."""
        words = ["server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20", "-filer=true"]
        words += [f"-master.port={self.master}", f"-volume.port={self.volume}", f"-filer.port={self.filer}"]
        self.storage = self._spawn([*words, "-master.volumeSizeLimitMB=256"])
        self._wait(f"http://127.0.0.1:{self.filer}/")
        self.up()

    def _spawn(self, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "weed.log").open("ab") as log:
            return subprocess.Popen([str(WEED), *words], stdout=log, stderr=log, start_new_session=True)

    def _wait(self, url: str) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(url, timeout=1)
                return
            except urllib.error.HTTPError:  # it answers: 403 without a key
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "weed.log").read_text()[-2000:])

    def up(self) -> None:
        """Start (again) to answer."""
        words = ["s3", f"-filer=127.0.0.1:{self.filer}", f"-port={self.port}", f"-config={self.folder / 's3.json'}"]
        # Its other servers would listen on fixed ports: a second one on this machine, of whoever, would end this one.
        self.gateway = self._spawn([*words, "-ip.bind=127.0.0.1", "-port.iceberg=0", "-port.lance=0"])
        self._wait(self.url)

    def down(self) -> None:
        """An outage: connections are refused from here on."""
        if self.gateway:
            os.killpg(self.gateway.pid, signal.SIGKILL)
            self.gateway.wait()
            self.gateway = None

    def stop(self) -> None:
        self.down()
        if self.storage:
            os.killpg(self.storage.pid, signal.SIGKILL)
            self.storage.wait()
            self.storage = None

    def bucket(self, name: str, *, versions: bool = False) -> None:
        """Make a bucket."""
        import s3fs

        options = {"key": self.key, "secret": self.secret, "endpoint_url": self.url, "skip_instance_cache": True}
        fs = s3fs.S3FileSystem(**options)
        end = time.monotonic() + 30
        while True:
            try:
                fs.call_s3("create_bucket", Bucket=name)
                break
            except OSError:  # the filer is still on its way
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        if versions:
            fs.call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})


@contextmanager
def running(folder: Path) -> Iterator[S3]:
    server = S3(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
