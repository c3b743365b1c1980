# Training on NVIDIA GPUs: the same steps with a CUDA build of torch, and flash-attn where asked. `make images GPU=1`.
# torch's wheels bring CUDA's libraries, so a plain Python base is enough; the driver is the host's.
ARG BASE_IMAGE=python:3.11-slim
# The same Python at the same path; with CUDA's compiler and a C++ one if FLASH_ATTN is to be compiled.
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
# pip lives beside the venv that it fills, so the result has no installer.
RUN python -m venv /opt/pip && python -m venv --without-pip /opt/venv
ENV PATH=/opt/venv/bin:/opt/pip/bin:$PATH PIP_PYTHON=/opt/venv/bin/python PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY images/requirements.txt /tmp/
RUN pip install --no-compile --require-hashes --no-deps -r /tmp/requirements.txt
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# The argument carries the version.
# hadolint ignore=DL3013
RUN pip install --no-compile ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} "${TORCH}"
# A version (`flash-attn==2.8.3`, compiled here: an hour or more) or the address of a wheel; empty: SDPA does its work.
ARG FLASH_ATTN=
ARG MAX_JOBS=4
# hadolint ignore=DL3013
RUN if [ -n "${FLASH_ATTN}" ]; then pip install --no-compile --no-deps einops==0.8.1 && \
      MAX_JOBS="${MAX_JOBS}" pip install --no-compile --no-deps --no-build-isolation "${FLASH_ATTN}"; fi
# Bytecode of what the steps import, and no other: all of it is 230 MB more, none of it 4 to 14 s more at each task's start.
COPY images/warm.py images/slim.sh /tmp/
RUN sh /tmp/slim.sh /opt/venv && python /tmp/warm.py && \
    echo /opt/mmenc > "$(python -c 'import site; print(site.getsitepackages()[0])')/mmenc.pth"

FROM build AS package
WORKDIR /src
COPY pyproject.toml README.md ./
COPY src src
RUN pip install --no-deps --no-build-isolation --target /opt/mmenc .

FROM ${BASE_IMAGE}
# torch.compile needs a C compiler where it runs: Triton builds its launchers with one. Its version is the base's business.
# hadolint ignore=DL3008
RUN command -v cc || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; }
# Dependencies and the package are layers of their own: a new revision of mmenc is a pull of kilobytes.
COPY --from=build /opt/venv /opt/venv
COPY --from=package /opt/mmenc /opt/mmenc
# Any user may run it (OpenShift picks one at random, in group 0): such a user has no name, so USER gives one to whoever asks.
RUN mkdir -m 0775 /mmenc
ENV PATH=/opt/mmenc/bin:/opt/venv/bin:$PATH HOME=/mmenc USER=mmenc LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GX_ANALYTICS_ENABLED=false \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /mmenc
USER 1001:0
CMD ["mmenc", "--help"]
ARG REVISION=unknown
ARG VERSION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="mmenc" \
      org.opencontainers.image.description="Pretraining modern multilingual encoders: the steps, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
