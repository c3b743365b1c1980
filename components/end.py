"""The exit handler's face: says how a run ended, whatever happened."""
# ruff: noqa: D417 (Kubeflow takes the descriptions of outputs from `Returns`)

from kfp import dsl

from components.images import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def end(status: dsl.PipelineTaskFinalStatus, page: dsl.Output[dsl.Markdown]) -> None:
    """Say how the run ended, and why if it failed.

    Args:
        status: State of the run; filled in by Kubeflow.

    Returns:
        page: The sentence, to read in the UI.
    """
    from mmenc.kubeflow import report_end

    report_end(status, page)
