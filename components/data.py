"""Faces of the steps from raw text to token shards: a signature and one call each.

Arguments named `*_config` are sections of the recipe; `name` is the phase.
"""
# ruff: noqa: D417 (Kubeflow takes the descriptions of outputs from `Returns`)

from kfp import dsl

from components.images import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def ingest(
    data: dsl.Input[dsl.Dataset],
    ingest_config: dict,
    store: str,
    out: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Read the raw text of every language and count it.

    Args:
        data: Folder with one sub-folder per language; imported as a pointer, with its DVC hash as metadata.
        ingest_config: Section `ingest`: where raw text is, which folders count.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: Documents and bytes per language, and the sources with their licences.
    """
    from mmenc.kubeflow import run_step

    sections = {"ingest": ingest_config, "store": store}
    inputs = {"data": data}
    run_step("ingest", 2, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def clean(
    raw: dsl.Input[dsl.Dataset],
    clean_config: dict,
    store: str,
    out: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Drop what is broken, foreign or a duplicate; keep what was dropped, with the reason.

    Args:
        raw: Raw shards of the ingest step.
        clean_config: Section `clean`: filters.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: What was kept and rejected per language, and why.
    """
    from mmenc.kubeflow import run_step

    sections = {"clean": clean_config, "store": store}
    inputs = {"raw": raw}
    run_step("clean", 2, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def validate(
    clean: dsl.Input[dsl.Dataset],
    validate_config: dict,
    store: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """The gate: documents, scripts, duplicates and overlap per language against the recipe's thresholds.

    Args:
        clean: Kept documents of the clean step.
        validate_config: Section `validate`: thresholds of the gate and waivers.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {"validate": validate_config, "store": store}
    inputs = {"clean": clean}
    run_step("validate", 2, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def tokenizer(
    clean: dsl.Input[dsl.Dataset],
    validate: dsl.Input[dsl.Artifact],
    seed: int,
    tokenizer_config: dict,
    store: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    source: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Train the tokenizer on temperature-sampled text, or take over that of a release.

    Args:
        clean: Kept documents of the clean step.
        validate: Verdict of the gate; a red one stops this step.
        seed: Seed of everything random.
        tokenizer_config: Section `tokenizer`.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.
        source: A released model whose tokenizer is taken over; stands for `tokenizer.source`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: How well each language is served.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "tokenizer": tokenizer_config, "store": store}
    inputs = {"clean": clean, "validate": validate, "source": source}
    run_step("tokenizer", 2, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def tokenize(
    clean: dsl.Input[dsl.Dataset],
    validate: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    tokenize_config: dict,
    store: str,
    out: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Turn documents into token shards: train, dev, test.

    Args:
        clean: Kept documents of the clean step.
        validate: Verdict of the gate; a red one stops this step.
        tokenizer: Tokenizer files.
        tokenize_config: Section `tokenize`.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: Tokens per language and split.
    """
    from mmenc.kubeflow import run_step

    sections = {"tokenize": tokenize_config, "store": store}
    inputs = {"clean": clean, "validate": validate, "tokenizer": tokenizer}
    run_step("tokenize", 2, "", sections, inputs, out, metrics=metrics, page=page)
