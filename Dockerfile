# CBAM Lens with its bundled models. At run time it needs no network, no root and no disk.
#   docker build -t cbam-lens . && docker run --rm -p 8000:8000 cbam-lens
#   docker run --rm cbam-lens models list
# BASE: a slim Debian image with Python 3.11 or newer and its pip.
# TORCH_INDEX: where torch comes from; by default PyTorch's index for CPUs. Empty: from the package
#   index like all else, which on x86 is the CUDA build: for GPUs, and some gigabytes larger.
# Settings: environment variables CBAM_LENS_*, and PORT.
# A Hugging Face Space needs this repository and, on top of its README: sdk: docker, app_port: 8000
ARG BASE=python:3.12-slim-bookworm

# What it depends on: a layer that changes with pyproject.toml only.
FROM ${BASE} AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml ./
RUN python3 -m venv --without-pip /opt/python \
    && python3 -m pip --python /opt/python/bin/python3 install \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision \
    && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python3 -m pip --python /opt/python/bin/python3 install --requirement requirements.txt

# The code, the models and the page: a small layer.
FROM ${BASE} AS code
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY cbam cbam
COPY app app
COPY models models
COPY templates templates
COPY static static
RUN python3 -m pip install --no-deps --target /opt/cbam-lens .

FROM ${BASE}
ARG REVISION=""
LABEL org.opencontainers.image.title="CBAM Lens" \
      org.opencontainers.image.description="See what attention changes: plain, SE and CBAM networks side by side." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
# 1000 is what Hugging Face Spaces run; any other user will do.
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin lens
COPY --from=packages /opt/python /opt/python
COPY --from=code /opt/cbam-lens /opt/cbam-lens
ENV PATH=/opt/python/bin:$PATH \
    PYTHONPATH=/opt/cbam-lens \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    PORT=8000
USER 1000
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["python3", "-m", "app.cli"]
CMD ["serve", "--host", "0.0.0.0"]
