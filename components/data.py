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
    out: dsl.Output[dsl.Dataset],
) -> None:
    """Read the raw text of every language and count it.

    Args:
        data: Folder with one sub-folder per language; imported as a pointer, with its DVC hash as metadata.
        ingest_config: Section `ingest`: where raw text is, which folders count.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
    """
    from mmenc.kubeflow import run_step

    sections = {"ingest": ingest_config}
    inputs = {"data": data}
    run_step("ingest", 1, "", sections, inputs, out)


@dsl.component(base_image=CPU, install_kfp_package=False)
def clean(
    raw: dsl.Input[dsl.Dataset],
    clean_config: dict,
    out: dsl.Output[dsl.Dataset],
) -> None:
    """Drop what is broken, foreign or a duplicate; keep what was dropped, with the reason.

    Args:
        raw: Raw shards of the ingest step.
        clean_config: Section `clean`: filters.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
    """
    from mmenc.kubeflow import run_step

    sections = {"clean": clean_config}
    inputs = {"raw": raw}
    run_step("clean", 1, "", sections, inputs, out)


@dsl.component(base_image=CPU, install_kfp_package=False)
def validate(
    clean: dsl.Input[dsl.Dataset],
    validate_config: dict,
    out: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """The gate: documents, scripts, duplicates and overlap per language against the recipe's thresholds.

    Args:
        clean: Kept documents of the clean step.
        validate_config: Section `validate`: thresholds of the gate and waivers.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {"validate": validate_config}
    inputs = {"clean": clean}
    run_step("validate", 1, "", sections, inputs, out, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def tokenizer(
    clean: dsl.Input[dsl.Dataset],
    validate: dsl.Input[dsl.Artifact],
    seed: int,
    tokenizer_config: dict,
    out: dsl.Output[dsl.Artifact],
) -> None:
    """Train the tokenizer on temperature-sampled text, or take over that of a release.

    Args:
        clean: Kept documents of the clean step.
        validate: Verdict of the gate; a red one stops this step.
        seed: Seed of everything random.
        tokenizer_config: Section `tokenizer`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "tokenizer": tokenizer_config}
    inputs = {"clean": clean, "validate": validate}
    run_step("tokenizer", 1, "", sections, inputs, out)


@dsl.component(base_image=CPU, install_kfp_package=False)
def tokenize(
    clean: dsl.Input[dsl.Dataset],
    validate: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    tokenize_config: dict,
    out: dsl.Output[dsl.Dataset],
) -> None:
    """Turn documents into token shards: train, dev, test.

    Args:
        clean: Kept documents of the clean step.
        validate: Verdict of the gate; a red one stops this step.
        tokenizer: Tokenizer files.
        tokenize_config: Section `tokenize`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
    """
    from mmenc.kubeflow import run_step

    sections = {"tokenize": tokenize_config}
    inputs = {"clean": clean, "validate": validate, "tokenizer": tokenizer}
    run_step("tokenize", 1, "", sections, inputs, out)
