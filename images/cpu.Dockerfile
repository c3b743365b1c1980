# Every step that needs no GPU: data, tokenizer, merge, evaluation, report, and training where there is none. `make images`.
ARG BASE_IMAGE=python:3.11-slim
# The same Python at the same path, with an index or a compiler that must not reach the result.
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
# pip lives beside the venv that it fills, so the result has no installer.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:/opt/pip/bin:$PATH PIP_PYTHON=/opt/venv/bin/python PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY images/requirements.txt /tmp/
RUN pip install --no-compile --require-hashes --no-deps -r /tmp/requirements.txt
# torch apart: its builds differ. Where no local wheel offers a CPU build, TORCH_INDEX names an index that does.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# The argument carries the version.
# hadolint ignore=DL3013
RUN pip install --no-compile ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "${TORCH}"
# Bytecode of what the steps import, and no other: all of it is 230 MB more, none of it 4 to 14 s more at each task's start.
COPY images/warm.py images/slim.sh /tmp/
RUN sh /tmp/slim.sh /opt/venv && python /tmp/warm.py && \
    echo /opt/mmenc > "$(python -c 'import site; print(site.getsitepackages()[0])')/mmenc.pth"

FROM build AS package
WORKDIR /src
COPY pyproject.toml README.md ./
COPY src src
RUN pip install --no-deps --no-build-isolation --target /opt/mmenc .

FROM build AS test-tools
COPY images/requirements-test.txt /tmp/
RUN pip install --no-compile --require-hashes --no-deps --target /opt/test -r /tmp/requirements-test.txt

FROM ${BASE_IMAGE} AS run
# Dependencies and the package are layers of their own: a new revision of mmenc is a pull of kilobytes.
COPY --from=build /opt/venv /opt/venv
COPY --from=package /opt/mmenc /opt/mmenc
# Any user may run it (OpenShift picks one at random, in group 0): such a user has no name, so USER gives one to whoever asks.
RUN mkdir -m 0775 /mmenc
ENV PATH=/opt/mmenc/bin:/opt/venv/bin:$PATH HOME=/mmenc USER=mmenc LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false
WORKDIR /mmenc
USER 1001:0
CMD ["mmenc", "--help"]

FROM run AS test
COPY --from=test-tools /opt/test /opt/test
COPY pyproject.toml params.yaml dvc.yaml ./
COPY recipes recipes
COPY expectations expectations
COPY components components
COPY pipelines pipelines
COPY src src
COPY tests tests
ENV PYTHONPATH=/opt/test
CMD ["python", "-m", "pytest", "-p", "no:cacheprovider", "tests/unit"]

FROM run
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="mmenc" \
      org.opencontainers.image.description="Pretraining modern multilingual encoders: the steps, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
