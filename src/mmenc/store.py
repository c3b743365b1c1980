"""The store: a folder or an S3 bucket that owns large files, resume state, finished results and run records.

Decision: objects are named by their sha256 (`objects/ab/abcd…`), so that nothing is ever overwritten, equal files lie there once
and a reader proves what it got. An outage is waited for (`compute.store_patience` seconds, pauses doubling up to 15 s); a
wrong key or bucket is one sentence at once. Credentials and endpoint are botocore's (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, or the pod's role), never the recipe's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mmenc.artifact import sha256_file
from mmenc.errors import Refused

PATIENCE = 300.0
"""Seconds that an outage is waited for: a store's node restarts in one to three minutes."""
LONGEST_PAUSE = 15.0
AT_ONCE = 8
"""Objects moved at a time."""
PARTS = 2
"""Parts of 50 MB that s3fs holds of each of them: 0.8 GB at most; its own ten would be 4 GB of a pod's memory."""
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
"""Short and tried once: the waiting is ours, with a line that says so."""
TRY_AGAIN = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch")
"""Answers 400 to a transfer that broke on the way."""
RENEW = 43_200.0
"""Half of the day after which `mmenc gc` takes what nothing names for left behind."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
Result = TypeVar("Result")


class Unreachable(Refused):
    """The store did not answer for as long as the recipe's patience lasts."""


class Changed(Exception):
    """A conditional write found another version than the one it was to replace."""


def is_remote(place: object) -> bool:
    """Whether a place is a URI and not a path on this machine."""
    return "://" in str(place)


def object_key(sha256: str) -> str:
    """Where a file of this hash lies below the store's root."""
    return f"objects/{sha256[:2]}/{sha256}"


