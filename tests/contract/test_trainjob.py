"""The TrainJob: what a recipe makes of it, that the API knows every field, and how its launcher meets a cluster's moods."""

from __future__ import annotations

import ast
import copy
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mmenc import trainer, trainer_api
from mmenc.artifact import Request
from mmenc.cli import main
from mmenc.cluster import ACCOUNT, TRAINJOB
from mmenc.costs import price
from mmenc.errors import Refused, Stopped
from mmenc.kubeflow import complete, send, surroundings
from mmenc.recipe import Recipe, parse
from mmenc.sections import Compute
from mmenc.stop import Interrupt
from mmenc.store import Store
from mmenc.train import node
from mmenc.train.exchange import RESULT, Exchange
from mmenc.trainjob import DIGEST, finish, runtime, template, validated
from tests.pipeline import REPO, tiny_recipe
from tests.trainer_server import RUNTIME, Pod, Server, trainer_server

DIGEST_OF = "ab" * 32
GPU = "registry/mmenc-gpu:abc"
EVERY_KEY = {
    "resources": {
        "default": {"cpu": 4, "memory_gb": 16, "node_selector": {"pool": "any"}},
        "train": {
            "cpu": 96, "memory_gb": 768.5, "shared_memory_gb": 64, "retries": 7, "timeout_hours": 3,
            "labels": {"kueue.x-k8s.io/queue-name": "gpus"}, "node_selector": {"pool": "spot"},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "seconds": 30}],
        },
    },
    "secrets": {"store-keys": {"access": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY"}},
    "env": {"AWS_ENDPOINT_URL": "http://store:8333"},
    "labels": {"team": "tongues", "kueue.x-k8s.io/priority-class": "low"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "image_pull_secrets": ["registry"],
    "state_claim": "kept",
    "trainer": {"restarts": 5, "grace_seconds": 90},
}  # fmt: skip


def plain(**more: object) -> dict:
    recipe = tiny_recipe()
    recipe["compute"] |= {"nodes": 4, "store": "s3://bucket/mmenc", "device": "cuda", "accelerators": 8}
    recipe["compute"] |= {"cluster": copy.deepcopy(EVERY_KEY), **more}
    return recipe


def of(**more: object) -> Recipe:
    return parse(plain(**more))


def patch_of(job: dict) -> dict:
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    return replicated["template"]["spec"]["template"]


def test_a_recipe_makes_a_trainjob_that_the_api_knows_field_by_field():
    job = validated(finish(template(of(), "decay-all", GPU), "decay-all", DIGEST_OF, "s3://bucket/mmenc", "trainer"))
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["name"] == "mmenc-decay-all-abababababab"
    # Kueue and its priority are of the job; what else a label says, of the pods too.
    queue = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "low"}
    assert job["metadata"]["labels"] == {"team": "tongues", **queue}
    assert job["metadata"]["annotations"][DIGEST] == DIGEST_OF
    spec, trained = job["spec"], job["spec"]["trainer"]
    reference = {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": "torch-distributed"}
    assert spec["runtimeRef"] == reference
    assert (trained["numNodes"], trained["numProcPerNode"], trained["image"]) == (4, 8, GPU)
    assert [*trained["command"], *trained["args"]] == ["python", "-m", "mmenc.train.node", "s3://bucket/mmenc", DIGEST_OF]
    amounts = {"cpu": "96", "memory": "768500M", "nvidia.com/gpu": "8"}
    assert trained["resourcesPerNode"] == {"limits": amounts, "requests": amounts}
    env = {e["name"]: e.get("value") or e["valueFrom"]["secretKeyRef"] for e in trained["env"]}
    assert env == {
        "AWS_ENDPOINT_URL": "http://store:8333",
        "AWS_ACCESS_KEY_ID": {"name": "store-keys", "key": "access"},
        "AWS_SECRET_ACCESS_KEY": {"name": "store-keys", "key": "secret"},
        "MMENC_STATE": "/mnt/mmenc-state",
    }
    assert spec["activeDeadlineSeconds"] == 3 * 3600
    pods = patch_of(job)
    assert pods["metadata"] == {"labels": {"team": "tongues"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    toleration = {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64G"}}]
    volumes += [{"name": "state", "persistentVolumeClaim": {"claimName": "kept"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "state", "mountPath": "/mnt/mmenc-state"}]
    assert pods["spec"] == {
        "terminationGracePeriodSeconds": 90,
        "nodeSelector": {"pool": "spot"},
        "tolerations": [toleration],
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": volumes,
        "containers": [{"name": "node", "volumeMounts": mounts}],
        "serviceAccountName": "trainer",
    }


def test_the_least_recipe_and_cpus():
    recipe = tiny_recipe()
    recipe["compute"] |= {"nodes": 2, "store": "s3://bucket/mmenc", "processes": 3}
    job = validated(
        finish(template(parse(recipe), "pretrain", "registry/mmenc-cpu:abc"), "pretrain", DIGEST_OF, "s3://bucket/mmenc")
    )
    assert job["spec"]["trainer"]["numProcPerNode"] == 3
    assert job["spec"]["trainer"]["env"] == []
    assert patch_of(job) == {"spec": {"terminationGracePeriodSeconds": 120}}
    assert "activeDeadlineSeconds" not in job["spec"]


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("spec.podTemplateOverrides", [{"targetJobs": []}], "spec.podTemplateOverrides"),
        ("spec.trainer.numNodes", "4", "num_nodes|numNodes"),
        ("spec.trainer.nodes", 4, "spec.trainer.nodes"),
        (
            "spec.runtimePatches.0.trainingRuntimeSpec.template.spec.replicatedJobs.0.template.spec.backoffLimit",
            0,
            "backoffLimit",
        ),
    ],
)
def test_what_the_api_does_not_know_is_refused_by_its_path(path: str, value: object, word: str):
    job = finish(template(of(), "pretrain", GPU), "pretrain", DIGEST_OF, "s3://bucket/mmenc")
    at: object = job
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    with pytest.raises(Refused, match=word):
        validated(job)


def test_gang_scheduling_is_a_runtime_of_ours(capsys, tmp_path: Path):
    for gang, policy in {"coscheduling": {"coscheduling": {"scheduleTimeoutSeconds": 60}}, "volcano": {"volcano": {}}}.items():
        recipe = of(cluster={"trainer": {"gang": gang, "gang_seconds": 60}})
        made = validated(runtime(recipe))
        assert made["spec"]["podGroupPolicy"] == policy
        job = validated(finish(template(recipe, "pretrain", GPU), "pretrain", DIGEST_OF, "s3://b/p"))
        assert job["spec"]["runtimeRef"] | {"apiGroup": ""} == {"apiGroup": "", "kind": made["kind"], "name": f"mmenc-{gang}"}
        assert made["metadata"]["name"] == f"mmenc-{gang}"
        (replicated,) = made["spec"]["template"]["spec"]["replicatedJobs"]
        assert replicated["template"]["spec"]["backoffLimit"] == 0
    (params := tmp_path / "params.yaml").write_text(json.dumps(plain()))
    assert main(["trainjob", "--runtime", "--params", str(params)]) == 1
    assert "compute.cluster.trainer.gang: is empty" in capsys.readouterr().err
    params.write_text(json.dumps(plain(nodes=1)))
    assert main(["trainjob", "--params", str(params)]) == 1
    assert "compute.nodes: is 1: each phase is trained in the pod of its task" in capsys.readouterr().err


def test_the_command_prints_what_a_compiled_graph_carries(capsys, tmp_path: Path):
    pytest.importorskip("kfp")
    (params := tmp_path / "params.yaml").write_text(json.dumps(plain()))
    assert main(["trainjob", "--params", str(params), "--gpu-image", GPU]) == 0
    shown = {job["metadata"]["name"]: job for job in yaml.safe_load_all(capsys.readouterr().out)}
    assert len(shown) == len(tiny_recipe()["phases"])
    out, images = tmp_path / "pipeline.yaml", ["--image", "registry/mmenc-cpu:abc", "--gpu-image", GPU]
    assert main(["compile", "--params", str(params), "--out", str(out), *images]) == 0
    spec, platform = yaml.safe_load_all(out.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    carried = {}
    for label, told in executors.items():
        notes = told.get("podMetadata", {}).get("annotations", {})
        if "mmenc/trainjob" not in notes:
            continue
        made = json.loads(notes["mmenc/trainjob"])
        carried[made["metadata"]["name"]] = made
        container = spec["deploymentSpec"]["executors"][label]["container"]
        # The task itself only watches: small, without accelerators, on any node, tried again as often as training.
        assert container["image"] == "registry/mmenc-cpu:abc"
        assert "accelerator" not in container["resources"]
        assert float(container["resources"]["resourceCpuLimit"]) == 1
        assert told["nodeSelector"]["labels"] == {"pool": "any"}
        assert "activeDeadlineSeconds" not in told
        env = {e["name"]: e["fieldPath"] for e in told["fieldPathAsEnv"]}
        assert env[TRAINJOB] == "metadata.annotations['mmenc/trainjob']"
        assert env[ACCOUNT] == "spec.serviceAccountName"
    assert carried == shown
    tasks = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    retries = {t["taskInfo"]["name"]: t.get("retryPolicy", {}).get("maxRetryCount") for t in tasks.values()}
    assert {n for name, n in retries.items() if name.startswith("train ")} == {7}
    capsys.readouterr()
    # Nodes count among the images: a placeholder that only a TrainJob names is refused before anybody is contacted.
    words = ["submit", "--params", str(params), "--allow-dirty", "--image", "registry/mmenc-cpu:abc"]
    assert main([*words, "--gpu-image", GPU, "--dry-run"]) == 0
    shown_lines = capsys.readouterr().out
    assert f"image       {GPU}\n" in shown_lines
    assert "trainjobs   5: 4 nodes with 8 processes" in shown_lines
    assert main([*words, "--host", "http://127.0.0.1:9"]) == 1
    assert "image mmenc-gpu:REVISION is a placeholder" in capsys.readouterr().err


def test_the_number_of_nodes_is_no_argument_of_a_task_and_counts_in_the_plan(monkeypatch):
    assert send(of(nodes=2)) == send(of())
    monkeypatch.setenv("MMENC_COMPUTE", surroundings(of()))
    assert complete({"store": "s3://bucket/mmenc"}).compute.nodes == 4
    one, four = (price(10**20, Compute(accelerators=8, nodes=n, price_per_hour=2.0)) for n in (1, 4))
    assert four.hours == one.hours / 4
    assert (four.gpu_hours, four.cost) == (one.gpu_hours, one.cost)


def test_several_nodes_need_a_store_to_meet_in():
    with pytest.raises(Refused, match=r"compute.store: is empty, but compute.nodes is 4"):
        of(store="")


def test_no_library_imports_the_sdk_before_it_is_needed():
    for path in (REPO / "src" / "mmenc").rglob("*.py"):
        for found in ast.parse(path.read_text()).body:
            names = [a.name for a in found.names] if isinstance(found, ast.Import) else [getattr(found, "module", "") or ""]
            assert not [n for n in names if n.split(".")[0] in ("kubeflow", "kubeflow_trainer_api", "kubernetes")], path


def test_a_pod_without_trainers_variables_says_so(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.delenv("PET_NNODES", raising=False)
    assert node.main(str(tmp_path), DIGEST_OF) == 1
    assert "expected PET_NNODES, PET_NODE_RANK" in capsys.readouterr().err


# The launcher against the loopback cluster; its pods are stand-ins that the tests move.


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (folder := tmp_path / "cluster").mkdir()
    monkeypatch.setattr(trainer, "POLL", 0.02)
    monkeypatch.setattr(trainer, "LAST_LINES", 2.0)
    monkeypatch.setattr(trainer_api, "PAUSE", 0.02)
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))
    monkeypatch.setenv(TRAINJOB, json.dumps(small()))
    with trainer_server(folder) as server:
        server.start = lambda *_: None
        yield server


def small(**more: object) -> dict:
    recipe = tiny_recipe()
    recipe["compute"] |= {"nodes": 2, "store": "s3://bucket/mmenc", **more}
    return template(parse(recipe), "pretrain", "registry/mmenc-cpu:abc")


class Script:
    """What happens on the cluster: each condition in turn is waited for, then its action is done."""

    def __init__(self, *acts: tuple[Callable[[], object], Callable[[], object]]) -> None:
        self.acts, self.failed = acts, ""
        self.thread = threading.Thread(target=self.play, daemon=True)
        self.thread.start()

    def play(self) -> None:
        for number, (condition, action) in enumerate(self.acts):
            end = time.monotonic() + 20
            while not self.holds(condition):
                if time.monotonic() > end:
                    self.failed = f"act {number} never came"
                    return
                time.sleep(0.01)
            action()

    @staticmethod
    def holds(condition: Callable[[], object]) -> object:
        try:
            return condition()
        except (KeyError, ValueError, IndexError, RuntimeError):
            return False

    def done(self) -> None:
        self.thread.join(20)
        assert not self.failed, self.failed


class Place:
    """One launcher's job, and what the pods of its TrainJob would do."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server, self.store = server, str(root / "store")
        request = Request("train", "pretrain", 3, {}, ())
        compute = Compute(nodes=2, store=self.store)
        self.lines: list[str] = []
        recipe = SimpleNamespace(
            compute=compute, seed=0, model=compute, tokenizer=compute, phases={"pretrain": compute}
        )  # what is published of them does not matter here
        (out := root / "out").mkdir()
        self.job = SimpleNamespace(
            name="pretrain", recipe=recipe, request=request, inputs={}, out=out, log=root / "log", say=self.lines.append
        )
        self.exchange = Exchange(Store(self.store), request.digest)

    def pods(self) -> list[Pod]:
        (found,) = self.server.pods.values()
        return found

    def set(self, phase: str, *indices: int, **more: object) -> None:
        for pod in self.pods():
            if not indices or pod.index in indices:
                pod.log.touch()
                vars(pod).update(more)
                pod.phase = phase

    def deliver(self) -> None:
        self.exchange.deliver(self.job, {"loss": 1}, {"tokens": 2})
        self.set("Succeeded")

    def save(self, step: int) -> None:
        self.exchange.store.put_json(f"resume/{self.exchange.digest}/current.json", {"files": {f"{step:09d}/state.json": "0"}})

    def launch(self) -> object:
        return trainer.launch(self.job)

    def lives(self, number: int) -> Callable[[], bool]:
        return lambda: len(self.server.created) == number and len(self.pods()) == 2


@pytest.fixture
def place(cluster: Server, tmp_path: Path) -> Place:
    return Place(cluster, tmp_path)


def test_it_is_created_followed_and_its_checkpoint_collected(place: Place, cluster: Server, capfd):
    def write() -> None:
        place.set("Running")
        place.pods()[0].log.write_text("loss 3.1\nloss 2.9\n")
        place.job.out.joinpath("model.safetensors").write_text("weights")

    script = Script(
        (place.lives(1), lambda: place.set("Pending", why="ImagePullBackOff")),
        (lambda: any("ImagePullBackOff" in line for line in place.lines), write),
        (lambda: "all 2 nodes are running" in place.lines, place.deliver),
    )
    assert place.launch() == ({"loss": 1}, {"tokens": 2})
    script.done()
    assert "loss 3.1\nloss 2.9\n" in capfd.readouterr().out
    assert (place.job.out / "model.safetensors").read_text() == "weights"
    assert not cluster.jobs
    (made,) = cluster.created
    assert made["metadata"]["annotations"][DIGEST] == place.exchange.digest
    assert any("created: 2 nodes" in line for line in place.lines)
    # Another launcher of the same step finds the result, and leaves no job behind either.
    trainer.Jobs().create(cluster.created[0])
    assert place.launch() == ({"loss": 1}, {"tokens": 2})
    assert not cluster.jobs


def test_a_launcher_that_was_moved_follows_the_job_that_is_there(place: Place, cluster: Server):
    body = validated(finish(small(), "pretrain", place.exchange.digest, place.store))
    trainer.Jobs().create(copy.deepcopy(body))
    script = Script((lambda: any("is running already; following it" in line for line in place.lines), place.deliver))
    place.launch()
    script.done()
    assert len(cluster.created) == 1


@pytest.mark.parametrize("how", ["other resources", "failed", "ending"])
def test_a_job_that_is_not_as_wanted_gives_way(place: Place, cluster: Server, how: str):
    made = small() if how != "other resources" else small(threads=7)
    body = validated(finish(made, "pretrain", place.exchange.digest, place.store))
    jobs = trainer.Jobs()
    jobs.create(copy.deepcopy(body))
    name = body["metadata"]["name"]
    if how == "failed":
        cluster.condition(name, "Failed", "FailedJobs", "jobset failed")
    if how == "ending":
        cluster.jobs[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        Script((lambda: any("is ending" in line for line in place.lines), lambda: cluster._end(name)))
    script = Script((place.lives(2), place.deliver))
    place.launch()
    script.done()
    assert cluster.created[1]["spec"]["trainer"]["resourcesPerNode"]["limits"]["cpu"] == "2"


def test_somebody_elses_job_of_that_name_is_left_alone(place: Place, cluster: Server):
    body = finish(small(), "pretrain", place.exchange.digest, place.store)
    body["metadata"]["annotations"][DIGEST] = "another"
    trainer.Jobs().create(body)
    with pytest.raises(Refused, match="is there and not ours"):
        place.launch()
    assert cluster.jobs


def test_after_a_loss_all_nodes_begin_anew_as_long_as_steps_are_gained(place: Place, cluster: Server):
    """Five losses with progress are more than the three without that are allowed."""

    def lose(step: int) -> None:
        place.save(step)
        place.set("Running", 0)
        place.pods()[1].log.write_text("cannot allocate memory\n")
        place.set("Failed", 1, code=137)

    acts = [(place.lives(n), lambda n=n: lose(10 * n)) for n in range(1, 6)]
    script = Script(*acts, (place.lives(6), place.deliver))
    place.launch()
    script.done()
    assert len(cluster.created) == 6
    anew = [line for line in place.lines if "begin anew" in line]
    assert anew[0].endswith("all nodes begin anew at step 10")
    assert "failed (exit code 137)" in anew[0]
    assert any("cannot allocate memory" in line for line in place.lines)


@pytest.mark.parametrize("how", ["pod fails", "pod is gone", "job fails", "job is deleted"])
def test_without_progress_it_gives_up(place: Place, cluster: Server, how: str):
    def lose() -> None:
        place.set("Running")
        (name,) = cluster.jobs
        time.sleep(0.1)
        if how == "pod fails":
            place.set("Failed", 0, code=1)
        elif how == "pod is gone":
            cluster.pods[name] = cluster.pods[name][:1]
        elif how == "job fails":
            cluster.condition(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
        else:
            cluster._end(name)

    script = Script(*[(place.lives(n), lose) for n in (1, 2, 3, 4)])
    word = {
        "pod fails": "exit code 1",
        "pod is gone": "is gone",
        "job fails": "FailedJobs",
        "job is deleted": "deleted by somebody",
    }
    with pytest.raises(Refused, match=f"{word[how]}.*4 times without a step gained"):
        place.launch()
    script.done()
    assert not cluster.jobs


def test_a_sentence_of_a_pod_ends_it_at_once(place: Place, cluster: Server):
    def refuse() -> None:
        place.exchange.refuse("phases.pretrain: cannot be")
        place.exchange.refuse("another, later")
        place.set("Failed", 1, code=1)

    Script((place.lives(1), refuse))
    with pytest.raises(Refused, match=r"phases\.pretrain: cannot be"):
        place.launch()
    assert len(cluster.created) == 1
    assert not cluster.jobs
    # Mended and tried again, the old sentence is forgotten.
    Script((place.lives(2), place.deliver))
    place.launch()


def test_a_signal_deletes_the_job_and_says_what_is_saved(place: Place, cluster: Server, monkeypatch):
    def stop(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        main_thread = threading.main_thread().ident
        Script(
            (lambda: place.lives(1)() and place.lines, lambda: (place.save(7), signal.pthread_kill(main_thread, signal.SIGUSR1)))
        )
        with pytest.raises(Stopped, match="is deleted, the state of step 7 is in the store; run again to go on"):
            place.launch()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not cluster.jobs


def test_another_run_that_finished_meanwhile_is_believed(place: Place, cluster: Server):
    def finished() -> None:
        place.exchange.store.put_json(f"finished/{place.exchange.digest}/manifest.json", {})
        cluster._end(next(iter(cluster.jobs)))

    Script((place.lives(1), finished))
    with pytest.raises(Refused, match="another run has finished it meanwhile"):
        place.launch()


def test_a_deadline_is_a_refusal_and_a_queue_is_said(place: Place, cluster: Server):
    def over() -> None:
        cluster.condition(next(iter(cluster.jobs)), "Failed", "DeadlineExceeded", "Trainjob was active longer than allowed")

    Script(
        (place.lives(1), lambda: cluster.condition(next(iter(cluster.jobs)), "Suspended", "Suspended", "TrainJob is suspended")),
        (lambda: any("waiting to be admitted (Suspended" in line for line in place.lines), over),
    )
    with pytest.raises(Refused, match=r"DeadlineExceeded.*says for how long it may run"):
        place.launch()


def test_faults_of_the_api_server_are_waited_for(place: Place, cluster: Server, capfd):
    """503, a creation whose answer is lost, a log whose connection breaks after each piece."""
    cluster.busy, cluster.drop, cluster.cut = 3, 1, True

    def talk() -> None:
        place.pods()[0].log.write_text("".join(f"step {n}\n" for n in range(5)))
        place.set("Running")
        cluster.busy = 3

    def more() -> None:
        with place.pods()[0].log.open("a") as stream:
            stream.write("step 5\nstep 6\n")

    said: list[str] = []

    def heard() -> bool:
        said.append(capfd.readouterr().out)
        return "step 4" in "".join(said)

    script = Script((place.lives(1), talk), (heard, more), (lambda: heard() and "step 6" in "".join(said), place.deliver))
    place.launch()
    script.done()
    text = "".join([*said, capfd.readouterr().out])
    assert [line for line in text.splitlines() if line.startswith("step")] == [f"step {n}" for n in range(7)]
    assert len(cluster.created) == 1


def test_missing_rights_and_runtimes_are_one_sentence(place: Place, cluster: Server, monkeypatch):
    cluster.runtimes = []
    with pytest.raises(Refused, match="runtime torch-distributed: is not in namespace ml; there are none; name one in"):
        place.launch()
    other = copy.deepcopy(RUNTIME)
    other["metadata"]["labels"]["trainer.kubeflow.org/framework"] = "deepspeed"
    other["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["command"] = [
        "x"
    ]
    cluster.runtimes = [other]
    with pytest.raises(Refused, match="is of deepspeed, expected one of torch"):
        place.launch()
    cluster.runtimes, cluster.forbidden = [RUNTIME], True
    with pytest.raises(Refused, match="403: the task's service account lacks the role"):
        place.launch()
    assert cluster.calls["POST trainjobs"] == 0
    monkeypatch.delenv(TRAINJOB)
    with pytest.raises(Refused, match=r"compute\.nodes: is 2, which only a cluster has"):
        place.launch()
    monkeypatch.setenv(TRAINJOB, json.dumps(small()))
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(Refused, match="this is no pod of a cluster"):
        place.launch()


def test_kubeflows_sdk_reads_our_job(place: Place, cluster: Server):
    """What people may use to look at it."""
    from kubeflow.trainer import KubernetesBackendConfig, TrainerClient

    body = validated(finish(small(), "pretrain", place.exchange.digest, place.store))
    trainer.Jobs().create(body)
    place.set("Running")
    place.pods()[0].log.write_text("loss 3.1\n")
    place.pods()[1].log.touch()
    client = TrainerClient(KubernetesBackendConfig(config_file=str(cluster.folder / "config"), namespace="ml"))
    found = client.get_job(body["metadata"]["name"])
    assert (found.num_nodes, found.status, [s.name for s in found.steps]) == (2, "Running", ["node-0", "node-1"])
    assert list(client.get_job_logs(found.name)) == ["loss 3.1"]
    assert place.exchange.read(RESULT) is None
