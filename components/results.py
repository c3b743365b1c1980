"""Faces of the scores, the released model and the report: a signature and one call each.

Arguments named `*_config` are sections of the recipe; `name` is the phase.
"""
# ruff: noqa: D417 (Kubeflow takes the descriptions of outputs from `Returns`)

from kfp import dsl

from components.images import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    languages_config: dict,
    model_config: dict,
    evaluate_config: dict,
    compute_config: dict,
    name: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Score one model per language and tier on held-out text.

    Args:
        model: Checkpoint or merged model.
        tokenizer: Tokenizer files.
        tokens: Token shards with their index.
        languages_config: Section `languages`: the waves.
        model_config: Section `model`: sizes and dtype.
        evaluate_config: Section `evaluate`.
        compute_config: Section `compute`: threads, device, micro-batch; never part of a result.
        name: The phase (or `merge`).

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
    """
    from mmenc.kubeflow import run_step

    sections = {"languages": languages_config, "model": model_config, "evaluate": evaluate_config, "compute": compute_config}
    inputs = {"model": model, "tokenizer": tokenizer, "tokens": tokens}
    run_step("evaluate", 1, name, sections, inputs, out, metrics=metrics)


@dsl.component(base_image=CPU, install_kfp_package=False)
def release(
    model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluate: dsl.Input[dsl.Artifact],
    validate: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    model_config: dict,
    release_config: dict,
    seed: int,
    evaluate_config: dict,
    compute_config: dict,
    out: dsl.Output[dsl.Model],
    page: dsl.Output[dsl.Markdown],
) -> None:
    """Export as a Hugging Face model with its card; logits are compared with transformers.

    Args:
        model: Checkpoint or merged model.
        tokenizer: Tokenizer files.
        evaluate: Scores of the merged model.
        validate: Verdict of the gate; a red one stops this step.
        tokens: Token shards with their index.
        model_config: Section `model`: sizes and dtype.
        release_config: Section `release`.
        seed: Seed of everything random.
        evaluate_config: Section `evaluate`.
        compute_config: Section `compute`: threads, device, micro-batch; never part of a result.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "model": model_config,
        "release": release_config,
        "seed": seed,
        "evaluate": evaluate_config,
        "compute": compute_config,
    }
    inputs = {"model": model, "tokenizer": tokenizer, "evaluate": evaluate, "validate": validate, "tokens": tokens}
    run_step("release", 1, "", sections, inputs, out, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def report(
    release: dsl.Input[dsl.Model],
    languages_config: dict,
    phases_config: dict,
    merge_config: dict,
    model_config: dict,
    evaluate_config: dict,
    release_config: dict,
    compute_config: dict,
    out: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    scores_1: dsl.Input[dsl.Artifact] | None = None,
    scores_2: dsl.Input[dsl.Artifact] | None = None,
    scores_3: dsl.Input[dsl.Artifact] | None = None,
    scores_4: dsl.Input[dsl.Artifact] | None = None,
    scores_5: dsl.Input[dsl.Artifact] | None = None,
    scores_6: dsl.Input[dsl.Artifact] | None = None,
    scores_7: dsl.Input[dsl.Artifact] | None = None,
    scores_8: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Draw the page that a person opens first: curves, mix, tables, lineage.

    Args:
        release: The released model.
        languages_config: Section `languages`: the waves.
        phases_config: Section `phases`: the tree of phases; its shape is fixed when compiled.
        merge_config: Section `merge`: base, branches, method.
        model_config: Section `model`: sizes and dtype.
        evaluate_config: Section `evaluate`.
        release_config: Section `release`.
        compute_config: Section `compute`: threads, device, micro-batch; never part of a result.
        scores_1: Scores of one phase or of the merged model.
        scores_2: Scores of one phase or of the merged model.
        scores_3: Scores of one phase or of the merged model.
        scores_4: Scores of one phase or of the merged model.
        scores_5: Scores of one phase or of the merged model.
        scores_6: Scores of one phase or of the merged model.
        scores_7: Scores of one phase or of the merged model.
        scores_8: Scores of one phase or of the merged model.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "languages": languages_config,
        "phases": phases_config,
        "merge": merge_config,
        "model": model_config,
        "evaluate": evaluate_config,
        "release": release_config,
        "compute": compute_config,
    }
    inputs = {"release": release, "evaluate": [scores_1, scores_2, scores_3, scores_4, scores_5, scores_6, scores_7, scores_8]}
    run_step("report", 1, "", sections, inputs, out, page=page)