class Store:
    """A store at `url`; keys are paths below it. Raises Refused for keys and buckets, Unreachable for an outage."""

    def __init__(self, url: str, patience: float = PATIENCE, *, versions: bool = False) -> None:
        protocol, mark, rest = url.rpartition("://")
        rest = rest.rstrip("/")
        if protocol not in ("", "s3"):
            raise Refused(f"{url}: stores of kind {protocol}:// are not supported; expected a folder or s3://bucket/prefix")
        if mark and not rest:
            raise Refused(f"{url}: names no bucket; expected s3://bucket/prefix")
        if mark and "@" in rest.partition("/")[0]:  # not echoed: what stands before it is a key
            raise Refused("compute.store: keys do not belong into the address; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self.url, self.patience = f"{protocol}{mark}{rest}", patience
        self.s3 = bool(protocol)
        self.root = rest if self.s3 else str(Path(rest).absolute())
        self.fs: Any = _s3(versions) if self.s3 else _local()
        self.ending = threading.Event()

    def path(self, key: str) -> str:
        """The file system's own name of a key."""
        return f"{self.root}/{key}" if key else self.root

    def uri(self, key: str) -> str:
        """The address of a key, as it stands in manifests."""
        return f"{self.url}/{key}"

    def attempt(self, action: Callable[[], Result], patience: float | None = None) -> Result:
        """Do something with the store, again and again while it is out of reach."""
        end = time.monotonic() + (self.patience if patience is None else patience)
        pause, told = 0.5, False
        while True:
            try:
                return action()
            except FileNotFoundError as error:
                if self.s3 and _answer(error)[0] == "NoSuchBucket":
                    raise Refused(f"{self.url}: there is no such bucket; create it or mend the address") from None
                raise
            except Exception as error:
                if _answer(error)[0] == "PreconditionFailed":
                    raise Changed from None
                if reason := _hopeless(error, s3=self.s3):
                    raise Refused(f"{self.url}: {reason}") from None
                if not _transient(error):
                    raise
                if time.monotonic() + pause > end or self.ending.is_set():
                    raise Unreachable(f"{self.url}: not reachable ({_short(error)}); run the same command again") from None
                if not told:
                    print(f"  {self.url}: not reachable ({_short(error)}); trying again", flush=True)
                    told = True
                self.ending.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def size(self, key: str) -> int | None:
        """Bytes of an object, None if there is none."""
        found = self.info(key)
        return None if found is None else found[0]

    def info(self, key: str) -> tuple[int, float] | None:
        """Bytes of an object and seconds since it was written, None if there is none."""
        try:
            found = self.attempt(lambda: self.fs.info(self.path(key)))
        except FileNotFoundError:
            return None
        return int(found["size"]), age_of(found)

    def put(self, path: Path, key: str, patience: float | None = None) -> None:
        """Copy a file to a key; the object appears whole or not at all."""
        target = self.path(key)
        if self.s3:
            try:
                self.attempt(lambda: self.fs.put_file(str(path), target), patience)
            except FileNotFoundError:
                missing = path if not path.exists() else self.url
                raise Refused(f"{missing}: there is no such bucket or file; create the bucket or mend compute.store") from None
            return
        self.attempt(lambda: self._copy(path, Path(target)), patience)

    def _copy(self, path: Path, target: Path) -> None:
        partial = Path(f"{target}.tmp.{uuid.uuid4().hex[:8]}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.fs.put_file(str(path), str(partial))
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def put_object(self, path: Path, sha256: str, patience: float | None = None) -> str:
        """Give a file to the store under its hash, unless it is there; return its URI.

        One that has been there for RENEW seconds is made young: `mmenc gc` drops old objects that nothing names yet.
        """
        key = object_key(sha256)
        found = self.info(key)
        if found is None or found[0] != path.stat().st_size or (self.s3 and found[1] > RENEW):
            self.put(path, key, patience)
        elif not self.s3:
            with contextlib.suppress(OSError):  # of somebody else, or gone in this moment
                os.utime(self.path(key))
        return self.uri(key)

    def fetch(self, key: str, target: Path) -> None:
        """Copy an object to a file, in one rename; FileNotFoundError if there is none."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".tmp.{uuid.uuid4().hex[:8]}.{os.getpid()}"
        try:
            self.attempt(lambda: self.fs.get_file(self.path(key), str(partial)))
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)

    def read_json(self, key: str, patience: float | None = None) -> tuple[Any, str]:
        """The JSON at a key and its version (for `put_json`); (None, "") if there is none."""
        try:
            data, version = self.attempt(lambda: self._read(key), patience)
        except FileNotFoundError:
            return None, ""
        try:
            return json.loads(data), version
        except ValueError:
            raise Refused(f"{self.uri(key)}: is not JSON; something else wrote there") from None

    def _read(self, key: str) -> tuple[bytes, str]:
        if self.s3:
            from fsspec.asyn import sync

            bucket, _, name = self.path(key).partition("/")
            # One answer for both: bytes and ETag must belong together.
            answer = self.fs.call_s3("get_object", Bucket=bucket, Key=name)
            return sync(self.fs.loop, answer["Body"].read), str(answer["ETag"])
        data = Path(self.path(key)).read_bytes()
        return data, hashlib.sha256(data).hexdigest()

    def put_json(self, key: str, value: Any, version: str | None = None, patience: float | None = None) -> str:
        """Write JSON; with a version only if the key still has it ("" = still absent), else Changed. Return the new version."""
        data = (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
        if self.s3:
            return self._put_s3(key, data, version, patience)
        return self.attempt(lambda: self._put_local(key, data, version), patience)

    def _put_local(self, key: str, data: bytes, version: str | None) -> str:
        path = Path(self.path(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
            if version is not None and found != version:
                raise Changed(key)
            partial = path.with_name(f".tmp.{path.name}")
            partial.write_bytes(data)
            partial.rename(path)
        return hashlib.sha256(data).hexdigest()

    def _put_s3(self, key: str, data: bytes, version: str | None, patience: float | None) -> str:
        bucket, _, name = self.path(key).partition("/")
        condition = {} if version is None else {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            answer = self.attempt(
                lambda: self.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, **condition), patience
            )
        except (Changed, FileNotFoundError):
            now, found = self.read_json(key, patience)
            # An answer that was lost on the way looks like somebody else's write; ours is known by its bytes.
            if found and now == json.loads(data):
                return found
            raise Changed(key) from None
        return str(answer["ETag"])

    def names(self, prefix: str) -> list[str]:
        """Names of the objects right below a prefix."""
        try:
            listed: list[str] = self.attempt(lambda: self.fs.ls(self.path(prefix), detail=False))
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in listed)

    def remove(self, prefix: str, patience: float | None = None) -> None:
        """Delete everything below a key."""
        try:
            self.attempt(lambda: self.fs.rm(self.path(prefix), recursive=True), patience)
        except FileNotFoundError:
            return

    def each(self, action: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Do something for several objects side by side; the first error ends it."""
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                try:
                    return list(pool.map(action, items))
                except BaseException:
                    # The others must not go on waiting for the store: Kubernetes kills 30 s after a signal.
                    self.ending.set()
                    raise
        finally:
            self.ending.clear()

    def sha256(self, key: str) -> str:
        """Hash of an object, read through once; FileNotFoundError if there is none."""
        if not self.s3:
            return sha256_file(Path(self.path(key)))

        def read() -> str:
            with self.fs.open(self.path(key), "rb", cache_type="readahead", block_size=2**23) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()

        return self.attempt(read)


def age_of(info: dict[str, Any]) -> float:
    """Seconds since an object was written, from what the file system says of it (a bucket's prefix has no time: 0)."""
    written = info.get("LastModified")
    return time.time() - float(written.timestamp() if written else info.get("mtime", time.time()))


def open_store(uri: str, patience: float = PATIENCE) -> tuple[Store, str]:
    """The store and the key of an object's URI (`…/objects/ab/abc`)."""
    root, mark, key = uri.rpartition("/objects/")
    if not mark:
        raise Refused(f"{uri}: not an object of a store; expected …/objects/ab/SHA256")
    return Store(root, patience), f"objects/{key}"


def _local() -> Any:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()


def _s3(versions: bool) -> Any:
    try:
        import s3fs
    except ModuleNotFoundError:
        raise Refused("s3:// needs s3fs; `pip install 'mmenc[data]'` brings it") from None
    options = {"skip_instance_cache": True, "use_listings_cache": False, "version_aware": versions, "max_concurrency": PARTS}
    fs = s3fs.S3FileSystem(config_kwargs=TIMEOUTS, **options)
    fs.retries = 1  # its own five tries, each as long as the time-outs, would outlast any patience
    return fs


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _answer(error: BaseException) -> tuple[str, int]:
    """Error code and HTTP status of what the store answered; ("", 0) if it did not answer."""
    response = getattr(error.__cause__ or error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", "")), int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _hopeless(error: Exception, *, s3: bool) -> str:
    """What is wrong, where waiting does not help; "" otherwise."""
    if not s3:
        hopeless = isinstance(error, OSError) and error.errno in UNWRITABLE
        return f"may not be read or written here ({_short(error)}); check the folder's permissions" if hopeless else ""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name their secret in compute.cluster.secrets"
    if isinstance(error, PermissionError):
        return f"the store refuses the key ({_short(error)}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and its policy"
    code, status = _answer(error)
    if code in TRY_AGAIN:
        return ""
    if isinstance(error, exceptions.ParamValidationError | ValueError) or (400 <= status < 500 and status not in (408, 409, 429)):
        return f"the store refuses the request ({code or _short(error)})"
    return ""


def _transient(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
    return type(error).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp", "asyncio", "s3fs", "fsspec")
