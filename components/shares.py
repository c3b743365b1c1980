"""Faces of the workers that help a data step (`compute.cluster.split`): they make a share of its parts and leave no artifact.

Decision: faces of their own and not a mode of the step's, because Kubeflow's cache goes by command and arguments: what a
helper leaves must never pass for the artifact.
"""
# ruff: noqa: D417 (Kubeflow takes the descriptions of outputs from `Returns`)

from kfp import dsl

from components.images import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def ingest_share(
    data: dsl.Input[dsl.Dataset],
    ingest_config: dict,
    store: str,
    share: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Read a share of the raw text; the step `ingest` puts it together.

    Args:
        data: Folder with one sub-folder per language; imported as a pointer, with its DVC hash as metadata.
        ingest_config: Section `ingest`: where raw text is, which folders count.
        store: Folder or s3:// prefix where the workers meet (`compute.store`).
        share: Which of how many workers, such as 2/3.

    Returns:
        metrics: Parts made here.
        page: Parts made here, by stage.
    """
    from mmenc.kubeflow import assist_step

    sections = {"ingest": ingest_config, "store": store}
    inputs = {"data": data}
    assist_step("ingest", 2, share, sections, inputs, metrics, page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def clean_share(
    raw: dsl.Input[dsl.Dataset],
    clean_config: dict,
    store: str,
    share: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Clean a share of the text; the step `clean` puts it together.

    Args:
        raw: Raw shards of the ingest step.
        clean_config: Section `clean`: filters.
        store: Folder or s3:// prefix where the workers meet (`compute.store`).
        share: Which of how many workers, such as 2/3.

    Returns:
        metrics: Parts made here.
        page: Parts made here, by stage.
    """
    from mmenc.kubeflow import assist_step

    sections = {"clean": clean_config, "store": store}
    inputs = {"raw": raw}
    assist_step("clean", 2, share, sections, inputs, metrics, page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def tokenize_share(
    clean: dsl.Input[dsl.Dataset],
    validate: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    tokenize_config: dict,
    store: str,
    share: str,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Turn a share of the documents into tokens; the step `tokenize` puts them together.

    Args:
        clean: Kept documents of the clean step.
        validate: Verdict of the gate; a red one stops this worker.
        tokenizer: Tokenizer files.
        tokenize_config: Section `tokenize`.
        store: Folder or s3:// prefix where the workers meet (`compute.store`).
        share: Which of how many workers, such as 2/3.

    Returns:
        metrics: Parts made here.
        page: Parts made here, by stage.
    """
    from mmenc.kubeflow import assist_step

    sections = {"tokenize": tokenize_config, "store": store}
    inputs = {"clean": clean, "validate": validate, "tokenizer": tokenizer}
    assist_step("tokenize", 2, share, sections, inputs, metrics, page)
