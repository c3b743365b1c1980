"""Parts shared by workers that meet in a store: who asks for what, what is brought, what does not count."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmenc.artifact import Manifest, Request, atomic_directory, seal
from mmenc.errors import Refused
from mmenc.external import bring, remember, size_of
from mmenc.parts import Parts
from mmenc.share import LISTED, Assisted, Meeting, Share
from mmenc.store import Store
from tests.unit.test_parts import DIGEST, OneJob


def worker(tmp_path: Path, share: str, content: str = "a", threads: int = 1) -> OneJob:
    """A machine of its own, with the store that all share."""
    job = OneJob(tmp_path / share.replace("/", "of"), threads=threads, content=content)
    job.measured = {}
    parents = {"raw": (DIGEST, content)}
    job.meeting = Meeting(Share.parse(share), str(tmp_path / "store"), 1, DIGEST, parents, job.resume / "parts")
    return job


def first(folder: Path, number: int, log: Path) -> dict:
    """Two files and a figure."""
    with log.open("a") as stream:
        stream.write(f"{number}\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "number.txt").write_text(str(number))
    (folder / "large.txt").write_text("x" * 1000)
    return {"number": number}


def second(folder: Path, before: dict[str, list[Path]]) -> dict:
    (folder / "sum.txt").write_text(str(sum(int(p.read_text()) for paths in before.values() for p in paths)))
    return {"files": sum(len(paths) for paths in before.values())}


def parts_of(log: Path, count: int = 6) -> dict:
    return {f"p{i}": (i, log) for i in range(count)}


def test_shares_cover_all_parts_and_each_begins_with_its_own():
    keys = [f"{i:03d}" for i in range(10)]
    orders = [Share(n, 3).order(keys) for n in (1, 2, 3)]
    assert all(sorted(order) == keys for order in orders)
    assert [order[: len(keys[n::3])] for n, order in enumerate(orders)] == [keys[0::3], keys[1::3], keys[2::3]]
    assert orders[0][4:] != sorted(orders[0][4:]), "what others have is asked for in an order that is no other worker's"
    for text in ("0/2", "3/2", "2", "a/b", "1/0", "-1/2"):
        with pytest.raises(Refused, match="expected I/N, such as 2/3"):
            Share.parse(text)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_one_made_another_takes_and_only_what_it_needs(tmp_path: Path, threads: int):
    log = tmp_path / "log"
    two = worker(tmp_path, "2/2", threads=threads)
    made = Parts(two, "read")
    assert made.run(first, parts_of(log))["p5"] == {"number": 5}
    assert two.lines == ["read: 6 of 6 parts made here"]
    with pytest.raises(Assisted):
        Parts(two, "end", last=True).run(second, {"all": ({"t": [made.folder("p1") / "deep" / "number.txt"]},)})

    one = worker(tmp_path, "1/2", threads=threads)
    taken = Parts(one, "read")
    assert list(taken.run(first, parts_of(log)).items()) == [(f"p{i}", {"number": i}) for i in range(6)]
    assert len(log.read_text().split()) == 6, "nothing is made twice where one worker came first"
    assert taken.size(taken.folder("p1") / "large.txt") == 1000
    wanted = {"t": [taken.folder(f"p{i}") / "deep" / "number.txt" for i in (1, 2)]}
    assert Parts(one, "sums").run(second, {"all": (wanted,)}) == {"all": {"files": 2}}
    here = {p.relative_to(taken.root).as_posix() for p in taken.root.rglob("*") if p.is_file() and p.name != LISTED}
    assert here == {"p1/deep/number.txt", "p2/deep/number.txt"}
    end = Parts(one, "end", last=True)
    assert end.run(second, {"all": (wanted,)}) == {"all": {"files": 1}}, "made by the other, with its arguments"
    end.take("all", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["sum.txt"]
    assert one.measured["parts"] == {"read": {"made": 0, "of": 6}, "sums": {"made": 1, "of": 1}, "end": {"made": 0, "of": 1}}


def test_a_part_counts_from_its_list_on_and_one_that_was_not_given_is_not_made_again(tmp_path: Path):
    log = tmp_path / "log"
    two = worker(tmp_path, "2/2")
    Parts(two, "read").run(first, parts_of(log, 3))
    store = Store(str(tmp_path / "store"))
    store.remove(f"{two.meeting.root}/read/p1.json")  # killed before the list was written: the objects alone are no part
    assert two.meeting.there("read") == {"p0", "p2"}
    again = worker(tmp_path, "2/2")
    Parts(again, "read").run(first, parts_of(log, 3))
    assert len(log.read_text().split()) == 3
    assert two.meeting.there("read") == {"p0", "p1", "p2"}
    other = worker(tmp_path, "1/2", content="b")
    Parts(other, "read").run(first, parts_of(log, 3))
    assert len(log.read_text().split()) == 6, "parts of other content of an input are none"


def test_a_damaged_or_vanished_object_is_a_sentence(tmp_path: Path):
    log = tmp_path / "log"
    two = worker(tmp_path, "2/2")
    Parts(two, "read").run(first, parts_of(log, 2))
    objects = tmp_path / "store" / two.meeting.root / "objects"
    for path in objects.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    one = worker(tmp_path, "1/2")
    with pytest.raises(Refused, match=r"sha256 is .*: damaged; delete .*/parts/.* and run the same command again"):
        Parts(one, "read", last=True).run(first, parts_of(log, 2))
    assert not [p for p in one.resume.rglob("*") if p.is_file() and p.name not in (LISTED, "parents.json")]
    for path in objects.iterdir():
        path.unlink()
    with pytest.raises(Refused, match="was removed while this step worked with it; run the same command again"):
        Parts(one, "read", last=True).run(first, parts_of(log, 2))


def test_a_helper_ends_where_the_step_is_finished_and_a_second_main_worker_says_so(tmp_path: Path):
    log, store = tmp_path / "log", Store(str(tmp_path / "store"))
    store.put_json(f"finished/{DIGEST}/manifest.json", {"parents": [{"role": "raw", "digest": DIGEST, "content": "a"}]})
    with pytest.raises(Assisted):
        Parts(worker(tmp_path, "2/2"), "read").run(first, parts_of(log))
    with pytest.raises(Refused, match="another process has finished this step meanwhile; run the same command again"):
        Parts(worker(tmp_path, "1/2"), "read").run(first, parts_of(log))
    assert not log.exists()
    store.remove("finished")
    late = worker(tmp_path, "2/2", threads=2)
    Parts(late, "read").run(first, parts_of(log))
    three = worker(tmp_path, "3/3")
    made = Parts(three, "read")
    made.run(first, parts_of(log))
    store.remove("resume")  # the step ends, while a helper is between two of its parts, or has yet to ask
    store.put_json(f"finished/{DIGEST}/manifest.json", {"parents": [{"role": "raw", "digest": DIGEST, "content": "a"}]})
    with pytest.raises(Assisted):
        three.meeting.bring([made.folder("p1") / "large.txt"])
    with pytest.raises(Assisted):
        three.meeting.collect([made.folder("p1")])
    with pytest.raises(Assisted):
        Parts(late, "next").run(first, parts_of(log))
    log.unlink()
    Parts(worker(tmp_path, "2/2", content="b"), "read").run(first, parts_of(log))
    assert log.exists(), "a result from other content is not this step's"


def test_of_an_input_each_worker_fetches_what_its_parts_name(tmp_path: Path):
    from mmenc.artifact import Artifact
    from mmenc.external import Cache, give

    store, cache = Store(str(tmp_path / "store")), Cache(tmp_path / "cache")
    with atomic_directory(tmp_path / "raw") as work:
        for name in ("a", "b"):
            (work / f"{name}.txt").write_text(name * 100)
        request = Request("ingest", "", 1, {}, (), ())
        manifest = seal(work, request, [], {}, give(work, ["*.txt"], store, cache))
        remember(store, work, manifest)
    assert Manifest.read(tmp_path / "raw") == manifest
    elsewhere = Cache(tmp_path / "elsewhere")
    links = Artifact.read(tmp_path / "raw", cache=elsewhere).links()
    assert [p.name for p in sorted(links.glob("*.txt"))] == ["a.txt", "b.txt"]
    assert [size_of(links / n) for n in ("a.txt", "b.txt")] == [100, 100]
    worker(tmp_path, "2/2").meeting.bring(({"eng": [links / "a.txt"]}, links / "a.txt", 3))
    assert (links / "a.txt").read_text() == "a" * 100
    assert not (links / "b.txt").exists()
    bring(links / "b.txt", 1)
    assert size_of(links / "b.txt") == len((links / "b.txt").read_text()) == 100
    elsewhere.close()
