"""`mmenc submit`: uploads a job's graph as a version, runs it or puts it on a schedule, and waits.

Decisions: pipeline, version and experiment are made where missing and reused otherwise, by their names; an answer that gets
lost never makes a second one (pipelines/api.py). No secret enters a request's body: pods get theirs from the cluster.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import kfp_server_api as models

from mmenc.access import ENDPOINT, own_namespace, resolve
from mmenc.errors import Refused
from pipelines.api import Api
from pipelines.job import Job, Options, Write, beyond_reach, images, prepare, show
from pipelines.schedule import Schedule
from pipelines.watch import wait

UI = "KF_PIPELINES_UI_ENDPOINT"
Source = models.V2beta1PipelineVersionReference


def submit(options: Options, write: Write, root: Path) -> None:
    """Prepare, and unless it is a dry run, upload, run and wait."""
    job = prepare(options, write, root)
    if options.dry_run:
        show(job, options)
        return
    for image in images(job):
        if image.endswith(":REVISION"):
            option, make = ("--gpu-image", "make images GPU=1") if "gpu" in image else ("--image", "make images")
            raise Refused(f"image {image} is a placeholder; `{make}`, push it and say {option} REGISTRY/{image}")
    access = resolve(options.host, options.token_file, options.cookies_file)
    if access is None:
        raise Refused(f"no cluster is named; --host http://localhost:8080, or export {ENDPOINT}")
    api = Api(access)
    if api.greet():  # with several users; with one, the API refuses any namespace
        api.namespace = options.namespace or own_namespace()
        if not api.namespace:
            raise Refused(f"{access.host} has several users; say whose it is with --namespace, such as your profile's name")
    ui = os.environ.get(UI, access.host).rstrip("/")
    for name, why in beyond_reach(job).items():
        print(f"warning     {name}: {why}", flush=True)
    source = _upload(api, job)
    experiment = _experiment(api, job)
    if job.schedules:
        for schedule in job.schedules:
            made = _schedule(api, job, options, source, experiment, schedule)
            print(f"recurring   {schedule.name}: {schedule}\n            {ui}/#/recurringrun/details/{made}", flush=True)
        return
    run = _run(api, job, options, source, experiment)
    address = f"{ui}/#/runs/details/{run}"
    print(f"run         {job.name}\n            {address}", flush=True)
    if options.wait:
        wait(api, run, job.tasks, address, options.poll, options.timeout)
        print(f"SUCCEEDED   {address}", flush=True)


def _first(rows: list[Any]) -> Any:
    return rows[0] if rows else None


def _upload(api: Api, job: Job) -> Source:
    service, space = api.of.pipelines, {"namespace": api.namespace}
    fresh = models.V2beta1Pipeline(display_name=job.pipeline, name=job.pipeline, namespace=api.namespace or None)
    pipeline = api.ensure(
        lambda: _first(api.named(service.pipeline_service_list_pipelines, "pipelines", job.pipeline, **space)),
        api.make(service.pipeline_service_create_pipeline, fresh),
    )

    def there() -> Any:
        listed = service.pipeline_service_list_pipeline_versions
        return _first(api.named(listed, "pipeline_versions", job.version, pipeline.pipeline_id))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(job.text, encoding="utf-8")
        call = api.of.pipeline_uploads.upload_pipeline_version
        old = there()
        version = old or api.ensure(there, api.make(call, str(path), name=job.version, pipelineid=pipeline.pipeline_id))
    print(f"pipeline    {job.pipeline}\nversion     {job.version}, {'is there already' if old else 'uploaded'}", flush=True)
    return Source(pipeline_id=pipeline.pipeline_id, pipeline_version_id=version.pipeline_version_id)


def _experiment(api: Api, job: Job) -> str:
    service = api.of.experiments
    fresh = models.V2beta1Experiment(display_name=job.experiment, namespace=api.namespace or None)
    listed, space = service.experiment_service_list_experiments, {"namespace": api.namespace}
    found = api.ensure(
        lambda: _first(api.named(listed, "experiments", job.experiment, **space)),
        api.make(service.experiment_service_create_experiment, fresh),
    )
    print(f"experiment  {job.experiment}", flush=True)
    return str(found.experiment_id)


def _common(job: Job, options: Options, source: Source, experiment: str) -> dict[str, Any]:
    return {
        "experiment_id": experiment,
        "description": job.description,
        "pipeline_version_reference": source,
        "runtime_config": models.V2beta1RuntimeConfig(parameters=job.arguments),
        "service_account": options.service_account or None,
    }


def _own(rows: list[Any], description: str) -> Any:
    return next((row for row in rows if row.description == description), None)


def _run(api: Api, job: Job, options: Options, source: Source, experiment: str) -> str:
    service = api.of.runs
    body = models.V2beta1Run(display_name=job.name, **_common(job, options, source, experiment))
    known = api.ensure(
        lambda: _own(api.named(service.run_service_list_runs, "runs", job.name, experiment_id=experiment), job.description),
        api.make(service.run_service_create_run, body),
    )
    return str(known.run_id)


def _schedule(
    api: Api,
    job: Job,
    options: Options,
    source: Source,
    experiment: str,
    schedule: Schedule,
) -> str:
    """Make a recurring run and remove those of the same name, which rest meanwhile and come back if it fails."""
    service = api.of.recurring_runs

    def there() -> list[Any]:
        listed = service.recurring_run_service_list_recurring_runs
        return api.named(listed, "recurring_runs", schedule.name, experiment_id=experiment)

    def still(identity: str) -> bool:
        return any(row.recurring_run_id == identity for row in there())

    old = [row.recurring_run_id for row in there()]
    body = models.V2beta1RecurringRun(
        display_name=schedule.name,
        mode=models.RecurringRunMode.ENABLE,
        trigger=schedule.trigger(),
        max_concurrency=str(schedule.most),
        no_catchup=options.no_catchup,
        namespace=api.namespace or None,
        **_common(job, options, source, experiment),
    )
    for identity in old:
        api.ask(service.recurring_run_service_disable_recurring_run, identity)
    try:
        made = api.ensure(
            lambda: _own(there(), job.description), api.make(service.recurring_run_service_create_recurring_run, body)
        )
    except (Refused, KeyboardInterrupt):
        for identity in old:
            api.ask(service.recurring_run_service_enable_recurring_run, identity)
        raise
    for identity in old:
        gone = api.make(service.recurring_run_service_delete_recurring_run, identity)
        api.ensure(lambda i=identity: not still(i), gone)  # type: ignore[misc]
    return str(made.recurring_run_id)
